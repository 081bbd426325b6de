"""What is answered without the application, and what is added to its answers.

- A head that cannot be served is told why, in a sentence of our own: gunicorn's texts quote what
  came as Python writes it.
- A picture is refused by its head alone where there is too much already. It is not read: its bytes
  are thrown away as they come, and where they are few the connection goes on. That costs a small
  part of an answer.
- Pages of other origins may call where CORS_ORIGINS allows it. A browser sends such a call only
  after the server has allowed it, and shows the page only those headers that the server names.
"""

import json
import logging
import random
import re
import struct
from collections.abc import Callable, Collection, Mapping
from http import HTTPStatus
from socket import IPPROTO_TCP, TCP_INFO
from types import MappingProxyType
from typing import Any
from urllib.parse import unquote

from gunicorn.http import errors

from imageserve import metrics
from imageserve.errors import (
    AddressTooLong,
    BadRequest,
    Busy,
    HeadTooLarge,
    RequestError,
    WouldTimeOut,
)
from imageserve.web.greenlets import silent_timeout
from imageserve.web.lifecycle import Lifecycle
from imageserve.web.upload import has_body, transfer_encoding_refused

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


def as_request_error(exc: BaseException, ids: Mapping[str, str]) -> RequestError:
    """Return what a client is told of any error below the application.

    ``ids``: what the log says of its request.
    """
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
    log.error("error below the application", exc_info=exc, extra={"fields": ids})
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
    if sent and HARMLESS_TEXT.fullmatch(sent):
        return sent
    # Not a secret, so no system call. Python seeds the generator anew after a fork.
    return f"{random.getrandbits(128):032x}"


PREDICT = "/predict"
_INFER = re.compile("/v2/models/([^/]+)(?:/versions/([^/]+))?/infer")


def infer_path(path: str) -> tuple[str, str] | None:
    """Return the model and the version ("" for any) that an address of inference names."""
    found = _INFER.fullmatch(path)
    return None if found is None else (unquote(found[1]), unquote(found[2] or ""))


def route(path: str) -> str:
    """Return the address of a call with pictures, without the names that its caller has chosen."""
    named = infer_path(path)
    if named is None:
        return path
    return f"/v2/models/{{model}}{'/versions/{version}' if named[1] else ''}/infer"


def takes_pictures(method: str, path: str) -> bool:
    """Whether a call sends pictures: these do not go by Flask."""
    return method == "POST" and (path == PREDICT or _INFER.fullmatch(path) is not None)


def speaks_v2(path: str) -> bool:
    """Whether an address belongs to the Open Inference Protocol."""
    return path.startswith("/v2/") or path == "/v2"


def error_body(error: RequestError, its_id: str = "", path: str = "") -> dict[str, Any]:
    """Return what an answer says of an error; without the id for one picture of several.

    ``path``: the address that was asked for. Below ``/v2`` an error is a text.
    """
    if speaks_v2(path):
        return {"error": error.message, "code": error.code, "request_id": its_id}
    body = {"success": False, "error": {"code": error.code, "message": error.message}}
    return {**body, "request_id": its_id} if its_id else body


def raw_response(
    error: RequestError,
    its_id: str = "",
    *,
    path: str = "",
    close: bool = True,
    more: Mapping[str, str] = NO_HEADERS,
) -> bytes:
    """Return a whole answer, as bytes, with ``more`` headers; ``close``: the connection ends.

    ``path``: as in `error_body`.
    """
    its_id = its_id or request_id(None)
    body = json.dumps(error_body(error, its_id, path))
    status = HTTPStatus(error.status)
    again = f"Retry-After: {error.retry_after_s}\r\n" if error.retry_after_s else ""
    again += "".join(f"{name}: {value}\r\n" for name, value in more.items())
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\n"
        f"Connection: {'close' if close else 'keep-alive'}\r\n{again}"
        f"Content-Type: application/json\r\nX-Request-Id: {its_id}\r\n"
        f"Content-Length: {len(body) + 1}\r\n\r\n{body}\n"
    ).encode()


# -- pictures that would be late -------------------------------------------------------------------


SMALL_BYTES = 2**20
DISCARD_S = 2.0
"""After a refusal the rest of a body of this size is thrown away within this time, and the
connection is kept. Otherwise it is closed."""

_LAST_DATA_RECEIVED = 52
"""Where Linux's ``struct tcp_info`` has the milliseconds since the last data came, 32 bits."""

_waste = bytearray(2**16)

_refused_total = {
    (endpoint, error.code): metrics.requests_total.labels(
        endpoint, str(int(error.status)), error.code
    )
    for error in (Busy, WouldTimeOut)
    for endpoint in ("predict", "infer")
}


def is_picture(req: Any) -> bool:
    """Whether gunicorn has read the head of a request that carries pictures."""
    return takes_pictures(req.method, req.path)


def age_s(sock: Any) -> float:
    """Return how long what a client has sent last has been here, as the kernel knows it."""
    try:
        told = sock.getsockopt(IPPROTO_TCP, TCP_INFO, _LAST_DATA_RECEIVED + 4)
        return float(struct.unpack_from("I", told, _LAST_DATA_RECEIVED)[0]) / 1000
    except (AttributeError, OSError, struct.error):
        return 0.0  # Another kind of socket, or none.


def refuse(
    req: Any,
    sock: Any,
    error: Busy | WouldTimeOut,
    ids: Mapping[str, str],
    *,
    draining: bool,
    more: Mapping[str, str] = NO_HEADERS,
) -> None:
    """Answer a request of which only the head was read, with ``more`` headers.

    The next request of the connection then begins where this one ends. ``ids``: what the log says
    of it, as `Call.ids` has it. Raises StopIteration where the connection cannot be kept.
    """
    its_id = ids["request_id"]
    kept = not draining and _can_be_kept(req, dict(req.headers))
    endpoint = "predict" if req.path == PREDICT else "infer"
    _refused_total[endpoint, error.code].inc()
    log.debug("refused early", extra={"fields": ids})
    sock.sendall(raw_response(error, its_id, path=req.path, close=not kept, more=more))
    if not (kept and _discard_body(req.body.reader, sock)):
        raise StopIteration


def _can_be_kept(req: Any, headers: Mapping[str, str]) -> bool:
    if req.should_close() or "EXPECT" in headers:  # It may or may not send its body now.
        return False
    # A chunked body has no length.
    length: int = getattr(req.body.reader, "length", SMALL_BYTES + 1)
    return length <= SMALL_BYTES


def _discard_body(reader: Any, sock: Any) -> bool:
    """Read a body of known length and drop it; return whether it came whole and in time."""
    read_ahead = reader.unreader.take_buffered()
    left: int = reader.length - len(read_ahead)
    if left < 0:  # The next request has come too.
        reader.unreader.unread(read_ahead[reader.length :])
    with silent_timeout(DISCARD_S if left > 0 else None):
        while left > 0 and (count := sock.recv_into(_waste, min(left, len(_waste)))):
            left -= count
    if left <= 0:
        reader.length = 0
    return left <= 0


# -- pages of other origins ------------------------------------------------------------------------


ANY = "*"

_ALLOWED = {
    "Access-Control-Allow-Methods": "GET, HEAD, POST",
    "Access-Control-Allow-Headers": "Authorization, Content-Type, "
    "Inference-Header-Content-Length, traceparent, tracestate, X-API-Key, X-Priority, "
    "X-Request-Id, X-Request-Timeout",
    "Access-Control-Max-Age": "600",
}
_EXPOSED = (
    "Inference-Header-Content-Length, Retry-After, Server-Timing, X-Model-Version, X-Request-Id, "
    "X-Shape"
)


class Cors:
    """The origins of CORS_ORIGINS: none, some, or all."""

    def __init__(self, origins: Collection[str] = ()) -> None:
        self._origins = frozenset(origins)

    def headers(self, origin: str | None) -> dict[str, str]:
        """Return what an answer says to a page of this origin."""
        if not self._origins:
            return {}
        if ANY in self._origins:
            return {"Access-Control-Allow-Origin": ANY, "Access-Control-Expose-Headers": _EXPOSED}
        # A cache must not give the answer for one origin to another one.
        if origin not in self._origins:
            return {"Vary": "Origin"}
        return {
            "Access-Control-Allow-Origin": str(origin),
            "Access-Control-Expose-Headers": _EXPOSED,
            "Vary": "Origin",
        }

    def preflight(self, method: str, origin: str | None, asked: str | None) -> dict[str, str]:
        """Return what a browser is told that asks before it sends; nothing if it does not ask.

        ``asked`` is the header Access-Control-Request-Method.
        """
        if method != "OPTIONS" or asked is None:
            return {}
        told = self.headers(origin)
        return {**told, **_ALLOWED} if "Access-Control-Allow-Origin" in told else {}


def at_the_edge(
    application: Callable[..., Any], cors: Cors, lifecycle: Lifecycle
) -> Callable[..., Any]:
    """Add what every answer needs, and answer preflights.

    gunicorn drops ``Connection: close`` from an application's headers; here it is heeded. Pages of
    other origins get their headers.
    """

    def wrapped(environ: Mapping[str, Any], start_response: Any) -> Any:
        origin = environ.get("HTTP_ORIGIN")
        asked = environ.get("HTTP_ACCESS_CONTROL_REQUEST_METHOD")
        allowed = cors.preflight(environ["REQUEST_METHOD"], origin, asked)
        if allowed and not has_body(environ):  # A body would be taken for the next request.
            if lifecycle.draining:
                start_response.__self__.force_close()
            said = {"X-Request-Id": request_id(environ.get("HTTP_X_REQUEST_ID")), **allowed}
            start_response("204 No Content", list(said.items()))
            return []

        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if ("Connection", "close") in headers:
                start_response.__self__.force_close()
            headers.extend(cors.headers(origin).items())
            return start_response(status, headers, exc_info)

        return application(environ, start)

    return wrapped
