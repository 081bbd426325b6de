"""The worker's loop: claim a batch, run the model, finish the jobs.

Two threads share the work. The main thread does nothing but run the model. One other thread speaks
to Redis: while a batch runs it finishes the batch before and fetches the one after, so a busy model
never waits for the network. Two more keep leases and heartbeats alive, and a last one makes other
versions of the model ready; only the main thread changes to one, between two batches.
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
from imageserve.queue.queue import Claim, Finished, JobQueue, Lease, WorkerInfo
from imageserve.worker.batch import Batch, Outcome, given_up, read_batch
from imageserve.worker.heart import Heart
from imageserve.worker.leases import LeaseKeeper
from imageserve.worker.link import Link
from imageserve.worker.report import busy_time_ms, report
from imageserve.worker.runner import Runner
from imageserve.worker.swap import Reins, Swapper

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

    def __init__(
        self,
        queue: JobQueue,
        runner: Runner,
        name: str,
        config: WorkerConfig,
        swapper: Swapper | None = None,
    ) -> None:
        """Without a ``swapper`` it serves the model of ``runner`` for ever."""
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
        self._swapper = swapper
        heard = swapper.want if swapper else _not_told
        self._heart = Heart(queue, self._info, heard, self.stopping)
        self._next_runner: Runner | None = None
        self._wake = threading.Event()
        self._changed = threading.Event()

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
        self.leases.start()
        self._adopt()
        self._heart.start()
        if self._swapper is not None:
            reins = Reins(lambda: self.runner.batch_size, self.change_to, self._heart.beat)
            self._swapper.start(reins)
        with ThreadPoolExecutor(1, thread_name_prefix="redis") as redis_thread:
            self._loop(redis_thread)
        if self._swapper is not None:
            self._swapper.stop()
        self.leases.stop()
        self._changed.set()
        self._heart.join(BLOCK_S)
        self._say_goodbye()

    def _loop(self, redis_thread: ThreadPoolExecutor) -> None:
        upcoming: Future[Batch | None] = redis_thread.submit(self._next_batch)
        while (batch := self._await(upcoming)) is not None:
            if self.stopping.is_set():
                redis_thread.submit(self._give_back, batch)
                return
            ahead = redis_thread.submit(self._prefetch)
            started_at = time.monotonic()
            outcomes = self._run(batch)
            finish = partial(self._finish, batch, outcomes, started_at)
            if ahead.result():
                redis_thread.submit(_surfacing, finish)
                upcoming = ahead
            else:
                # Nothing waits for the model: a change of threads would only make the answer late.
                _surfacing(finish)
                upcoming = redis_thread.submit(self._next_batch)

    def _await(self, upcoming: "Future[Batch | None]") -> Batch | None:
        """Return the next batch; before it comes, change to another model where one is ready."""
        upcoming.add_done_callback(lambda _: self._wake.set())
        while not upcoming.done():
            self._wake.wait()
            self._wake.clear()
            self._change_runner()
        self._change_runner()
        return upcoming.result()

    def change_to(self, runner: Runner) -> bool:
        """Run every batch from the next one on with another model; for another thread to call.

        Returns once the old model has made its last batch; False where the worker stops instead.
        """
        self._next_runner = runner
        self._wake.set()
        self._changed.wait()
        self._changed.clear()
        return self.runner is runner

    def _change_runner(self) -> None:
        if self._next_runner is not None:
            was, self.runner, self._next_runner = self.runner.version, self._next_runner, None
            metrics.model_info.remove(self.name, was)
            fields = {"model": self.name, "version": self.runner.version, "was": was}
            log.info("serving another version", extra={"fields": fields})
            self._adopt()
            self._changed.set()

    def _adopt(self) -> None:
        self.leases.set_slowest_ms(self.runner.times.slowest_ms)
        metrics.model_info.labels(self.name, self.runner.version).set(1)
        metrics.batch_limit.labels(self.name).set(self.runner.batch_size)

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
        busy_ms = round(busy_time_ms(outcomes))
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
        report(self.name, batch, finished, kept, busy_ms)

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

    def _info(self, state: str) -> WorkerInfo:
        # Whoever takes pods away takes those that compute nothing first.
        state = "busy" if state == "ready" and self.runner.running_s else state
        return WorkerInfo(
            id=self._config.worker_id,
            model=self.name,
            shape=self._shape,
            batch_size=self.runner.batch_size,
            bucket_ms=dict(self.runner.times.ms),
            state=state,
            host=self._config.host,
            version=self.runner.version,
            loading=self._swapper.loading if self._swapper else "",
            problem=self._swapper.problem if self._swapper else "",
            answered=self._swapper.answered if self._swapper else "",
        )


def _not_told(wanted: str) -> None:
    """Without anything that could change the model, it does not matter what is wanted."""


def _surfacing(finish: Callable[[], None]) -> None:
    """Finish a batch; a bug in that must neither end the worker nor vanish in a future."""
    try:
        finish()
    # The batch's leases end, and another worker takes its jobs.
    except Exception:
        log.critical("bug while finishing a batch", exc_info=True)
