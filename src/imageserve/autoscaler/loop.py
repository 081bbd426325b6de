"""The autoscaler's process: its threads, and what it answers on METRICS_PORT.

Each model has a thread that reads its queue and sizes it: a Redis node or an API call that hangs
for one model delays no other. A model that may go to zero has a second thread, which waits for the
first job while there is no pod. The main thread wakes all models once per interval. The election
has its own thread. Every call has a timeout and no thread is joined: the process ends when the main
thread has released the Lease.
"""

import json
import logging
import threading
import time
from collections.abc import Callable, Mapping, Sequence

from imageserve import metrics
from imageserve.autoscaler.lease import Leadership
from imageserve.autoscaler.scaler import ModelScaler
from imageserve.autoscaler.shared_budget import SharedBudget
from imageserve.errors import QueueError
from imageserve.probes import Answer, state_answer
from imageserve.queue.monitor import FirstJobWaiter, Monitor

log = logging.getLogger(__name__)

STUCK_S = 120.0
"""A step that takes longer hangs: the timeouts of all its calls together are shorter."""

RETRY_S = 1.0
"""Pause after a failed wait for a first job, and between checks whether to wait for one."""


class Autoscaler:
    """Sizes several models until it is stopped."""

    def __init__(
        self,
        models: "Sequence[SizedModel]",
        leadership: Leadership,
        *,
        interval_s: float,
        budget: SharedBudget | None = None,
    ) -> None:
        """``budget``: the one that the models share, if they do; they wake each other for it."""
        if budget:
            sharing = [model for model in models if model.scaler.model.gpus]
            budget.wake_with({model.scaler.model.name: model.wake for model in sharing})
            for model in sharing:
                model.scaler.budget = budget
        self._models = models
        self._leadership = leadership
        self._interval_s = interval_s
        self._due = threading.Event()
        self._stopping = threading.Event()
        self._woke_models_at_s = time.monotonic()

    def run(self) -> None:
        """Work until stopped."""
        for model in self._models:
            model.start()
        self._leadership.start(elected=self._due)
        while not self._stopping.is_set():
            self._due.clear()
            for model in self._models:
                model.wake()
            self._woke_models_at_s = time.monotonic()
            self._due.wait(self._interval_s)
        for model in self._models:
            model.stop()
        self._leadership.stop()

    def stop(self) -> None:
        """Let ``run`` return soon."""
        self._stopping.set()
        self._due.set()

    # -- answers on METRICS_PORT --------------------------------------------------------------

    def answers(self) -> Mapping[str, Callable[[], Answer]]:
        """Return the handler of each path."""
        return {
            "/healthz": lambda: state_answer(self.healthy(), b"ok\n", b"a thread hangs\n"),
            "/readyz": self._readiness,
            "/metrics": lambda: (200, metrics.CONTENT_TYPE, self._exposition()),
            "/recommendations": lambda: (200, "application/json", self._recommendations()),
        }

    def healthy(self) -> bool:
        """Whether no thread hangs. An outage of Redis or of the API is not a hang."""
        since_s = time.monotonic() - self._woke_models_at_s
        running = since_s < STUCK_S + self._interval_s
        return running and all(model.healthy() for model in self._models)

    def problem(self) -> str:
        """Return why this process is not ready; "" where it is."""
        if self._leadership.problem:
            return f"lease: {self._leadership.problem}"
        for scaler in (model.scaler for model in self._models):
            if scaler.failures.denied or not scaler.initialized:
                return f"{scaler.model.name}: {scaler.failures.denied or scaler.status.problem}"
        return ""

    def _readiness(self) -> Answer:
        problem = self.problem()
        return state_answer(not problem, b"ready\n", f"not ready: {problem}\n".encode())

    def _exposition(self) -> bytes:
        metrics.redis_up.set(all(model.queue_answers for model in self._models))
        scalers = [model.scaler for model in self._models]
        return metrics.exposition(
            scaled={(scaler.model.name,): scaler.status.gauges() for scaler in scalers},
            starts={
                (scaler.model.name, phase): gauges
                for scaler in scalers
                for phase, gauges in scaler.status.start_gauges().items()
            },
        )

    def _recommendations(self) -> bytes:
        scalers = [model.scaler for model in self._models]
        found = {scaler.model.name: scaler.status.recommendation() for scaler in scalers}
        known = {name: each for name, each in found.items() if each}
        return json.dumps({"models": known}).encode() + b"\n"


class SizedModel:
    """The threads of one model. Each wake-up makes it read the queue and size the model once."""

    def __init__(
        self, scaler: ModelScaler, monitor: Monitor, first_job: FirstJobWaiter | None = None
    ) -> None:
        """``monitor`` and ``first_job`` read its queue; the latter is None if it keeps a pod."""
        self.scaler = scaler
        self.queue_answers = False
        self._monitor = monitor
        self._first_job = first_job
        self._due = threading.Event()
        self._stopping = threading.Event()
        self._busy_since_s: float | None = None

    def start(self) -> None:
        name = self.scaler.model.name
        threading.Thread(target=self._run, name=name, daemon=True).start()
        if self._first_job is not None:
            waiting = threading.Thread(
                target=self._wake_at_first_job,
                args=(self._first_job,),
                name=f"first-job-{name}",
                daemon=True,
            )
            waiting.start()

    def wake(self) -> None:
        """Size the model now, or once more after the step in progress."""
        self._due.set()

    def stop(self) -> None:
        """Let both threads end soon, without a further step."""
        self._stopping.set()
        self._due.set()

    def healthy(self) -> bool:
        since_s = self._busy_since_s
        return since_s is None or time.monotonic() - since_s < STUCK_S

    def _run(self) -> None:
        while True:
            self._due.wait()
            self._due.clear()
            if self._stopping.is_set():
                return
            self._busy_since_s = time.monotonic()
            try:
                self._step()
            # A bug in sizing one model must not end its thread.
            except Exception:
                log.critical("bug while sizing %s", self.scaler.model.name, exc_info=True)
            self._busy_since_s = None

    def _step(self) -> None:
        queue = self._monitor.snapshots()[self.scaler.model.queue]
        self.queue_answers = not isinstance(queue, QueueError)
        self.scaler.step(time.monotonic(), queue)

    def _wake_at_first_job(self, first_job: FirstJobWaiter) -> None:
        while not self._stopping.is_set():
            if not self.scaler.asleep.wait(RETRY_S):
                continue
            try:
                came = first_job.wait()
            except QueueError as error:
                log.debug("cannot wait for a job of %s: %s", self.scaler.model.name, error)
                self._stopping.wait(RETRY_S)
                continue
            if came:
                # The next step sets it again where the queue is empty: one wake-up per job.
                self.scaler.asleep.clear()
                self.wake()
