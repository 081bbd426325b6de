"""Every error imageserve raises on purpose, as a tree: each class says what it stands for.

The message of a RequestError goes to the client, so it says what was wrong and what is allowed, and
nothing about internals. Its ``code`` and ``status`` are part of the HTTP contract.
"""

import math
from http import HTTPStatus


def told(text: str, longest: int) -> str:
    """Return what a client sent as a message to it may have it: shortened, on one line, visible."""
    shown = "".join(each if each.isprintable() else "?" for each in text[:longest])
    return shown or '""'


class ImageserveError(Exception):
    """The root of all errors that imageserve raises on purpose."""


class SettingsError(ImageserveError):
    """A setting has a value that cannot be used. The message names the setting."""


class ModelError(ImageserveError):
    """The model cannot be used."""


class ModelLoadError(ModelError):
    """The model cannot be loaded. The message says what to change."""


class ModelOutOfMemory(ModelError):
    """The device has too little memory for a batch of this size."""


class QueueError(ImageserveError):
    """The queue could not do what was asked."""


class QueueUnavailable(QueueError):
    """Redis cannot be reached, or did not answer in time."""


class QueueForbidden(QueueError):
    """The Redis server forbids or lacks something that the protocol needs."""


class QueueKeyTaken(QueueError):
    """A key of the queue holds another program's data, of another type. The message names it."""


class QueueRefused(QueueError):
    """The queue does not take a job; ``retry_after_s`` says when another try makes sense."""

    def __init__(
        self,
        reason: str,
        backlog: int,
        *,
        retry_after_s: int,
        why: str = "",
        shortest_s: float | None = None,
    ) -> None:
        """``reason``: the name of an `EnqueueCode`, in small letters, or ``not_prepared``.

        ``shortest_s``: with ``would_time_out``, the shortest timeout that would be accepted now;
        None where it is not known.
        """
        super().__init__(f"{reason}: {why or f'{backlog} jobs wait or are in work'}")
        self.reason = reason
        self.backlog = backlog
        self.retry_after_s = retry_after_s
        self.why = why
        self.shortest_s = shortest_s


class ClusterError(ImageserveError):
    """The Kubernetes API did not do what was asked."""


class ClusterUnavailable(ClusterError):
    """The Kubernetes API did not answer, or asked to wait for ``retry_after_s``."""

    def __init__(self, message: str, *, retry_after_s: float | None = None) -> None:
        super().__init__(message)
        self.retry_after_s = retry_after_s


class ClusterForbidden(ClusterError):
    """A right is missing in the Role. The message names verb and resource."""


class ClusterConflict(ClusterError):
    """The object has changed since it was read."""


class ClusterMissing(ClusterError):
    """There is no such object."""


class RequestError(ImageserveError):
    """An error that is sent to the client."""

    code = "internal"
    status = HTTPStatus.INTERNAL_SERVER_ERROR
    version = ""
    """Of the model that was run; empty where none was."""

    def __init__(self, message: str, *, retry_after_s: int | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.retry_after_s = retry_after_s

    @property
    def is_worth_another_try(self) -> bool:
        """Whether the same request may be answered later."""
        return self.status >= 500 or self.status == HTTPStatus.TOO_MANY_REQUESTS


class BadRequest(RequestError):
    """The request cannot be understood; nothing was queued."""

    code = "bad_parameter"
    status = HTTPStatus.BAD_REQUEST


class BadParameter(BadRequest):
    """A query parameter or header has a value that is not allowed."""


class NoImage(BadRequest):
    """The request carries no picture."""

    code = "no_image"


class NotAnImage(BadRequest):
    """The bytes are not a picture of a known format."""

    code = "not_an_image"


class CorruptImage(BadRequest):
    """The bytes begin like a picture, but cannot be decoded."""

    code = "corrupt_image"


class TruncatedImage(BadRequest):
    """The picture ends before it is complete."""

    code = "truncated_image"


class Unauthorized(RequestError):
    """The request needs an API key and has none."""

    code = "unauthorized"
    status = HTTPStatus.UNAUTHORIZED


class Forbidden(RequestError):
    """The API key is not valid, or not for this model."""

    code = "forbidden"
    status = HTTPStatus.FORBIDDEN


class NotFound(RequestError):
    """There is nothing at this address."""

    code = "not_found"
    status = HTTPStatus.NOT_FOUND


class UnknownModel(NotFound):
    """No model of this name is served."""

    code = "unknown_model"


class UnknownVersion(NotFound):
    """No live worker serves this version of the model."""

    code = "unknown_version"


class MethodNotAllowed(RequestError):
    """The address does not support the method."""

    code = "method_not_allowed"
    status = HTTPStatus.METHOD_NOT_ALLOWED


class UploadTooSlow(RequestError):
    """The request did not arrive in time."""

    code = "upload_too_slow"
    status = HTTPStatus.REQUEST_TIMEOUT


class AddressTooLong(RequestError):
    """The first line of the request exceeds its limit."""

    code = "address_too_long"
    status = HTTPStatus.REQUEST_URI_TOO_LONG


class HeadTooLarge(RequestError):
    """The headers of the request exceed their limits."""

    code = "head_too_large"
    status = HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE


class TooLarge(RequestError):
    """Something in the request exceeds its limit."""

    code = "body_too_large"
    status = HTTPStatus.REQUEST_ENTITY_TOO_LARGE


class BodyTooLarge(TooLarge):
    """The whole request body exceeds its limit."""


class ImageTooLarge(TooLarge):
    """One picture exceeds its limit, in bytes or in pixels."""

    code = "image_too_large"


class TooManyImages(TooLarge):
    """The request carries too many pictures."""

    code = "too_many_images"


class UnsupportedFormat(RequestError):
    """The picture has a format that is not accepted."""

    code = "unsupported_format"
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class EncodingRefused(RequestError):
    """The picture is wrapped in an encoding: compressed, base64, JSON."""

    code = "unsupported_encoding"
    status = HTTPStatus.UNSUPPORTED_MEDIA_TYPE


class TransferEncodingRefused(EncodingRefused):
    """The message is sent in an encoding that this server does not know."""

    status = HTTPStatus.NOT_IMPLEMENTED


class RateLimited(RequestError):
    """The API key has sent more pictures than its quota allows; Retry-After says when one may."""

    code = "rate_limited"
    status = HTTPStatus.TOO_MANY_REQUESTS


class ModelFailed(RequestError):
    """The model fails on this picture, even in a batch of its own."""

    code = "model_failed"
    status = HTTPStatus.UNPROCESSABLE_ENTITY


class Unavailable(RequestError):
    """The request cannot be served now; Retry-After says when to try again."""

    code = "busy"
    status = HTTPStatus.SERVICE_UNAVAILABLE


class Busy(Unavailable):
    """This web process has no free request slot."""


class QueueFull(Unavailable):
    """The queue is at its limit of jobs or bytes."""

    code = "queue_full"


def rounded_up(seconds: float) -> float:
    """Return seconds as a client may be told them: 0.34, 1.2 or 15."""
    per_s = 100 if seconds < 1 else 10 if seconds < 10 else 1
    return math.ceil(round(seconds * per_s, 6)) / per_s


class WouldTimeOut(Unavailable):
    """The answer would come after the deadline, so nothing is done for it."""

    code = "would_time_out"

    def __init__(self, shortest_s: float | None, *, retry_after_s: int) -> None:
        """``shortest_s``: the shortest timeout that would be accepted now; None: not known."""
        message = "the answer would come too late"
        if shortest_s is not None:
            shortest = f"{rounded_up(shortest_s):g}"
            message += f"; the shortest X-Request-Timeout that is accepted now is {shortest}"
        super().__init__(message, retry_after_s=retry_after_s)


class RedisUnavailable(Unavailable):
    """The queue cannot be reached."""

    code = "redis_unavailable"


class ShuttingDown(Unavailable):
    """This web process is stopping."""

    code = "shutting_down"


class TimedOut(RequestError):
    """No result came within the deadline; the job is cancelled."""

    code = "timed_out"
    status = HTTPStatus.GATEWAY_TIMEOUT
