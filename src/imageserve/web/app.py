"""The application: the HTTP contract, and nothing else.

Calls that send pictures go a short way (``web.classify``), because Flask and Werkzeug took a
quarter of what a web process does in Python (decision 40). They serve all other calls. Every answer
gets the same headers, count and line in the log (``web.calls``).
"""

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from typing import Any

from flask import Flask, Response, g, request
from werkzeug.exceptions import HTTPException

from imageserve import metrics
from imageserve.errors import BadRequest, MethodNotAllowed, NotFound, RequestError, told
from imageserve.queue.monitor import Monitor
from imageserve.web.calls import (
    Reply,
    begin,
    bug_reply,
    error_reply,
    finish,
    json_reply,
    status_line,
)
from imageserve.web.classify import Classify, Environ, WebConfig
from imageserve.web.edge import PREDICT, speaks_v2, takes_pictures
from imageserve.web.infer_door import InferDoor
from imageserve.web.inference_pages import InferencePages, not_served
from imageserve.web.lifecycle import Lifecycle
from imageserve.web.openapi import PATH, Served, document
from imageserve.web.overview import Overview
from imageserve.web.page import HEADERS, NO_PAGE, PageFile
from imageserve.web.predict import Predictor
from imageserve.web.predict_door import PredictDoor
from imageserve.web.upload import UploadLimits

log = logging.getLogger(__name__)


class Application(Flask):
    """The application of one web process."""

    def __init__(self, classify: Classify, limits: UploadLimits) -> None:
        super().__init__("imageserve", static_folder=None)
        self._classify = classify
        self._predict, self._infer = PredictDoor(limits), InferDoor(limits)
        # For other methods, which Flask refuses.
        self.add_url_rule(PREDICT, "predict", methods=["POST"])
        for path in _both("/infer"):
            self.add_url_rule(path, "infer", methods=["POST"])

    def wsgi_app(self, environ: Any, start_response: Any) -> Iterable[bytes]:
        """Answer a WSGI request."""
        path = "/" + environ["PATH_INFO"].lstrip("/")  # As Werkzeug has it.
        if not takes_pictures(environ["REQUEST_METHOD"], path):
            return super().wsgi_app(environ, start_response)
        reply = self.classify({**environ, "PATH_INFO": path})
        start_response(status_line(reply.status), reply.headers)
        return [reply.body]

    def classify(self, environ: Environ) -> Reply:
        """Answer a WSGI request that sends pictures. Raises nothing."""
        door = self._predict if environ["PATH_INFO"] == PREDICT else self._infer
        return self._classify.answer(environ, door)


def create_app(
    predictor: Predictor,
    monitor: Monitor,
    config: WebConfig,
    lifecycle: Lifecycle,
    page: Mapping[str, PageFile] = NO_PAGE,
) -> Application:
    """Build the application around a predictor and a monitor of its queues.

    ``page``: the files of the page by their paths.
    """
    app = Application(Classify(predictor, config, lifecycle), config.upload)
    entries = {name: served.entry for name, served in predictor.models.items()}
    _add_overview(app, Overview(entries, monitor, config.queue))
    _add_inference(app, InferencePages(entries, monitor, config.upload.max_images), lifecycle)
    _add_page(app, page)
    _add_probes(app, lifecycle)
    _add_description(app, predictor, config)
    _add_errors(app)
    _add_hooks(app, lifecycle)
    return app


# -- what is served, the page, and probes ---------------------------------------------------------


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


def _both(ending: str) -> tuple[str, str]:
    """Return the addresses of something about a model, and about one of its versions."""
    model = "/v2/models/<model>"
    return f"{model}{ending}", f"{model}/versions/<version>{ending}"


def _add_inference(app: Flask, pages: InferencePages, lifecycle: Lifecycle) -> None:
    @app.get("/v2/")
    @app.get("/v2")
    def server() -> Response:
        return _json(pages.server())

    @app.get("/v2/health/live")
    def live() -> Response:
        return _json({"live": True})

    @app.get("/v2/health/ready")
    def ready() -> Response:
        is_ready = lifecycle.ready and not (lifecycle.draining or lifecycle.stopping)
        return _json({"ready": is_ready}, 200 if is_ready else 503)

    def model_ready(model: str, version: str = "") -> Response:
        is_ready = pages.is_ready(model, version)
        return _json({"name": model, "ready": is_ready}, 200 if is_ready else 503)

    @app.get("/v2/models/stats")
    def statistics() -> Response:
        return _json(pages.statistics())

    views: dict[str, Callable[..., Response]] = {
        "": lambda model, version="": _json(pages.metadata(model, version)),
        "/config": lambda model, version="": _json(pages.config(model, version)),
        "/stats": lambda model, version="": _json(pages.statistics(model, version)),
        "/ready": model_ready,
    }
    for ending, view in views.items():
        for path in _both(ending):
            app.add_url_rule(path, f"v2{ending}", view, methods=["GET"])


def _add_page(app: Flask, files: Mapping[str, PageFile]) -> None:
    def page() -> Response:
        file = files[request.path]
        response = Response(file.body, headers=HEADERS, content_type=file.content_type)
        response.set_etag(file.etag)
        response.make_conditional(request)
        return response

    for path in files:
        app.add_url_rule(path, "page", page, methods=["GET"])


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
    models = list(predictor.models)
    served = Served(models, config.upload, formats, config.request_timeout_s, needs_key)
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


_IMPLIED = {"HEAD", "OPTIONS"}
"""Methods that Flask adds by itself."""


def _from_werkzeug(error: HTTPException) -> RequestError:
    if error.code == 404 and speaks_v2(request.path):
        return not_served(request.path)
    if error.code == 404:
        return NotFound(f"there is nothing at {told(request.path, 200)}")
    if error.code == 405:
        others = " or ".join(sorted({*(getattr(error, "valid_methods", None) or ())} - _IMPLIED))
        where = told(request.path, 200)
        return MethodNotAllowed(f"{request.method} is not allowed at {where}; allowed is {others}")
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
