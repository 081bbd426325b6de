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
from dataclasses import dataclass, field
from enum import IntEnum

from imageserve.errors import QueueError
from imageserve.preparation import Preparation
from imageserve.queue.mixture import Mixture
from imageserve.queue.outputs import missing, versions
from imageserve.queue.preparations import in_force
from imageserve.queue.quota import Quota
from imageserve.queue.redis.queue import RedisQueue
from imageserve.queue.snapshot import Run, Snapshot, Speed
from imageserve.queue.wire import BACKGROUND

log = logging.getLogger(__name__)

FRESH_S = 1.0
"""How often, at most, admission reads the snapshot."""

FRESH_WHILE_REFUSING_S = 0.1
"""The same, while jobs are refused from it: places that are free again must be found soon."""

UNSURE_TIMES = 4
"""A snapshot refuses a job for its deadline only where more jobs are ahead of it than this many
times those that workers may have done since."""

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
    RATE_LIMITED = -7
    """Nothing else is against the job, but its key has sent too many."""


@dataclass(frozen=True, slots=True)
class Limits:
    """What a queue may hold."""

    max_jobs: int = 2048
    max_bytes: int = 512 * 2**20
    speed: Speed = field(default_factory=Speed)
    """Of the workers: a job is refused that they would not end in time."""
    quota: Quota | None = None
    """That of the caller; None for a job that is not to be counted."""
    together: int = 1
    """Jobs for which the quota must have room: this one and those that make no sense without it."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to an enqueue."""

    code: EnqueueCode
    backlog: int
    """Jobs that wait or are in work; with `EnqueueCode.WOULD_TIME_OUT`, only those ahead of it."""
    wait_ms: int = 0
    """Time until its quota lets the next job through, or has room for all that must come together;
    0: at once, or there is no quota."""


def verdict_of(
    seen: Snapshot,
    elapsed_s: float,
    job_bytes: int,
    timeout_ms: int,
    priority: str,
    limits: Limits,
) -> Admission | None:
    """Say what ENQUEUE would refuse, from a snapshot of ``elapsed_s`` ago; None where it may not.

    In doubt it does not refuse: where the job at the head has expired, because ENQUEUE drops it,
    and others behind it, and where the workers may have done half of the backlog since then (a
    short queue must not run empty). For its deadline it refuses a job only where far more jobs are
    ahead of it than the workers may have done since then, a batch that has just ended included.
    """
    speed, backlog = limits.speed, seen.backlog
    done = speed.per_s * elapsed_s
    has_expired = 0 < seen.order.first_deadline <= seen.now + 1000 * elapsed_s
    if has_expired or done > backlog / 2:
        return None
    if seen.queued >= limits.max_jobs:
        return Admission(EnqueueCode.FULL, backlog)
    if (backlog + 1) * job_bytes > limits.max_bytes:
        return Admission(EnqueueCode.BYTES_FULL, backlog)
    if speed.end_ms(backlog) <= timeout_ms:
        return None  # However many of them are ahead: by far the usual case.
    deadline = seen.now + round(1000 * elapsed_s) + timeout_ms
    ahead = _others(seen) + seen.order.least_ahead(priority, deadline)
    if speed.end_ms(ahead) > timeout_ms and ahead > UNSURE_TIMES * (done + speed.batch):
        return Admission(EnqueueCode.WOULD_TIME_OUT, ahead)
    return None


def shortest_timeout_ms(seen: Snapshot, speed: Speed, priority: str) -> int:
    """Return the shortest timeout with which ENQUEUE takes a job for sure; 0 where unknown."""
    timeout_ms, needed_ms = -1.0, 0.0
    # More time may mean more jobs ahead, which need more time; of a list's jobs few are known.
    while needed_ms > timeout_ms:
        timeout_ms = needed_ms
        ahead = _others(seen) + seen.order.most_ahead(priority, seen.now + math.ceil(timeout_ms))
        needed_ms = max(needed_ms, speed.end_ms(ahead) if ahead else speed.least_ms)
        if priority != BACKGROUND:
            needed_ms = max(needed_ms, _behind_the_tight(seen, speed, timeout_ms))
    return math.ceil(timeout_ms)


def _behind_the_tight(seen: Snapshot, speed: Speed, timeout_ms: float) -> int:
    """Return the timeout of a job that goes behind all which one more ahead would make late."""
    latest = 0
    for point in seen.order.behind(seen.now + math.ceil(timeout_ms)):
        ahead, theirs_ms = _others(seen) + point.rank, point.deadline - seen.now
        if speed.end_ms(ahead) <= theirs_ms < speed.end_ms(ahead + 1):
            latest = max(latest, theirs_ms)
    return latest


def _others(seen: Snapshot) -> int:
    """Return how many jobs are ahead of each job of the list."""
    return seen.backlog - seen.order.length


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

    @property
    def speed(self) -> Speed:
        """How fast the live workers are."""
        return Speed() if self._recent() is None else self._speed

    def shortest_timeout_ms(self, priority: str = "") -> int | None:
        """Return the shortest timeout with which a job would be taken now; None for unknown.

        From the last snapshot: a request whose time is over must not wait for a Redis that hangs.
        """
        snapshot = self._last()
        if snapshot is None or self._speed.per_s <= 0:
            return None
        return shortest_timeout_ms(snapshot, self._speed, priority)

    @property
    def capacity_per_s(self) -> float:
        """Pictures per second that the live workers can do; 0 for unknown."""
        return self.speed.per_s

    def refusal(
        self, job_bytes: int, timeout_ms: int, priority: str, limits: Limits
    ) -> Admission | None:
        """Return why a job need not be sent to Redis; None where Redis is to decide."""
        if job_bytes > limits.max_bytes:
            return Admission(EnqueueCode.BYTES_FULL, 0)
        snapshot, elapsed_s = self._recent(), self._clock() - self._read_at
        if snapshot is None or elapsed_s > FRESH_S:
            return None
        refusal = verdict_of(snapshot, elapsed_s, job_bytes, timeout_ms, priority, limits)
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

    def versions(self, model: str) -> tuple[str, ...]:
        """Return what live workers of a model serve, from the last snapshot; none where unknown."""
        snapshot = self._recent()
        return () if snapshot is None else versions(snapshot, model)

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
        return self._last()

    def _last(self) -> Snapshot | None:
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
