"""The errors that clients see: their codes and statuses are the HTTP contract."""

from collections.abc import Iterator

import pytest

from imageserve import errors
from imageserve.errors import ImageserveError, RequestError

CONTRACT = {
    "NoImage": (400, "no_image"),
    "NotAnImage": (400, "not_an_image"),
    "CorruptImage": (400, "corrupt_image"),
    "TruncatedImage": (400, "truncated_image"),
    "BadRequest": (400, "bad_parameter"),
    "BadParameter": (400, "bad_parameter"),
    "Unauthorized": (401, "unauthorized"),
    "Forbidden": (403, "forbidden"),
    "NotFound": (404, "not_found"),
    "UnknownModel": (404, "unknown_model"),
    "UnknownVersion": (404, "unknown_version"),
    "MethodNotAllowed": (405, "method_not_allowed"),
    "UploadTooSlow": (408, "upload_too_slow"),
    "AddressTooLong": (414, "address_too_long"),
    "HeadTooLarge": (431, "head_too_large"),
    "TooLarge": (413, "body_too_large"),
    "BodyTooLarge": (413, "body_too_large"),
    "ImageTooLarge": (413, "image_too_large"),
    "TooManyImages": (413, "too_many_images"),
    "UnsupportedFormat": (415, "unsupported_format"),
    "EncodingRefused": (415, "unsupported_encoding"),
    "TransferEncodingRefused": (501, "unsupported_encoding"),
    "RateLimited": (429, "rate_limited"),
    "ModelFailed": (422, "model_failed"),
    "RequestError": (500, "internal"),
    "Unavailable": (503, "busy"),
    "Busy": (503, "busy"),
    "QueueFull": (503, "queue_full"),
    "WouldTimeOut": (503, "would_time_out"),
    "RedisUnavailable": (503, "redis_unavailable"),
    "ShuttingDown": (503, "shutting_down"),
    "TimedOut": (504, "timed_out"),
}


def family(kind: type[ImageserveError]) -> Iterator[type[ImageserveError]]:
    yield kind
    for child in kind.__subclasses__():
        yield from family(child)


def test_every_error_for_clients_is_in_the_contract() -> None:
    found = {
        kind.__name__: (int(kind.status), kind.code)
        for kind in family(RequestError)
        if issubclass(kind, RequestError) and kind.__module__ == errors.__name__
    }

    assert found == CONTRACT


@pytest.mark.parametrize("kind", list(family(ImageserveError)), ids=lambda kind: kind.__name__)
def test_every_error_has_a_docstring(kind: type[ImageserveError]) -> None:
    assert kind.__doc__
    assert kind.__doc__.strip().split("\n")[0].endswith(".")


def test_a_request_error_carries_its_message_and_the_seconds_to_retry_after() -> None:
    error = errors.QueueFull("3 pictures are waiting", retry_after_s=7)

    assert (str(error), error.message, error.retry_after_s) == (*2 * ["3 pictures are waiting"], 7)
    assert errors.TimedOut("too late").retry_after_s is None
