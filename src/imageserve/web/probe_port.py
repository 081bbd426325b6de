"""Probes on a port of their own, which no load reaches.

gunicorn's master answers them, in a thread: it serves no requests, so it is never late. What it
tells of the web processes they have told it, through memory that they share.
"""

import json
import logging
import mmap
import os
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from imageserve.backoff import Backoff
from imageserve.errors import SettingsError
from imageserve.probes import Answer, ProbeServer
from imageserve.web.lifecycle import Lifecycle

log = logging.getLogger(__name__)

SETTING = "WEB_PROBE_PORT"

HUNG_S = 75.0
"""Without a sign of life from any web process for this long, the server is not healthy. gunicorn
replaces a process that hangs for 60 seconds, so others than it are to blame then."""

UNREADY_S = 20.0
"""A web process without a sign of life for this long is not ready. No load delays one for long:
pictures are decoded one by one."""

_STARTING, _READY, _STOPPING = range(3)


class Beacon:
    """One byte that a web process writes and the master reads. Made before the fork."""

    def __init__(self) -> None:
        self._byte = mmap.mmap(-1, 1)

    def tell(self, lifecycle: Lifecycle) -> None:
        state = _READY if lifecycle.ready else _STARTING
        self._byte[0] = _STOPPING if lifecycle.stopping else state

    @property
    def is_ready(self) -> bool:
        return self._byte[0] == _READY

    @property
    def is_stopping(self) -> bool:
        return self._byte[0] == _STOPPING


@dataclass(frozen=True, slots=True)
class Seen:
    """What the master knows of one web process."""

    beat_at: float
    """Its last sign of life, by the clock of ``time.monotonic``."""
    beacon: Beacon


class WebProbes:
    """The answers. They have the shape of those on the main port."""

    def __init__(
        self,
        processes: Callable[[], Iterable[Seen]],
        is_draining: Callable[[], bool],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._processes = processes
        self._is_draining = is_draining
        self._clock = clock
        self._beat_at = float("-inf")

    def answers(self) -> dict[str, Callable[[], Answer]]:
        return {"/healthz": self._healthz, "/readyz": self._readyz}

    def _healthz(self) -> Answer:
        self._beat_at = max((self._beat_at, *(each.beat_at for each in self._processes())))
        if self._clock() - self._beat_at <= HUNG_S:
            return _answer(200, "ok")
        return _answer(503, "no web process gives a sign of life")

    def _readyz(self) -> Answer:
        processes = list(self._processes())
        if self._is_draining() or (processes and all(p.beacon.is_stopping for p in processes)):
            return _answer(503, "draining")
        now = self._clock()
        if any(p.beacon.is_ready and now - p.beat_at <= UNREADY_S for p in processes):
            return _answer(200, "ready")
        return _answer(503, "waiting for Redis")


def _answer(status: int, text: str) -> Answer:
    return status, "application/json", json.dumps({"status": text}).encode() + b"\n"


class ProbePort:
    """The port of gunicorn's master."""

    def __init__(self, port: int, probes: WebProbes) -> None:
        self._port = port
        self._probes = probes
        self._server: ProbeServer | None = None

    def open(self) -> None:
        """Begin to answer. Raises SettingsError where the port is taken.

        After USR2 the server before this one has it, until it ends.
        """
        if "GUNICORN_PID" in os.environ:
            threading.Thread(target=self._take_over, name="probe-port", daemon=True).start()
        else:
            self._serve()

    def _take_over(self) -> None:
        backoff = Backoff(first_s=0.1, longest_s=1.0)
        while self._server is None:
            try:
                self._serve()
            except SettingsError as error:
                log.debug("the server before this one has not ended yet: %s", error)
                time.sleep(backoff.next())

    def _serve(self) -> None:
        self._server = ProbeServer(self._port, self._probes.answers(), setting=SETTING)
        self._server.start()

    def close(self) -> None:
        """Give up the port in a process that has inherited it."""
        if self._server is not None:
            self._server.close()
