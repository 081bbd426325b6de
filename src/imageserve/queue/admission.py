"""What a queue takes, and what a web process knows of that without asking it.

ENQUEUE decides. The snapshot of a moment ago spares it most jobs that it would refuse, and spares
their pictures the decoding; it also says how pictures are prepared.
"""

import contextlib
import logging
import math
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from enum import IntEnum

from imageserve.errors import QueueError
from imageserve.preparation import Preparation
from imageserve.queue.outputs import missing
from imageserve.queue.preparations import in_force
from imageserve.queue.redis.queue import RedisQueue
from imageserve.queue.snapshot import Mixture, Run, Snapshot, Speed

log = logging.getLogger(__name__)

FRESH_S = 1.0
"""How often, at most, admission reads the snapshot."""

FRESH_WHILE_REFUSING_S = 0.1
"""The same, while jobs are refused from it: places that are free again must be found soon."""

STALE_S = 15.0
"""A snapshot older than this is not used."""


class EnqueueCode(IntEnum):
    """The answer to an enqueue; the numbers are those of ``enqueue.lua``."""

    ACCEPTED = 0
    OWN_RETRY = 1
    """The same enqueue, sent again because the reply to the first was lost."""
    FULL = -1
    COLLISION = -2
    NO_ROOM = -3
    """Redis is out of memory and refused the pixels."""
    BYTES_FULL = -4
    WOULD_TIME_OUT = -5
    PIXELS_LOST = -6
    """Redis took the pixels and had them no more when the job came."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a queue may hold."""

    max_jobs: int = 2048
    max_bytes: int = 512 * 2**20
    max_backlog: int = 0
    """Most jobs that can be done before this one's deadline; 0 where that is unknown."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to an enqueue: its code, and how many jobs wait or are in work."""

    code: EnqueueCode
    backlog: int


def verdict_of(
    seen: Snapshot, elapsed_s: float, job_bytes: int, limits: Limits
) -> Admission | None:
    """Say what ENQUEUE would refuse, from a snapshot of ``elapsed_s`` ago; None where it may not.

    In doubt it does not refuse: where the workers may have done half of the backlog since then (a
    short queue must not run empty), and where the job at the head has expired, because ENQUEUE
    drops it, and others behind it.
    """
    if 0 < seen.oldest_deadline <= seen.now + 1000 * elapsed_s:
        return None
    if seen.capacity_per_s * elapsed_s > seen.backlog / 2:
        return None
    if seen.queued >= limits.max_jobs:
        return Admission(EnqueueCode.FULL, seen.backlog)
    if (seen.backlog + 1) * job_bytes > limits.max_bytes:
        return Admission(EnqueueCode.BYTES_FULL, seen.backlog)
    if 0 < limits.max_backlog <= seen.backlog:
        return Admission(EnqueueCode.WOULD_TIME_OUT, seen.backlog)
    return None


class AdmissionView:
    """What a web process knows of one queue: a snapshot, read when it is needed."""

    def __init__(self, store: RedisQueue, clock: Callable[[], float] = time.monotonic) -> None:
        self._store = store
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._in_force: dict[str, Preparation | str] = {}
        """Model -> how its pictures are prepared, as the snapshot says."""
        self._speed = Speed()
        self._read_at = float("-inf")
        self._tried_at = float("-inf")
        self._is_refusing = False
        self._reading = threading.Lock()
        self._mixture = Mixture(store.name)
        self._run = Run()

    def largest_backlog_in_time(self, timeout_ms: int) -> int:
        """Return how many jobs may be ahead of one with this deadline; 0 for unknown."""
        snapshot = self._recent()
        return 0 if snapshot is None else self._speed.largest_backlog(timeout_ms)

    def shortest_timeout_ms(self, priority: str = "") -> int | None:
        """Return the shortest timeout with which a job would be taken now; None for unknown."""
        del priority
        snapshot = self._recent()
        if snapshot is None or self._speed.per_s <= 0:
            return None
        wait_ms = 1000 * (snapshot.backlog + 1) / self._speed.per_s
        return math.ceil(wait_ms + self._speed.batch_ms)

    @property
    def capacity_per_s(self) -> float:
        """Pictures per second that the live workers can do; 0 for unknown."""
        snapshot = self._recent()
        return 0.0 if snapshot is None else self._speed.per_s

    def refusal(self, job_bytes: int, limits: Limits) -> Admission | None:
        """Return why a job need not be sent to Redis; None where Redis is to decide."""
        if job_bytes > limits.max_bytes:
            return Admission(EnqueueCode.BYTES_FULL, 0)
        snapshot, elapsed_s = self._recent(), self._clock() - self._read_at
        if snapshot is None or elapsed_s > FRESH_S:
            return None
        refusal = verdict_of(snapshot, elapsed_s, job_bytes, limits)
        self._is_refusing |= refusal is not None
        return refusal

    def preparation(self, model: str, own: Preparation | None) -> Preparation | str:
        """Return how pictures for a model are prepared, or why that is not known.

        From the last snapshot, however old: a worker that needs another one says so. Raises
        QueueError where it is needed and there is none.
        """
        known, snapshot = self._in_force, self._snapshot  # In this order: `look` sets them last.
        if snapshot is None and own is None:
            self.expire()
            self.look()
            known, snapshot = self._in_force, self._snapshot
        if snapshot is None:
            return own or "the state of its queue could not be read yet"
        if model not in known:
            known[model] = in_force(snapshot, model, own)
        self._is_refusing |= isinstance(known[model], str)
        return known[model]

    def missing(self, model: str, output: str) -> tuple[str, str] | None:
        """Say why an output cannot be asked of a model, from the last snapshot; see `missing`."""
        snapshot = self._recent()
        return None if snapshot is None else missing(snapshot, model, output)

    @property
    def run(self) -> str:
        """Changes when Redis may have lost the queue; "" before the first look."""
        return "" if self._snapshot is None else self._snapshot.run

    def expire(self) -> None:
        """Have the next request read the snapshot: the queue is not as the last one says."""
        self._tried_at = float("-inf")

    def _recent(self) -> Snapshot | None:
        with contextlib.suppress(QueueError):  # The enqueue that follows reports the outage.
            self.look()
        return self._snapshot if self._clock() - self._read_at <= STALE_S else None

    def look(self) -> None:
        """Read the snapshot where the last one is no longer fresh.

        Raises QueueError, to the one request that reads for all; the others use the last snapshot
        meanwhile, or wait for the first. Of two reads at once the older reply could come last: its
        counters would seem to have fallen, which is what a loss looks like.
        """
        is_first = self._snapshot is None
        if not is_first and self._is_fresh():
            return
        if not self._reading.acquire(blocking=is_first):
            return
        try:
            if self._is_fresh():
                return
            self._tried_at = self._clock()
            self._snapshot, self._in_force = self._run.noted(self._store.snapshot()), {}
            self._speed = Speed.of(self._snapshot.tables)
            self._read_at, self._is_refusing = self._clock(), False
            if warning := self._mixture.warning(self._snapshot.live_workers, self._read_at):
                log.warning("%s", warning)
        finally:
            self._reading.release()

    def _is_fresh(self) -> bool:
        pause_s = FRESH_WHILE_REFUSING_S if self._is_refusing else FRESH_S
        return self._clock() - self._tried_at <= pause_s
