"""The load test against the whole service: real processes, every answer checked."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.system.stack import Stack, running

from imageserve.cli import main
from imageserve_loadtest.result import Result

MODEL = "shapes"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_program: str) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("loadtest")
    file = models_file(directory)
    with running(
        directory,
        redis_program,
        MODELS_FILE=file,
        MODEL=MODEL,
        BATCH_SIZE="32",
        WEB_PROCESSES="2",
    ) as stack:
        yield stack


def models_file(directory: Path) -> str:
    """Serve the stand-in under the name of another model, as a release of the chart can."""
    network = "stand-in:batch_ms=5,image_ms=0,size=64,poison=1"
    file = directory / "models.yaml"
    file.write_text(json.dumps({MODEL: {"queue": "image_queue", "network": network}}))
    return str(file)


def result_of(stack: Stack, path: Path, *options: str) -> tuple[int, Result]:
    """Run the command against a stack; returns exit status and result."""
    url = f"http://127.0.0.1:{stack.port}"
    outputs = ("--quiet", "--json", str(path))
    # 20 s, although an idle machine takes milliseconds: this is not about speed.
    status = main(["loadtest", url, "--slo", "p99=20s", *outputs, *options])
    return status, Result.from_json(path.read_text())


def test_the_answers_of_a_closed_loop_are_all_right(stack: Stack, tmp_path: Path) -> None:
    status, result = result_of(stack, tmp_path / "r.json", "--clients", "8", "--duration", "1")

    counts = result.counts
    assert status == 0, result.verdict
    assert counts.good == counts.sent == counts.answered > 8
    assert result.load.pictures == "generated"
    assert set(result.stages) == {"decode", "queue", "model", "total", "outside"}
    assert result.queue


def test_the_answers_of_an_open_loop_are_all_right(stack: Stack, tmp_path: Path) -> None:
    records = tmp_path / "records.jsonl"
    load = ("--rate", "40", "--duration", "1", "--arrivals", "constant", "--records", str(records))

    status, result = result_of(stack, tmp_path / "r.json", *load)

    assert status == 0, result.verdict
    assert (result.counts.planned, result.counts.good) == (40, 40)
    sent = {json.loads(line)["request_id"] for line in records.read_text().splitlines()}
    assert len(sent) == 40

    def logged() -> bool:
        return sent <= {line.get("request_id") for line in stack.web.lines("request")}

    stack.wait_for(logged, "the service has logged every request under its id")


@pytest.mark.parametrize(
    "options",
    [
        pytest.param((), id="alone"),
        pytest.param(("--per-request", "4"), id="among good ones"),
        pytest.param(("--broken-kinds", "poison"), id="poison for the model"),
    ],
)
def test_pictures_that_are_broken_on_purpose_get_the_right_errors_and_harm_no_others(
    stack: Stack, tmp_path: Path, options: tuple[str, ...]
) -> None:
    load = ("--clients", "4", "--duration", "1", "--broken", "0.5")

    status, result = result_of(stack, tmp_path / "r.json", *load, *options)

    assert status == 0, result.verdict
    assert result.counts.good == result.counts.sent > 8
    assert (result.counts.broken > 0) == ("--per-request" not in options)


def test_a_share_of_the_capacity_is_no_more_than_the_web_processes_can_do(
    stack: Stack, tmp_path: Path
) -> None:
    scenario = tmp_path / "tenth.yaml"
    scenario.write_text("phases: [{seconds: 1, share_of_capacity: 0.1}]")

    status, result = result_of(stack, tmp_path / "r.json", "--scenario", str(scenario))

    told = result.queue[-1]
    assert status == 0, result.verdict
    # A worker does 32 pictures in 5 ms, and no web process decodes as fast.
    assert told.web_capacity_per_s
    assert (result.load.capacity_of, told.smaller_capacity[1]) == ("web", "web")
    assert result.load.capacity_per_s is not None
    assert 0 < result.load.capacity_per_s < told.capacity_per_s


def test_a_request_that_wakes_the_first_worker_is_answered_right(
    tmp_path: Path, redis_program: str
) -> None:
    """While no worker lives, the web processes alone know that a stand-in is served."""
    file = models_file(tmp_path)
    with running(
        tmp_path / "stack", redis_program, workers=0, MODELS_FILE=file, MODEL=MODEL
    ) as stack:

        def wake() -> None:
            stack.wait_for(lambda: stack.waiting() > 0, "a request waits", 60)
            stack.start_worker(wait=False)

        waking = threading.Thread(target=wake)
        waking.start()
        status, result = result_of(stack, tmp_path / "r.json", "--clients", "1", "--duration", "1")
        waking.join()

    assert status == 0, result.verdict
    assert result.load.pictures == "generated"
    assert result.counts.good > 0


def test_a_frozen_service_shows_in_the_percentiles(stack: Stack, tmp_path: Path) -> None:
    """The only worker is frozen while all requests come: each has waited since it was due."""
    worker = stack.workers[0]
    worker.pause()
    resuming = threading.Thread(target=_resume_when_queued, args=(stack, 20))
    resuming.start()
    load = ("--rate", "25", "--duration", "0.8", "--arrivals", "constant")

    status, result = result_of(stack, tmp_path / "r.json", *load, "--slo", "p50=200ms")

    resuming.join()
    assert status == 1
    assert result.counts.good == result.counts.sent == 20
    # At 25 a second, the tenth request was due 400 ms before the last.
    assert result.verdict.reasons[0].startswith("p50 is ")


def _resume_when_queued(stack: Stack, count: int) -> None:
    try:
        stack.wait_for(lambda: stack.waiting() + stack.leased() >= count, "all are queued", 60)
    finally:
        stack.workers[0].resume()
