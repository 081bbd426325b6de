"""What every request has: its id and its times, its count and its line in the log. No framework."""

import json
import logging
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cache
from http import HTTPStatus
from typing import Any

from imageserve import metrics
from imageserve.errors import RequestError
from imageserve.logger import write
from imageserve.trace_context import MOST_TEXT, Span, TraceContext, Value, log_ids, read_context
from imageserve.tracing import NO_TRACER, Tracer, wall_s
from imageserve.web.edge import error_body, request_id, route
from imageserve.web.upload import has_body

PROBES = ("/healthz", "/readyz", "/metrics")

JSON, BYTES = "application/json", "application/octet-stream"

Headers = list[tuple[str, str]]


@dataclass(slots=True)
class Reply:
    """An answer."""

    status: int
    headers: Headers
    body: bytes


@cache
def status_line(status: int) -> str:
    """Return a status as HTTP/1.1 writes it."""
    phrase = next((each.phrase for each in HTTPStatus if each == status), "Unknown")
    return f"{status} {phrase.upper()}"


@dataclass(slots=True)
class Call:
    """The request in progress, as plain facts."""

    method: str
    path: str
    request_id: str
    body_read: bool
    """Whether the whole body was read; the rest would be taken for the next request."""
    began: float
    error_code: str = ""
    bytes: int | None = None
    pictures: int | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    version: str = ""
    key: str = ""
    """The name of the caller's API key."""
    model: str = ""
    """The name of the model, once it is known."""
    parent: TraceContext | None = None
    """The span of its caller."""
    context: TraceContext | None = None
    """Its own span; that of its caller where it is not recorded."""
    scheme: str = "http"

    @property
    def ids(self) -> dict[str, str]:
        """What every line of the log about it says."""
        return log_ids(self.request_id, self.context)


def begin(environ: Mapping[str, Any], path: str, tracer: Tracer = NO_TRACER) -> Call:
    """Take note of a WSGI request."""
    its_id = request_id(environ.get("HTTP_X_REQUEST_ID"))
    method = environ["REQUEST_METHOD"]
    call = Call(method, path, its_id, not has_body(environ), time.monotonic())
    call.parent = read_context(environ.get("HTTP_TRACEPARENT"), environ.get("HTTP_TRACESTATE"))
    call.context = tracer.begin(call.parent)
    call.scheme = environ.get("wsgi.url_scheme", "http")
    return call


def finish(
    log: logging.Logger, call: Call, endpoint: str, status: int, *, draining: bool
) -> Headers:
    """Count and log an answered request; return the headers that its answer needs."""
    total_ms = (time.monotonic() - call.began) * 1000
    headers = [("X-Request-Id", call.request_id)]
    if call.path not in PROBES:
        parts = [f"{name};dur={ms:.1f}" for name, ms in call.timings.items()]
        headers.append(("Server-Timing", ", ".join([*parts, f"total;dur={total_ms:.1f}"])))
    if call.version:
        headers.append(("X-Model-Version", call.version))
    if not call.body_read or draining:
        headers.append(("Connection", "close"))
    metrics.labelled(metrics.requests_total, endpoint, str(status), call.error_code).inc()
    _log(log, call, status, total_ms)
    return headers


def record_request(tracer: Tracer, call: Call, status: int, grpc_status: str = "") -> None:
    """Record the span of a request that is answered, if it is sampled.

    ``grpc_status``: the name of the status that a call of gRPC ends with.
    """
    if call.context is None or not tracer.records(call.context):
        return
    told: dict[str, Value | None] = {
        "imageserve.request_id": call.request_id,
        "imageserve.key": call.key,
        "imageserve.model": call.model,
        "imageserve.model_version": call.version,
        "imageserve.pictures": call.pictures,
        "error.type": call.error_code,
    }
    # The names of OpenTelemetry, where it has some.
    if grpc_status:
        told |= {"rpc.system.name": "grpc", "rpc.method": call.path.strip("/")}
        told |= {"rpc.response.status_code": grpc_status}
    else:
        told |= {"http.request.method": call.method, "url.path": call.path[:MOST_TEXT]}
        told |= {"url.scheme": call.scheme, "http.route": route(call.path)}
        told |= {"http.response.status_code": status}
    tracer.record(
        Span(
            "request",
            call.context,
            call.parent,
            wall_s(call.began),
            time.time(),
            {name: value for name, value in told.items() if value not in (None, "")},
            kind="server",
            error=call.error_code if status >= HTTPStatus.INTERNAL_SERVER_ERROR else "",
        )
    )


def _log(log: logging.Logger, call: Call, status: int, total_ms: float) -> None:
    # Probes and dashboards ask all the time; their lines would hide those of pictures.
    level = logging.DEBUG if call.method == "GET" else logging.INFO
    if not log.isEnabledFor(level):
        return
    fields = {
        **call.ids,
        "method": call.method,
        "path": call.path,
        "status": status,
        "code": call.error_code,
        "key": call.key,
        "bytes": call.bytes,
        "pictures": call.pictures,
        "model": call.model,
        "version": call.version,
        **{f"{name}_ms": round(ms, 1) for name, ms in call.timings.items()},
        "total_ms": round(total_ms, 1),
    }
    present = {name: value for name, value in fields.items() if value not in (None, "")}
    write(log, level, "request", present)


def error_reply(error: RequestError, call: Call) -> Reply:
    """Return the answer that tells an error."""
    call.error_code = error.code
    reply = json_reply(json.dumps(error_body(error, call.request_id, call.path)), error.status)
    if error.retry_after_s is not None:
        reply.headers.append(("Retry-After", str(error.retry_after_s)))
    if error.status == HTTPStatus.UNAUTHORIZED:
        reply.headers.append(("WWW-Authenticate", 'Bearer realm="imageserve"'))
    return reply


def gone_reply(call: Call) -> Reply:
    """Return what stands for an answer where the client hung up: for the log only."""
    call.error_code = "client_gone"
    return reply_of(b"", JSON, 499)  # nginx uses the same number.


def bug_error(log: logging.Logger, error: Exception, call: Call) -> RequestError:
    """Log an error that nobody expected, and return what its client is told."""
    log.critical("bug while answering a request", exc_info=error, extra={"fields": call.ids})
    return RequestError("the server has failed; the request id finds it in its log")


def bug_reply(log: logging.Logger, error: Exception, call: Call) -> Reply:
    """Log an error that nobody expected, and return its answer."""
    return error_reply(bug_error(log, error, call), call)


def json_reply(text: str, status: int = 200) -> Reply:
    return reply_of(f"{text}\n".encode(), JSON, status)


def reply_of(body: bytes, content_type: str, status: int = 200) -> Reply:
    return Reply(status, [("Content-Type", content_type), ("Content-Length", str(len(body)))], body)
