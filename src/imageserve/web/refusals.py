"""What clients are told of pictures that the queue refuses, or that come back without labels."""

import logging
import math
from collections.abc import Iterable, Mapping, Sequence

from imageserve.errors import (
    BadParameter,
    Busy,
    ModelFailed,
    QueueFull,
    QueueRefused,
    RateLimited,
    RedisUnavailable,
    RequestError,
    TimedOut,
    UnknownModel,
    UnknownVersion,
    WouldTimeOut,
    told,
)
from imageserve.inference.contract import version_name
from imageserve.preparation import Pixels, Preparation
from imageserve.queue.outputs import NEVER, NOT_YET
from imageserve.queue.quota import RATE_LIMITED
from imageserve.queue.wire import LOST, UNREADABLE, WOULD_TIME_OUT, ResultError

log = logging.getLogger(__name__)


def unknown_model(name: str, served: Iterable[str]) -> UnknownModel:
    """Return the error for a model that is not served."""
    return UnknownModel(f"there is no model {told(name, 80)}; served are {', '.join(served)}")


def wrong_model(other: str, model: str, queue: str) -> RequestError:
    """Return the error for a job that met a worker of another model, which must not answer it."""
    name = told(other, 80)
    message = f"the model {name} works on the queue {queue} of the model {model}"
    return Busy(message, retry_after_s=2)


def fitting(picture: Pixels, preparation: Preparation) -> bytes:
    """Return the pixels of a picture that its client has prepared.

    Raises BadParameter where it has another size or number of colours than the model takes.
    """
    if picture.shape != preparation.shape:
        needed, sent = list(preparation.shape), list(picture.shape)
        raise BadParameter(
            f"the model takes pixels of {needed} (height, width, colours), not {sent}"
        )
    return picture.data


def check_version(version: str, model: str, served: Sequence[str]) -> None:
    """Raise UnknownVersion unless live workers serve a version.

    Where none lives, the one that comes may.
    """
    names = [version_name(each) for each in served]
    if names and version not in names:
        raise UnknownVersion(
            f"no worker of the model {model} serves version {told(version, 80)}; "
            f"served are {told(', '.join(names), 200)}"
        )


def other_version(version: str) -> RequestError:
    """Return the error for a picture that another version of its model has answered."""
    message = f"version {told(version, 80)} is being replaced: another one took the picture"
    return Busy(message, retry_after_s=1)


_NOT_ADMITTED: Mapping[str, tuple[type[RequestError], str]] = {
    NOT_YET: (Busy, "{why}"),
    "not_prepared": (Busy, "pictures for the model {model} cannot be prepared now: {why}"),
    "collision": (Busy, "no free job id was found"),
    "pixels_lost": (Busy, "Redis lost the picture; send it again"),
    "bytes_full": (
        QueueFull,
        "{backlog} pictures are waiting, and with this one their pixels are more than may wait",
    ),
    RATE_LIMITED: (RateLimited, "{why}"),
    "no_room": (QueueFull, "Redis is out of memory"),
}
_FULL = QueueFull, "{backlog} pictures are waiting, which is the limit"


def not_admitted(refusal: QueueRefused, model: str, spent_s: float = 0.0) -> RequestError:
    """Return the error for a job that the queue refused.

    ``spent_s``: what its request has needed, or will need, of its time before it is queued.
    """
    if refusal.reason == NEVER:
        return BadParameter(refusal.why)
    if refusal.reason == WOULD_TIME_OUT:
        shortest_s = None if refusal.shortest_s is None else spent_s + refusal.shortest_s
        return WouldTimeOut(shortest_s, retry_after_s=refusal.retry_after_s)
    error, sentence = _NOT_ADMITTED.get(refusal.reason, _FULL)
    message = sentence.format(why=refusal.why, model=model, backlog=refusal.backlog)
    return error(message, retry_after_s=refusal.retry_after_s)


def given_back(timeout_s: float, shortest_s: float | None, spent_s: float) -> WouldTimeOut:
    """Return the error for a job that a worker has given back, because it would end too late.

    ``timeout_s`` is what its request had, and ``spent_s`` what it needed of that before its job was
    queued; ``shortest_s``: as in `QueueRefused`.
    """
    if shortest_s is None:
        return WouldTimeOut(None, retry_after_s=1)
    shortest_s += spent_s
    wait_s = math.ceil(shortest_s - timeout_s)
    return WouldTimeOut(shortest_s, retry_after_s=min(60, max(1, wait_s)))


def not_classified(error: ResultError, ids: Mapping[str, str]) -> RequestError:
    """Return the error for a job whose result has no labels; ``ids``: of its request."""
    if error.code == "model_failed":
        return ModelFailed(error.message)
    if error.code == "timed_out":
        return TimedOut("the deadline passed before the picture was run")
    if error.code == "busy":
        return Busy(error.message, retry_after_s=1)
    if error.code == LOST:
        return redis_unavailable()
    if error.code in ("model_changed", "unsupported_job"):
        # A rollout is under way, and this picture met the wrong side of it each time.
        return Busy("the model is being changed; send the picture again", retry_after_s=1)
    if error.code != UNREADABLE:
        log.error(
            "a result has an error that this version does not know: %.40r",
            error.code,
            extra={"fields": ids},
        )
    return Busy("the answer cannot be read; send the picture again", retry_after_s=1)


def redis_unavailable() -> RequestError:
    return RedisUnavailable("the queue cannot be reached at the moment", retry_after_s=2)
