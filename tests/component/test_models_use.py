"""``imageserve models use`` on a real Redis, with workers that are played by heartbeats."""

import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest
from tests.queues import RedisQueue
from tests.redis_server import QueueMaker, RedisServer

from imageserve.cli import main
from imageserve.queue.desired import decode_desired
from imageserve.queue.monitor import Monitor
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.snapshot import WorkerInfo

Capture = pytest.CaptureFixture[str]

WORKER = WorkerInfo("w-1", "shapes", (1, 1, 3), 4, {4: 1.0}, "ready", "here", version="v1")


@pytest.fixture
def queue(
    shared_redis: RedisServer, make_queue: QueueMaker, monkeypatch: pytest.MonkeyPatch
) -> RedisQueue:
    monkeypatch.setenv("REDIS_URL", shared_redis.url)
    monkeypatch.setenv("IMAGE_QUEUE", "use_queue")

    def make(access: RedisAccess, queues: Sequence[str]) -> Monitor:
        made = Monitor(access, queues)
        make_queue.close_later(made)
        return made

    monkeypatch.setattr("imageserve.cli.models_use.Monitor", make)
    return make_queue(shared_redis.url, "use_queue")


def test_a_version_is_wanted_until_it_is_taken_back(queue: RedisQueue, capsys: Capture) -> None:
    assert main(["models", "use", "shapes@v2"]) == 0
    wanted = decode_desired(queue.desired())
    assert wanted is not None
    assert wanted.text == "shapes@v2"
    assert abs(wanted.at - queue.snapshot().now) < 60_000
    assert capsys.readouterr().out.splitlines() == [
        "shapes: wanted is shapes@v2",
        "no worker is there to serve it",
    ]

    assert main(["models", "use", "--back"]) == 0
    assert queue.desired() == ""
    assert "wanted is what the workers are set up with" in capsys.readouterr().out


def test_a_worker_hears_of_it_in_answer_to_its_heartbeat(queue: RedisQueue) -> None:
    assert queue.heartbeat(WORKER) == ""

    main(["models", "use", "shapes@v2"])

    assert queue.heartbeat(WORKER) == queue.desired() != ""


def test_the_status_tells_who_serves_what_and_why_not(queue: RedisQueue, capsys: Capture) -> None:
    main(["models", "use", "shapes@v2"])
    wanted = queue.desired()
    for info in (
        WORKER,
        replace(WORKER, id="w-2", loading="v2"),
        replace(WORKER, id="w-3", version="v2", answered=wanted),
        replace(WORKER, id="w-4", problem="it is corrupt", answered=wanted),
        replace(WORKER, id="w-5", version=""),
        replace(WORKER, id="w-6", state="stopping"),
    ):
        queue.heartbeat(info)
    capsys.readouterr()

    assert main(["models", "use", "--status"]) == 0

    assert sorted(capsys.readouterr().out.splitlines()) == [
        "shapes: wanted is shapes@v2",
        "w-1: serves v1, has not answered yet",
        "w-2: serves v1, loads v2",
        "w-3: serves v2, as wanted",
        "w-4: serves v1, cannot change: it is corrupt",
        "w-5: serves a version it does not name, has not answered yet",
    ]
    assert queue.desired() == wanted


@pytest.mark.parametrize(
    ("problems", "status"),
    [
        pytest.param(["", ""], 0, id="all have changed"),
        pytest.param(["", "it is corrupt"], 1, id="one cannot"),
    ],
)
def test_it_waits_for_the_workers_answers(
    queue: RedisQueue,
    monkeypatch: pytest.MonkeyPatch,
    problems: list[str],
    status: int,
) -> None:
    workers = [replace(WORKER, id=f"w-{n}", problem=p) for n, p in enumerate(problems)]
    for worker in workers:
        queue.heartbeat(worker)

    def answer(seconds: float) -> None:
        for worker in workers:
            queue.heartbeat(replace(worker, answered=queue.desired()))

    monkeypatch.setattr(time, "sleep", answer)

    assert main(["models", "use", "shapes@v2", "--wait", "60"]) == status


def test_it_waits_no_longer_than_it_may(queue: RedisQueue, capsys: Capture) -> None:
    queue.heartbeat(WORKER)

    assert main(["models", "use", "shapes@v2", "--wait", "0.01"]) == 1

    assert "w-1: serves v1, has not answered yet" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        pytest.param(["shapes"], "is not NAME@VERSION", id="no version"),
        pytest.param(["../shapes@v2"], "is not NAME@VERSION", id="a path"),
        pytest.param(["b@v2", "--model", "c"], "Name one with --model: shapes", id="no entry"),
    ],
)
def test_what_cannot_be_wanted_is_refused(
    queue: RedisQueue, capsys: Capture, arguments: list[str], message: str
) -> None:
    assert main(["models", "use", *arguments]) == 1
    assert message in capsys.readouterr().err
    assert queue.desired() == ""


@pytest.mark.parametrize(
    ("arguments", "queues"),
    [
        pytest.param(["b@v2"], ["b_queue"], id="the entry of that name"),
        pytest.param(["a@v2", "--model", "b"], ["b_queue"], id="the entry that is named"),
        pytest.param(["c@v2"], [], id="neither"),
        pytest.param(["--back"], [], id="nothing named"),
    ],
)
@pytest.mark.usefixtures("queue")
def test_of_several_models_one_is_meant(
    shared_redis: RedisServer,
    make_queue: QueueMaker,
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
    arguments: list[str],
    queues: list[str],
) -> None:
    models = tmp_path / "models.yaml"
    models.write_text("".join(f"{n}: {{queue: {n}_queue, network: stand-in}}\n" for n in "ab"))
    monkeypatch.setenv("MODELS_FILE", str(models))

    assert main(["models", "use", *arguments]) == (0 if queues else 1)

    each = {name: make_queue(shared_redis.url, name) for name in ("a_queue", "b_queue")}
    assert [name for name, found in each.items() if found.desired()] == queues


def test_what_a_stranger_has_written_is_shown_as_such(queue: RedisQueue, capsys: Capture) -> None:
    queue.set_desired("rm -rf")

    main(["models", "use", "--status"])

    assert "wanted is not known: 'rm -rf' is not NAME@VERSION" in capsys.readouterr().out
