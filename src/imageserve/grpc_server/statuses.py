"""The status of gRPC for each of our errors, and what its metadata say."""

from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType

from grpc import StatusCode

from imageserve.errors import RequestError

Metadata = tuple[tuple[str, str], ...]

STATUSES: Mapping[int, StatusCode] = MappingProxyType(
    {
        HTTPStatus.BAD_REQUEST: StatusCode.INVALID_ARGUMENT,
        HTTPStatus.UNAUTHORIZED: StatusCode.UNAUTHENTICATED,
        HTTPStatus.FORBIDDEN: StatusCode.PERMISSION_DENIED,
        HTTPStatus.NOT_FOUND: StatusCode.NOT_FOUND,
        HTTPStatus.METHOD_NOT_ALLOWED: StatusCode.UNIMPLEMENTED,
        HTTPStatus.REQUEST_TIMEOUT: StatusCode.DEADLINE_EXCEEDED,
        HTTPStatus.REQUEST_ENTITY_TOO_LARGE: StatusCode.INVALID_ARGUMENT,
        HTTPStatus.REQUEST_URI_TOO_LONG: StatusCode.INVALID_ARGUMENT,
        HTTPStatus.UNSUPPORTED_MEDIA_TYPE: StatusCode.INVALID_ARGUMENT,
        HTTPStatus.UNPROCESSABLE_ENTITY: StatusCode.INVALID_ARGUMENT,
        HTTPStatus.REQUEST_HEADER_FIELDS_TOO_LARGE: StatusCode.INVALID_ARGUMENT,
        HTTPStatus.TOO_MANY_REQUESTS: StatusCode.RESOURCE_EXHAUSTED,
        HTTPStatus.INTERNAL_SERVER_ERROR: StatusCode.INTERNAL,
        HTTPStatus.NOT_IMPLEMENTED: StatusCode.UNIMPLEMENTED,
        # What clients of gRPC may send again.
        HTTPStatus.SERVICE_UNAVAILABLE: StatusCode.UNAVAILABLE,
        HTTPStatus.GATEWAY_TIMEOUT: StatusCode.DEADLINE_EXCEEDED,
    }
)
"""By the status of HTTP, which each error has."""


def status_of(error: RequestError) -> StatusCode:
    return STATUSES[error.status]


def metadata_of(error: RequestError) -> Metadata:
    """Return the code of an error, and when another try makes sense.

    Clients of gRPC that try again by themselves heed ``grpc-retry-pushback-ms``.
    """
    code = (("error-code", error.code),)
    if error.retry_after_s is None:
        return code
    pushback_ms = str(1000 * error.retry_after_s)
    again = (("retry-after", str(error.retry_after_s)), ("grpc-retry-pushback-ms", pushback_ms))
    return (*code, *again)
