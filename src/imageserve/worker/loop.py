"""The worker's loop: claim a batch, run the model, finish the jobs.

Two threads share the work. The main thread does nothing but run the model. Another one speaks to
Redis: while a batch runs it finishes the batch before, and shortly before the model is free it
fetches the one after, so a busy model never waits for the network. Two more renew leases and send
heartbeats, and a last one loads other versions of the model; only the main thread changes to one,
between two batches.
"""

import logging
import threading
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from time import monotonic

from imageserve import metrics
from imageserve.errors import QueueError, QueueUnavailable
from imageserve.preparation import Preparation
from imageserve.queue.consumer import Batch, Consumer
from imageserve.queue.self_test import EvictionWatch
from imageserve.queue.snapshot import HEARTBEAT_S, WorkerInfo
from imageserve.worker.batch import (
    Outcome,
    Rooms,
    Work,
    busy_time_ms,
    counts_of,
    report,
    sort_batch,
)
from imageserve.worker.reload import Reloader
from imageserve.worker.runner import Runner
from imageserve.worker.spans import Ended, record_batch
from imageserve.worker.stand_by import StandBy
from imageserve.worker.timing import Timing

log = logging.getLogger(__name__)

LAST_HEARTBEAT_S = 2.0
"""How long a worker that stops waits until its last heartbeat is sent."""

STAND_BY_S = 1.0
"""How often a worker that stands by looks whether it still must."""


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """How a worker takes its work."""

    worker_id: str
    host: str
    batch_delay_s: float = 0.0
    shutdown_s: float = 30.0
    load_s: float = 0.0
    """How long its process took until its model was loaded, for the heartbeat."""


class Worker:
    """Serves one model from one queue until it is stopped."""

    def __init__(
        self,
        consumer: Consumer,
        runner: Runner,
        name: str,
        config: WorkerConfig,
        reloader: Reloader | None = None,
        watch: EvictionWatch | None = None,
    ) -> None:
        """Without a ``reloader`` it serves the model of ``runner`` for ever."""
        self.name = name
        self.runner = runner
        self._consumer = consumer
        self._config = config
        self._reloader = reloader
        self._stand_by = StandBy(consumer, name)
        self._heartbeat = Heartbeat(consumer, self._info, reloader, watch, self._look_at_others)
        self._next_runner: Runner | None = None
        self._rooms = Rooms()
        self._timing = Timing()
        self._wake = threading.Event()
        self._changed = threading.Event()

    def stop(self) -> None:
        """Stop claiming: ``run`` returns when the batch in hand is finished."""
        self._consumer.stop(self._config.shutdown_s)

    @property
    def preparation(self) -> Preparation:
        """What the model that serves needs."""
        return self.runner.model.preparation

    @property
    def problem(self) -> str:
        """Why it takes no jobs, or does not serve the version that it should; "" where it does."""
        return self._stand_by.problem or (self._reloader.problem if self._reloader else "")

    @property
    def healthy(self) -> bool:
        """False when a call of the model has been running for so long that it must hang."""
        return self.runner.running_s <= self._consumer.leases.patience_s

    @property
    def met_redis(self) -> bool:
        """Whether Redis has ever answered."""
        return self._consumer.connection.met

    def run(self) -> None:
        """Work until stopped. The model must be warm."""
        self._consumer.leases.start()
        self._adopt()
        self._heartbeat.start()
        if self._reloader is not None:
            self._reloader.start(self)
        with ThreadPoolExecutor(1, thread_name_prefix="redis") as redis_thread:
            self._loop(redis_thread)
        if self._reloader is not None:
            self._reloader.stop()
        self._consumer.leases.stop()
        self._changed.set()
        self._heartbeat.join(LAST_HEARTBEAT_S)
        try:
            self._consumer.leave(self._config.worker_id)
        except QueueError as error:
            log.debug("not removed from the list of workers: %s", error)

    def _loop(self, redis_thread: ThreadPoolExecutor) -> None:
        upcoming: Future[Work | None] = redis_thread.submit(self._next_work)
        while (work := self._await(upcoming)) is not None:
            if self._stopping:
                redis_thread.submit(self._give_back, work)
                return
            work = self._sorted_anew(work)
            self._timing.began(self.runner.expected_ms(len(work.tasks)))
            prefetched = redis_thread.submit(self._prefetch)
            started_at = monotonic()
            outcomes = self._run(work)
            self._timing.ended()
            finish = partial(self._finish, work, outcomes, started_at)
            if prefetched.result():
                redis_thread.submit(_logging_bugs, finish, work.batch)
                upcoming = prefetched
            else:
                # The model has nothing to do: a change of threads would only delay the answer.
                _logging_bugs(finish, work.batch)
                upcoming = redis_thread.submit(self._next_work)

    @property
    def _stopping(self) -> bool:
        return self._consumer.stopping.is_set()

    # -- the model ----------------------------------------------------------------------------

    def _await(self, upcoming: "Future[Work | None]") -> Work | None:
        """Return the next batch; before it comes, change to another model where one is ready."""
        upcoming.add_done_callback(lambda _: self._wake.set())
        while not upcoming.done():
            self._wake.wait()
            self._wake.clear()
            self._change_runner()
        self._change_runner()
        return upcoming.result()

    def _sorted_anew(self, work: Work) -> Work:
        """Sort a batch again that was claimed before the model changed to another preparation."""
        if work.preparation == self.preparation:
            return work
        return sort_batch(work.batch, self.name, self.preparation)

    def _run(self, work: Work) -> list[Outcome]:
        work.batch.started()
        outcomes = self.runner.run(work.tasks, work.block) if work.tasks else []
        self._consumer.leases.set_slowest_ms(self.runner.times.slowest_ms)
        return outcomes

    @property
    def batch_size(self) -> int:
        """The largest batch that is run now."""
        return self.runner.batch_size

    def change_to(self, runner: Runner) -> bool:
        """Run each batch from the next one on with another model; for another thread to call.

        Returns once the old model has made its last batch; False where the worker stops instead.
        """
        self._next_runner = runner
        self._wake.set()
        self._changed.wait()
        self._changed.clear()
        return self.runner is runner

    def publish(self) -> None:
        """Send a heartbeat now: something in it has changed."""
        self._heartbeat.send()

    def _change_runner(self) -> None:
        if self._next_runner is not None:
            was, self.runner, self._next_runner = self.runner.version, self._next_runner, None
            metrics.model_info.remove(self.name, was)
            fields = {"model": self.name, "version": self.runner.version, "was": was}
            log.info("serving another version", extra={"fields": fields})
            self._adopt()
            self._changed.set()

    def _adopt(self) -> None:
        self._consumer.leases.set_slowest_ms(self.runner.times.slowest_ms)
        self._consumer.version = self.runner.version
        metrics.model_info.labels(self.name, self.runner.version).set(1)
        metrics.batch_limit.labels(self.name).set(self.runner.batch_size)

    # -- the queue ----------------------------------------------------------------------------

    def _next_work(self) -> Work | None:
        """Return the next batch, waiting for it; None once the worker is to stop."""
        while not self._stopping:
            try:
                work = self._take()
            except QueueError as error:
                self._consumer.connection.failed(error)
                continue
            self._consumer.connection.succeeded()
            if work is not None:
                return work
        return None

    def _take(self) -> Work | None:
        if self._stand_by.must(self.preparation):
            self._consumer.stopping.wait(STAND_BY_S)
            self._look_at_others()
            return None
        delay_s = self._config.batch_delay_s
        work = self._claim(min_depth=self.runner.batch_size if delay_s else 0)
        if work is None:
            self._consumer.wait()
            # The job that this wait may have moved to hold is free for any worker meanwhile.
            if delay_s:
                self._consumer.stopping.wait(delay_s)
            work = None if self._stopping else self._claim()
        return work

    def _prefetch(self) -> Work | None:
        """Take the next batch before the model is free: a full one, without waiting for jobs."""
        self._timing.wait_until_due()
        if self._stopping:
            return None
        try:
            if self._stand_by.must(self.preparation):
                return None
            return self._claim(min_depth=self.runner.batch_size)
        except QueueError as error:
            self._consumer.connection.failed(error)
            return None

    def _claim(self, min_depth: int = 0) -> Work | None:
        n, began = self.runner.batch_size, monotonic()
        room = self._rooms.spare(n, self.preparation.shape)
        pace = self._timing.pace(self.runner.times.ms)
        batch = self._consumer.claim(n, min_depth=min_depth, pace=pace, room=room.data.cast("B"))
        if batch is None:
            return None
        self._rooms.take()
        self._timing.fetched(began)
        return sort_batch(batch, self.name, self.preparation, room)

    def _look_at_others(self) -> None:
        self._stand_by.look(self.preparation)

    def _finish(self, work: Work, outcomes: list[Outcome], started_at: float) -> None:
        finished = work.finished(outcomes, started_at, self.name)
        busy_ms = round(busy_time_ms(outcomes))
        kept = work.batch.finish(finished, counts_of(outcomes))
        stored_at = monotonic()
        if kept is None:
            fields = work.batch.about()
            log.error("%d results could not be stored", len(finished), extra={"fields": fields})
        else:
            self._timing.told(started_at, busy_ms)
            report(self.name, work, finished, kept, busy_ms)
        ended = Ended(work, outcomes, finished, kept, started_at, stored_at)
        record_batch(self._consumer.tracer, ended)

    def _give_back(self, work: Work) -> None:
        work.batch.release()
        fields = work.batch.about()
        log.info("gave %d jobs back", len(work.batch.jobs), extra={"fields": fields})

    def _info(self, state: str) -> WorkerInfo:
        # The autoscaler removes pods that compute nothing first.
        state = "busy" if state == "ready" and self.runner.running_s else state
        reloader = self._reloader
        return WorkerInfo(
            id=self._config.worker_id,
            model=self.name,
            shape=self.preparation.shape,
            batch_size=self.runner.batch_size,
            # One that takes no jobs adds nothing to what the workers can do together.
            bucket_ms={} if self._stand_by.problem else dict(self.runner.times.ms),
            state=state,
            host=self._config.host,
            version=self.runner.version,
            loading=reloader.loading if reloader else "",
            problem=self.problem,
            answered=reloader.answered if reloader else "",
            runtime=self.runner.model.runtime,
            preparation=self.preparation,
            outputs=self.runner.model.outputs,
            classes=self.runner.model.classes,
            load_s=self._config.load_s,
        )


def _logging_bugs(finish: Callable[[], None], batch: Batch) -> None:
    """Finish a batch; a bug in that must neither end the worker nor vanish in a future."""
    try:
        finish()
    # The batch's leases end, and another worker takes its jobs.
    except Exception:
        fields = batch.about()
        log.critical("bug while finishing a batch", exc_info=True, extra={"fields": fields})


class Heartbeat:
    """Publishes that the worker lives, in a thread of its own; any thread may send one more."""

    def __init__(
        self,
        consumer: Consumer,
        info: Callable[[str], WorkerInfo],
        reloader: Reloader | None,
        watch: EvictionWatch | None,
        look: Callable[[], None],
    ) -> None:
        """``info`` describes the worker, given its state; ``look`` looks at the other workers."""
        self._consumer = consumer
        self._info = info
        self._reloader = reloader
        self._watch = watch
        self._look = look
        self._refusal = ""
        self._one_at_a_time = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def send(self) -> None:
        """Send one now. None is sent after "stopping"."""
        with self._one_at_a_time:
            if not self._consumer.stopping.is_set():
                self._publish("ready")

    def _run(self) -> None:
        while not self._consumer.stopping.is_set():
            self.send()
            self._consumer.stopping.wait(HEARTBEAT_S)
        with self._one_at_a_time:
            self._publish("stopping")

    def _publish(self, state: str) -> None:
        try:
            with suppress(QueueError):  # What prevents a look must not hide this worker.
                self._look()
            desired = self._consumer.heartbeat(self._info(state))
            if self._reloader is not None:
                self._reloader.set_desired(desired)
            self._refusal = ""
            if self._watch is not None:
                self._watch.look()
        except QueueUnavailable as error:
            log.debug("no heartbeat: %s", error)  # The main loop reports the outage.
        except QueueError as error:
            if str(error) != self._refusal:
                log.error("no heartbeat, so this worker counts as gone: %s", error)
            self._refusal = str(error)
        # This loop must never end: a worker without heartbeats counts as gone.
        except Exception:
            log.critical("bug in the heartbeat", exc_info=True)
