"""What becomes of one picture, and how it is counted."""

from dataclasses import dataclass

from imageserve import metrics
from imageserve.errors import Busy, RequestError
from imageserve.inference.contract import version_name
from imageserve.predictions import LABELS, Prediction
from imageserve.queue.wire import Result
from imageserve.web.keys_file import Caller
from imageserve.web.options import ClassifyOptions
from imageserve.web.refusals import other_version


@dataclass(frozen=True, slots=True)
class Answer:
    """One picture's labels, best first, and where the time went, in ms."""

    predictions: tuple[Prediction, ...]
    decode_ms: float
    queue_ms: float
    model_ms: float
    version: str = ""
    """The version of the model that answered; empty where its worker does not say."""
    vector: bytes = b""
    """As `Result` has it."""


def count(answer: Answer | RequestError, model: str) -> None:
    """Count a picture by its model."""
    metrics.labelled(metrics.pictures_total, model, _outcome(answer)).inc()
    if isinstance(answer, Answer):
        metrics.labelled(metrics.queue_seconds, model).observe(answer.queue_ms / 1000)


def count_for(caller: Caller, answer: Answer | RequestError) -> None:
    """Count a picture by the name of its caller, if there is one."""
    if caller.name:
        metrics.labelled(metrics.key_pictures_total, caller.name, _outcome(answer)).inc()


def _outcome(answer: Answer | RequestError) -> str:
    return answer.code if isinstance(answer, RequestError) else "ok"


def answer_of(result: Result, asked: ClassifyOptions, decode_ms: float) -> Answer | RequestError:
    """Return what a client is answered where its picture was classified."""
    if unfit := _unfit(result, asked):
        return unfit
    labels = result.predictions
    if asked.least:  # Workers give one label at least, those of 0.1.0 all.
        labels = tuple(each for each in labels if each.probability >= asked.least)
    return Answer(
        labels, decode_ms, result.queue_ms, result.model_ms, result.version, result.vector
    )


def _unfit(result: Result, asked: ClassifyOptions) -> RequestError | None:
    """Return the error for an answer of another worker than was asked for, as in a rollout."""
    if asked.version and version_name(result.version) != asked.version:
        return other_version(asked.version)
    lacks_classes = asked.classes and any(each.index is None for each in result.predictions)
    if lacks_classes or (asked.output != LABELS and not result.vector):
        what = "numbers of its classes" if lacks_classes else asked.output
        return Busy(
            f"a worker that gives no {what} took the picture; send it again", retry_after_s=1
        )
    return None
