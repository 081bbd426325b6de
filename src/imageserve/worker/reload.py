"""Loads another version of the model beside the one that serves, in a thread of its own.

Every two seconds it looks at what should be served: the desired version (``models use``), and
whether its files have changed. A new version is loaded once it looked the same twice in succession,
and again only after a change: a version that fails is not tried in a loop. Files that change beside
an ``imageserve.yaml`` that does not are loaded when they stay the same for ten seconds: whoever
writes that file last has not written it yet.
"""

import gc
import logging
import threading
from collections.abc import Callable
from typing import Protocol

from imageserve import metrics
from imageserve.errors import ModelError, ModelLoadError
from imageserve.models.foreign import foreign, reason_of
from imageserve.queue.desired import decode_desired
from imageserve.worker.runner import Runner
from imageserve.worker.versions import Candidate, Versions

log = logging.getLogger(__name__)

POLL_S = 2.0
STILL_LOOKS, STILL_LOOKS_UNANNOUNCED = 1, 5
"""For how many looks files must stay the same before they count as complete."""
MOST_CHARACTERS = 500
"""Longest ``problem`` text in a heartbeat, in characters."""

Prepare = Callable[[Candidate, bool], Runner]
"""Loads and warms a model; True where another one serves meanwhile."""


class WorkerHandle(Protocol):
    """How a reloader acts on its worker."""

    @property
    def batch_size(self) -> int:
        """The largest batch that is run now."""

    def change_to(self, runner: Runner) -> bool:
        """Have the worker go on with another model; False where it stops before that."""

    def publish(self) -> None:
        """Publish ``loading``, ``problem`` and ``answered`` now."""


class Reloader:
    """Decides what a worker serves. Its public attributes may be read by other threads."""

    def __init__(self, versions: Versions, prepare: Prepare, poll_s: float = POLL_S) -> None:
        self.loading = ""
        """The version that is being loaded."""
        self.problem = ""
        """Why the version that should be served is not."""
        self.answered = ""
        """The last desired version that was handled, with success or not."""
        self._versions = versions
        self._prepare = prepare
        self._poll_s = poll_s
        self._name = versions.entry.name
        self._desired = ""
        self._serving: Candidate | None = None
        self._failed: Candidate | None = None
        self._seen: Candidate | None = None
        self._still = 0
        """How many looks found the same as the one before."""
        self._wake = threading.Event()
        self._stopped = threading.Event()

    # -- at the start -------------------------------------------------------------------------

    def first(self, desired: str) -> Runner:
        """Return the first runner: the desired version, or where that fails the configured model.

        Raises what loading the configured model raises.
        """
        self._desired = desired
        candidate = None
        if desired:
            try:
                candidate = self._find(desired)
                runner = self._first(candidate)
                self._settle(desired, "", None)
                return runner
            # A model may raise anything, and a bad version must not keep a worker from starting.
            except Exception as error:
                self._fail(desired, candidate, error)
        return self._first(self._find(""))

    def _first(self, candidate: Candidate) -> Runner:
        runner = self._prepare(candidate, False)
        self._serving = candidate
        return runner

    # -- beside a worker ----------------------------------------------------------------------

    def start(self, worker: WorkerHandle) -> None:
        threading.Thread(target=self._run, args=(worker,), name="versions", daemon=True).start()

    def stop(self) -> None:
        """End, after the load under way: that cannot be interrupted."""
        self._stopped.set()
        self._wake.set()

    def set_desired(self, text: str) -> None:
        """Set the desired version, as ``{Q}:wanted`` holds it."""
        if text != self._desired:
            self._desired = text
            self._wake.set()

    def _run(self, worker: WorkerHandle) -> None:
        while not self._stopped.is_set():
            try:
                self.check(worker)
            # This loop must never end: without it no change is noticed.
            except Exception:
                log.critical("bug while looking for another version", exc_info=True)
            self._wake.wait(self._poll_s)
            self._wake.clear()

    def check(self, worker: WorkerHandle) -> None:
        """Look once at what should be served, and change to it where it is new and complete."""
        desired = self._desired
        try:
            candidate = self._find(desired)
        except (ModelLoadError, ValueError) as error:
            self._fail(desired, None, error, worker)
            return
        if self._serving is not None and candidate.is_same_model(self._serving):
            self._settle(desired, "", worker)
        elif self._is_complete(candidate) and candidate != self._failed:
            self._change(desired, candidate, worker)
        self._seen = candidate

    def _is_complete(self, candidate: Candidate) -> bool:
        self._still = self._still + 1 if candidate == self._seen else 0
        is_announced = self._serving is None or candidate.is_announced(self._serving)
        return self._still >= (STILL_LOOKS if is_announced else STILL_LOOKS_UNANNOUNCED)

    def _find(self, desired: str) -> Candidate:
        return self._versions.find(decode_desired(desired))

    def _change(self, desired: str, candidate: Candidate, worker: WorkerHandle) -> None:
        self.loading = candidate.shown
        fields = {"model": self._name, "version": candidate.shown}
        log.info("loading another version", extra={"fields": fields})
        worker.publish()
        try:
            changed = self._load_and_hand_over(desired, candidate, worker)
        # A model may raise anything: the old one serves on.
        except Exception as error:
            self._fail(desired, candidate, error, worker)
        else:
            if changed:
                self._serving = candidate
                metrics.model_changes_total.labels(self._name, "changed").inc()
                self._settle(desired, "", worker)
        finally:
            self.loading = ""
            worker.publish()
        # Models are full of reference cycles: collect now, so that the old one's memory is free.
        gc.collect()

    def _load_and_hand_over(self, desired: str, candidate: Candidate, worker: WorkerHandle) -> bool:
        """Return whether the worker runs it now. Keeps no reference to a model, old or new."""
        runner = self._prepare(candidate, True)
        self._check(candidate, runner, worker)
        if not self._is_still(candidate, desired):
            log.info("the files changed while they were loaded: they are looked at again")
            return False
        return worker.change_to(runner)

    def _is_still(self, candidate: Candidate, desired: str) -> bool:
        try:
            return self._find(desired) == candidate
        except ModelLoadError:
            return False  # It is gone meanwhile: the next check says so.

    def _check(self, candidate: Candidate, runner: Runner, worker: WorkerHandle) -> None:
        if runner.batch_size < worker.batch_size:
            raise ModelLoadError(
                f"beside the model that serves, {candidate.shown} fits into memory with batches "
                f"of {runner.batch_size} only, not {worker.batch_size}: restart the workers one "
                "by one, then each loads it alone"
            )

    # -- outcome ---------------------------------------------------------------------------------

    def _fail(
        self,
        desired: str,
        candidate: Candidate | None,
        error: Exception,
        worker: WorkerHandle | None = None,
    ) -> None:
        """Remember not to try it again, and log once why."""
        self._failed = candidate
        problem = _shortened(error)
        if candidate is not None or (desired, problem) != (self.answered, self.problem):
            shown = candidate.shown if candidate else desired.partition(" ")[0]
            log.error(
                "another version cannot be served: %s",
                problem,
                exc_info=None if _is_expected(error) else error,
                extra={"fields": {"model": self._name, "version": shown}},
            )
            metrics.model_changes_total.labels(self._name, "failed").inc()
        self._settle(desired, problem, worker)

    def _settle(self, desired: str, problem: str, worker: WorkerHandle | None) -> None:
        is_news = (desired, problem) != (self.answered, self.problem)
        self.answered, self.problem = desired, problem
        metrics.model_change_failed.labels(self._name).set(bool(problem))
        if not problem:
            self._failed = None
        if is_news and worker is not None:
            worker.publish()


def _is_expected(error: Exception) -> bool:
    return isinstance(error, ModelError | ValueError)


def _shortened(error: Exception) -> str:
    return foreign(str(error) if _is_expected(error) else reason_of(error), MOST_CHARACTERS)
