"""The Flask application: the HTTP contract, and nothing else.

Views read a request and raise errors; one handler answers every error in the one shape; one hook
adds the headers, counts and logs. What happens between is the predictor's business.
"""

import json
import logging
import time
import uuid
from collections.abc import Callable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from imageserve import metrics
from imageserve.errors import (
    BadRequest,
    MethodNotAllowed,
    NotFound,
    RequestError,
    ShuttingDown,
)
from imageserve.web.api_keys import ApiKeys
from imageserve.web.overview import Overview, SnapshotReader
from imageserve.web.parameters import checked_timeout_s, checked_top, listed, sane_request_id
from imageserve.web.predict import Answer, ClassifyOptions, ClientGone, Predictor, Wait
from imageserve.web.slots import Slots, UploadMemory
from imageserve.web.upload import Deadline, UploadLimits, UploadReader

log = logging.getLogger(__name__)

PROBES = ("/healthz", "/readyz", "/metrics")


def _no_deadline(seconds: float) -> nullcontext[None]:
    del seconds
    return nullcontext()


def _never_hangs_up(environ: Mapping[str, Any], wait: Wait) -> Callable[[], None]:
    del environ, wait
    return lambda: None


@dataclass(frozen=True, slots=True)
class Server:
    """What the application needs to know of the server it runs in."""

    deadline: Deadline = _no_deadline
    """Ends the reading of an upload that takes too long."""
    watch: Callable[[Mapping[str, Any], Wait], Callable[[], None]] = _never_hangs_up
    """Tells a wait when the client hangs up; returns how to stop watching."""
    is_ready: Callable[[], bool] = lambda: True
    """False before the first contact with Redis."""
    is_draining: Callable[[], bool] = lambda: False
    is_stopping: Callable[[], bool] = lambda: False


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The limits of one web process."""

    upload: UploadLimits
    request_timeout_s: float
    slots: int = 256
    memory_bytes: int = 256 * 2**20
    api_keys: ApiKeys | None = None
    """Who may classify; None: anybody."""


@dataclass(slots=True)
class _Call:
    """What is known of the request in hand; ``g.call``, because each look at ``g`` costs."""

    request_id: str
    body_read: bool
    """Whether nothing of the body is left to be taken for the next request."""
    began: float = field(default_factory=time.monotonic)
    error_code: str = ""
    bytes: int | None = None
    pictures: int | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    version: str = ""


def create_app(
    predictor: Predictor,
    monitor: SnapshotReader,
    config: WebConfig,
    server: Server | None = None,
) -> Flask:
    """Build the application around a predictor and a monitor of its queues."""
    app = Flask("imageserve", static_folder=None)
    server = server or Server()
    _add_predict(app, predictor, config, server)
    entries = {name: served.entry for name, served in predictor.models.items()}
    _add_overview(app, Overview(entries, monitor))
    _add_probes(app, server)
    _add_errors(app)
    _add_hooks(app, server)
    return app


def _add_predict(app: Flask, predictor: Predictor, config: WebConfig, server: Server) -> None:
    slots = Slots(config.slots)
    memory = UploadMemory(config.memory_bytes)
    reader = UploadReader(config.upload, server.deadline)

    @app.post("/predict")
    def predict() -> Response:
        if server.is_stopping():
            raise ShuttingDown("this server is about to stop", retry_after_s=1)
        if config.api_keys is not None:
            headers = request.headers
            config.api_keys.check(headers.get("Authorization", ""), headers.get("X-API-Key", ""))
        slots.check()
        options = _read_options(config.request_timeout_s)
        predictor.model(options.model)
        with memory.account() as account:
            upload = reader.read(request.environ, account)
            call: _Call = g.call
            call.body_read = True
            call.bytes = upload.bytes
            with slots.taken():
                return _predict(predictor, server, upload.pictures, options)


def _read_options(longest_s: float) -> ClassifyOptions:
    return ClassifyOptions(
        model=request.args.get("model"),
        top=checked_top(request.args.get("top")),
        timeout_s=checked_timeout_s(request.headers.get("X-Request-Timeout"), longest_s),
        trace=g.call.request_id,
    )


def _predict(
    predictor: Predictor,
    server: Server,
    pictures: tuple[bytes | RequestError, ...],
    options: ClassifyOptions,
) -> Response:
    wait = Wait()
    stop_watching = server.watch(request.environ, wait)
    try:
        with metrics.request_seconds.time():
            answers = predictor.predict(pictures, options, wait)
    finally:
        stop_watching()
    return _respond(answers)


def _respond(answers: list[Answer | RequestError]) -> Response:
    call: _Call = g.call
    call.pictures = len(answers)
    good = [answer for answer in answers if isinstance(answer, Answer)]
    call.timings = _timings(good)
    call.version = listed(answer.version for answer in good)
    if len(answers) == 1:
        return _json(_success(answers[0]))
    return _json({"success": True, "results": _results(answers)})


def _success(answer: Answer | RequestError) -> dict[str, Any]:
    if isinstance(answer, RequestError):
        raise answer
    predictions = [{"label": p.label, "probability": p.probability} for p in answer.predictions]
    return {"success": True, "predictions": predictions}


def _results(answers: list[Answer | RequestError]) -> list[dict[str, Any]]:
    """Return one result per picture.

    Raises the first error that is ours (5xx) where no picture got an answer: then the whole
    request is worth sending again, and its status should say so.
    """
    ours = [a for a in answers if isinstance(a, RequestError) and a.status >= 500]
    if ours and not any(isinstance(answer, Answer) for answer in answers):
        raise ours[0]
    return [
        {"success": False, "error": _error_body(answer)}
        if isinstance(answer, RequestError)
        else _success(answer)
        for answer in answers
    ]


def _timings(answers: list[Answer]) -> dict[str, float]:
    """Return where the time went, in ms: decoding adds up, waiting happens side by side."""
    if not answers:
        return {}
    return {
        "decode": sum(answer.decode_ms for answer in answers),
        "queue": max(answer.queue_ms for answer in answers),
        "model": max(answer.model_ms for answer in answers),
    }


def _add_overview(app: Flask, overview: Overview) -> None:
    @app.get("/models")
    def models() -> Response:
        return _json({"models": overview.models()})

    @app.get("/status")
    def status() -> Response:
        return _json(overview.status())

    @app.get("/metrics")
    def prometheus() -> Response:
        return Response(metrics.exposition(overview.readings()), content_type=metrics.CONTENT_TYPE)


def _add_probes(app: Flask, server: Server) -> None:
    @app.get("/healthz")
    def healthz() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz")
    def readyz() -> Response:
        if server.is_draining() or server.is_stopping():
            return _json({"status": "draining"}, 503)
        if not server.is_ready():
            return _json({"status": "waiting for Redis"}, 503)
        return _json({"status": "ready"})


def _add_errors(app: Flask) -> None:
    @app.errorhandler(RequestError)
    def request_error(error: RequestError) -> Response:
        return _error(error)

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        return _error(_from_werkzeug(error))

    @app.errorhandler(ClientGone)
    def client_gone(error: ClientGone) -> Response:
        del error
        g.call.error_code = "client_gone"
        return Response(status=499)  # Seen by nobody but the log; the number is nginx's.

    @app.errorhandler(Exception)
    def bug(error: Exception) -> Response:
        log.critical(
            "bug while answering a request",
            exc_info=error,
            extra={"fields": {"request_id": g.call.request_id}},
        )
        return _error(RequestError("the server has failed; the request id finds it in its log"))


def _from_werkzeug(error: HTTPException) -> RequestError:
    if error.code == 404:
        return NotFound(f"there is nothing at {request.path[:200]}")
    if error.code == 405:
        return MethodNotAllowed(f"{request.method} is not allowed at {request.path[:200]}")
    if error.code is not None and error.code < 500:
        return BadRequest(error.description or "the request cannot be understood")
    return RequestError("the request could not be served")


def _error(error: RequestError) -> Response:
    call: _Call = g.call
    call.error_code = error.code
    body = {"success": False, "error": _error_body(error), "request_id": call.request_id}
    response = _json(body, error.status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    if error.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="imageserve"'
    return response


def _error_body(error: RequestError) -> dict[str, str]:
    return {"code": error.code, "message": error.message}


def _json(body: Mapping[str, Any], status: int = 200) -> Response:
    return Response(json.dumps(body) + "\n", status, content_type="application/json")


def _add_hooks(app: Flask, server: Server) -> None:
    @app.before_request
    def begin() -> None:
        request_id = sane_request_id(request.headers.get("X-Request-Id")) or uuid.uuid4().hex
        g.call = _Call(request_id, body_read=request.method in ("GET", "HEAD"))

    @app.after_request
    def finish(response: Response) -> Response:
        call: _Call = g.call
        total_ms = (time.monotonic() - call.began) * 1000
        response.headers["X-Request-Id"] = call.request_id
        if request.path not in PROBES:
            timings = {**call.timings, "total": total_ms}
            parts = (f"{name};dur={ms:.1f}" for name, ms in timings.items())
            response.headers["Server-Timing"] = ", ".join(parts)
        if call.version:
            response.headers["X-Model-Version"] = call.version
        if not call.body_read or server.is_draining():
            # The rest of an unread body would be taken for the next request.
            response.headers["Connection"] = "close"
        _count_and_log(call, response.status_code, total_ms)
        return response


def _count_and_log(call: _Call, status: int, total_ms: float) -> None:
    endpoint = request.endpoint or "none"
    metrics.requests_total.labels(endpoint, str(status), call.error_code).inc()
    # Probes and dashboards ask all the time; a line for each would drown the pictures' lines.
    level = logging.DEBUG if request.method == "GET" else logging.INFO
    if not log.isEnabledFor(level):
        return
    fields = {
        "request_id": call.request_id,
        "method": request.method,
        "path": request.path,
        "status": status,
        "code": call.error_code,
        "bytes": call.bytes,
        "pictures": call.pictures,
        "version": call.version,
        **{f"{name}_ms": round(ms, 1) for name, ms in call.timings.items()},
        "total_ms": round(total_ms, 1),
    }
    present = {name: value for name, value in fields.items() if value not in (None, "")}
    log.log(level, "request", extra={"fields": present})
