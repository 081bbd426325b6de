"""The command line: what each command takes, prints and returns."""

import errno
import io
import json
import logging
import os
import re
import shlex
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from tests.queues import RedisQueue
from tests.redis_server import QueueMaker, RedisServer, executables, free_port

import imageserve
from imageserve.cli import COMMANDS, main
from imageserve.cli import run as run_command
from imageserve.cli import web as web_command
from imageserve.config.settings import Settings, table
from imageserve.errors import QueueForbidden, QueueKeyTaken, QueueUnavailable
from imageserve.queue.admission import Limits
from imageserve.queue.consumer import Lease
from imageserve.queue.monitor import Monitor
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.self_test import check_server
from imageserve.queue.snapshot import WorkerInfo
from imageserve.queue.wire import Job
from imageserve.supervisor import Child
from imageserve.web.lifecycle import DrainFlag, create_drain_flag
from imageserve.web.server import WebServer

Capture = pytest.CaptureFixture[str]


@pytest.fixture(autouse=True)
def bare_environment(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """No settings, and the logging of the test run afterwards."""
    for variable in [*os.environ]:
        if any(f"`{variable}`" in line for line in table().splitlines()):
            monkeypatch.delenv(variable)
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    logging.captureWarnings(capture=False)


# -- every command --------------------------------------------------------------------------------


@pytest.mark.parametrize("command", list(COMMANDS))
def test_every_command_has_help_that_names_it(command: str, capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])

    said = capsys.readouterr().out
    assert ended.value.code == 0
    assert said.startswith(f"usage: imageserve {command}")
    assert len(said.splitlines()) >= 5


@pytest.mark.parametrize("arguments", [["--help"], []])
def test_the_help_lists_every_command(arguments: list[str], capsys: Capture) -> None:
    try:
        status = main(arguments)
    except SystemExit as ended:
        status = int(ended.code or 0)

    said = capsys.readouterr().out
    assert status == (0 if arguments else 2)
    assert all(f"\n  {command} " in said for command in COMMANDS)


@pytest.mark.parametrize(
    "arguments", [["serve"], ["--verbose"], ["web", "--port", "80"], ["queue"], ["queue", "drop"]]
)
def test_what_is_not_there_is_said_with_status_2(arguments: list[str], capsys: Capture) -> None:
    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    assert "usage: imageserve" in capsys.readouterr().err


def test_it_tells_its_version_as_a_module_too() -> None:
    said = subprocess.run(
        [sys.executable, "-m", "imageserve", "--version"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert said.stdout == f"imageserve {imageserve.__version__}\n"


@pytest.mark.parametrize(
    ("arguments", "environ", "said"),
    [
        pytest.param(["web"], {"WEB_PORT": "http"}, "WEB_PORT: ", id="web"),
        pytest.param(["web"], {"API_KEYS_FILE": "/nowhere"}, "API_KEYS_FILE: ", id="web: keys"),
        pytest.param(["grpc"], {"GRPC_PORT": "9100"}, "METRICS_PORT must be another", id="grpc"),
        pytest.param(["worker"], {"BATCH_SIZE": "0"}, "BATCH_SIZE: must be", id="worker"),
        pytest.param(["worker"], {"MODEL": "vgg"}, "unknown model 'vgg'", id="worker: model"),
        pytest.param(["run"], {"LOG_LEVEL": "loud"}, "LOG_LEVEL: must be", id="run"),
        pytest.param(["drain"], {"DRAIN_S": "-1"}, "DRAIN_S: must be", id="drain"),
        pytest.param(["queue", "status"], {"REDIS_URL": "http://x"}, "REDIS_URL", id="queue"),
        pytest.param(
            ["queue", "--model", "vgg", "status"], {}, "no model 'vgg'; there are", id="no model"
        ),
        pytest.param(["queue", "purge"], {}, "needs --yes", id="nobody to be asked"),
    ],
)
def test_a_wrong_setting_is_one_line_and_status_1(
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
    arguments: list[str],
    environ: dict[str, str],
    said: str,
) -> None:
    for variable, value in environ.items():
        monkeypatch.setenv(variable, value)
    monkeypatch.setattr(sys, "stdin", io.StringIO())

    assert main(arguments) == 1

    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith(f"imageserve {arguments[0]}: ")
    assert said in captured.err
    assert len(captured.err.splitlines()) == 1


@pytest.mark.parametrize("command", ["web", "worker", "autoscaler"])
def test_a_service_whose_log_is_json_says_so_in_json(command: str) -> None:
    environ = {**os.environ, "LOG_FORMAT": "json", "WEB_PORT": "http"}

    ended = subprocess.run(
        [sys.executable, "-m", "imageserve", command],
        env=environ,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (ended.returncode, ended.stdout) == (1, "")
    assert f"imageserve {command}: WEB_PORT: " in json.loads(ended.stderr)["message"]


@pytest.mark.parametrize(
    "arguments",
    [
        ["run", "--workers", "0"],
        ["run", "--port", "0"],
        ["run", "--port", "65536"],
        ["run", "--grpc", "-1"],
        ["queue", "dead", "--count", "-1"],
        ["queue", "check", "--wait", "nan"],
        ["drain", "--wait", "-1"],
        ["classify", "x.jpg", "--timeout", "nan"],
        ["classify", "x.jpg", "--concurrency", "0"],
        ["models", "use", "shapes@v1", "--wait", "nan"],
        ["models", "bench", "--rounds", "0"],
        ["models", "bench", "--seconds", "-1"],
        ["autoscaler", "explain", "--seconds", "nan"],
        ["doctor", "--url", "localhost:8000"],
    ],
    ids=" ".join,
)
def test_a_value_that_cannot_be_is_refused_with_what_can(
    arguments: list[str], capsys: Capture
) -> None:
    *_, option, value = arguments

    with pytest.raises(SystemExit) as ended:
        main(arguments)

    assert ended.value.code == 2
    said = capsys.readouterr().err
    assert f"argument {option}: must be a" in said
    assert f"(it is '{value}')" in said


LIBRARIES = ("gevent", "grpc", "gunicorn", "httpx2", "kubernetes", "numpy")
"""Of each extra one that the commands need; none of them comes with the distribution alone."""


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["run"], "gunicorn is not installed; install it with: pip install 'imageserve[local]'"),
        (["web"], "gevent is not installed; install it with: pip install 'imageserve[web]'"),
        (["grpc"], "grpc is not installed; install it with: pip install 'imageserve[web,grpc]'"),
        (["worker"], "numpy is not installed; install it with: pip install 'imageserve[worker]'"),
        (["autoscaler"], "install it with: pip install 'imageserve[autoscaler]'"),
        (["doctor"], "the cluster: kubernetes is not installed; install it with: pip install"),
        (["classify", "x.jpg"], "install it with: pip install 'imageserve[client]'"),
        (["models", "check"], "or 'imageserve[onnx]' for ONNX models alone"),
    ],
    ids=lambda each: each[0] if isinstance(each, list) else "",
)
def test_a_command_without_its_extra_says_what_to_install(
    arguments: list[str], said: str, tmp_path: Path
) -> None:
    told = run_without(LIBRARIES, arguments, tmp_path)

    assert said in told


@pytest.mark.parametrize("role", ["web", "grpc"])
def test_an_endpoint_for_traces_without_the_extra_says_what_to_install(
    role: str, tmp_path: Path
) -> None:
    told = run_without(["opentelemetry"], [role], tmp_path, TRACES_ENDPOINT="http://collector:4318")

    assert "TRACES_ENDPOINT: OpenTelemetry is not installed" in told
    assert "pip install 'imageserve[tracing]'" in told


def run_without(
    libraries: Sequence[str], arguments: list[str], tmp_path: Path, **settings: str
) -> str:
    """Run a command that ends with an error, not a traceback; return what it says."""
    absent = f"import sys; sys.modules.update(dict.fromkeys({[*libraries]}))\n"
    (tmp_path / "sitecustomize.py").write_text(absent)  # Python imports it when it starts.
    paths = [str(tmp_path), *filter(None, sys.path)]
    environ = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join(paths),
        "REDIS_URL": f"redis://127.0.0.1:{free_port()}",
        "LOG_FORMAT": "text",
        "SCALING_FILE": str(tmp_path / "scaling.yaml"),
        "RUN_DIR": str(tmp_path / "run"),
        **settings,
    }
    (tmp_path / "scaling.yaml").write_text("{}\n")

    done = subprocess.run(
        [sys.executable, "-m", "imageserve", *arguments],
        env=environ,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )

    assert done.returncode in (1, 3), done.stderr  # 3: the doctor's, as Redis is away too
    assert "Traceback" not in done.stderr
    return done.stdout + done.stderr


def test_a_missing_module_of_our_own_is_a_bug_and_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setitem(sys.modules, "imageserve.cli.queue", None)

    with pytest.raises(ModuleNotFoundError):
        main(["queue", "status"])


def test_ctrl_c_is_status_130(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("imageserve.cli.print_settings", interrupted)

    assert main(["settings"]) == 130


def test_settings_prints_the_table(capsys: Capture) -> None:
    assert main(["settings"]) == 0
    assert capsys.readouterr().out == table() + "\n"


# -- classify -------------------------------------------------------------------------------------

ANSWER = {
    "success": True,
    "predictions": [
        {"label": "star", "probability": 0.91234},
        {"label": "ring", "probability": 0.05},
    ],
}


class Site:
    """A web server that answers what it is told, and remembers what it was asked."""

    def __init__(self) -> None:
        self.status = 200
        self.body: Any = ANSWER
        self.asked: list[tuple[str, dict[str, list[str]], bytes]] = []
        self.priorities: list[str | None] = []
        site = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                parts = urlsplit(self.path)
                body = self.rfile.read(int(self.headers["Content-Length"]))
                site.priorities.append(self.headers["X-Priority"])
                site.asked.append((parts.path, parse_qs(parts.query), body))
                self.do_GET()

            def do_GET(self) -> None:
                body = site.body() if callable(site.body) else site.body
                data = body if isinstance(body, bytes) else json.dumps(body).encode()
                self.send_response(site.status)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                self.wfile.write(data)

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.port = self.server.server_port
        self.url = f"http://127.0.0.1:{self.port}"


@pytest.fixture(scope="module")
def running_site() -> Iterator[Site]:
    site = Site()
    thread = threading.Thread(target=site.server.serve_forever, args=(0.01,))
    thread.start()
    yield site
    site.server.shutdown()
    site.server.server_close()
    thread.join()


@pytest.fixture
def site(running_site: Site) -> Site:
    running_site.status, running_site.body = 200, ANSWER
    running_site.asked.clear()
    running_site.priorities.clear()
    return running_site


@pytest.fixture
def picture(tmp_path: Path) -> str:
    (tmp_path / "star.jpg").write_bytes(b"the picture")
    return str(tmp_path / "star.jpg")


def test_classify_prints_the_labels_best_first(site: Site, picture: str, capsys: Capture) -> None:
    assert main(["classify", picture, "--url", site.url + "/"]) == 0

    assert capsys.readouterr().out.splitlines() == [
        picture,
        "  1. star: 0.9123",
        "  2. ring: 0.0500",
    ]
    assert site.asked == [("/predict", {"top": ["5"]}, b"the picture")]


def test_classify_asks_for_a_model_and_a_number_of_labels(site: Site, picture: str) -> None:
    main(["classify", picture, picture, "--url", site.url, "--model", "a b", "--top", "2"])

    assert [query for _, query, _ in site.asked] == [{"top": ["2"], "model": ["a b"]}] * 2


def test_classify_says_how_urgent_a_picture_is(site: Site, picture: str) -> None:
    main(["classify", picture, "--url", site.url])
    main(["classify", picture, "--url", site.url, "--priority", "background"])

    assert site.priorities == [None, "background"]


def test_classify_prints_json_lines(site: Site, picture: str, capsys: Capture) -> None:
    main(["classify", picture, "--url", site.url, "--json"])

    assert json.loads(capsys.readouterr().out) == {"file": picture, **ANSWER}


def test_classify_goes_on_after_a_picture_that_failed(
    site: Site, picture: str, capsys: Capture
) -> None:
    assert main(["classify", "/nowhere.jpg", picture, "--url", site.url]) == 1

    captured = capsys.readouterr()
    assert "/nowhere.jpg" in captured.err
    assert "(unreadable)" in captured.err
    assert "star" in captured.out


def test_classify_says_why_the_server_refuses(site: Site, picture: str, capsys: Capture) -> None:
    site.status = 503
    site.body = {"success": False, "error": {"code": "busy", "message": "come back"}}

    assert main(["classify", picture, "--url", site.url, "--timeout", "1.5"]) == 1
    said = capsys.readouterr().err
    assert re.fullmatch(rf"{picture}: come back \(busy, request [0-9a-f]+\)\n", said)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        pytest.param(404, b"<html>not here</html>", id="a page"),
        pytest.param(200, b"hello", id="a text"),
        pytest.param(404, {"detail": "Not Found"}, id="other JSON"),
        pytest.param(200, [], id="a list"),
    ],
)
def test_classify_says_that_another_server_answers(
    site: Site, picture: str, capsys: Capture, status: int, body: Any
) -> None:
    site.status, site.body = status, body

    assert main(["classify", picture, "--url", site.url]) == 1
    assert capsys.readouterr().err == (
        f"imageserve classify: {site.url} answers {status}; is it imageserve?\n"
    )


def test_classify_says_that_nobody_answers(picture: str, capsys: Capture) -> None:
    url = f"http://127.0.0.1:{free_port()}"

    assert main(["classify", picture, "--url", url]) == 1
    assert f"{url} cannot be reached" in capsys.readouterr().err


def test_classify_opens_no_file_as_a_server(picture: str, capsys: Capture) -> None:
    assert main(["classify", picture, "--url", "file:///etc"]) == 1
    assert "--url must begin with http:// or https://" in capsys.readouterr().err


# -- drain ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "waited"), [([], [2.5]), (["--wait", "0.25"], [0.25]), (["--wait", "0"], [0])]
)
def test_drain_sets_the_flag_and_waits(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, arguments: list[str], waited: list[float]
) -> None:
    slept: list[float] = []
    monkeypatch.setattr(time, "sleep", slept.append)
    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    monkeypatch.setenv("DRAIN_S", "2.5")
    create_drain_flag(tmp_path)

    assert main(["drain", *arguments]) == 0

    assert DrainFlag(tmp_path).is_set
    assert slept == waited


def test_drain_without_a_server_says_so(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: Capture
) -> None:
    monkeypatch.setenv("RUN_DIR", str(tmp_path / "none"))

    assert main(["drain"]) == 1
    assert "no web server runs here" in capsys.readouterr().err


# -- queue ----------------------------------------------------------------------------------------

NEVER_DIES = Lease(60_000)


@pytest.fixture
def queue(
    shared_redis: RedisServer, make_queue: QueueMaker, monkeypatch: pytest.MonkeyPatch
) -> RedisQueue:
    """A queue with three jobs, one of them in work, one worker, and one entry on the dead list."""
    monkeypatch.setenv("REDIS_URL", shared_redis.url)
    monkeypatch.setenv("IMAGE_QUEUE", "cli_queue")

    def make(access: RedisAccess, queues: Sequence[str]) -> Monitor:
        made = Monitor(access, queues)
        make_queue.close_later(made)
        return made

    monkeypatch.setattr("imageserve.cli.queue.Monitor", make)
    queue = make_queue(shared_redis.url, "cli_queue")
    for number in range(3):
        job = Job(f"job-{number}", "shapes", (1, 1, 3), 1, "reply", "trace", 60_000)
        queue.enqueue(job, b"rgb", 60_000, Limits())
    queue.claim(1, NEVER_DIES, redelivered=False)
    queue.bury('{"id":"bad"}', "it broke the model")
    queue.heartbeat(WorkerInfo("w-1", "shapes", (1, 1, 3), 10, {10: 100.0}, "ready", "here"))
    return queue


def test_queue_status_tells_what_waits_and_who_works(queue: RedisQueue, capsys: Capture) -> None:
    assert main(["queue", "status"]) == 0

    said = dict(line.split(None, 1) for line in capsys.readouterr().out.splitlines() if line)
    assert said["model"] == "shapes"
    assert (said["queue"], said["queued"], said["in_flight"]) == ("cli_queue", "2", "1")
    assert (said["dead"], said["accepted"]) == ("1", "3")
    assert (said["capacity_per_s"], said["expected_wait_ms"]) == ("100.0", "30")
    assert said["worker"].startswith("w-1")
    assert said["worker"].endswith("ms ago")

    info = WorkerInfo("w-1", "shapes", (1, 1, 3), 10, {}, "ready", "here", problem="stands by")
    queue.heartbeat(info)
    assert main(["queue", "status"]) == 0
    assert "ms ago, stands by" in capsys.readouterr().out


def test_queue_check_tries_again_while_redis_is_away(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    server = RedisServer(executables()[0].found(), tmp_path)
    outcomes = []

    def check(*arguments: Any) -> None:
        try:
            check_server(*arguments)
        except QueueUnavailable as error:
            outcomes.append(str(error))
            server.start()
            raise

    monkeypatch.setattr("imageserve.cli.queue.check_server", check)
    monkeypatch.setattr("imageserve.cli.queue.CHECK_PAUSE_S", 0.01)
    monkeypatch.setenv("REDIS_URL", server.url)
    try:
        assert main(["queue", "check", "--wait", "60"]) == 0
    finally:
        server.stop()

    assert len(outcomes) == 1
    assert "image_queue: Redis can serve as its queue" in capsys.readouterr().out


def test_queue_status_can_be_json(queue: RedisQueue, capsys: Capture) -> None:
    main(["queue", "--model", "shapes", "status", "--json"])

    said = json.loads(capsys.readouterr().out)
    assert (said["queued"], said["in_flight"], said["dead"]) == (2, 1, 1)
    assert said["workers"]["w-1"].startswith("ready, seen ")


def test_queue_dead_prints_json_lines_newest_first(queue: RedisQueue, capsys: Capture) -> None:
    queue.bury("not json", "not a job")

    main(["queue", "dead"])
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    main(["queue", "dead", "--count", "1"])

    assert [(line["reason"], line["entry"]) for line in lines] == [
        ("not a job", "not json"),
        ("it broke the model", '{"id":"bad"}'),
    ]
    assert abs(time.mktime(time.strptime(lines[0]["at"], "%Y-%m-%dT%H:%M:%SZ"))) > 0
    assert len(capsys.readouterr().out.splitlines()) == 1


def test_queue_purge_drops_what_waits_and_not_what_is_in_work(
    queue: RedisQueue, capsys: Capture
) -> None:
    assert main(["queue", "purge", "--yes"]) == 0

    assert capsys.readouterr().out == "dropped 2 jobs of cli_queue\n"
    seen = queue.snapshot()
    assert (seen.queued, seen.in_flight) == (0, 1)


class _Terminal:
    @staticmethod
    def isatty() -> bool:
        return True


@pytest.mark.parametrize(("answer", "left"), [("y", 0), (" Y ", 0), ("", 2), ("no", 2)])
def test_queue_purge_asks_first(
    queue: RedisQueue, monkeypatch: pytest.MonkeyPatch, answer: str, left: int
) -> None:
    asked: list[str] = []

    def ask(prompt: str) -> str:
        asked.append(prompt)
        return answer

    monkeypatch.setattr(sys, "stdin", _Terminal)
    monkeypatch.setattr("builtins.input", ask)

    assert main(["queue", "purge"]) == 0

    assert asked == ["Drop all jobs that wait in cli_queue? [y/N] "]
    assert queue.snapshot().queued == left


def test_queue_says_that_redis_does_not_answer(
    monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    monkeypatch.setenv("REDIS_URL", f"redis://127.0.0.1:{free_port()}")

    assert main(["queue", "status"]) == 1
    assert capsys.readouterr().err.startswith("imageserve queue: image_queue: Redis: ")


# -- web ------------------------------------------------------------------------------------------


class Restart(Exception):
    """The web command starts itself anew."""

    def __init__(self, program: str, command: list[str], environ: dict[str, str]) -> None:
        super().__init__()
        self.program = program
        self.command = command
        self.environ = environ


@pytest.fixture
def restarts(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Raise Restart in place of a restart. Redis is not asked."""

    def restart(program: str, command: list[str], environ: dict[str, str]) -> None:
        raise Restart(program, command, environ)

    monkeypatch.setattr(os, "execvpe", restart)
    monkeypatch.setenv("RUN_DIR", str(tmp_path))
    monkeypatch.setattr(web_command, "check_redis", lambda settings, queue: None)


@pytest.mark.usefixtures("restarts")
def test_web_restarts_with_counters_of_its_own_and_limits_for_malloc(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    old = tmp_path / "metrics" / "counter_1.db"
    old.parent.mkdir()
    old.touch()
    monkeypatch.setenv("MALLOC_TRIM_THRESHOLD_", "7")

    with pytest.raises(Restart) as restart:
        main(["web"])

    assert restart.value.program == restart.value.command[0] == sys.executable
    assert restart.value.command[1:] == ["-m", "imageserve", "web", "--prepared"]
    assert restart.value.environ["PROMETHEUS_MULTIPROC_DIR"] == str(tmp_path / "metrics")
    assert restart.value.environ["MALLOC_MMAP_THRESHOLD_"] == "1048576"
    assert restart.value.environ["MALLOC_TRIM_THRESHOLD_"] == "7", "set from outside"
    assert not old.exists()


@pytest.mark.usefixtures("restarts")
def test_the_restarted_web_command_runs_gunicorn(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    counter = tmp_path / "metrics" / "counter_1.db"
    counter.parent.mkdir()
    counter.touch()
    ports: list[int] = []
    monkeypatch.setattr(WebServer, "run", lambda self: ports.append(self.settings.web_port))
    monkeypatch.setenv("WEB_PORT", "8123")

    assert main(["web", "--prepared"]) == 0

    assert ports == [8123]
    assert counter.exists(), "the counters of the processes that run"


@pytest.mark.usefixtures("restarts")
@pytest.mark.parametrize(
    ("error", "outcome"),
    [
        pytest.param(QueueUnavailable("away"), Restart, id="away: it will come"),
        pytest.param(QueueKeyTaken("taken"), Restart, id="a key is taken: it will be moved"),
        pytest.param(QueueForbidden("evicts"), 1, id="unusable: somebody has to act"),
    ],
)
def test_web_starts_without_redis_but_not_with_one_that_cannot_serve(
    monkeypatch: pytest.MonkeyPatch, error: Exception, outcome: object
) -> None:
    def check(settings: Settings, queue: str) -> None:
        raise error

    monkeypatch.setattr(web_command, "check_redis", check)

    def start() -> object:
        try:
            return main(["web"])
        except Restart:
            return Restart

    assert start() == outcome


@pytest.mark.usefixtures("restarts")
def test_a_slow_redis_does_not_keep_web_from_starting(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    models = "".join(f"model-{n}: {{queue: q{n}, network: shapes}}\n" for n in range(20))
    (tmp_path / "models.yaml").write_text(models)
    monkeypatch.setenv("MODELS_FILE", str(tmp_path / "models.yaml"))
    monkeypatch.setenv("DEFAULT_MODEL", "model-0")
    monkeypatch.setattr(web_command, "EARLY_S", 0.05)
    checked: list[str] = []

    def check(settings: Settings, queue: str) -> None:
        checked.append(queue)
        time.sleep(0.02)

    monkeypatch.setattr(web_command, "check_redis", check)

    with pytest.raises(Restart):
        main(["web"])

    assert 0 < len(checked) < 20


# -- run ------------------------------------------------------------------------------------------


@pytest.fixture
def started(monkeypatch: pytest.MonkeyPatch) -> list[Child]:
    """The children that the run command would have supervised."""
    children: list[Child] = []

    class Recorder:
        def __init__(self, all_of_them: Sequence[Child]) -> None:
            children.extend(all_of_them)

        def run(self) -> None:
            """Nothing runs."""

    monkeypatch.setattr(run_command, "Supervisor", Recorder)
    monkeypatch.setattr(run_command, "_announce", lambda *_: None)
    monkeypatch.setattr(
        run_command, "redis_command", lambda port, directory: ["redis", str(port), directory]
    )
    return children


def run(*arguments: str) -> int:
    return main(["run", "--port", str(free_port()), *arguments])


def test_run_starts_redis_workers_and_the_web_server(started: list[Child]) -> None:
    assert run("--workers", "2") == 0

    assert [child.name for child in started] == ["redis", "worker-1", "worker-2", "web"]
    redis, worker, _, web = started
    assert worker.environ["REDIS_URL"] == f"redis://127.0.0.1:{redis.command[1]}/0"
    assert web.environ["REDIS_URL"] == worker.environ["REDIS_URL"]
    assert worker.command[1:] == ["-m", "imageserve", "worker"]
    assert web.command[1:] == ["-m", "imageserve", "web"]
    assert worker.environ["METRICS_PORT"] == "0", "several share this machine"
    assert web.environ["WEB_HOST"] == "127.0.0.1"
    assert web.environ["WEB_PAGE"] == "1"
    assert web.environ["LOG_FORMAT"] == "text"


def test_run_serves_grpc_too_where_it_is_asked_for(started: list[Child]) -> None:
    port = free_port()

    assert run("--grpc", str(port)) == 0

    *_, web, grpc = started
    assert grpc.command[1:] == ["-m", "imageserve", "grpc"]
    assert grpc.environ["GRPC_PORT"] == str(port)
    assert grpc.environ["REDIS_URL"] == web.environ["REDIS_URL"]
    assert grpc.environ["METRICS_PORT"] == "0", "several share this machine"
    assert float(grpc.environ["DRAIN_S"]) == 0, "no load balancer is to notice"
    assert grpc.stop_within_s == web.stop_within_s


def test_run_says_that_its_port_for_grpc_is_taken(
    site: Site, started: list[Child], capsys: Capture
) -> None:
    assert run("--grpc", str(site.port)) == 1
    assert f"port {site.port} is in use; choose another with --grpc" in capsys.readouterr().err
    assert started == []


def test_run_kills_no_child_within_the_time_that_its_settings_give_it(
    started: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("SHUTDOWN_S", "REQUEST_TIMEOUT_S", "UPLOAD_TIMEOUT_S"):
        monkeypatch.setenv(name, "100")

    run()

    _, worker, web = started
    assert worker.stop_within_s > 100
    assert web.stop_within_s > 200


def test_run_uses_the_redis_that_is_named(
    started: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")

    run("--host", "0.0.0.0")

    assert [child.name for child in started] == ["worker-1", "web"]
    assert started[0].environ["REDIS_URL"] == "redis://elsewhere"
    assert started[1].environ["WEB_HOST"] == "0.0.0.0"


def test_run_starts_workers_for_every_model(
    started: list[Child], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "models.yaml").write_text("shapes: {queue: a}\nresnet50: {queue: b}\n")
    monkeypatch.setenv("MODELS_FILE", str(tmp_path / "models.yaml"))
    monkeypatch.setenv("REDIS_URL", "redis://elsewhere")

    run()

    assert [child.environ.get("MODEL") for child in started] == ["shapes", "resnet50", None]


@pytest.mark.parametrize(
    ("options", "environ", "said"),
    [
        (["--port", "{}", "--grpc", "{}"], {}, "--port and --grpc both name port {}: choose"),
        (["--grpc", "{}"], {"WEB_PORT": "{}"}, "--port and --grpc both name port {}: choose"),
        (["--grpc", "{}"], {"WEB_PROBE_PORT": "{}"}, "--grpc and WEB_PROBE_PORT both name port {}"),
        (["--port", "{}"], {"WEB_PROBE_PORT": "{}"}, "WEB_PROBE_PORT both name port {}"),
        (["--port", "{}", "--host", "nowhere.invalid"], {}, "--host: nowhere.invalid: "),
        (["--port", "{}", "--host", "192.0.2.1"], {}, "--host: 192.0.2.1: Cannot assign"),
    ],
)
def test_run_refuses_addresses_that_cannot_be_had_before_anything_starts(
    options: list[str],
    environ: dict[str, str],
    said: str,
    started: list[Child],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    port = free_port()
    monkeypatch.setenv("WEB_PORT", str(free_port()))
    for name, value in environ.items():
        monkeypatch.setenv(name, value.format(port))

    assert main(["run", *(option.format(port) for option in options)]) == 1

    assert said.format(port) in capsys.readouterr().err
    assert started == []


@pytest.mark.parametrize(
    ("environ", "said"),
    [
        ({"REDIS_URL": "localhost:6379"}, "REDIS_URL cannot be used: it must begin with"),
        ({"REDIS_URL": "rediss://h", "REDIS_CA_FILE": "/nowhere"}, "REDIS_CA_FILE"),
        ({"API_KEYS_FILE": __file__}, "a key has fewer than 16 characters"),
        ({"MODEL": "/nowhere"}, "the model folder /nowhere does not exist: correct its path"),
        ({"MODEL": "/nowhere/a.onnx"}, "/nowhere/a.onnx does not exist: correct its path"),
        ({"MODEL_RUNTIME": "onnx"}, "MODEL_RUNTIME=onnx needs shapes exported"),
    ],
    ids=lambda each: each if isinstance(each, str) else "",
)
def test_run_refuses_what_its_programs_would_refuse_again_and_again(
    environ: dict[str, str],
    said: str,
    started: list[Child],
    monkeypatch: pytest.MonkeyPatch,
    capsys: Capture,
) -> None:
    for name, value in environ.items():
        monkeypatch.setenv(name, value)

    assert run() == 1

    assert said in capsys.readouterr().err
    assert started == []


def test_run_takes_a_stand_in_for_a_model(
    started: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MODEL", "stand-in:batch_ms=5")

    assert run("--port", str(free_port())) == 0

    assert started


def test_run_gives_redis_no_port_that_another_program_gets(
    started: list[Child], monkeypatch: pytest.MonkeyPatch
) -> None:
    port = free_port()
    monkeypatch.setattr(run_command, "DEFAULT_PORT", port)

    assert run("--grpc", str(port)) == 0

    assert started[0].command[0] == "redis"
    assert started[0].command[1] != str(port)


def test_run_says_that_a_port_is_not_for_everybody(
    started: list[Child], monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    def bind(port: int, host: str) -> int:
        raise PermissionError(errno.EACCES, "Permission denied")

    monkeypatch.setattr(run_command, "bound_port", bind)

    assert main(["run", "--port", "80"]) == 1
    assert "--port: port 80: Permission denied" in capsys.readouterr().err
    assert started == []


@pytest.mark.parametrize(
    ("listens", "asked"),
    [
        ("0.0.0.0", "127.0.0.1"),
        ("::", "127.0.0.1"),
        ("192.0.2.1", "192.0.2.1"),
        ("::1", "[::1]"),
        ("localhost", "localhost"),
    ],
)
def test_run_tells_the_address_that_it_listens_on(listens: str, asked: str) -> None:
    assert run_command.reachable(listens) == asked


def test_run_says_that_its_port_is_taken(site: Site, capsys: Capture) -> None:
    assert main(["run", "--port", str(site.port)]) == 1
    assert f"port {site.port} is in use; choose another with --port" in capsys.readouterr().err


def test_run_says_where_to_go_once_a_picture_would_be_answered(
    site: Site, monkeypatch: pytest.MonkeyPatch, capsys: Capture
) -> None:
    states: list[Any] = [
        b"not yet JSON",
        {"models": {"m": {"workers": None}}},
        {"models": {"m": {"workers": 1}, "n": {"workers": 0}}},
        {"models": {"m": {"workers": 1}, "n": {"workers": 2}}},
    ]
    pauses: list[float] = []
    monkeypatch.setattr(run_command, "time", _Pauses(pauses.append))
    site.body = lambda: states.pop(0)

    queue = "redis://127.0.0.1:6390/0", "image_queue"
    run_command._announce("127.0.0.1", site.port, queue, has_page=True, grpc_port=8001)

    said = capsys.readouterr().err
    assert len(pauses) == 3
    assert f"imageserve is ready at {site.url}: drop pictures there in a browser" in said
    assert "curl -F image=@" in said
    assert "LLEN image_queue" in said
    assert "gRPC clients: 127.0.0.1:8001" in said
    assert f"REDIS_URL=redis://127.0.0.1:6390/0 imageserve doctor --url {site.url}" in said


class _Pauses:
    def __init__(self, sleep: Callable[[float], None]) -> None:
        self.sleep = sleep


def test_run_waits_for_a_server_that_is_not_there_yet() -> None:
    assert not run_command._has_worker(f"http://127.0.0.1:{free_port()}")


def test_a_reader_who_has_enough_is_status_141_and_no_traceback() -> None:
    command = f"{shlex.quote(sys.executable)} -u -m imageserve settings"
    # The reader is gone before anything is written.
    script = f"{{ sleep 0.2; {command}; echo $? >&2; }} | true"
    done = subprocess.run(
        ["bash", "-c", script], capture_output=True, text=True, timeout=60, check=True
    )
    assert done.stderr.split() == ["141"]
