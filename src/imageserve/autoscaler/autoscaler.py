"""The autoscaler's process: who does what, and when.

One thread reads Redis for all models, every interval and whenever a job wakes it. Each model has a
thread that acts on the newest reading, so an API call that hangs for one holds no other up; a
reading that came meanwhile replaces the one before. Each model that may go to zero has one more,
which waits for the first job while there is no pod. The lease has its own. No call is made without
a timeout, and no thread is joined: the process ends when the main thread has let the lease go.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Protocol

from imageserve import metrics
from imageserve.autoscaler.lease import Leadership
from imageserve.autoscaler.model_scaler import ModelScaler
from imageserve.autoscaler.sample import Sample
from imageserve.errors import QueueError
from imageserve.probes import Answer, state_answer
from imageserve.queue.observations import Reading

log = logging.getLogger(__name__)

STUCK_S = 120.0
"""A thread that has been at one thing for longer must hang: no set of calls takes so long."""

LOOK_PAUSE_S = 1.0
"""After a look that failed, and between looks at whether to look at all."""


class Reader(Protocol):
    """What is read of Redis each time; ``QueueReader`` does it."""

    def read(self) -> Reading:
        """Read all queues in one round trip. Raises QueueError."""


class Look(Protocol):
    """Waits for a first job; ``JobLook`` does it."""

    def wait(self) -> bool:
        """Return whether one came. Raises QueueError."""


class Autoscaler:
    """Sizes several models until it is stopped."""

    def __init__(
        self,
        reader: Reader,
        scalers: Sequence[ModelScaler],
        leadership: Leadership,
        looks: Mapping[str, Look],
        *,
        interval_s: float = 5.0,
    ) -> None:
        """``looks`` are by model, for those that may go to zero."""
        self._reader = reader
        self._scalers = [_ScalerThread(scaler) for scaler in scalers]
        self._leadership = leadership
        self._looks = looks
        self._interval_s = interval_s
        self._due = threading.Event()
        self._stopping = threading.Event()
        self._redis_up: bool | None = None
        self._redis_problem = "it has not been asked yet"
        self._ticked_at_s = time.monotonic()

    def run(self) -> None:
        """Work until stopped."""
        for thread in self._scalers:
            thread.start()
            look = self._looks.get(thread.scaler.model.name)
            if look is not None:
                self._start_looking(thread.scaler, look)
        self._leadership.start(self.wake)
        while not self._stopping.is_set():
            self._due.clear()
            self.tick()
            self._due.wait(self._interval_s)
        self._leadership.stop()

    def stop(self) -> None:
        """Have ``run`` return soon. Safe to call from a signal handler."""
        self._stopping.set()
        self._due.set()

    def wake(self) -> None:
        """Have the models sized now, not at the next interval."""
        self._due.set()

    def tick(self) -> None:
        """Read Redis once and hand the numbers to every model."""
        sample = self._sample()
        for thread in self._scalers:
            thread.put(sample)
        self._ticked_at_s = time.monotonic()

    def _sample(self) -> Sample:
        try:
            reading = self._reader.read()
        except QueueError as error:
            self._note_redis(str(error))
            return Sample(time.monotonic(), None, str(error))
        self._note_redis("")
        return Sample(time.monotonic(), reading)

    def _note_redis(self, problem: str) -> None:
        up = not problem
        if problem:
            for thread in self._scalers:
                metrics.autoscaler_errors_total.labels(thread.scaler.model.name, "redis").inc()
        if up is not self._redis_up:
            metrics.redis_up.set(up)
            if up:
                log.info("Redis answers")
            else:
                log.error("Redis does not answer, all replicas stay as they are: %s", problem)
        self._redis_up, self._redis_problem = up, problem

    def _start_looking(self, scaler: ModelScaler, look: Look) -> None:
        name = f"look-{scaler.model.name}"
        threading.Thread(target=self._look, args=(scaler, look), name=name, daemon=True).start()

    def _look(self, scaler: ModelScaler, look: Look) -> None:
        while not self._stopping.is_set():
            if not scaler.asleep.wait(LOOK_PAUSE_S):
                continue
            try:
                came = look.wait()
            except QueueError as error:
                log.debug("cannot wait for a first job of %s: %s", scaler.model.name, error)
                self._stopping.wait(LOOK_PAUSE_S)
                continue
            if came:
                # Set again by a step that sees an empty queue: one job wakes once.
                scaler.asleep.clear()
                self.wake()

    # -- being asked --------------------------------------------------------------------------

    def answers(self) -> Mapping[str, Callable[[], Answer]]:
        """Return what is served on METRICS_PORT."""
        return {
            "/healthz": lambda: state_answer(self.healthy(), b"ok\n", b"a thread hangs\n"),
            "/readyz": self._readiness,
            "/metrics": lambda: (200, metrics.CONTENT_TYPE, self._exposition()),
            "/recommendations": lambda: (200, "application/json", self._recommendations()),
        }

    def healthy(self) -> bool:
        """Whether every thread goes on. That Redis or the API are away is no illness."""
        ticks = time.monotonic() - self._ticked_at_s < STUCK_S + self._interval_s
        return ticks and all(thread.healthy() for thread in self._scalers)

    def problem(self) -> str:
        """Say what keeps this process from doing its work; "" where nothing does."""
        if self._redis_up is None:
            return f"Redis: {self._redis_problem}"
        if self._leadership.problem:
            return f"lease: {self._leadership.problem}"
        for thread in self._scalers:
            scaler = thread.scaler
            if scaler.trouble.denied or not scaler.met:
                return f"{scaler.model.name}: {scaler.trouble.denied or scaler.report.problem}"
        return ""

    def _readiness(self) -> Answer:
        problem = self.problem()
        return state_answer(not problem, b"ready\n", f"not ready: {problem}\n".encode())

    def _exposition(self) -> bytes:
        return metrics.autoscaler_exposition(
            {thread.scaler.model.name: thread.scaler.report.gauges() for thread in self._scalers}
        )

    def _recommendations(self) -> bytes:
        models: dict[str, Any] = {}
        for thread in self._scalers:
            wanted = thread.scaler.report.recommendation()
            if wanted is not None:
                models[thread.scaler.model.name] = wanted
        return json.dumps({"models": models}).encode() + b"\n"


class _ScalerThread:
    """Has one model sized on the newest sample, and never twice on the same one."""

    def __init__(self, scaler: ModelScaler) -> None:
        self.scaler = scaler
        self._changed = threading.Condition()
        self._newest: Sample | None = None
        self._busy_since_s: float | None = None
        self._thread = threading.Thread(target=self._run, name=scaler.model.name, daemon=True)

    def start(self) -> None:
        self._thread.start()

    def put(self, sample: Sample) -> None:
        with self._changed:
            self._newest = sample
            self._changed.notify_all()

    def healthy(self) -> bool:
        since_s = self._busy_since_s
        return since_s is None or time.monotonic() - since_s < STUCK_S

    def _run(self) -> None:
        while True:
            sample = self._take()
            self._busy_since_s = time.monotonic()
            try:
                self.scaler.step(sample)
            # A bug in the sizing of one model must not end that of all the others.
            except Exception:
                log.critical("bug while sizing %s", self.scaler.model.name, exc_info=True)
            self._busy_since_s = None

    def _take(self) -> Sample:
        with self._changed:
            self._changed.wait_for(lambda: self._newest is not None)
            sample, self._newest = self._newest, None
            assert sample is not None
            return sample
