"""A claimed batch on its way through the worker: what the model runs, and what is answered for it.

Jobs that need no model (cancelled, of another model, of an unknown version) are answered beside
those that do.
"""

import logging
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import compress

import numpy as np
from numpy.typing import NDArray

from imageserve import metrics
from imageserve.predictions import Prediction
from imageserve.preparation import Preparation, plain
from imageserve.queue.consumer import Batch, ClaimedJob
from imageserve.queue.outputs import asked_labels, bounded
from imageserve.queue.wire import (
    Finished,
    Job,
    Result,
    ResultError,
    UnsupportedJob,
    result_of_error,
)

log = logging.getLogger(__name__)


Images = NDArray[np.uint8]
"""Several pictures: (pictures, height, width, colours)."""


class Rooms:
    """Memory for the pixels of two batches: that which runs, and that which comes next.

    Fresh memory of 5 MB costs a millisecond of page faults per batch.
    """

    def __init__(self) -> None:
        self._taken: Images | None = None
        self._spare: Images | None = None

    def spare(self, n: int, shape: tuple[int, int, int]) -> Images:
        """Return room for the next ``n`` pictures."""
        found = self._spare
        if found is None or len(found) < n or found.shape[1:] != shape:
            found = self._spare = np.zeros((n, *shape), np.uint8)
        return found

    def take(self) -> None:
        """Note that a batch lies in the spare room; the one before has run, so its room is free."""
        self._taken, self._spare = self._spare, self._taken


@dataclass(frozen=True, slots=True)
class Task:
    """One job that goes through the model."""

    job: Job
    image: NDArray[np.uint8]
    """As `Preparation.shape` says."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the model made of one task."""

    predictions: tuple[Prediction, ...]
    error: str | None
    """Why it failed, alone; None where it did not."""
    model_ms: float
    """Time of the model call that it was part of."""
    batch: int
    """Pictures in that call."""
    version: str = ""
    """The version of the model."""
    vector: bytes = b""
    """What the task wants, as `Result` has it."""
    began: float = 0.0
    """When that call began, on the clock of `Batch.claimed_at`."""


@dataclass(frozen=True, slots=True)
class Work:
    """A batch, sorted: tasks for the model, and jobs that are answered without it."""

    batch: Batch
    tasks: tuple[Task, ...]
    answered: tuple[Finished, ...]
    preparation: Preparation
    """That of the model for which it is sorted."""
    block: Images | None = None
    """Where the images of the tasks lie one behind the other, and room for more behind them."""

    def finished(
        self, outcomes: Sequence[Outcome], started_at: float, model: str
    ) -> list[Finished]:
        """Return each job of the batch with its result.

        ``started_at`` is when the model started on it, on the clock of `Batch.claimed_at`: a
        prefetched batch waits for the one before, and that counts as time in the queue.
        """
        waited_ms = (started_at - self.batch.claimed_at) * 1000
        done = [
            _finished(task.job, outcome, self.batch.now - task.job.ts + waited_ms, model)
            for task, outcome in zip(self.tasks, outcomes, strict=True)
        ]
        return [*done, *self.answered]


def sort_batch(
    batch: Batch, model: str, preparation: Preparation, room: Images | None = None
) -> Work:
    """Separate the jobs that this model can run from those that are answered without it.

    ``room`` is where the pixels were read into.
    """
    tasks: list[Task] = []
    answered: list[Finished] = []
    # The model may have changed since they were read.
    block = room if room is not None and room.shape[1:] == preparation.shape else None
    for claimed in batch.jobs:
        job, pixels = claimed.job, claimed.pixels
        refusal = _refusal(claimed, model, preparation)
        # Other pixels lie elsewhere, or between those of the tasks.
        if pixels is not None and (refusal or not isinstance(pixels, memoryview)):
            block = None
        if refusal is not None:
            answered.append(_refused(job, batch.now, model, preparation, refusal))
        elif isinstance(job, Job) and pixels is not None:
            image = np.frombuffer(pixels, np.uint8).reshape(preparation.shape)
            tasks.append(Task(job, image))
    return Work(batch, tuple(tasks), tuple(answered), preparation, block)


def _refusal(claimed: ClaimedJob, model: str, preparation: Preparation) -> ResultError | None:
    """Return why a job cannot be run here; None where it can."""
    job, pixels = claimed.job, claimed.pixels
    if isinstance(job, UnsupportedJob):
        return ResultError("unsupported_job", job.reason)
    if job.model != model or not _fits(job, preparation):
        how = f"{preparation.resize}, {preparation.interpolation}, {preparation.colour}"
        message = f"this worker runs {model} at {list(preparation.shape)} ({how})"
        return ResultError("model_changed", message)
    if pixels is None:
        return ResultError("timed_out", "the job was cancelled, or its deadline has passed")
    if len(pixels) != job.bytes:
        message = f"{len(pixels)} bytes of pixels instead of {job.bytes}"
        return ResultError("unsupported_job", message)
    return None


def _fits(job: Job, preparation: Preparation) -> bool:
    """Tell whether the picture of a job is prepared as the model needs it."""
    if job.shape != preparation.shape:
        return False
    if job.preparation:
        return job.preparation == preparation.fingerprint
    # Web processes of 0.1.0 do not say how: they squeeze, and their settings say how to resize.
    return preparation == plain(preparation)


def _refused(
    job: Job | UnsupportedJob,
    now: int,
    model: str,
    preparation: Preparation,
    error: ResultError,
) -> Finished:
    done = result_of_error(job, error.code, error.message)
    result = replace(done.result, model=model, queue_ms=max(0, now - job.ts))
    if error.code == "model_changed":
        result = replace(result, shape=preparation.shape, preparation=preparation)
    counter = "expired" if error.code == "timed_out" else "failed"
    return replace(done, result=result, counter=counter)


def _finished(job: Job, outcome: Outcome, queue_ms: float, model: str) -> Finished:
    error = None if outcome.error is None else ResultError("model_failed", outcome.error)
    result = Result(
        id=job.id,
        model=model,
        queue_ms=max(0.0, queue_ms),
        model_ms=outcome.model_ms,
        batch=outcome.batch,
        predictions=asked_labels(job, outcome.predictions),
        error=error,
        version=outcome.version,
        vector=outcome.vector,
    )
    counter = "completed" if error is None else "failed"
    dead = outcome.error or ""
    return bounded(Finished(job.id, job.reply, result, job.result_ttl_ms, counter, dead))


def report(
    model: str, work: Work, finished: Sequence[Finished], kept: Sequence[bool], busy_ms: int
) -> None:
    """Count the jobs of a finished batch and log one line; ``kept`` is False for a lost lease."""
    for counter, count in Counter(j.counter for j in compress(finished, kept)).items():
        metrics.jobs_total.labels(model, counter).inc(count)
    late = [job.id for job, own in zip(finished, kept, strict=True) if not own]
    metrics.leases_lost_total.labels(model).inc(len(late))
    about = work.batch.about()
    name, serving = about.pop("model"), about.pop("version")
    log.info(
        "batch",
        extra={
            "fields": {
                "model": name,
                # The model may have changed since.
                "version": next((j.result.version for j in finished if j.result.version), serving),
                "jobs": len(finished),
                "run": len(work.tasks),
                "solo": work.batch.lost > 0,
                "attempt": work.batch.lost + 1,
                "queue_ms": round(max((j.result.queue_ms for j in finished), default=0), 1),
                "model_ms": busy_ms,
                "failed": sum(job.counter == "failed" for job in finished),
                "late": len(late),
                **about,
                **({"late_ids": late} if late else {}),
            }
        },
    )


def counts_of(outcomes: Sequence[Outcome]) -> dict[str, int]:
    """Return what a batch adds to the counters of its queue.

    Calls of the model are counted by their size, rounded up: a queue has few counters.
    """
    counts = {"batches": int(bool(outcomes)), "busy_ms": round(busy_time_ms(outcomes))}
    sizes = Counter(outcome.batch for outcome in outcomes)
    for size, pictures in sorted(sizes.items()):
        ms = sum(outcome.model_ms for outcome in outcomes if outcome.batch == size) / size
        name = str(_rounded_up(size))
        counts[f"calls:{name}"] = counts.get(f"calls:{name}", 0) + pictures // size
        counts[f"calls_us:{name}"] = counts.get(f"calls_us:{name}", 0) + round(1000 * ms)
    return counts


def _rounded_up(size: int) -> int:
    """Return the least of 1, 2, 4, 8, 12, 16, 24, 32, ... that is not below a size."""
    power: int = 1 << (size - 1).bit_length()
    smaller = power * 3 // 4
    return smaller if power > 8 and size <= smaller else power


def busy_time_ms(outcomes: Sequence[Outcome]) -> float:
    """Return the model's time for a batch: each call counted once, however it was split."""
    return sum(outcome.model_ms / outcome.batch for outcome in outcomes)
