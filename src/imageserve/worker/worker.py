"""The worker's loop: claim a batch, run the model, finish the jobs.

Two threads share the work. The main thread does nothing but run the model. One other thread speaks
to Redis: while a batch runs it finishes the batch before and fetches the one after, so a busy model
never waits for the network. Two more keep leases and heartbeats alive.
"""

import logging
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from typing import TypeVar

from imageserve import metrics
from imageserve.errors import QueueError, QueueUnavailable
from imageserve.jobs.queue import HEARTBEAT_S, Claim, Finished, JobQueue, Lease, WorkerInfo
from imageserve.worker.batch import Batch, Outcome, given_up, read_batch
from imageserve.worker.leases import LeaseKeeper
from imageserve.worker.link import Link
from imageserve.worker.runner import Runner

log = logging.getLogger(__name__)

T = TypeVar("T")

BLOCK_S = 2.0


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """How a worker takes its work."""

    worker_id: str
    host: str
    lease: Lease
    batch_delay_s: float = 0.0
    shutdown_s: float = 30.0


class Worker:
    """Serves one model from one queue until it is stopped."""

    def __init__(self, queue: JobQueue, runner: Runner, name: str, config: WorkerConfig) -> None:
        self.name = name
        self.runner = runner
        self.stopping = threading.Event()
        self.link = Link(self.stopping)
        self.leases = LeaseKeeper(queue, config.lease.lease_ms)
        self._queue = queue
        self._config = config
        self._shape = (*runner.model.input_size, 3)
        self._suspects = False
        self._stop_by = float("inf")

    def stop(self) -> None:
        """Stop claiming: ``run`` returns when the batch in hand is finished.

        Safe to call from a signal handler.
        """
        self._stop_by = time.monotonic() + self._config.shutdown_s
        self.stopping.set()

    @property
    def healthy(self) -> bool:
        """False when a call of the model has been running for so long that it must hang."""
        return self.runner.running_s <= self.leases.patience_s

    def run(self) -> None:
        """Work until stopped. The model must be warm."""
        self.leases.set_slowest_ms(self.runner.times.slowest_ms)
        self.leases.start()
        heart = threading.Thread(target=self._beat, name="heartbeat", daemon=True)
        heart.start()
        with ThreadPoolExecutor(1, thread_name_prefix="redis") as redis_thread:
            self._loop(redis_thread)
        self.leases.stop()
        heart.join(timeout=BLOCK_S)
        self._say_goodbye()

    def _loop(self, redis_thread: ThreadPoolExecutor) -> None:
        upcoming: Future[Batch | None] = redis_thread.submit(self._next_batch)
        while (batch := upcoming.result()) is not None:
            if self.stopping.is_set():
                redis_thread.submit(self._give_back, batch)
                return
            ahead = redis_thread.submit(self._prefetch)
            started_at = time.monotonic()
            outcomes = self._run(batch)
            finishing = redis_thread.submit(self._finish, batch, outcomes, started_at)
            finishing.add_done_callback(_surface)
            upcoming = ahead if ahead.result() else redis_thread.submit(self._next_batch)

    def _run(self, batch: Batch) -> list[Outcome]:
        self.leases.hold(batch.claim.token, batch.ids)
        outcomes = self.runner.run(batch.tasks) if batch.tasks else []
        self.leases.set_slowest_ms(self.runner.times.slowest_ms)
        return outcomes

    def _next_batch(self) -> Batch | None:
        """Return the next batch, waiting for it; None once the worker is to stop."""
        while not self.stopping.is_set():
            try:
                batch = self._take()
            except QueueError as error:
                self.link.down(error)
                continue
            self.link.up()
            if batch is not None:
                return batch
        return None

    def _take(self) -> Batch | None:
        delay_s = self._config.batch_delay_s
        batch = self._claim(min_depth=self.runner.batch_size if delay_s else 0)
        if batch is None:
            self._queue.wait(BLOCK_S)
            # What this wait may have moved to hold is free for any worker meanwhile.
            if delay_s:
                self.stopping.wait(delay_s)
            batch = None if self.stopping.is_set() else self._claim()
        return batch

    def _prefetch(self) -> Batch | None:
        """Take the next batch while the model runs: a full one, without waiting."""
        if self.stopping.is_set():
            return None
        try:
            return self._claim(min_depth=self.runner.batch_size)
        except QueueError as error:
            self.link.down(error)
            return None

    def _claim(self, min_depth: int = 0) -> Batch | None:
        # At most every second claim may bring a suspect, so that suspects never starve the rest.
        self._suspects = not self._suspects
        claim = self._queue.claim(
            self.runner.batch_size,
            self._config.lease,
            suspects=self._suspects,
            min_depth=min_depth,
        )
        self._settle_dead(claim)
        return self._read(claim)

    def _read(self, claim: Claim) -> Batch | None:
        batch = self._insist(lambda: read_batch(self._queue, claim, self.name, self._shape))
        if batch is not None:
            self.leases.hold(claim.token, batch.ids)
        return batch

    def _settle_dead(self, claim: Claim) -> None:
        if claim.dead:
            log.error("%d jobs were given up: each lost its worker again", len(claim.dead))
            self._store(given_up(claim.dead))
        metrics.jobs_total.labels(self.name, "dead").inc(len(claim.dead))
        metrics.jobs_total.labels(self.name, "expired").inc(claim.expired)

    def _store(self, finished: list[Finished]) -> None:
        """Store results whose waiters have heard them already: once, for those who read late."""
        try:
            self._queue.store(finished, publish=False)
        except QueueError as error:
            log.warning("results of dead jobs are not stored: %s", error)

    def _finish(self, batch: Batch, outcomes: list[Outcome], started_at: float) -> None:
        finished = batch.finished(outcomes, started_at, self.name)
        busy_ms = round(_busy_ms(outcomes))
        kept = self._insist(
            lambda: self._queue.finish(
                batch.claim.token, finished, batches=int(bool(outcomes)), busy_ms=busy_ms
            )
        )
        self.leases.drop(batch.claim.token)
        if kept is None:
            log.error("stopped before %d results could be stored", len(finished))
            return
        self._bury_failures(batch, outcomes, kept)
        self._report(batch, finished, kept, busy_ms)

    def _insist(self, action: Callable[[], T]) -> T | None:
        """Do what must be done, through outages of Redis, until it is done or time is up.

        Safe for FINISH: it changes nothing where the lease is lost meanwhile.
        """
        while time.monotonic() < self._stop_by:
            try:
                result = action()
            except QueueUnavailable as error:
                self.link.down(error)
                continue
            except QueueError:
                # Trying again would not help; the lease ends and another worker takes over.
                log.exception("Redis refuses what must be done")
                return None
            self.link.up()
            return result
        return None

    def _bury_failures(self, batch: Batch, outcomes: list[Outcome], kept: list[bool]) -> None:
        for task, outcome, mine in zip(batch.tasks, outcomes, kept, strict=False):
            if mine and outcome.error is not None:
                self._insist(partial(self._queue.bury, task.entry, outcome.error))

    def _report(
        self, batch: Batch, finished: list[Finished], kept: list[bool], busy_ms: int
    ) -> None:
        for job, mine in zip(finished, kept, strict=True):
            if mine:
                metrics.jobs_total.labels(self.name, job.counter).inc()
        late = kept.count(False)
        metrics.leases_lost_total.labels(self.name).inc(late)
        log.info(
            "batch",
            extra={
                "fields": {
                    "model": self.name,
                    "jobs": len(finished),
                    "run": len(batch.tasks),
                    "solo": batch.claim.solo,
                    "queue_ms": round(max((j.result.queue_ms for j in finished), default=0), 1),
                    "model_ms": busy_ms,
                    "failed": sum(job.counter == "failed" for job in finished),
                    "late": late,
                    "ids": [job.id for job in finished],
                }
            },
        )

    def _give_back(self, batch: Batch) -> None:
        self._insist(lambda: self._queue.release(batch.claim.token, batch.ids))
        self.leases.drop(batch.claim.token)
        log.info("gave %d jobs back", len(batch.ids))

    def _say_goodbye(self) -> None:
        try:
            # Releasing nothing empties hold: a wait that this stop cut short may have filled it.
            self._queue.release("", [])
            self._queue.leave(self._config.worker_id)
        except QueueError as error:
            log.debug("left without a word: %s", error)

    def _beat(self) -> None:
        while not self.stopping.is_set():
            self._say("ready")
            self.stopping.wait(HEARTBEAT_S)
        self._say("stopping")

    def _say(self, state: str) -> None:
        info = WorkerInfo(
            id=self._config.worker_id,
            model=self.name,
            shape=self._shape,
            batch_size=self.runner.batch_size,
            bucket_ms=dict(self.runner.times.ms),
            state=state,
            host=self._config.host,
        )
        try:
            self._queue.heartbeat(info)
        except QueueError as error:
            log.debug("no heartbeat: %s", error)
        # Called from a loop that must not end: a worker that is not heard of counts as gone.
        except Exception:
            log.critical("bug in the heartbeat", exc_info=True)


def _surface(done: Future[None]) -> None:
    """Let no bug vanish in a future that nobody asks for its result."""
    if (error := done.exception()) is not None:
        log.critical("bug while finishing a batch", exc_info=error)


def _busy_ms(outcomes: list[Outcome]) -> float:
    """Return the model's time for a batch: each call counted once, however it was split."""
    return sum(outcome.model_ms / outcome.batch for outcome in outcomes)
