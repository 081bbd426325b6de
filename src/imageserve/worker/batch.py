"""A claimed batch: jobs with their pixels, and those that are answered without the model."""

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from imageserve.predictions import Prediction
from imageserve.queue.queue import Claim, Finished, JobQueue
from imageserve.queue.wire import Job, Result, ResultError, UnsupportedJob, decode_job

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Task:
    """One job that goes through the model."""

    job: Job
    entry: str
    image: NDArray[np.uint8]
    """(height, width, 3) RGB."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the model made of one task."""

    predictions: tuple[Prediction, ...]
    error: str | None
    """Why it failed, alone; None where it did not."""
    model_ms: float
    batch: int
    version: str = ""
    """Of the model that made it."""


@dataclass(frozen=True, slots=True)
class Batch:
    """What one claim brought."""

    claim: Claim
    tasks: tuple[Task, ...]
    answered: tuple[Finished, ...]
    """Jobs that need no model: cancelled, of another model, of an unknown version."""
    taken_at: float = field(default_factory=time.monotonic)

    @property
    def ids(self) -> list[str]:
        return [*(task.job.id for task in self.tasks), *(done.id for done in self.answered)]

    def finished(
        self, outcomes: Sequence[Outcome], started_at: float, model: str
    ) -> list[Finished]:
        """Return every job of the batch with its result; ``started_at`` is the model's start."""
        waited_ms = (started_at - self.taken_at) * 1000
        done = [
            _finished(task.job, outcome, self.claim.now - task.job.ts + waited_ms, model)
            for task, outcome in zip(self.tasks, outcomes, strict=True)
        ]
        return [*done, *self.answered]


def read_batch(
    queue: JobQueue, claim: Claim, model: str, shape: tuple[int, int, int]
) -> Batch | None:
    """Fetch the pixels of a claim and sort out what this model cannot run; None if it is empty."""
    jobs = list(_readable(claim.entries))
    if not jobs:
        return None
    pixels = queue.pixels([job.id for _, job in jobs])
    tasks: list[Task] = []
    answered: list[Finished] = []
    for (entry, job), data in zip(jobs, pixels, strict=True):
        refusal = _refusal(job, data, model, shape)
        if refusal is not None:
            answered.append(_refused(job, claim.now, model, shape, refusal))
        elif isinstance(job, Job) and data is not None:
            tasks.append(Task(job, entry, np.frombuffer(data, np.uint8).reshape(shape)))
    return Batch(claim, tuple(tasks), tuple(answered))


def _readable(entries: Sequence[str]) -> Iterator[tuple[str, Job | UnsupportedJob]]:
    """Yield entries with their jobs.

    One that Redis's JSON parser takes and Python's does not is left to its lease: it comes back
    as a suspect and ends on the dead list. Only a foreign writer can have queued it.
    """
    for entry in entries:
        try:
            yield entry, decode_job(entry)
        except (ValueError, TypeError, KeyError, AttributeError):
            log.error("an entry that is no job is left to its lease or its end: %.200s", entry)


def _refusal(
    job: Job | UnsupportedJob, data: bytes | None, model: str, shape: tuple[int, int, int]
) -> ResultError | None:
    if isinstance(job, UnsupportedJob):
        return ResultError("unsupported_job", job.reason)
    if job.model != model or job.shape != shape:
        return ResultError("model_changed", f"this worker runs {model} at {list(shape)}")
    if data is None:
        return ResultError("timed_out", "the job was cancelled, or its deadline has passed")
    if len(data) != job.bytes:
        return ResultError("unsupported_job", f"{len(data)} bytes of pixels instead of {job.bytes}")
    return None


def _refused(
    job: Job | UnsupportedJob,
    now: int,
    model: str,
    shape: tuple[int, int, int],
    error: ResultError,
) -> Finished:
    result = Result(
        id=job.id,
        model=model,
        queue_ms=max(0, now - job.ts),
        model_ms=0,
        batch=0,
        error=error,
        shape=shape if error.code == "model_changed" else None,
    )
    counter = "expired" if error.code == "timed_out" else "failed"
    return Finished(job.id, job.reply, result, job.result_ttl_ms, counter)


def _finished(job: Job, outcome: Outcome, queue_ms: float, model: str) -> Finished:
    error = None if outcome.error is None else ResultError("model_failed", outcome.error)
    result = Result(
        id=job.id,
        model=model,
        queue_ms=max(0.0, queue_ms),
        model_ms=outcome.model_ms,
        batch=outcome.batch,
        predictions=outcome.predictions[: job.top],
        error=error,
        version=outcome.version,
    )
    counter = "completed" if error is None else "failed"
    return Finished(job.id, job.reply, result, job.result_ttl_ms, counter)


def given_up(entries: Sequence[str]) -> list[Finished]:
    """Return the results of jobs that a claim has put on the dead list."""
    results = []
    for _, job in _readable(entries):
        error = ResultError("model_failed", "its worker died each time it ran")
        result = Result(job.id, job.model, 0, 0, 0, error=error)
        results.append(Finished(job.id, job.reply, result, job.result_ttl_ms, "failed"))
    return results
