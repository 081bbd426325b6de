"""The consumer's face of a queue, for workers: claim a batch of jobs and answer for it.

A claimed batch is leased: `LeaseKeeper` renews the leases until the batch is finished or given
back. What must be done (finish, give back) is tried through outages of Redis until it is done or
the time after SIGTERM is over.
"""

import logging
import secrets
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from types import MappingProxyType
from typing import Any, TypeVar

from imageserve import metrics
from imageserve.errors import QueueError, QueueUnavailable
from imageserve.queue.job_log import fields_of
from imageserve.queue.job_spans import record_dropped
from imageserve.queue.keys import GUARD_MS
from imageserve.queue.leases import LeaseKeeper
from imageserve.queue.preparations import encode_kept
from imageserve.queue.redis.connection import RedisBackoff
from imageserve.queue.redis.exchange import Value, fetch
from imageserve.queue.redis.queue import (
    BLOCK_S,
    CLAIM,
    EXTEND,
    FINISH,
    HEARTBEAT,
    RELEASE,
    RedisQueue,
)
from imageserve.queue.snapshot import (
    SILENT_MS,
    UNKNOWN_PACE,
    Pace,
    WorkerInfo,
    encode_worker_info,
    texts,
)
from imageserve.queue.wire import Finished, Job, UnsupportedJob, encode_result, readable
from imageserve.tracing import NO_TRACER, Tracer

log = logging.getLogger(__name__)

T = TypeVar("T")

NO_ROOM = memoryview(b"")
NO_COUNTS: Mapping[str, int] = MappingProxyType({})

FINISH_AT_ONCE = 128
"""Most jobs per FINISH: some managed servers refuse more than 4,000 arguments."""


@dataclass(frozen=True, slots=True)
class Lease:
    """How long a claim holds its jobs, and how many workers one job may lose."""

    lease_ms: int = 10_000
    max_attempts: int = 2


@dataclass(frozen=True, slots=True)
class Claim:
    """The reply of CLAIM: jobs that are leased to one token, and what was dropped on the way."""

    token: str
    now: int
    """Redis time of the claim, ms."""
    entries: tuple[str, ...] = ()
    """Jobs as they were queued, JSON."""
    expired: tuple[str, ...] = ()
    """Jobs dropped because their deadline had passed, or would have before their end."""
    dead: tuple[str, ...] = ()
    """Jobs given up and answered."""
    lost: int = 0
    """How often the one job has lost its worker, so that it runs alone; 0 for other jobs."""


def new_token() -> str:
    """Return the token of one claim.

    Not one per worker: a worker cannot finish what an earlier claim of its own has lost.
    """
    return secrets.token_hex(8)


class ConsumerStore(RedisQueue):
    """The consumer's commands on Redis. Each raises QueueUnavailable where Redis is away."""

    def claim(  # noqa: PLR0913 - what the script takes
        self,
        n: int,
        lease: Lease,
        *,
        redelivered: bool,
        min_depth: int = 0,
        pace: Pace = UNKNOWN_PACE,
        token: str = "",
        again: bool = False,
    ) -> Claim:
        """Take up to ``n`` jobs and lease them; none where fewer than ``min_depth`` wait.

        Those that cannot end by their deadline, at this pace, are answered so and not taken.
        ``again`` says that a claim with this ``token`` was sent and its reply lost: if it took
        jobs, then exactly these are returned.
        """
        token = token or new_token()
        args: list[str | int | bytes] = [
            n,
            lease.lease_ms,
            token,
            lease.max_attempts,
            GUARD_MS,
            int(redelivered),
            min_depth,
            int(again),
            self.keys.result(""),
            self.keys.pixels(""),
            round(pace.begin_ms),
        ]
        for size, ms in sorted(pace.bucket_ms.items()):
            args += [size, round(ms)]
        with self.errors():
            now, entries, expired, dead, lost = CLAIM(self.once, self.keys.of_claim(), args)
        return Claim(token, now, texts(entries), texts(expired), texts(dead), int(lost))

    def wait(self, block_s: float) -> None:
        """Block until a job may be there, or ``block_s`` seconds have passed."""
        # 0 means for ever to Redis, and 6.2 rounds one millisecond down to 0.
        block_s = max(0.01, min(block_s, BLOCK_S))
        with self.errors():
            # Not .blmove(): its type wants whole seconds.
            self.blocking.execute_command(
                "BLMOVE", self.keys.queue, self.keys.hold, "LEFT", "RIGHT", block_s
            )

    def pixels(self, job_ids: Sequence[str], room: memoryview = NO_ROOM) -> list[Value | None]:
        """Read pixels; None where the job was cancelled or has expired.

        They lie in ``room`` one behind the other, as far as they fit.
        """
        if not job_ids:
            return []
        with self.errors():
            return fetch(self.client, [self.keys.pixels(job_id) for job_id in job_ids], room)

    def finish(
        self, token: str, finished: Sequence[Finished], counts: Mapping[str, int] = NO_COUNTS
    ) -> list[bool]:
        """Acknowledge, store, publish and bury; False where the lease was lost (nothing changes).

        ``counts``: what the batch adds to counters, beside what its jobs add. May be sent again
        after a lost reply.
        """
        kept: list[bool] = []
        for start in range(0, len(finished), FINISH_AT_ONCE):
            part = finished[start : start + FINISH_AT_ONCE]
            kept += self._finish_part(token, part, counts if start == 0 else NO_COUNTS)
        return kept

    def _finish_part(
        self, token: str, finished: Sequence[Finished], counts: Mapping[str, int]
    ) -> list[bool]:
        keys = self.keys.of_finish()
        args: list[str | int | bytes] = [token, len(counts)]
        for counter, count in counts.items():
            args += [counter, count]
        for job in finished:
            keys += [self.keys.result(job.id), self.keys.pixels(job.id)]
            result = job.result
            args += [job.id, job.reply, encode_result(result, token), job.ttl_ms, job.counter]
            args += [job.dead, round(1000 * result.queue_ms), round(1000 * result.model_ms)]
        with self.errors():
            return [bool(kept) for kept in FINISH(self.client, keys, args)]

    def extend(self, token: str, job_ids: Sequence[str], lease_ms: int) -> int:
        """Renew leases; returns how many are still held."""
        keys = [self.keys.leases, self.keys.inflight]
        with self.errors():
            return int(EXTEND(self.client, keys, [token, lease_ms, GUARD_MS, *job_ids]))

    def release(self, token: str, job_ids: Sequence[str]) -> int:
        """Give unstarted jobs back to their place in the queue; returns how many."""
        names = self.keys.of_release()
        with self.errors():
            return int(RELEASE(self.client, names, [token, GUARD_MS, *job_ids]))

    def heartbeat(self, info: WorkerInfo) -> str:
        """Publish that a worker lives; returns the desired version as text."""
        return self._set_info(info.id, encode_worker_info(info), encode_kept(info))

    def leave(self, worker_id: str) -> None:
        """Remove a worker from the list of workers."""
        self._set_info(worker_id, "", "")

    def _set_info(self, worker_id: str, text: str, kept: str) -> str:
        args: list[str | int | bytes] = [worker_id, text, SILENT_MS, GUARD_MS, kept]
        with self.errors():
            reply: Any = HEARTBEAT(self.client, self.keys.of_heartbeat(), args)
        return texts([reply])[0] if reply else ""


@dataclass(frozen=True, slots=True)
class ClaimedJob:
    """One job of a batch."""

    job: Job | UnsupportedJob
    pixels: Value | None
    """None: the job was cancelled, or its deadline has passed."""


@dataclass(frozen=True, slots=True)
class Batch:
    """Jobs that this worker holds. Each must be finished or given back."""

    consumer: "Consumer" = field(repr=False)
    token: str
    now: int
    """Redis time of the claim, ms."""
    jobs: tuple[ClaimedJob, ...]
    lost: int = 0
    """How often its only job has lost its worker; 0 where it is no redelivered one."""
    claimed_at: float = field(default_factory=time.monotonic)

    @property
    def ids(self) -> list[str]:
        return [claimed.job.id for claimed in self.jobs]

    def about(self) -> dict[str, Any]:
        """Return what log lines say of it."""
        return self.consumer.about([claimed.job for claimed in self.jobs])

    def started(self) -> None:
        """Start the patience of its lease again: the model starts on it now."""
        self.consumer.leases.hold(self.token, self.ids, self.about)

    def finish(
        self, finished: Sequence[Finished], counts: Mapping[str, int] = NO_COUNTS
    ) -> list[bool] | None:
        """Store and publish the results and end the leases; ``counts`` as in the store.

        Returns per job whether its lease was still held; None where the time after SIGTERM was
        over before Redis answered.
        """
        self.consumer.leases.ending(self.token)
        kept = self.consumer.persist(
            lambda: self.consumer.store.finish(self.token, finished, counts), self.about
        )
        self.consumer.leases.drop(self.token)
        return kept

    def release(self) -> None:
        """Give all jobs back to their place in the queue, unstarted."""
        self.consumer.leases.ending(self.token)
        self.consumer.persist(lambda: self.consumer.store.release(self.token, self.ids), self.about)
        self.consumer.leases.drop(self.token)


class Consumer:
    """Claims batches from one queue for one worker."""

    def __init__(
        self, store: ConsumerStore, model: str, lease: Lease, tracer: Tracer = NO_TRACER
    ) -> None:
        """``model`` is the name under which jobs are counted."""
        self.store = store
        self.leases = LeaseKeeper(store, lease.lease_ms)
        self.stopping = threading.Event()
        self.connection = RedisBackoff(self.stopping)
        self.version = ""
        """The version of the model that serves, for log lines."""
        self.tracer = tracer
        self._model = model
        self._lease = lease
        self._redelivered = False
        self._dropped_all = False
        self._unanswered = ""
        """The token of a claim whose reply did not come; "" where the last one came."""
        self._give_up_at = float("inf")

    def stop(self, within_s: float) -> None:
        """Claim no more; what must be done is tried for ``within_s`` longer."""
        self._give_up_at = min(self._give_up_at, time.monotonic() + within_s)
        self.stopping.set()

    def claim(
        self,
        n: int,
        *,
        min_depth: int = 0,
        pace: Pace = UNKNOWN_PACE,
        room: memoryview = NO_ROOM,
    ) -> Batch | None:
        """Take up to ``n`` jobs; None where fewer than ``min_depth`` or no usable ones wait.

        Their pixels lie in ``room``, as `ConsumerStore.pixels` says. Raises QueueError.
        """
        # At most every second claim may bring a redelivered job, so that these, which run alone,
        # never starve the others.
        self._redelivered = not self._redelivered
        # A pace that is wrong would drop all: then the next batch is run, and measured.
        pace = UNKNOWN_PACE if self._dropped_all else pace
        claim = self._claim(n, redelivered=self._redelivered, min_depth=min_depth, pace=pace)
        claimed_at = time.monotonic()
        self._tell_dropped(claim)
        self._dropped_all = bool(claim.expired) and not claim.entries
        jobs = _jobs(claim.entries)
        if not jobs:
            return None
        ids = [job.id for job in jobs]
        pixels = self.persist(lambda: self.store.pixels(ids, room), partial(self.about, jobs))
        if pixels is None:
            return None
        claimed = tuple(ClaimedJob(job, data) for job, data in zip(jobs, pixels, strict=True))
        batch = Batch(self, claim.token, claim.now, claimed, claim.lost, claimed_at)
        self.leases.hold(claim.token, ids, batch.about)
        return batch

    def about(self, jobs: Sequence[Job | UnsupportedJob]) -> dict[str, Any]:
        """Return what log lines say of jobs that were claimed."""
        return {"model": self._model, "version": self.version, **fields_of(jobs)}

    def _claim(
        self, n: int, *, redelivered: bool, min_depth: int, pace: Pace = UNKNOWN_PACE
    ) -> Claim:
        """Claim, under the same token until a reply comes: a lost one must not strand its jobs."""
        again, token = bool(self._unanswered), self._unanswered or new_token()
        self._unanswered = token
        claim = self.store.claim(
            n,
            self._lease,
            redelivered=redelivered,
            min_depth=min_depth,
            pace=pace,
            token=token,
            again=again,
        )
        self._unanswered = ""
        return claim

    def wait(self, block_s: float = BLOCK_S) -> None:
        """Block until a job may wait, at most ``block_s``. Raises QueueError."""
        self.store.wait(block_s)

    def heartbeat(self, info: WorkerInfo) -> str:
        """Publish that this worker lives; returns the desired version. Raises QueueError."""
        return self.store.heartbeat(info)

    def others_of_0_1_0(self, model: str) -> list[WorkerInfo]:
        """Return the live workers of a model that tell no preparation. Raises QueueError."""
        workers = self.store.snapshot().live_workers
        return [each for each in workers if each.model == model and each.preparation is None]

    def leave(self, worker_id: str) -> None:
        """Remove this worker from the list of workers. Raises QueueError."""
        token, taken = "", []
        if self._unanswered:
            claim = self._claim(0, redelivered=False, min_depth=0)
            self._tell_dropped(claim)
            token, taken = claim.token, [job.id for job in _jobs(claim.entries)]
        # An empty release empties hold: a wait that the stop cut short may have filled it.
        self.store.release(token, taken)
        self.store.leave(worker_id)

    def _tell_dropped(self, claim: Claim) -> None:
        """Count, log and trace what a claim dropped. It was answered in the same step."""
        queue, model = self.store.name, {"imageserve.model": self._model}
        if claim.dead:
            jobs = [job for _, job in readable(claim.dead)]
            text = "%d jobs were given up: each lost its worker again"
            log.error(text, len(claim.dead), extra={"fields": self.about(jobs)})
            facts: dict[str, str | int] = {**model, "attempt": self._lease.max_attempts}
            record_dropped(self.tracer, queue, jobs, claim.now, facts, "model_failed")
        if claim.expired:
            jobs = [job for _, job in readable(claim.expired)]
            text = "%d jobs were dropped: their answers would have come too late"
            log.info(text, len(claim.expired), extra={"fields": self.about(jobs)})
            record_dropped(self.tracer, queue, jobs, claim.now, model)
        metrics.jobs_total.labels(self._model, "dead").inc(len(claim.dead))
        metrics.jobs_total.labels(self._model, "expired").inc(len(claim.expired))

    def persist(self, action: Callable[[], T], about: Callable[[], Mapping[str, Any]]) -> T | None:
        """Try until it is done, through outages of Redis; None where that was not possible.

        ``about`` returns what the log says of the jobs that it is done for.

        There is one try at least, however late after SIGTERM it begins. Safe for FINISH: it changes
        nothing where the lease is lost meanwhile, or where it was done and only the reply was lost.
        """
        while True:
            try:
                result = action()
            except QueueUnavailable as error:
                self.connection.failed(error)
                if time.monotonic() >= self._give_up_at:
                    return None
            except QueueError as error:
                # Another try would fail as well. The lease ends and another worker takes over.
                log.error("Redis refuses a command: %s", error, extra={"fields": about()})
                return None
            else:
                self.connection.succeeded()
                return result


def _jobs(entries: Sequence[str]) -> list[Job | UnsupportedJob]:
    """Return the jobs of the entries that are jobs, and log the others.

    Redis reads some texts as JSON that Python does not. Only another program can have queued one;
    it keeps its lease until that ends, and dies as redelivered.
    """
    jobs = list(readable(entries))
    if len(jobs) < len(entries):
        known = {entry for entry, _ in jobs}
        for entry in entries:
            if entry not in known:
                log.error("an entry is no job: %.200s", entry)
    return [job for _, job in jobs]
