"""Answers to requests that do not reach the application: heads that cannot be served.

What a client is told is always a sentence of our own. gunicorn's texts quote what came as Python
writes it.
"""

import json
import logging
import re
import uuid
from collections.abc import Mapping
from http import HTTPStatus
from types import MappingProxyType
from typing import Any

from gunicorn.http import errors

from imageserve.errors import (
    AddressTooLong,
    BadRequest,
    HeadTooLarge,
    RequestError,
)
from imageserve.web.body import transfer_encoding_refused

log = logging.getLogger(__name__)

LINE_BYTES = 8190
"""Most bytes of the first line of a request, and of each of its headers."""
MOST_HEADERS = 100

NO_HEADERS: Mapping[str, str] = MappingProxyType({})

HARMLESS_TEXT = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")
"""Texts of callers and workers that may stand in a header and in the log."""

HOST = re.compile(r"(?:[\w.~!$&'()*+,;=%-]*|\[[0-9A-Fa-f:.]+\])(?::[0-9]*)?", re.ASCII)
"""What RFC 9110 allows: a name or an address, and a port. It may be empty."""

_SENTENCES: dict[type[Exception], str] = {
    errors.InvalidRequestLine: "its first line is not of the form METHOD ADDRESS HTTP/1.1",
    errors.InvalidRequestMethod: "no method is written like this one",
    errors.InvalidHTTPVersion: "only HTTP/1.0 and HTTP/1.1 are served",
    errors.InvalidHeaderName: "the name of a header has a character that is not allowed there",
    errors.InvalidHeader: "a header is malformed, is there twice, or contradicts another",
    errors.ObsoleteFolding: "a header goes over several lines",
    errors.ExpectationFailed: "of Expect, only 100-continue is understood",
    errors.InvalidSchemeHeaders: "its headers contradict each other about http and https",
}


def check_host(req: Any) -> None:
    """Raise BadRequest where a request of HTTP/1.1 does not say which host it is for."""
    host = next((value for name, value in req.headers if name == "HOST"), None)
    if host is None:
        if req.version >= (1, 1):
            raise BadRequest("a request of HTTP/1.1 needs the header Host")
    elif not HOST.fullmatch(host):
        raise BadRequest("the header Host is not a host name with or without a port")


def as_request_error(exc: BaseException) -> RequestError:
    """Return what a client is told of any error below the application."""
    if isinstance(exc, RequestError):
        return exc
    if isinstance(exc, errors.LimitRequestLine):
        return AddressTooLong(f"the first line of a request may have at most {LINE_BYTES} bytes")
    if isinstance(exc, errors.LimitRequestHeaders):
        return HeadTooLarge(
            f"a request may have at most {MOST_HEADERS} headers of {LINE_BYTES} bytes each"
        )
    if isinstance(exc, errors.ParseException):
        if refused := _transfer_encoding(exc):
            return refused
        return BadRequest(f"this is not an HTTP request that can be served: {_sentence(exc)}")
    log.error("error below the application", exc_info=exc)
    return RequestError("the server has failed")


def _sentence(exc: Exception) -> str:
    name = getattr(exc, "hdr", None)
    if isinstance(exc, errors.InvalidHeader) and re.fullmatch("[A-Za-z-]{1,40}", str(name)):
        return (
            f"the header {str(name).title()} is malformed, is there twice, or contradicts another"
        )
    return _SENTENCES.get(type(exc), "its head is malformed")


def _transfer_encoding(exc: Exception) -> RequestError | None:
    if isinstance(exc, errors.UnsupportedTransferCoding):
        return transfer_encoding_refused(str(exc.hdr))
    headers = getattr(getattr(exc, "req", None), "headers", ())
    values = (value for name, value in headers if name == "TRANSFER-ENCODING")
    return transfer_encoding_refused(",".join(values))


def request_id(sent: str | None) -> str:
    """Return the caller's ``X-Request-Id`` if it may stand in headers and logs, else a new one."""
    return sent if sent and HARMLESS_TEXT.fullmatch(sent) else uuid.uuid4().hex


def error_body(error: RequestError, its_id: str = "") -> dict[str, Any]:
    """Return what an answer says of an error; without the id for one picture of several."""
    body = {"success": False, "error": {"code": error.code, "message": error.message}}
    return {**body, "request_id": its_id} if its_id else body


def raw_response(
    error: RequestError,
    its_id: str = "",
    *,
    close: bool = True,
    more: Mapping[str, str] = NO_HEADERS,
) -> bytes:
    """Return a whole answer, as bytes, with ``more`` headers; ``close``: the connection ends."""
    its_id = its_id or request_id(None)
    body = json.dumps(error_body(error, its_id))
    status = HTTPStatus(error.status)
    again = f"Retry-After: {error.retry_after_s}\r\n" if error.retry_after_s else ""
    again += "".join(f"{name}: {value}\r\n" for name, value in more.items())
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Connection: {'close' if close else 'keep-alive'}\r\n{again}"
        f"Content-Type: application/json\r\nX-Request-Id: {its_id}\r\n"
        f"Content-Length: {len(body) + 1}\r\n\r\n{body}\n"
    ).encode()
