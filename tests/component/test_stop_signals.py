"""Signals that come at the worst moment: each process stops all the same."""

import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from tests.kubernetes_api import KubernetesApi
from tests.redis_server import free_port

SOURCES = Path(__file__).parents[2]

WORST_MOMENT = """
import atexit, faulthandler, os, signal, sys, threading
faulthandler.dump_traceback_later(20, exit=True)
is_owned = threading.Condition._is_owned

def signalled(condition):
    # The main thread holds the lock of the event that it is about to wait for.
    if threading.get_ident() == threading.main_thread().ident and condition is waited_for():
        os.kill(os.getpid(), signal.SIGTERM)
    return is_owned(condition)

threading.Condition._is_owned = signalled
"""

ANY_PROCESS = """
from imageserve.stop_signals import on_stop_signal
stopping = threading.Event()
waited_for = lambda: stopping._cond
on_stop_signal(stopping.set)
assert stopping.wait(10)
"""

WORKER = """
from imageserve.config.settings import Settings
from imageserve.worker.process import WorkerProcess
process = WorkerProcess(Settings.from_env(os.environ))
waited_for = lambda: process._worker and process._worker._consumer.stopping._cond
atexit.register(os._exit, 99)  # Threads may be in the midst of a call: nothing is torn down.
process.run()
"""

WORKER_WITHOUT_A_MODEL = """
from imageserve.config.settings import Settings
from imageserve.worker.process import WorkerProcess
process = WorkerProcess(Settings.from_env(os.environ))
waited_for = lambda: process._refused and process._stopping._cond
process.run()
"""

AUTOSCALER = """
from imageserve.autoscaler.loop import Autoscaler
from imageserve.cli import main
running = []
run = Autoscaler.run
Autoscaler.run = lambda self: (running.append(self), run(self))[1]
waited_for = lambda: running and running[0]._due._cond
atexit.register(os._exit, 99)
sys.exit(main(["autoscaler", "--kubeconfig", os.environ["KUBECONFIG"]]))
"""


def run(program: str, **environ: str) -> tuple[int, str]:
    """Run a program to which the signal comes at the worst moment; returns status and log."""
    ended = subprocess.run(
        [sys.executable, "-c", WORST_MOMENT + program],
        env={"PYTHONPATH": f"{SOURCES}/src", **environ},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    return ended.returncode, ended.stderr


def test_a_thread_may_set_the_event_that_the_main_thread_waits_for() -> None:
    assert run(ANY_PROCESS) == (0, "")


@pytest.mark.parametrize(
    ("program", "model"),
    [
        pytest.param(WORKER, "stand-in", id="while it waits for Redis"),
        pytest.param(WORKER_WITHOUT_A_MODEL, "/no/such/folder", id="while it has no model"),
    ],
)
def test_a_worker_stops(program: str, model: str) -> None:
    url, port = f"redis://127.0.0.1:{free_port()}/0", str(free_port())
    status, log = run(program, REDIS_URL=url, MODEL=model, METRICS_PORT=port, INPUT_SIZE="64")
    assert (status, "Traceback" in log) == (0, False), log


def test_an_autoscaler_stops(
    autoscaler_chart: list[dict[str, Any]], kubernetes_api: KubernetesApi, tmp_path: Path
) -> None:
    config = next(o for o in autoscaler_chart if "scaling.yaml" in o.get("data", {}))
    scaling = tmp_path / "scaling.yaml"
    scaling.write_text(config["data"]["scaling.yaml"])
    settings = {"REDIS_URL": f"redis://127.0.0.1:{free_port()}/0", "METRICS_PORT": "0"}
    kubeconfig = str(kubernetes_api.kubeconfig(tmp_path, "me"))
    status, log = run(AUTOSCALER, SCALING_FILE=str(scaling), KUBECONFIG=kubeconfig, **settings)
    assert (status, "stopped" in log) == (0, True), log


def test_no_other_module_has_a_signal_handler() -> None:
    # The supervisor's puts into a SimpleQueue, which may interrupt itself; asyncio's is a callback.
    # That of `models fetch` raises, and nothing else.
    allowed = {"stop_signals.py", "supervisor.py", "models_fetch.py"}
    modules = [*SOURCES.glob("src/**/*.py"), *SOURCES.glob("loadtest/src/**/*.py")]
    handled = re.compile(r"signal\.signal\((?!.*SIG_(IGN|DFL))")
    assert {each.name for each in modules if handled.search(each.read_text())} == allowed
