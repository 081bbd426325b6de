"""Why a picture got no answer: a class for each kind, by the codes of docs/http-api.md."""

from imageserve.errors import ImageserveError


class ClientError(ImageserveError):
    """The root of all errors of the client."""

    def __init__(self, message: str, code: str, *, status: int = 0, request_id: str = "") -> None:
        """``status``: 0 where no answer came."""
        super().__init__(message)
        self.message = message
        self.code = code
        self.status = status
        self.request_id = request_id
        self.retry_after_s: float | None = None
        """What the server asked to wait; None where it did not."""
        self.passes = False
        """Whether the same request may succeed a little later."""

    def __str__(self) -> str:
        request = f", request {self.request_id}" if self.request_id else ""
        return f"{self.message} ({self.code}{request})"


class BadPicture(ClientError):
    """This picture cannot be classified; others can."""


class Unreadable(BadPicture):
    """The picture could not be read here, so it was not sent."""


class TooLarge(BadPicture):
    """The picture exceeds a limit of the server, which the message names."""


class ModelFailed(BadPicture):
    """The model fails on this picture."""


class BadRequest(ClientError):
    """The server does not understand what was asked: a parameter, an address."""


class UnknownModel(BadRequest):
    """The server has no model of this name."""


class Unauthorized(ClientError):
    """The server wants an API key: ``api_key`` or IMAGESERVE_API_KEY."""


class Forbidden(ClientError):
    """The API key is not valid, or not for this model."""


class Unavailable(ClientError):
    """The server took no picture as long as there was time."""


class RateLimited(Unavailable):
    """The API key was over its quota as long as there was time."""


class TimedOut(ClientError):
    """No answer came in time."""


class ServerFailed(ClientError):
    """A bug of the server; its log has more, under the request id."""


class Unreachable(ClientError):
    """No connection, or it broke before the answer, as long as there was time."""


class NotImageserve(ClientError):
    """What answers at this address is not imageserve."""


_BY_CODE: dict[str, type[ClientError]] = {
    **dict.fromkeys(
        ("no_image", "not_an_image", "corrupt_image", "truncated_image", "unsupported_format"),
        BadPicture,
    ),
    "image_too_large": TooLarge,
    "body_too_large": TooLarge,
    "unsupported_encoding": BadPicture,
    "model_failed": ModelFailed,
    "unknown_model": UnknownModel,
    "unauthorized": Unauthorized,
    "forbidden": Forbidden,
    "rate_limited": RateLimited,
    "timed_out": TimedOut,
    "upload_too_slow": TimedOut,
}


def kind(status: int, code: str) -> type[ClientError]:
    """Return the class for an error of the server. A code of a newer one counts by its status."""
    if code in _BY_CODE:
        return _BY_CODE[code]
    if status in PASSING:
        return Unavailable
    return ServerFailed if status >= 500 and status != 501 else BadRequest


PASSING = frozenset({429, 502, 503, 504})
"""Statuses, of the server or of a proxy before it, after which another try makes sense."""
