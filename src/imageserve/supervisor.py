"""Runs programs as child processes on one machine, and restarts those that die.

On a cluster Kubernetes does this. A signal or the death of a child becomes an event; one loop
handles the events in turn.
"""

import ctypes
import logging
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial

from imageserve.backoff import Backoff

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.5
LONGEST_PAUSE_S = 30.0
STEADY_S = 60.0
"""After a child has lived this long, its next restart waits the shortest pause again."""

STOP_WITHIN_S = 15.0
"""How long a child may take to stop, unless it says otherwise; then it is killed."""


@dataclass
class Child:
    """A program to keep running."""

    name: str
    command: Sequence[str]
    environ: Mapping[str, str]
    stop_within_s: float = STOP_WITHIN_S
    backoff: Backoff = field(
        default_factory=lambda: Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S, jitter=False), repr=False
    )
    started_at: float = 0.0
    process: "subprocess.Popen[str] | None" = field(default=None, repr=False)
    follower: threading.Thread | None = field(default=None, repr=False)


Event = Callable[[], None]


class Supervisor:
    """Keeps its children running until a signal stops it."""

    def __init__(self, children: Sequence[Child]) -> None:
        self._children = list(children)
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self._stopping = False

    def run(self) -> None:
        """Start all children and restart those that die; SIGINT or SIGTERM stops them in order."""
        for number in (signal.SIGINT, signal.SIGTERM):
            signal.signal(number, self._on_signal)
        for child in self._children:
            self._start(child)
        while not self._stopping:
            self._events.get()()
        self._stop_all()

    def _on_signal(self, number: int, frame: object) -> None:
        # Neither call takes a lock: SimpleQueue.put may interrupt itself.
        del number, frame
        if self._stopping:
            for child in self._children:
                if child.process is not None:
                    child.process.kill()
        self._events.put(self._begin_stop)

    def _begin_stop(self) -> None:
        self._stopping = True

    def _start(self, child: Child) -> None:
        if self._stopping:
            return
        child.started_at = time.monotonic()
        child.process = subprocess.Popen(
            child.command,
            env=dict(child.environ),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            # Ctrl-C goes to a whole process group; the children must stop in order.
            start_new_session=True,
            # Safe in a process with threads: it makes one system call and takes no lock.
            preexec_fn=partial(_die_with, os.getpid()),  # noqa: PLW1509
        )
        child.follower = threading.Thread(
            target=self._follow, args=(child, child.process), daemon=True
        )
        child.follower.start()

    def _follow(self, child: Child, process: "subprocess.Popen[str]") -> None:
        """Pass the child's output on, then report its end."""
        for line in process.stdout or ():
            sys.stderr.write(f"{child.name:<9}| {line}")
            sys.stderr.flush()
        status = process.wait()
        self._events.put(lambda: self._died(child, status))

    def _died(self, child: Child, status: int) -> None:
        if self._stopping:
            return
        if time.monotonic() - child.started_at > STEADY_S:
            child.backoff.reset()
        pause_s = child.backoff.next()
        cause = f"signal {-status}" if status < 0 else f"status {status}"
        log.error("%s ended with %s: starting it again in %.1f s", child.name, cause, pause_s)
        timer = threading.Timer(pause_s, lambda: self._events.put(lambda: self._start(child)))
        timer.daemon = True
        timer.start()

    def _stop_all(self) -> None:
        """Stop the children in reverse order, one after the other: clients before servers."""
        for child in reversed(self._children):
            if child.process is None or child.process.poll() is not None:
                continue
            child.process.terminate()
            try:
                child.process.wait(child.stop_within_s)
            except subprocess.TimeoutExpired:
                log.warning("%s does not stop: killing it", child.name)
                child.process.kill()
                child.process.wait()
            if child.follower is not None:
                child.follower.join(timeout=1)  # The last lines of its output often matter most.


def _die_with(parent: int) -> None:
    """Have the kernel send SIGTERM to this child when the supervisor dies, in whatever way."""
    pr_set_pdeathsig = 1
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(pr_set_pdeathsig, signal.SIGTERM)
        if os.getppid() != parent:  # Died already. Not "== 1": in a container it may be number 1.
            os._exit(1)
