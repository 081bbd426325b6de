"""What a job queue is: the interface, and the values that cross it.

Two classes fulfil it: ``RedisQueue`` (production) and ``MemoryQueue`` (tests, demonstrations).
One test suite runs against both. All calls raise ``QueueUnavailable`` when the queue cannot be
reached. No method but ``wait`` blocks longer than a network round trip.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Any, Protocol

from imageserve.queue.capacity import BucketMs
from imageserve.queue.wire import Job, Result


class Verdict(IntEnum):
    """What became of a job that wanted in; the numbers are those of ``enqueue.lua``."""

    ACCEPTED = 0
    #: The same enqueue, sent twice because its first answer was lost.
    OWN_RETRY = 1
    FULL = -1
    COLLISION = -2
    #: Redis is out of memory and refused the pixels.
    NO_ROOM = -3
    BYTES_FULL = -4
    WOULD_TIME_OUT = -5


@dataclass(frozen=True, slots=True)
class Limits:
    """What a queue may hold."""

    max_jobs: int = 2048
    max_bytes: int = 512 * 2**20
    max_backlog: int = 0
    """Most jobs that can be done before this one's deadline; 0 where that is not known."""


@dataclass(frozen=True, slots=True)
class Admission:
    """The answer to an enqueue: the verdict, and how many jobs are waiting or in work."""

    verdict: Verdict
    backlog: int


@dataclass(frozen=True, slots=True)
class Lease:
    """How long a claim holds its jobs, and how often a job may lose its worker."""

    lease_ms: int = 10_000
    max_attempts: int = 2


@dataclass(frozen=True, slots=True)
class Claim:
    """Jobs leased to one claim, and what the claim found on its way."""

    token: str
    now: int
    """Redis time of the claim, ms."""
    entries: tuple[str, ...] = ()
    """Jobs as they were queued, JSON."""
    expired: int = 0
    """Jobs dropped because their deadline had passed."""
    dead: tuple[str, ...] = ()
    """Jobs given up; their results are still to be stored."""
    solo: bool = False
    """A suspect: its worker died when it last ran, so it runs alone."""


@dataclass(frozen=True, slots=True)
class Finished:
    """A job with its result, ready to be acknowledged."""

    id: str
    reply: str
    result: Result
    ttl_ms: int
    counter: str
    """Which counter it adds to: ``completed``, ``failed`` or ``expired``."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """What a worker says of itself with every heartbeat."""

    id: str
    model: str
    shape: tuple[int, int, int]
    batch_size: int
    bucket_ms: BucketMs
    state: str
    host: str
    last_seen: int = 0
    """Redis time, ms; set by the queue."""
    version: str = ""
    """Which version of the model it serves."""
    loading: str = ""
    """Which other version it makes ready meanwhile."""
    problem: str = ""
    """Why it does not serve the version that it should."""
    answered: str = ""
    """What was ``wanted`` when it last served what it should, or failed to."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One queue at one instant. Times are Redis times in ms."""

    now: int
    queued: int
    retry: int
    in_flight: int
    dead: int
    oldest_ms: int
    """Age of the oldest waiting job; 0 when none waits."""
    stats: Mapping[str, int] = field(default_factory=dict)
    workers: tuple[WorkerInfo, ...] = ()
    run: str = ""

    @property
    def waiting(self) -> int:
        return self.queued + self.retry

    @property
    def tables(self) -> list[BucketMs]:
        return live_tables(self)

    @property
    def backlog(self) -> int:
        return self.queued + self.retry + self.in_flight


class JobQueue(Protocol):
    """One queue of jobs."""

    name: str

    def enqueue(self, job: Job, pixels: bytes, timeout_ms: int, limits: Limits) -> Admission:
        """Store the pixels and queue the job. Safe to repeat after a lost answer."""

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Drop the pixels: a worker that takes such a job throws it away without the model."""

    def results(self, job_ids: Sequence[str]) -> list[Result | None]:
        """Read stored results."""

    def claim(self, n: int, lease: Lease, *, suspects: bool, min_depth: int = 0) -> Claim:
        """Take up to ``n`` jobs and lease them; nothing if fewer than ``min_depth`` wait."""

    def wait(self, block_s: float) -> None:
        """Block until a job may be there, or ``block_s`` seconds have passed."""

    def pixels(self, job_ids: Sequence[str]) -> list[bytes | None]:
        """Read pixels; None where the job was cancelled or has expired."""

    def finish(
        self, token: str, finished: Sequence[Finished], *, batches: int = 0, busy_ms: int = 0
    ) -> list[bool]:
        """Acknowledge, store and publish; False where the lease was lost (nothing is changed)."""

    def extend(self, token: str, job_ids: Sequence[str], lease_ms: int) -> int:
        """Renew leases; returns how many are still held."""

    def release(self, token: str, job_ids: Sequence[str]) -> int:
        """Give unstarted jobs back to the head of the queue; returns how many."""

    def bury(self, entry: str, reason: str) -> None:
        """Put a job on the dead list."""

    def store(self, finished: Sequence[Finished], *, publish: bool) -> None:
        """Store results of jobs that are leased to nobody any more; the first one wins.

        A claim has published those of its ``dead`` already.
        """

    def heartbeat(self, info: WorkerInfo) -> str:
        """Say that a worker lives; returns what is ``wanted``."""

    def leave(self, worker_id: str) -> None:
        """Say that a worker is gone."""

    def want(self, text: str) -> None:
        """Tell the workers which version to serve, see ``jobs/wanted.py``; "" takes it back."""

    def wanted(self) -> str:
        """Return what the workers are told to serve; "" for what they are set up with."""

    def snapshot(self) -> Snapshot:
        """Read the state of the queue at one instant."""

    def dead(self, count: int) -> list[dict[str, Any]]:
        """Read the newest ``count`` entries of the dead list: ``{entry, reason, at}``."""

    def purge(self) -> int:
        """Drop every waiting job, without touching those in work; returns how many."""


SILENT_MS = 30_000
"""A worker that has not been heard of for this long is forgotten."""

HEARTBEAT_S = 5.0
"""How often a worker says that it lives."""

LIVE_MS = 15_000
"""A worker heard of within this time (three heartbeats) counts as capacity."""


def live_tables(snapshot: Snapshot) -> list[BucketMs]:
    """Return ``bucket_ms`` of the workers that are alive and take work."""
    return [
        worker.bucket_ms
        for worker in snapshot.workers
        if worker.state != "stopping" and snapshot.now - worker.last_seen <= LIVE_MS
    ]
