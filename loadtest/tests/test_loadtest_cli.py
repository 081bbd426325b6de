"""``imageserve loadtest``: its options, its exit status, its signals, and the results of pods."""

import json
import os
import re
import shutil
import signal
import ssl
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml
from loadtest.tests.misbehaving_server import SIDE, Call, Server, serving
from tests.redis_server import eventually, free_port

from imageserve.cli import main
from imageserve_loadtest import measure
from imageserve_loadtest.command import _lines
from imageserve_loadtest.pictures import generated
from imageserve_loadtest.result import Result

Capture = pytest.CaptureFixture[str]

ROOT = Path(__file__).parents[2]
SOURCES = (ROOT / "src", ROOT / "loadtest" / "src")
SQUASH = {"resize": "squash", "resize_to": None, "colour": "rgb"}
PICTURES = generated(40, (SIDE, SIDE), seed=1)
SHORT = ("--rate", "100", "--arrivals", "constant", "--duration", "0.2", "--quiet")
"""Exactly 20 requests."""
BEGAN = re.compile(r'"started_at": ?"[^"]+"')


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    names = ("LOADTEST_DIR", "LOADTEST_SHARDS", "LOADTEST_API_KEY", "JOB_COMPLETION_INDEX")
    for name in names:
        monkeypatch.delenv(name, raising=False)


def result_of(path: Path, *arguments: str) -> tuple[int, Result]:
    """Run the command; returns exit status and result."""
    status = main(["loadtest", *arguments, "--distinct", "40", "--json", str(path)])
    return status, Result.from_json(path.read_text())


def test_a_closed_loop_ends_when_all_clients_have_ended(tmp_path: Path) -> None:
    with serving(PICTURES) as server:
        load = ("--clients", "3", "--duration", "0.5", "--quiet")
        status, result = result_of(tmp_path / "r.json", server.url, *load)

    assert status == 0
    assert result.load.loop == "closed"
    assert result.counts.good == result.counts.sent == len(server.calls) > 3
    assert result.counts.unaccounted == 0


def test_a_client_of_a_closed_loop_obeys_retry_after(tmp_path: Path) -> None:
    def refuse(call: Call) -> None:
        call.send_json(503, {"error": {"code": "busy"}}, "Retry-After: 30")

    with serving(PICTURES, refuse) as server:
        load = ("--clients", "2", "--duration", "0.5", "--quiet", "--slo", "refused=100%")
        status, result = result_of(tmp_path / "r.json", server.url, *load)

    assert (result.counts.sent, result.counts.refused) == (2, 2)
    assert status == 1
    assert result.verdict.reasons == ("no request got a good answer",)


def test_phases_have_as_many_clients_as_they_say(tmp_path: Path) -> None:
    scenario = tmp_path / "two.yaml"
    scenario.write_text(
        "loop: closed\nphases: [{seconds: 9, clients: 1}, {seconds: 9, clients: 4}]"
    )
    open_now, most = 0, []
    lock = threading.Lock()

    def count(call: Call) -> None:
        nonlocal open_now
        with lock:
            open_now += 1
            most.append(open_now)
        call.connection.settimeout(0.01)  # Long enough for others to come meanwhile.
        try:
            call.connection.recv(1)
        except TimeoutError:
            call.connection.settimeout(None)
        with lock:
            open_now -= 1
        call.answer_well()

    with serving(PICTURES, count) as server:
        load = ("--scenario", str(scenario), "--duration", "0.8", "--quiet")
        status, result = result_of(tmp_path / "r.json", server.url, *load)

    assert status == 0
    assert most[0] == 1
    assert max(most) <= 4
    assert [phase.seconds for phase in result.load.phases] == [0.4, 0.4]


def test_a_queue_and_its_depth_are_in_the_result(tmp_path: Path) -> None:
    with serving(PICTURES) as server:
        _, result = result_of(tmp_path / "r.json", server.url, *SHORT)

    (sample, *_) = result.queue
    assert (sample.queued, sample.in_flight, sample.workers) == (3, 2, 1)
    assert result.target.model == "stand-in"
    assert result.target.input_size == (SIDE, SIDE)


def test_shares_of_the_capacity_use_the_capacity_that_the_target_reports(tmp_path: Path) -> None:
    scenario = tmp_path / "half.yaml"
    scenario.write_text(
        "arrivals: constant\nphases: [{seconds: 0.2, share_of_capacity: 0.5}]\nslo: [p99=30s]"
    )
    with serving(PICTURES) as server:
        status, result = result_of(tmp_path / "r.json", server.url, "--scenario", str(scenario))
        given = ("--capacity", "50")
        _, less = result_of(tmp_path / "r.json", server.url, "--scenario", str(scenario), *given)

    assert status == 0
    assert (result.counts.sent, less.counts.sent) == (10, 5)


HALF = "arrivals: constant\nphases: [{seconds: 1, share_of_capacity: 0.5}]\nslo: [p99=30s]"


@pytest.mark.parametrize(
    ("web_per_s", "taken"),
    [
        pytest.param({"web_capacity_per_s": 20.0}, (20.0, "web"), id="the web is slower"),
        pytest.param({"web_capacity_per_s": 500.0}, (100.0, "model"), id="the model is slower"),
        pytest.param({}, (100.0, "model"), id="an old server"),
        pytest.param({"web_capacity_per_s": "?"}, (100.0, "model"), id="no number"),
    ],
)
def test_shares_are_of_the_smaller_capacity_and_the_report_says_which(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    web_per_s: dict[str, Any],
    taken: tuple[float, str],
) -> None:
    monkeypatch.setattr(measure, "_WEB_TELLS_S", 0.01)
    scenario, html = tmp_path / "half.yaml", tmp_path / "r.html"
    scenario.write_text(HALF)
    with serving(PICTURES) as server:
        server.pages["/status"]["models"]["stand-in"].update(web_per_s)
        load = ("--scenario", str(scenario), "--html", str(html))
        status, result = result_of(tmp_path / "r.json", server.url, *load)

    assert status == 0
    assert (result.load.capacity_per_s, result.load.capacity_of) == taken
    assert result.counts.sent == taken[0] / 2
    said = f"{taken[0]:.1f} pictures/s: the capacity of the {taken[1]}"
    assert f"rates are shares of {said}" in capsys.readouterr().out
    assert f"{taken[0]:g} pictures/s: the capacity of the {taken[1]}" in html.read_text()
    assert f"--capacity {taken[0]:g}" in html.read_text()


def test_the_load_of_skaffold_is_a_share_of_what_the_whole_service_can_do(tmp_path: Path) -> None:
    (action,) = yaml.safe_load((ROOT / "skaffold.yaml").read_text())["customActions"]
    command, _, *load = action["containers"][0]["args"]
    assert (command, load[-2:]) == ("loadtest", ["--json", "-"])
    with serving(PICTURES) as server:
        server.pages["/status"]["models"]["stand-in"]["web_capacity_per_s"] = 40.0
        path = tmp_path / "r.json"
        _, result = result_of(path, server.url, *load[:-2], "--duration", "2", "--quiet")

    assert (result.load.capacity_per_s, result.load.capacity_of) == (40.0, "web")
    assert max(phase.rate_per_s or 0.0 for phase in result.load.phases) < 40.0


def test_web_processes_that_have_decoded_nothing_yet_get_some_pictures_first(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(measure, "_WEB_TELLS_S", 0.01)
    scenario = tmp_path / "half.yaml"
    scenario.write_text(HALF)

    def measured(call: Call) -> None:
        status["web_capacity_per_s"] = 20.0
        call.answer_well()

    with serving(PICTURES, measured) as server:
        status = server.pages["/status"]["models"]["stand-in"]
        status["web_capacity_per_s"] = None
        _, result = result_of(tmp_path / "r.json", server.url, "--scenario", str(scenario))

    assert (result.load.capacity_per_s, result.load.capacity_of) == (20.0, "web")
    assert (result.counts.sent, result.verdict.holds) == (10, True)


@pytest.mark.parametrize(
    ("name", "told", "source"),
    [
        pytest.param("shapes", {"stand_in": True}, "generated", id="under another name"),
        pytest.param("stand-in", {"stand_in": False}, "files", id="a real model of that name"),
        pytest.param("stand-in", {}, "generated", id="an old server"),
        pytest.param("shapes", {"stand_in": "?"}, "files", id="no answer"),
        pytest.param("stand-in", {"stand_in": True, "preparation": SQUASH}, "generated", id="new"),
        pytest.param(
            "stand-in",
            {"stand_in": True, "preparation": {**SQUASH, "resize": "crop", "resize_to": 99}},
            "files",
            id="one whose label no client can know",
        ),
    ],
)
def test_a_stand_in_is_known_by_what_the_server_says_not_by_its_name(
    tmp_path: Path, name: str, told: dict[str, Any], source: str
) -> None:
    with serving(PICTURES) as server:
        server.pages["/models"] = {"models": {name: {"input_size": [SIDE, SIDE], **told}}}
        status, result = result_of(tmp_path / "r.json", server.url, *SHORT)

    assert result.load.pictures == source
    assert status == (0 if source == "generated" else 1)


def test_an_unknown_capacity_is_asked_for(tmp_path: Path, capsys: Capture) -> None:
    with serving(PICTURES) as server:
        del server.pages["/status"]

        assert main(["loadtest", server.url, "--scenario", "steady"]) == 1

    assert "--capacity" in capsys.readouterr().err


def test_real_pictures_are_sent_with_their_labels(tmp_path: Path) -> None:
    (tmp_path / "labels.csv").write_text("file,label\na.png,cat\n")
    (tmp_path / "a.png").write_bytes(b"a")
    options = ("--source", "files", "--images", str(tmp_path))

    with serving([]) as server:
        server.labels = {b"a": "cat"}
        status, result = result_of(tmp_path / "r.json", server.url, *SHORT, *options)
        server.labels = {b"a": "dog"}
        wrong_status, wrong = result_of(tmp_path / "r.json", server.url, *SHORT, *options)

    assert (status, wrong_status) == (0, 1)
    assert (result.counts.good, wrong.counts.wrong) == (20, 20)
    assert (result.load.pictures, result.load.distinct) == ("files", 1)


def test_own_pictures_are_sent_to_the_stand_in_too(tmp_path: Path, capsys: Capture) -> None:
    """The user named a folder, so generated pictures in its place would be wrong."""
    with serving(PICTURES) as server:
        assert main(["loadtest", server.url, *SHORT, "--images", str(tmp_path / "none")]) == 1
        assert "labels.csv" in capsys.readouterr().err

        (tmp_path / "a.png").write_bytes(b"a")
        server.labels = {b"a": "cat"}
        options = ("--images", str(tmp_path), "--learn")
        status, result = result_of(tmp_path / "r.json", server.url, *SHORT, *options)

    assert status == 0
    assert (result.load.pictures, result.load.distinct) == ("files", 1)


def test_expected_answers_can_be_learnt_before_the_load(tmp_path: Path) -> None:
    folder = tmp_path / "images"
    folder.mkdir()
    (folder / "a.png").write_bytes(b"a")
    (folder / "b.png").write_bytes(b"b")

    def fickle(call: Call) -> None:
        """Give both pictures the same label once the load has begun."""
        label = call.labels[call.pictures[0]] if call.number <= 2 else "cat"
        predictions = [{"label": label, "probability": 1.0}]
        call.send_json(200, {"success": True, "predictions": predictions})

    with serving([], fickle) as server:
        server.labels = {b"a": "cat", b"b": "dog"}
        options = ("--learn", "--source", "files", "--images", str(folder))
        status, result = result_of(tmp_path / "r.json", server.url, *SHORT, *options)

    assert status == 1
    assert (result.counts.good, result.counts.wrong) == (10, 10)


def test_a_search_finds_the_highest_rate_that_holds(tmp_path: Path, capsys: Capture) -> None:
    def takes_twelve(call: Call) -> None:
        """Refuse all but the first twelve requests of a load, which is 60 a second."""
        if int(call.head.partition(b"X-Request-Id: lt-")[2].split(b"\r\n")[0].split(b"-")[2]) > 12:
            call.send_json(503, {"error": {"code": "busy"}}, "Retry-After: 1")
        else:
            call.answer_well()

    load = ["--search", "--rate", "20", "--arrivals", "constant", "--duration", "0.2", "--quiet"]
    load += ["--slo", "p99=30s"]
    with serving(PICTURES, takes_twelve) as server:
        status, result = result_of(tmp_path / "r.json", server.url, *load)

    assert status == 0
    assert [step.rate_per_s for step in result.search] == [20, 40, 80, 60, 70, 65, 62.5]
    assert [step.holds for step in result.search] == [True, True, False, True, False, False, False]
    assert result.load.phases[0].rate_per_s == 60
    assert "80.0/s: goodput" in capsys.readouterr().err


def test_it_waits_for_the_target_and_says_so(tmp_path: Path, capsys: Capture) -> None:
    with serving(PICTURES) as server:
        ready = server.pages.pop("/readyz")
        threading.Timer(0.5, lambda: server.pages.update({"/readyz": ready})).start()

        status, result = result_of(tmp_path / "r.json", server.url, *SHORT)

    assert (status, result.counts.good) == (0, 20)
    told = capsys.readouterr().err
    assert told.count(f"{server.url} is not ready (") == 1
    assert "waiting for 60 s at most" in told


def test_a_target_that_does_not_become_ready_is_named(capsys: Capture) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    assert main(["loadtest", url, "--wait", "0.1"]) == 1
    assert f"{url} is not ready after 0.1 s: no connection" in capsys.readouterr().err


def test_the_priority_is_sent_where_one_is_given(tmp_path: Path) -> None:
    for options, count in ([], 0), (["--priority", "background"], 1):
        with serving(PICTURES) as server:
            result_of(tmp_path / "r.json", server.url, *SHORT, *options)

        calls = [call for call in server.calls if call.head.startswith(b"POST")]
        assert calls
        assert all(call.head.count(b"\r\nX-Priority: background\r\n") == count for call in calls)


@pytest.mark.parametrize("line", ["s3cret", "s3cret name=a rate=0.5 models=m"])
@pytest.mark.parametrize("how", ["environment", "file"])
def test_the_api_key_is_sent(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, how: str, line: str
) -> None:
    (tmp_path / "key").write_text(f"# of the\u2028load test\n\n{line}\nanother\n")
    options = ["--api-key-file", str(tmp_path / "key")] if how == "file" else []
    if how == "environment":
        monkeypatch.setenv("LOADTEST_API_KEY", "s3cret")

    with serving(PICTURES) as server:
        result_of(tmp_path / "r.json", server.url, *SHORT, *options)

    assert all(b"\r\nAuthorization: Bearer s3cret\r\n" in call.head for call in server.calls)


def test_only_line_ends_divide_a_file_of_results(tmp_path: Path) -> None:
    # As jq writes them: JSON may hold these characters as they are.
    (tmp_path / "results").write_bytes('{"a": "\u2028\x85"}\r\n{"b": 1}'.encode())

    assert _lines(str(tmp_path / "results")) == ['{"a": "\u2028\x85"}', '{"b": 1}']


def test_a_model_can_be_named(tmp_path: Path, capsys: Capture) -> None:
    with serving(PICTURES) as server:
        result_of(tmp_path / "r.json", server.url, *SHORT, "--model", "stand-in")

        assert all(b"POST /predict?model=stand-in " in call.head for call in server.calls)
        assert main(["loadtest", server.url, "--model", "none"]) == 1

    assert "there is no model 'none'; there are stand-in" in capsys.readouterr().err


def test_the_result_can_be_printed_for_a_program(capsys: Capture) -> None:
    with serving(PICTURES) as server:
        status = main(["loadtest", server.url, *SHORT, "--distinct", "40", "--json", "-"])

    said = capsys.readouterr()
    assert status == 0
    assert Result.from_json(said.out).counts.good == 20
    assert "verdict: it holds" in said.err


def test_the_scenarios_are_listed(capsys: Capture) -> None:
    assert main(["loadtest", "--list"]) == 0
    assert "overload       A minute at twice the capacity" in capsys.readouterr().out


def test_own_scenarios_are_listed_beside_the_built_in_ones(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    (tmp_path / "scenarios").mkdir()
    text = "description: Mine.\nphases: [{seconds: 1, rate_per_s: 1}]\n"
    (tmp_path / "scenarios" / "mine.yaml").write_text(text)
    monkeypatch.setenv("LOADTEST_DIR", str(tmp_path))

    assert main(["loadtest", "--list"]) == 0
    listed = capsys.readouterr().out
    assert "mine           Mine." in listed
    assert "overload" in listed


# -- ending it early ----------------------------------------------------------------------------


def started(server: Server, *options: str) -> "subprocess.Popen[str]":
    process = subprocess.Popen(
        [sys.executable, "-m", "imageserve", "loadtest", server.url, *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(map(str, SOURCES))},
        start_new_session=True,
    )
    eventually(lambda: len(server.calls) >= 5 or process.poll() is not None, "requests", 60)
    return process


@pytest.mark.parametrize("load", [("--clients", "2"), ("--rate", "50")], ids=["closed", "open"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["ctrl-c", "SIGTERM"])
def test_a_signal_ends_it_with_a_report_of_what_was_done(
    number: signal.Signals, load: tuple[str, str]
) -> None:
    with serving(PICTURES) as server:
        process = started(server, *load, "--duration", "600", "--json", "-", "--distinct", "40")
        process.send_signal(number)
        out, err = process.communicate(timeout=60)

    result = Result.from_json(out)
    assert process.returncode == 1
    assert result.interrupted
    assert result.counts.sent == result.counts.good == len(server.calls)
    assert result.verdict.reasons[0].startswith("interrupted after")
    assert "waiting for open requests" in err


def test_a_second_ctrl_c_ends_it_at_once() -> None:
    def silent(call: Call) -> None:
        call.connection.recv(1)
        call.end()

    with serving(PICTURES, silent) as server:
        process = started(server, "--rate", "50", "--duration", "600", "--timeout", "600")
        process.send_signal(signal.SIGINT)
        assert process.stderr is not None
        while "waiting for open" not in process.stderr.readline():
            assert process.poll() is None
        process.send_signal(signal.SIGINT)
        process.communicate(timeout=60)

    assert process.returncode == 130


# -- several pods -------------------------------------------------------------------------------


def test_the_shards_of_several_pods_make_the_whole_load_and_one_report(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("LOADTEST_SHARDS", "2")
    logs = [tmp_path / "pod-0.log", tmp_path / "pod-1.log"]
    with serving(PICTURES) as server:
        for i, log in enumerate(logs):
            monkeypatch.setenv("JOB_COMPLETION_INDEX", str(i))
            assert main(["loadtest", server.url, *SHORT, "--distinct", "40", "--json", "-"]) == 0
            # Here one runs after the other; pods begin together.
            said, times = BEGAN.subn(
                '"started_at": "2026-01-01T00:00:00Z"', capsys.readouterr().out
            )
            assert times == 1
            log.write_text(f"waiting\n{said}done\n")

    path = tmp_path / "whole.json"
    status = main(["loadtest", "merge", *map(str, logs), "--json", str(path)])

    whole = Result.from_json(path.read_text())
    assert status == 0
    assert (whole.pods, whole.counts.sent, whole.counts.good) == (2, 20, 20)
    assert len(whole.queue) == 1  # Only the first pod asks.
    assert "results of 2 pods" in capsys.readouterr().err


def test_a_pod_that_is_missing_fails_the_merged_verdict(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("LOADTEST_SHARDS", "3")
    log = tmp_path / "pod.log"
    with serving(PICTURES) as server:
        main(["loadtest", server.url, *SHORT, "--distinct", "40", "--json", str(log)])
    capsys.readouterr()

    assert main(["loadtest", "merge", str(log)]) == 1
    assert "1 of 3 pods have a result" in capsys.readouterr().out


# -- options that are not valid -----------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param([], "the URL is missing", id="no URL"),
        pytest.param(["ftp://x"], "must be http", id="another protocol"),
        pytest.param(
            ["http://x", "--clients", "1", "--rate", "1"], "leave out one of them", id="two loops"
        ),
        pytest.param(["http://x", "--to-rate", "5"], "--to-rate needs --rate", id="half a ramp"),
        pytest.param(["http://x", "--scenario", "x"], "no scenario 'x'; there are", id="unknown"),
        pytest.param(
            ["http://x", "--scenario", "smoke", "--rate", "1"], "has its own load", id="two loads"
        ),
        pytest.param(["http://x", "--scenario", "/x.yaml"], "cannot be read", id="no file"),
        pytest.param(
            ["http://x", "--slo", "fast"], "'fast' is not an objective", id="no objective"
        ),
        pytest.param(
            ["http://x", "--search", "--slo", "p99=1s", "--clients", "1"],
            "chooses its own rates",
            id="a search with clients",
        ),
        pytest.param(["http://x", "--search"], "needs a time limit", id="an endless search"),
        pytest.param(
            ["http://x", "--arrivals", "constant"], "for an open loop", id="arrivals of clients"
        ),
        pytest.param(["http://x", "--broken-kinds", "cut"], "needs --broken", id="no share"),
        pytest.param(
            ["http://x", "--source", "generated", "--learn"], "for real pictures", id="both kinds"
        ),
        pytest.param(["http://x", "--json", "/tmp"], "is a folder", id="a folder"),
        pytest.param(["http://x", "--json", "/none/x"], "there is no folder", id="no folder"),
        pytest.param(["http://x", "--records", "/none/x"], "cannot be written", id="no records"),
        pytest.param(["http://x", "--api-key-file", "/none"], "cannot be read", id="no key"),
        pytest.param(["http://x", "--api-key-file", "/dev/null"], "contains no key", id="empty"),
        pytest.param(["https://x", "--ca-file", "/none"], "cannot be used", id="no CA"),
        pytest.param(["merge", "/none"], "cannot be read", id="no log"),
        pytest.param(["merge", "/dev/null"], "no result was found", id="an empty log"),
    ],
)
def test_options_that_are_not_valid_return_2_and_say_why(
    arguments: list[str], said: str, capsys: Capture
) -> None:
    assert main(["loadtest", *arguments]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"LOADTEST_SHARDS": "x"}, "LOADTEST_SHARDS must be a whole number"),
        ({"LOADTEST_SHARDS": "2", "JOB_COMPLETION_INDEX": "2"}, "is not below"),
        ({"LOADTEST_SHARDS": "0"}, "is not below"),
    ],
    ids=["no number", "too high", "no pods"],
)
def test_an_environment_that_is_not_valid_returns_2_and_says_why(
    environ: dict[str, str], said: str, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    assert main(["loadtest", "http://x"]) == 2
    assert said in capsys.readouterr().err


def test_a_search_cannot_run_in_several_pods(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("LOADTEST_SHARDS", "2")

    assert main(["loadtest", "http://x", "--search"]) == 2
    assert "not in several pods" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options",
    [
        ("--rate", "0"),
        ("--rate", "nan"),
        ("--wait", "-1"),
        ("--wait", "nan"),
        ("--timeout", "601"),
        ("--clients", "0"),
        ("--clients", "x"),
        ("--broken", "1.5"),
        ("--broken-kinds", "bent"),
    ],
    ids=" ".join,
)
def test_a_value_out_of_range_is_refused(options: tuple[str, str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["loadtest", "http://x", *options])

    assert ended.value.code == 2
    assert options[0] in capsys.readouterr().err


# -- https --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Make a certificate for this machine, signed by itself; returns (certificate, key)."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("no openssl on PATH")
    folder = tmp_path_factory.mktemp("tls")
    certificate, key = folder / "cert.pem", folder / "key.pem"
    command = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2"]
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=IP:127.0.0.1"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run([*command, *names, *files], check=True, capture_output=True)
    return certificate, key


@pytest.mark.parametrize("trusted", [True, False], ids=["a CA that signed it", "any other"])
def test_a_target_behind_tls_is_measured_and_its_certificate_checked(
    tmp_path: Path, certificate: tuple[Path, Path], trusted: bool
) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(*certificate)
    options: list[Any] = ["--ca-file", certificate[0]] if trusted else []
    with serving(PICTURES) as server:
        server.tls = context
        url = server.url.replace("http:", "https:")
        arguments = [url, *SHORT, "--wait", "2" if trusted else "0.1", *map(str, options)]
        path = tmp_path / "r.json"
        status = main(["loadtest", *arguments, "--distinct", "40", "--json", str(path)])

    assert status == (0 if trusted else 1)
    if trusted:
        assert json.loads(path.read_text())["counts"]["good"] == 20
    else:
        assert not path.exists()
