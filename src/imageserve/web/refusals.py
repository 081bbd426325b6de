"""What a client hears when its picture could not be queued or has no labels."""

import logging

from imageserve.errors import (
    Busy,
    ModelFailed,
    QueueFull,
    RedisUnavailable,
    RequestError,
    TimedOut,
    WouldTimeOut,
)
from imageserve.queue.capacity import retry_after_s
from imageserve.queue.queue import Admission, Limits, Verdict
from imageserve.queue.replies import JOB_LOST
from imageserve.queue.wire import ResultError

log = logging.getLogger(__name__)


def not_admitted(admission: Admission, limits: Limits, per_second: float) -> RequestError:
    """Return the error for a job that was not let in, with a computed time to come back."""
    backlog = admission.backlog
    if admission.verdict is Verdict.WOULD_TIME_OUT:
        wait_s = retry_after_s(backlog - limits.max_backlog + 1, per_second)
        message = f"{backlog} pictures are ahead: the answer would come too late"
        return WouldTimeOut(message, retry_after_s=wait_s)
    if admission.verdict is Verdict.NO_ROOM:
        return QueueFull("Redis is out of memory", retry_after_s=retry_after_s(1, per_second))
    # Come back when a tenth of the queue has been worked off, not when the first place is free:
    # that one is taken by whoever is nearest.
    wait_s = retry_after_s(max(1, backlog // 10), per_second)
    return QueueFull(f"{backlog} pictures are waiting, which is the limit", retry_after_s=wait_s)


def not_classified(error: ResultError) -> RequestError:
    """Return the error for a job that came back without labels."""
    if error.code == "model_failed":
        return ModelFailed(error.message)
    if error.code == "timed_out":
        return TimedOut("the deadline passed before the picture was run")
    if error.code == "busy":
        return Busy(error.message, retry_after_s=1)
    if error.code == JOB_LOST:
        return redis_unavailable()
    if error.code in ("model_changed", "unsupported_job"):
        # A rollout is under way, and this picture met the wrong side of it every time.
        return Busy("the model is being changed; send the picture again", retry_after_s=1)
    log.error("a result with an unknown error: %s %s", error.code, error.message)
    return RequestError("the request could not be served")


def redis_unavailable() -> RequestError:
    return RedisUnavailable("the queue cannot be reached at the moment", retry_after_s=2)
