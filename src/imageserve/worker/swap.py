"""Makes another version of the model ready beside the one that serves, in a thread of its own.

What should be served is looked at every two seconds: what the workers are told (``models use``),
and whether its files have changed. Something new is loaded once it has looked the same twice in
succession, and again only when something changes: a version that fails is not tried in a loop.
"""

import gc
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass

from imageserve import metrics
from imageserve.errors import ModelError, ModelLoadError
from imageserve.queue.desired import decode_wanted
from imageserve.worker.runner import Runner
from imageserve.worker.versions import Candidate, Versions, other_input_size

log = logging.getLogger(__name__)

LOOK_S = 2.0
MOST_CHARACTERS = 500
"""Of a problem, in what is published of a worker."""

Prepare = Callable[[Candidate, bool], Runner]
"""Loads and warms a model; told whether another one serves meanwhile."""


@dataclass(frozen=True, slots=True)
class Reins:
    """How a swapper acts on the worker that it belongs to."""

    batch_size: Callable[[], int]
    """The largest batch that is run now."""
    change_to: Callable[[Runner], bool]
    """Has the worker go on with another model; False where it stops before that."""
    tell: Callable[[], None]
    """Publishes ``loading``, ``problem`` and ``answered``."""


class Swapper:
    """Decides what a worker serves. Its public attributes may be read by other threads."""

    def __init__(self, versions: Versions, prepare: Prepare, look_s: float = LOOK_S) -> None:
        self.loading = ""
        """The version that is being made ready."""
        self.problem = ""
        """Why what should be served is not."""
        self.answered = ""
        """What the workers were told when this one last served what it should, or failed to."""
        self._versions = versions
        self._prepare = prepare
        self._look_s = look_s
        self._name = versions.entry.name
        self._wanted = ""
        self._serving: Candidate | None = None
        self._failed: Candidate | None = None
        self._seen: Candidate | None = None
        self._wake = threading.Event()
        self._stopped = threading.Event()

    # -- at the start -------------------------------------------------------------------------

    def first(self, wanted: str) -> Runner:
        """Return what to serve first: what is wanted, or where that fails what is set up.

        Raises what loading the model that is set up raises.
        """
        self._wanted = wanted
        candidate = None
        if wanted:
            try:
                candidate = self._find(wanted)
                self._versions.check_pictures(candidate)
                runner = self._first(candidate)
                self._settle(wanted, "", None)
                return runner
            # Whatever a model may raise: a wrong wish must not keep a worker from starting.
            except Exception as error:
                self._fail(wanted, candidate, error)
        return self._first(self._find(""))

    def _first(self, candidate: Candidate) -> Runner:
        runner = self._prepare(candidate, False)
        self._serving = candidate
        return runner

    # -- beside a worker ----------------------------------------------------------------------

    def start(self, reins: Reins) -> None:
        threading.Thread(target=self._run, args=(reins,), name="versions", daemon=True).start()

    def stop(self) -> None:
        """End after what is being loaded: that cannot be interrupted."""
        self._stopped.set()
        self._wake.set()

    def want(self, text: str) -> None:
        """Hear what the workers are told to serve, as ``{Q}:wanted`` holds it."""
        if text != self._wanted:
            self._wanted = text
            self._wake.set()

    def _run(self, reins: Reins) -> None:
        while not self._stopped.is_set():
            try:
                self.look(reins)
            # A loop that must not end: without it no change is ever noticed.
            except Exception:
                log.critical("bug while looking for another version", exc_info=True)
            self._wake.wait(self._look_s)
            self._wake.clear()

    def look(self, reins: Reins) -> None:
        """Look once at what should be served, and change to it where it is new and complete."""
        wanted = self._wanted
        try:
            candidate = self._find(wanted)
        except (ModelLoadError, ValueError) as error:
            self._fail(wanted, None, error, reins)
            return
        if self._serving is not None and candidate.is_same_model(self._serving):
            self._settle(wanted, "", reins)
        elif candidate == self._seen and candidate != self._failed:
            self._change(wanted, candidate, reins)
        self._seen = candidate

    def _find(self, wanted: str) -> Candidate:
        return self._versions.find(decode_wanted(wanted))

    def _change(self, wanted: str, candidate: Candidate, reins: Reins) -> None:
        self.loading = candidate.shown
        fields = {"model": self._name, "version": candidate.shown}
        log.info("loading another version", extra={"fields": fields})
        reins.tell()
        try:
            changed = self._load_and_hand_over(wanted, candidate, reins)
        # Whatever a model may raise: the old one serves on.
        except Exception as error:
            self._fail(wanted, candidate, error, reins)
        else:
            if changed:
                self._serving = candidate
                metrics.model_changes_total.labels(self._name, "changed").inc()
                self._settle(wanted, "", reins)
        finally:
            self.loading = ""
            reins.tell()
        # Models are full of cycles: their memory comes back when these are looked for.
        gc.collect()

    def _load_and_hand_over(self, wanted: str, candidate: Candidate, reins: Reins) -> bool:
        """Return whether the worker runs it now. Keeps no model alive, neither old nor new."""
        self._versions.check_pictures(candidate)
        runner = self._prepare(candidate, True)
        self._check(candidate, runner, reins)
        if not self._is_still(candidate, wanted):
            log.info("the files changed while they were loaded: they are looked at again")
            return False
        return reins.change_to(runner)

    def _is_still(self, candidate: Candidate, wanted: str) -> bool:
        try:
            return self._find(wanted) == candidate
        except ModelLoadError:
            return False  # It is gone meanwhile: the next look says so.

    def _check(self, candidate: Candidate, runner: Runner, reins: Reins) -> None:
        entry = self._versions.entry
        if runner.model.input_size != entry.input_size:
            raise other_input_size(candidate.shown, runner.model.input_size, entry)
        if runner.batch_size < reins.batch_size():
            raise ModelLoadError(
                f"beside the model that serves, {candidate.shown} fits into memory with batches "
                f"of {runner.batch_size} only, not {reins.batch_size()}: restart the workers one "
                "by one, then each loads it alone"
            )

    # -- what is said of it -------------------------------------------------------------------

    def _fail(
        self,
        wanted: str,
        candidate: Candidate | None,
        error: Exception,
        reins: Reins | None = None,
    ) -> None:
        """Remember not to try it again, and say once why."""
        self._failed = candidate
        problem = _shortened(error)
        if candidate is not None or (wanted, problem) != (self.answered, self.problem):
            shown = candidate.shown if candidate else wanted.partition(" ")[0]
            log.error(
                "another version cannot be served: %s",
                problem,
                exc_info=None if _is_expected(error) else error,
                extra={"fields": {"model": self._name, "version": shown}},
            )
            metrics.model_changes_total.labels(self._name, "failed").inc()
        self._settle(wanted, problem, reins)

    def _settle(self, wanted: str, problem: str, reins: Reins | None) -> None:
        is_news = (wanted, problem) != (self.answered, self.problem)
        self.answered, self.problem = wanted, problem
        metrics.model_change_failed.labels(self._name).set(bool(problem))
        if not problem:
            self._failed = None
        if is_news and reins is not None:
            reins.tell()


def _is_expected(error: Exception) -> bool:
    return isinstance(error, ModelError | ValueError)


def _shortened(error: Exception) -> str:
    text = str(error) if _is_expected(error) else f"{type(error).__name__}: {error}"
    return " ".join(text.split())[:MOST_CHARACTERS]
