"""Every error that a client is told has a status of gRPC."""

from collections.abc import Iterator

import pytest
from grpc import StatusCode

from imageserve.errors import Busy, NotAnImage, QueueFull, RequestError, ShuttingDown, TimedOut
from imageserve.grpc_server.statuses import STATUSES, metadata_of, status_of


def tree(error: type[RequestError] = RequestError) -> Iterator[type[RequestError]]:
    yield error
    for each in error.__subclasses__():
        yield from tree(each)


@pytest.mark.parametrize("error", list(tree()), ids=lambda error: error.__name__)
def test_each_error_has_a_status_of_its_kind(error: type[RequestError]) -> None:
    status = STATUSES[error.status]

    assert status not in (StatusCode.OK, StatusCode.UNKNOWN)
    # What may be sent again is nothing else than what HTTP answers with 503.
    assert (status is StatusCode.UNAVAILABLE) == (error.status == 503)


def test_what_is_to_be_sent_again_says_when() -> None:
    assert status_of(QueueFull("full", retry_after_s=3)) is StatusCode.UNAVAILABLE
    assert metadata_of(QueueFull("full", retry_after_s=3)) == (
        ("error-code", "queue_full"),
        ("retry-after", "3"),
        ("grpc-retry-pushback-ms", "3000"),
    )
    assert metadata_of(NotAnImage("no")) == (("error-code", "not_an_image"),)
    assert status_of(TimedOut("late")) is StatusCode.DEADLINE_EXCEEDED
    assert {status_of(Busy("")), status_of(ShuttingDown(""))} == {StatusCode.UNAVAILABLE}
