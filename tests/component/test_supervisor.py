"""The supervisor, in a process of its own, with tiny programs for children."""

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest
from tests.redis_server import PATIENCE_S, eventually

from imageserve.supervisor import STEADY_S, Child, Supervisor

PROGRAM = """
import json, logging, sys
from imageserve.backoff import Backoff
from imageserve.supervisor import Child, Supervisor
logging.basicConfig(format="LOG %(message)s")
options = json.loads(sys.argv[1])
children = [
    Child(
        name,
        [sys.executable, "-u", "-c", code],
        {"NAME": name, "STOPPED": options["stopped"]},
        options["stop_within_s"],
        Backoff(options["pause_s"], options["pause_s"] * 100, jitter=False),
    )
    for name, code in options["children"]
]
Supervisor(children).run()
"""

# The last output of a child may come late; the file keeps the order.
WAITS = """
import os, signal, sys, threading
def stop(*_):
    print("told to stop")
    with open(os.environ["STOPPED"], "a") as file:
        print(os.environ["NAME"], file=file)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("pid", os.getpid(), os.environ["NAME"])
threading.Event().wait()
"""
DEFIES = """
import os, signal, threading
signal.signal(signal.SIGTERM, signal.SIG_IGN)
print("pid", os.getpid())
while True: threading.Event().wait()
"""
TAKES_ITS_TIME = """
import os, signal, sys, threading, time
def stop(*_):
    time.sleep(3)
    with open(os.environ["STOPPED"], "a") as file:
        print(os.environ["NAME"], file=file)
    sys.exit(0)
signal.signal(signal.SIGTERM, stop)
print("pid", os.getpid())
threading.Event().wait()
"""
DIES = "print('started'); raise SystemExit(3)"
KILLS_ITSELF = "import os, signal; os.kill(os.getpid(), signal.SIGKILL)"


def arguments(
    stopped: Path,
    children: Sequence[tuple[str, str]],
    *,
    pause_s: float = 0.01,
    stop_within_s: float = 10.0,
) -> str:
    return json.dumps(
        {
            "children": children,
            "stopped": str(stopped),
            "pause_s": pause_s,
            "stop_within_s": stop_within_s,
        }
    )


class Running:
    """A supervisor and its output so far."""

    def __init__(
        self, stopped: Path, children: Sequence[tuple[str, str]], **options: float
    ) -> None:
        self._said: list[str] = []
        self._stopped = stopped
        self.process = subprocess.Popen(
            [sys.executable, "-c", PROGRAM, arguments(stopped, children, **options)],
            stderr=subprocess.PIPE,
            text=True,
        )

    def line(self, *parts: str) -> str:
        """Read until a line contains all of these."""
        assert self.process.stderr
        for line in self.process.stderr:
            self._said.append(line)
            if all(part in line for part in parts):
                return line
        pytest.fail(f"it ended without saying {parts}; it said {self._said}")

    def has_said(self, part: str) -> None:
        """Read until a line contains this, unless one already did."""
        if not any(part in line for line in self._said):
            self.line(part)

    def pid(self, name: str) -> int:
        return int(self.line(name, "| pid ").split()[3])

    def rest(self) -> list[str]:
        """Read to the end; the exit status must be 0."""
        assert self.process.stderr
        lines = [line.strip() for line in self.process.stderr]
        assert self.process.wait(PATIENCE_S) == 0
        return lines

    def stopped(self) -> list[str]:
        """Return the names of the children that were told to stop, in order."""
        return self._stopped.read_text().split()

    def close(self) -> None:
        # Its children end with it.
        self.process.kill()
        self.process.wait(PATIENCE_S)
        assert self.process.stderr
        self.process.stderr.close()


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Any]:
    with ExitStack() as stack:

        def start(*children: tuple[str, str], **options: float) -> Running:
            running = Running(tmp_path / "stopped", children, **options)
            stack.callback(running.close)
            return running

        yield start


def is_running(pid: int) -> bool:
    try:
        os.kill(pid, 0)
        stat = Path(f"/proc/{pid}/stat").read_text()
    except ProcessLookupError:
        return False
    except FileNotFoundError:
        return sys.platform != "linux"
    # Without an init process, ended orphans stay listed as zombies.
    return stat.rpartition(")")[2].split()[0] != "Z"


def test_what_children_print_is_passed_on_under_their_names(run: Any) -> None:
    running = run(("alpha", WAITS))

    line = running.line("| pid ")

    assert line.startswith("alpha    | pid ")
    assert line.endswith(" alpha\n"), "its environment is its own"


def test_a_child_that_dies_is_started_again_after_longer_and_longer_pauses(run: Any) -> None:
    running = run(("web", DIES), pause_s=0.04)

    said = [running.line("LOG web ended") for _ in range(3)]

    assert [line.strip() for line in said] == [
        f"LOG web ended with status 3: starting it again in {pause} s"
        for pause in ("0.0", "0.1", "0.2")
    ]
    running.line("web      | started")


def test_a_child_that_is_killed_is_named_with_the_signal(run: Any) -> None:
    assert "web ended with signal 9" in run(("web", KILLS_ITSELF)).line("LOG")


def test_the_death_of_one_child_does_not_touch_the_others(run: Any) -> None:
    running = run(("quiet", WAITS), ("loud", DIES))
    pid = running.pid("quiet")

    for _ in range(2):
        running.line("loud ended")

    assert is_running(pid)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_it_stops_its_children_in_reverse_order_one_after_another(
    run: Any, number: signal.Signals
) -> None:
    running = run(("redis", WAITS), ("worker", WAITS), ("web", WAITS))
    for _ in range(3):
        running.line("| pid ")

    running.process.send_signal(number)

    running.rest()
    assert running.stopped() == ["web", "worker", "redis"]


def test_a_child_that_does_not_stop_is_killed(run: Any) -> None:
    running = run(("polite", WAITS), ("stubborn", DEFIES), stop_within_s=0.1)
    pids = sorted(int(running.line("| pid ").split()[3]) for _ in range(2))

    running.process.terminate()

    assert "LOG stubborn does not stop: killing it" in running.rest()
    assert running.stopped() == ["polite"]
    assert not any(map(is_running, pids))


def test_a_child_gets_the_time_that_it_may_take_to_stop(run: Any) -> None:
    running = run(("first", WAITS), ("slow", TAKES_ITS_TIME), stop_within_s=60.0)
    for _ in range(2):
        running.line("| pid ")

    running.process.terminate()

    assert not any("killing it" in line for line in running.rest())
    assert running.stopped() == ["slow", "first"]


def test_a_second_signal_kills_at_once(run: Any) -> None:
    running = run(("stubborn", DEFIES), ("last", WAITS), stop_within_s=3600.0)
    for _ in range(2):
        running.line("| pid ")

    running.process.terminate()
    running.line("last", "told to stop")
    running.process.terminate()

    running.rest()


def test_a_child_that_waits_for_its_restart_is_not_started_during_a_stop(run: Any) -> None:
    running = run(("steady", WAITS), ("web", DIES), pause_s=3600.0)
    running.has_said("steady   | pid ")
    running.has_said("web ended")

    running.process.terminate()

    running.rest()


def test_when_it_is_killed_its_children_end(run: Any) -> None:
    if sys.platform != "linux":
        pytest.skip("only Linux tells children that their parent has died")
    running = run(("one", WAITS), ("two", WAITS))
    pids = [int(running.line("| pid ").split()[3]) for _ in range(2)]

    os.kill(running.process.pid, signal.SIGKILL)

    for pid in pids:
        eventually(lambda pid=pid: not is_running(pid), f"the end of {pid}")  # type: ignore[misc]


@pytest.mark.skipif(sys.platform != "linux", reason="namespaces are Linux's")
def test_as_the_first_process_of_a_container_it_starts_its_children_too(tmp_path: Path) -> None:
    program = [sys.executable, "-c", PROGRAM, arguments(tmp_path / "stopped", [("web", DIES)])]
    contained = ["unshare", "--user", "--map-root-user", "--pid", "--fork", "--kill-child"]
    try:
        subprocess.run([*contained, "true"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError):
        pytest.skip("this machine does not allow new namespaces")

    with subprocess.Popen([*contained, *program], stderr=subprocess.PIPE, text=True) as process:
        assert process.stderr
        said = [process.stderr.readline() for _ in range(2)]
        process.kill()

    assert "web      | started\n" in said


# -- decisions, without processes -----------------------------------------------------------------


def test_pauses_grow_and_begin_again_for_a_child_that_was_steady(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pauses: list[float] = []

    class Timer:
        daemon = False

        def __init__(self, after_s: float, function: object) -> None:
            pauses.append(after_s)

        def start(self) -> None:
            """Never goes off."""

    class StoppedClock:
        monotonic = staticmethod(lambda: 1000.0)

    monkeypatch.setattr(threading, "Timer", Timer)
    monkeypatch.setattr("imageserve.supervisor.time", StoppedClock)
    child = Child("web", ["true"], {})

    for lived_s in [0.0] * 8 + [STEADY_S, STEADY_S + 1, 0.0]:
        child.started_at = 1000.0 - lived_s
        Supervisor([child])._died(child, 1)

    assert pauses == [0.5, 1, 2, 4, 8, 16, 30, 30, 30, 0.5, 1]


def test_a_missing_program_is_an_error(tmp_path: Path) -> None:
    child = Child("web", [str(tmp_path / "nowhere")], {})

    with pytest.raises(FileNotFoundError):
        Supervisor([child])._start(child)
