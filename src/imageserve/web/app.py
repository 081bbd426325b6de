"""The application: the HTTP contract, and nothing else.

POST /predict goes a short way, because Flask and Werkzeug took a quarter of what a web process does
in Python (decision 40). They serve all other calls. Every answer gets the same headers, count and
line in the log (``web.calls``). What becomes of a picture is the predictor's.
"""

import json
import logging
import threading
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from flask import Flask, Request, Response, g, request
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
from imageserve.web.calls import (
    BYTES,
    JSON,
    PREDICT,
    Call,
    Reply,
    begin,
    bug_reply,
    error_reply,
    finish,
    gone_reply,
    json_reply,
    reply_of,
    status_line,
)
from imageserve.web.edge import age_s
from imageserve.web.greenlets import Turn, Wait, watch_hang_up
from imageserve.web.lifecycle import Lifecycle
from imageserve.web.openapi import PATH, Served, document
from imageserve.web.overview import Overview
from imageserve.web.parameters import checked_priority, read_options
from imageserve.web.predict import Answer, ClassifyOptions, ClientGone, Predictor
from imageserve.web.upload import UploadLimits, UploadMemory, UploadReader

Environ = Mapping[str, Any]

log = logging.getLogger(__name__)


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


class Application(Flask):
    """The application of one web process."""

    def __init__(self, classify: "Classify") -> None:
        super().__init__("imageserve", static_folder=None)
        self.classify = classify
        # For other methods, which Flask refuses.
        self.add_url_rule(PREDICT, "predict", methods=["POST"])

    def wsgi_app(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Answer a WSGI request."""
        path = "/" + environ["PATH_INFO"].lstrip("/")  # As Werkzeug has it.
        if environ["REQUEST_METHOD"] != "POST" or path != PREDICT:
            return super().wsgi_app(environ, start_response)
        reply = self.classify(environ)
        start_response(status_line(reply.status), reply.headers)
        return [reply.body]


def create_app(
    predictor: Predictor, monitor: Monitor, config: WebConfig, lifecycle: Lifecycle
) -> Application:
    """Build the application around a predictor and a monitor of its queues."""
    app = Application(Classify(predictor, config, lifecycle))
    entries = {name: served.entry for name, served in predictor.models.items()}
    _add_overview(app, Overview(entries, monitor))
    _add_probes(app, lifecycle)
    _add_description(app, predictor, config)
    _add_errors(app)
    _add_hooks(app, lifecycle)
    return app


# -- /predict -------------------------------------------------------------------------------------


class Classify:
    """Answers POST /predict."""

    def __init__(self, predictor: Predictor, config: WebConfig, lifecycle: Lifecycle) -> None:
        self._predictor = predictor
        self._config = config
        self._lifecycle = lifecycle
        self._slots = Slots(config.slots)
        self._memory = UploadMemory(config.memory_bytes)
        self._reader = UploadReader(config.upload)

    def __call__(self, environ: Environ) -> Reply:
        """Return the answer to a WSGI request. Raises nothing."""
        call = begin(environ, PREDICT)
        try:
            reply = self._answer(environ, call)
        except RequestError as error:
            reply = error_reply(error, call)
        except ClientGone:
            reply = gone_reply(call)
        except Exception as error:
            reply = bug_reply(log, error, call)
        draining = self._lifecycle.draining
        reply.headers += finish(log, call, "predict", reply.status, draining=draining)
        return reply

    def _answer(self, environ: Environ, call: Call) -> Reply:
        if self._lifecycle.stopping:
            raise ShuttingDown("this server is about to stop", retry_after_s=1)
        config, predictor, priority = self._config, self._predictor, ""
        if config.api_keys is not None:
            presented = environ.get("HTTP_AUTHORIZATION", ""), environ.get("HTTP_X_API_KEY", "")
            priority = config.api_keys.priority(*presented)
        self._slots.check()
        # The header only lowers what the key has.
        priority = checked_priority(environ.get("HTTP_X_PRIORITY")) or priority
        timeout = environ.get("HTTP_X_REQUEST_TIMEOUT")
        longest_s, its_id = config.request_timeout_s, call.request_id
        options = read_options(_parameters(environ), timeout, longest_s, its_id, priority)
        predictor.check(options)
        if priority:  # By its head alone, the key unknown, it may have seemed more urgent.
            predictor.line.check(options.asked(time.monotonic()))
        with self._memory.account() as account:
            upload = self._reader.read(environ, account)
            call.body_read = True
            call.bytes = upload.bytes
            # Since when its client has waited for this process.
            waited_s = age_s(environ.get("gunicorn.socket"))
            # Others may have come first while this one was read.
            asked = options.asked(time.monotonic() - waited_s)
            predictor.line.check(asked, pictures=len(upload.pictures), is_read=True)
            with self._slots.taken():
                answers = self._answers(upload.pictures, options, environ, waited_s)
                return _reply(answers, options.output, environ, call)

    def _answers(
        self,
        pictures: tuple[bytes | RequestError, ...],
        options: ClassifyOptions,
        environ: Environ,
        waited_s: float,
    ) -> list[Answer | RequestError]:
        wait = Wait()
        stop_watching = watch_hang_up(environ, wait)
        began = time.perf_counter()
        try:
            return self._predictor.predict(pictures, options, wait, waited_s)
        finally:
            metrics.request_seconds.observe(time.perf_counter() - began)
            stop_watching()


def _parameters(environ: Environ) -> Mapping[str, str]:
    return Request(dict(environ)).args if environ.get("QUERY_STRING") else {}


def _reply(
    answers: list[Answer | RequestError], output: str, environ: Environ, call: Call
) -> Reply:
    call.pictures = len(answers)
    good = [answer for answer in answers if isinstance(answer, Answer)]
    call.timings = timings(good)
    call.version = version_header(answer.version for answer in good)
    pause = Turn().give
    if output == LABELS:
        return json_reply(as_json(answers, output, pause))
    accepted = Request(dict(environ)).accept_mimetypes
    if accepted.best_match([JSON, BYTES], default=JSON) == BYTES and (found := as_bytes(answers)):
        body, shape = found
        reply = reply_of(body, BYTES)
        reply.headers.append(("X-Shape", shape))
    else:
        reply = json_reply(as_json(answers, output, pause))
    reply.headers.append(("Vary", "Accept"))
    return reply


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


def _add_description(app: Flask, predictor: Predictor, config: WebConfig) -> None:
    formats, needs_key = predictor.decoding.formats, config.api_keys is not None
    served = Served(config.upload, formats, config.request_timeout_s, needs_key)
    text = json.dumps(document(served))

    @app.get(PATH)
    def openapi() -> Response:
        return _response(json_reply(text))


# -- errors ---------------------------------------------------------------------------------------


def _add_errors(app: Flask) -> None:
    @app.errorhandler(RequestError)
    def request_error(error: RequestError) -> Response:
        return _response(error_reply(error, g.call))

    @app.errorhandler(HTTPException)
    def http_error(error: HTTPException) -> Response:
        response = _response(error_reply(_from_werkzeug(error), g.call))
        response.allow.update(getattr(error, "valid_methods", None) or ())
        return response

    @app.errorhandler(Exception)
    def bug(error: Exception) -> Response:
        return _response(bug_reply(log, error, g.call))


def _from_werkzeug(error: HTTPException) -> RequestError:
    if error.code == 404:
        return NotFound(f"there is nothing at {told(request.path, 200)}")
    if error.code == 405:
        return MethodNotAllowed(f"{request.method} is not allowed at {told(request.path, 200)}")
    if error.code is not None and error.code < 500:
        return BadRequest(error.description or "the request cannot be understood")
    return RequestError("the request could not be served")


def _response(reply: Reply) -> Response:
    return Response(reply.body, reply.status, reply.headers)


def _json(body: Mapping[str, Any], status: int = 200) -> Response:
    return _response(json_reply(json.dumps(body), status))


# -- headers, metrics and log line of every request -----------------------------------------------


def _add_hooks(app: Flask, lifecycle: Lifecycle) -> None:
    @app.before_request
    def note() -> None:
        g.call = begin(request.environ, request.path)

    @app.after_request
    def complete(response: Response) -> Response:
        endpoint, status = request.endpoint or "none", response.status_code
        for name, value in finish(log, g.call, endpoint, status, draining=lifecycle.draining):
            response.headers[name] = value
        return response
