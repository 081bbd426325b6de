"""The Flask application: the HTTP contract, and nothing else.

Views read a request and raise errors; one handler answers every error in the same shape; one hook
adds the headers, counts and logs. The predictor does the rest.
"""

import json
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from imageserve import metrics
from imageserve.errors import (
    BadRequest,
    Busy,
    MethodNotAllowed,
    NotFound,
    RequestError,
    ShuttingDown,
    told,
)
from imageserve.predictions import LABELS
from imageserve.queue.monitor import Monitor
from imageserve.web.answers import as_bytes, as_json, timings, version_header
from imageserve.web.api_keys import ApiKeys
from imageserve.web.edge import age_s, error_body, request_id
from imageserve.web.greenlets import Turn, Wait, watch_hang_up
from imageserve.web.lifecycle import Lifecycle
from imageserve.web.overview import Overview
from imageserve.web.parameters import checked_priority, read_options
from imageserve.web.predict import Answer, ClassifyOptions, ClientGone, Predictor
from imageserve.web.upload import UploadLimits, UploadMemory, UploadReader, has_body

log = logging.getLogger(__name__)

PROBES = ("/healthz", "/readyz", "/metrics")

JSON, BYTES = "application/json", "application/octet-stream"


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The limits of one web process."""

    upload: UploadLimits
    request_timeout_s: float
    slots: int
    memory_bytes: int
    api_keys: ApiKeys | None = None
    """Who may call /predict; None: everybody."""


class Slots:
    """Requests in progress. When all slots are taken, refuse at once: waiting would delay all."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise Busy where no slot is free. To be called before an upload is read."""
        if self.in_use >= self.limit:
            raise Busy(f"all {self.limit} request slots are taken", retry_after_s=1)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold one slot.

        Raises Busy where none is free.
        """
        with self._lock:
            self.check()
            self.in_use += 1
        metrics.slots_in_use.inc()
        try:
            yield
        finally:
            with self._lock:
                self.in_use -= 1
            metrics.slots_in_use.dec()


@dataclass(slots=True)
class _Call:
    """The request in progress, as ``g.call``: one object, because every access to ``g`` costs."""

    request_id: str
    body_read: bool
    """Whether the whole body was read; the rest would be taken for the next request."""
    began: float = field(default_factory=time.monotonic)
    error_code: str = ""
    bytes: int | None = None
    pictures: int | None = None
    timings: Mapping[str, float] = field(default_factory=dict)
    version: str = ""


def create_app(
    predictor: Predictor, monitor: Monitor, config: WebConfig, lifecycle: Lifecycle
) -> Flask:
    """Build the application around a predictor and a monitor of its queues."""
    app = Flask("imageserve", static_folder=None)
    _add_predict(app, predictor, config, lifecycle)
    entries = {name: served.entry for name, served in predictor.models.items()}
    _add_overview(app, Overview(entries, monitor))
    _add_probes(app, lifecycle)
    _add_errors(app)
    _add_hooks(app, lifecycle)
    return app


# -- /predict -------------------------------------------------------------------------------------


def _add_predict(app: Flask, predictor: Predictor, config: WebConfig, lifecycle: Lifecycle) -> None:
    slots = Slots(config.slots)
    memory = UploadMemory(config.memory_bytes)
    reader = UploadReader(config.upload)

    @app.post("/predict")
    def predict() -> Response:
        if lifecycle.stopping:
            raise ShuttingDown("this server is about to stop", retry_after_s=1)
        headers, priority = request.headers, ""
        if config.api_keys is not None:
            presented = headers.get("Authorization", ""), headers.get("X-API-Key", "")
            priority = config.api_keys.priority(*presented)
        slots.check()
        # The header only lowers what the key has.
        priority = checked_priority(headers.get("X-Priority")) or priority
        timeout = headers.get("X-Request-Timeout")
        longest_s, its_id = config.request_timeout_s, g.call.request_id
        options = read_options(request.args, timeout, longest_s, its_id, priority)
        predictor.check(options)
        if priority:  # By its head alone, the key unknown, it may have seemed more urgent.
            predictor.line.check(options.asked(time.monotonic()))
        with memory.account() as account:
            upload = reader.read(request.environ, account)
            call: _Call = g.call
            call.body_read = True
            call.bytes = upload.bytes
            # Since when its client has waited for this process.
            waited_s = age_s(request.environ.get("gunicorn.socket"))
            # Others may have come first while this one was read.
            asked = options.asked(time.monotonic() - waited_s)
            predictor.line.check(asked, pictures=len(upload.pictures), is_read=True)
            with slots.taken():
                return _predict(predictor, upload.pictures, options, waited_s)


def _predict(
    predictor: Predictor,
    pictures: tuple[bytes | RequestError, ...],
    options: ClassifyOptions,
    waited_s: float,
) -> Response:
    wait = Wait()
    stop_watching = watch_hang_up(request.environ, wait)
    try:
        with metrics.request_seconds.time():
            answers = predictor.predict(pictures, options, wait, waited_s)
    finally:
        stop_watching()
    return _respond(answers, options.output)


def _respond(answers: list[Answer | RequestError], output: str) -> Response:
    call: _Call = g.call
    call.pictures = len(answers)
    good = [answer for answer in answers if isinstance(answer, Answer)]
    call.timings = timings(good)
    call.version = version_header(answer.version for answer in good)
    pause = Turn().give
    if output == LABELS:
        return _json_text(as_json(answers, output, pause))
    as_told = request.accept_mimetypes.best_match([JSON, BYTES], default=JSON)
    if as_told == BYTES and (found := as_bytes(answers)):
        body, shape = found
        response = Response(body, content_type=BYTES, headers={"X-Shape": shape})
    else:
        response = _json_text(as_json(answers, output, pause))
    response.vary.add("Accept")
    return response


# -- what is served, and probes -------------------------------------------------------------------


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


def _add_probes(app: Flask, lifecycle: Lifecycle) -> None:
    @app.get("/healthz")
    def healthz() -> Response:
        return _json({"status": "ok"})

    @app.get("/readyz")
    def readyz() -> Response:
        if lifecycle.draining or lifecycle.stopping:
            return _json({"status": "draining"}, 503)
        if not lifecycle.ready:
            return _json({"status": "waiting for Redis"}, 503)
        return _json({"status": "ready"})


# -- errors ---------------------------------------------------------------------------------------


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
        return Response(status=499)  # For the log only; nginx uses the same number.

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
        return NotFound(f"there is nothing at {told(request.path, 200)}")
    if error.code == 405:
        return MethodNotAllowed(f"{request.method} is not allowed at {told(request.path, 200)}")
    if error.code is not None and error.code < 500:
        return BadRequest(error.description or "the request cannot be understood")
    return RequestError("the request could not be served")


def _error(error: RequestError) -> Response:
    call: _Call = g.call
    call.error_code = error.code
    response = _json(error_body(error, call.request_id), error.status)
    if error.retry_after_s is not None:
        response.headers["Retry-After"] = str(error.retry_after_s)
    if error.status == HTTPStatus.UNAUTHORIZED:
        response.headers["WWW-Authenticate"] = 'Bearer realm="imageserve"'
    return response


def _json(body: Mapping[str, Any], status: int = 200) -> Response:
    return _json_text(json.dumps(body), status)


def _json_text(text: str, status: int = 200) -> Response:
    return Response(text + "\n", status, content_type=JSON)


# -- headers, metrics and log line of every request -----------------------------------------------


def _add_hooks(app: Flask, lifecycle: Lifecycle) -> None:
    @app.before_request
    def begin() -> None:
        its_id = request_id(request.headers.get("X-Request-Id"))
        g.call = _Call(its_id, body_read=not has_body(request.environ))

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
        if not call.body_read or lifecycle.draining:
            response.headers["Connection"] = "close"
        _count_and_log(call, response.status_code, total_ms)
        return response


def _count_and_log(call: _Call, status: int, total_ms: float) -> None:
    endpoint = request.endpoint or "none"
    metrics.requests_total.labels(endpoint, str(status), call.error_code).inc()
    # Probes and dashboards ask all the time; their lines would hide those of pictures.
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
