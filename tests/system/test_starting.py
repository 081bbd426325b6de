"""Processes start in any order; one that cannot start says why in one line."""

import json
import socket
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.redis_server import RedisServer, free_port, running
from tests.system.client import Client
from tests.system.samples import sample
from tests.system.stack import Stack, clean_environment, stacks


@pytest.fixture
def unstarted(tmp_path: Path, redis_program: str) -> Iterator[Stack]:
    """A stack none of whose parts runs yet."""
    stack = Stack(tmp_path, redis_program, {}, ())
    stacks.append(stack)
    yield stack
    stacks.remove(stack)
    stack.end()


def test_web_and_worker_wait_for_redis_and_then_serve(unstarted: Stack) -> None:
    stack = unstarted
    stack.start_web(wait=False)
    worker = stack.start_worker(wait=False, METRICS_PORT=str(free_port()))
    probes = Client(worker.metrics_port)
    stack.wait_for(lambda: stack.http.status_of("/healthz") == 200, "the web server lives", 60)
    stack.wait_for(lambda: worker.lines("Redis does not answer"), "the worker is warm", 60)
    assert stack.http.status_of("/readyz") == 503
    assert probes.status_of("/healthz") == 200
    assert probes.status_of("/readyz") == 503
    reply = stack.http.predict(sample(1).data)
    assert (reply.status, reply.code) == (503, "redis_unavailable")
    told = [*stack.web.lines(), *worker.lines()]
    outages = ("a picture could not be queued", "a queue could not be looked at")
    refused = [line for text in outages for line in stack.web.lines(text)]
    loud = [line for line in told if line["level"] != "info" and line not in refused]
    assert loud == [], "all of them may have been started now"

    stack.redis.start()
    stack.wait_ready()
    stack.wait_working()
    assert probes.status_of("/readyz") == 200
    assert stack.http.predict(sample(1).data).labels[0] == sample(1).label
    assert len(worker.lines("Redis does not answer")) == 1


def test_a_link_in_the_run_dir_is_not_followed(unstarted: Stack, tmp_path: Path) -> None:
    theirs = tmp_path / "theirs"
    theirs.write_text("of somebody else")
    run_dir = Path(unstarted.env["RUN_DIR"])
    run_dir.mkdir()
    (run_dir / "draining").symlink_to(theirs)

    unstarted.start_web(wait=False)

    unstarted.wait_for(lambda: unstarted.http.status_of("/healthz") == 200, "it lives", 60)
    assert theirs.read_text() == "of somebody else"


def run(command: str, **env: str) -> "subprocess.CompletedProcess[str]":
    settings = {"LOG_FORMAT": "json", "METRICS_PORT": "0", "MODEL": "stand-in", **env}
    return subprocess.run(
        [sys.executable, "-m", "imageserve", command],
        env={**clean_environment(), **settings},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )


def said(ended: "subprocess.CompletedProcess[str]") -> str:
    """Return the message of the last line."""
    return str(json.loads(ended.stderr.splitlines()[-1])["message"])


@pytest.mark.parametrize("command", ["web", "worker"])
@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("BATCH_SIZE", "0"),
        ("BATCH_SIZE", "many"),
        ("WEB_PORT", "70000"),
        ("REDIS_URL", "http://localhost"),
        ("REDIS_URL", "redis://:p@ss/w#rd@localhost"),
        ("MODEL", "resnet5000"),
        ("MODEL", "stand-in:size=64,speed=9"),
        ("MODELS_FILE", "/nowhere/models.yaml"),
        ("INPUT_SIZE", "0x0"),
        ("IMAGE_QUEUE", "two words"),
    ],
)
def test_a_wrong_setting_stops_the_process_and_names_itself(
    command: str, name: str, value: str
) -> None:
    ended = run(command, **{name: value})
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert said(ended).startswith(f"imageserve {command}: ")
    assert name in ended.stderr or value in ended.stderr
    assert "p@ss" not in ended.stderr


def test_a_taken_metrics_port_stops_the_worker_and_is_named() -> None:
    with socket.create_server(("", 0)) as taken:
        ended = run("worker", METRICS_PORT=str(taken.getsockname()[1]))
    assert ended.returncode == 1
    assert len(ended.stderr.splitlines()) == 1, ended.stderr
    assert "METRICS_PORT" in ended.stderr


def test_a_model_of_another_size_than_its_entry_stops_the_worker() -> None:
    ended = run("worker", MODEL="shapes", INPUT_SIZE="64")
    assert ended.returncode == 1
    assert said(ended).startswith("imageserve worker: ")
    assert "Traceback" not in ended.stderr


@pytest.mark.parametrize("command", ["web", "worker"])
def test_a_redis_that_evicts_is_refused(command: str, tmp_path: Path, redis_program: str) -> None:
    args = ("--maxmemory", "100mb", "--maxmemory-policy", "allkeys-lru")
    with running(RedisServer(redis_program, tmp_path, *args)) as server:
        ended = run(command, REDIS_URL=server.url, MODEL="stand-in:batch_ms=0,size=64")
    assert ended.returncode == 1
    assert said(ended).startswith(f"imageserve {command}: ")
    assert "noeviction" in said(ended)


# -- what each role loads -------------------------------------------------------------------------

HEAVY = ("tensorflow", "keras", "numpy")
WEB_ONLY = ("flask", "gevent", "gunicorn", "PIL", "multipart")


def loaded(code: str) -> set[str]:
    printing = "import sys; print(*{name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run(
        [sys.executable, "-c", f"{code}\n{printing}"],
        env=clean_environment(),
        capture_output=True,
        text=True,
        check=True,
    )
    return set(done.stdout.split())


IMPORT_ALL_OF_WEB = """
import importlib, pkgutil, imageserve.web, imageserve.cli.web
for module in pkgutil.iter_modules(imageserve.web.__path__):
    importlib.import_module(f"imageserve.web.{module.name}")
"""
IMPORT_ALL_OF_WORKER = """
import importlib, pkgutil, imageserve.worker, imageserve.cli.worker
for module in pkgutil.iter_modules(imageserve.worker.__path__):
    importlib.import_module(f"imageserve.worker.{module.name}")
"""


def test_the_web_server_loads_no_tensorflow() -> None:
    modules = loaded(IMPORT_ALL_OF_WEB)
    assert {"flask", "gevent"} <= modules
    assert not modules & set(HEAVY)


def test_the_worker_loads_no_web_server() -> None:
    modules = loaded(IMPORT_ALL_OF_WORKER)
    assert "numpy" in modules
    assert not modules & {*WEB_ONLY, "tensorflow", "keras"}
