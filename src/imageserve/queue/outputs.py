"""What may be asked of a model beside its likeliest labels: what workers give, and bounds. Pure.

Workers announce it in their heartbeats. Web processes ask for a vector only while all live workers
of the model give it: one of 0.1.0 would answer with labels alone.
"""

from collections.abc import Iterable
from dataclasses import replace

from imageserve.predictions import LABELS, Prediction
from imageserve.queue.snapshot import Snapshot, WorkerInfo
from imageserve.queue.wire import Finished, Job, ResultError, encode_result

MOST_RESULT_BYTES = 2**20
"""Longest result in Redis, where results wait until their clients have read them."""

NEVER, NOT_YET = "never", "not_yet"


def missing(snapshot: Snapshot, model: str, output: str) -> tuple[str, str] | None:
    """Say why an output cannot be asked of a model: `NEVER` or `NOT_YET`, and a sentence.

    None where all live workers of its name give it, and where none lives: the one that comes will
    say.
    """
    workers = [each for each in snapshot.live_workers if each.model == model]
    able = [each for each in workers if output in given_by(each)]
    if len(able) == len(workers):
        return None
    if able or any(each.outputs is None for each in workers):
        return NOT_YET, f"{len(able)} of {len(workers)} workers of the model give its {output}"
    return NEVER, f"the model {model} names no {output}"


def versions(snapshot: Snapshot, model: str) -> tuple[str, ...]:
    """Return the versions that the live workers of a model serve, in order."""
    return tuple(sorted({each.version for each in snapshot.live_workers if each.model == model}))


def given_by(worker: WorkerInfo) -> tuple[str, ...]:
    """Return what a worker gives; those of 0.1.0 do not say it and give labels alone."""
    return (LABELS, *(worker.outputs.vectors if worker.outputs else ()))


def given_by_all(workers: Iterable[WorkerInfo]) -> list[str]:
    """Return what each of these workers gives."""
    first, *others = map(given_by, workers)
    return [each for each in first if all(each in other for other in others)]


def asked_labels(job: Job, predictions: tuple[Prediction, ...]) -> tuple[Prediction, ...]:
    """Return the labels that a job asks for, of all that its batch asked for, best first.

    One at least, however improbable: readers of version 1 take a result without labels for none.
    """
    kept = predictions[: job.top]
    if not job.least:
        return kept
    return tuple(each for each in kept if each.probability >= job.least) or kept[:1]


def bounded(done: Finished) -> Finished:
    """Return a job with its result, or with an error where that is too long for Redis."""
    result = done.result
    if not result.is_long:
        return done
    size = len(encode_result(result))
    if size <= MOST_RESULT_BYTES:
        return done
    message = (
        f"the answer has {size} bytes, more than the {MOST_RESULT_BYTES} that one may have: "
        + ("name a shorter inner layer" if result.vector else "ask for fewer labels, by top or min")
    )
    error = ResultError("model_failed", message)
    return replace(
        done, counter="failed", result=replace(result, predictions=(), vector=b"", error=error)
    )
