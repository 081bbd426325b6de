"""The description of the HTTP API, OpenAPI 3.1. Pure.

Errors come from the tree in `imageserve.errors`, parameters from `web.parameters`, limits from the
settings of the server that is asked. What bodies look like stands in `web.openapi_schemas`.
"""

from collections.abc import Collection
from dataclasses import dataclass, replace
from typing import Any

from imageserve import __version__
from imageserve.errors import MethodNotAllowed, NotFound, RateLimited, RequestError, UnknownVersion
from imageserve.web import openapi_inference as inference
from imageserve.web.calls import BYTES
from imageserve.web.openapi_parts import (
    HEADERS,
    Operation,
    all_errors,
    answer,
    errors,
    header_refs,
    parameter,
    view,
)
from imageserve.web.openapi_schemas import BYTES as ANY_BYTES
from imageserve.web.openapi_schemas import TEXT, many, one_of, ref, schemas, thing
from imageserve.web.parameters import MODEL, PARAMETERS
from imageserve.web.upload import UploadLimits

PATH = "/openapi.json"

_DESCRIPTION = """\
Post a picture, get its most likely labels. Errors have one shape: a code for programs, a sentence
for people, and the id that finds the request in the server's log."""


@dataclass(frozen=True, slots=True)
class Served:
    """What a description tells of the server that is asked for it."""

    models: Collection[str]
    """The names of the models, the default first."""
    limits: UploadLimits
    formats: Collection[str]
    """The formats of pictures that are accepted, such as ``jpeg``."""
    request_timeout_s: float
    needs_key: bool


def document(served: Served) -> dict[str, Any]:
    """Return the description of a server, ready to be written as JSON."""
    security: inference.Security = [{name: []} for name in _KEYS] if served.needs_key else []
    models = one_of(*served.models)
    parameters = [*PARAMETERS, *inference.PARAMETERS]
    parameters[parameters.index(MODEL)] = replace(MODEL, schema=models)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "imageserve",
            "version": __version__,
            "description": _DESCRIPTION,
            "license": {"name": "Apache 2.0", "identifier": "Apache-2.0"},
        },
        "servers": [{"url": "/"}],
        "tags": _TAGS,
        "security": [],
        "paths": {
            "/predict": {"post": {**_predict(served), "security": security}},
            **_views(),
            **inference.inference_paths(security, models),
        },
        "components": {
            "schemas": {**schemas(), **inference.inference_schemas()},
            "parameters": {each.name: parameter(each) for each in parameters},
            "headers": {**HEADERS, **inference.HEADERS},
            "securitySchemes": _KEYS if served.needs_key else {},
        },
    }


_TAGS = [
    {"name": "pictures", "description": "Classify pictures."},
    {"name": "service", "description": "What is served, and how it is doing."},
    inference.TAG,
]

_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}


# -- pictures --------------------------------------------------------------------------------------


def _predict(served: Served) -> Operation:
    elsewhere: list[type[RequestError]] = [NotFound, UnknownVersion, MethodNotAllowed]
    if not served.needs_key:
        elsewhere.append(RateLimited)
    return {
        "operationId": "predict",
        "summary": "Classify one picture, or several",
        "description": "In a request with several pictures, one bad picture does not fail the "
        f"others. An answer is there within {served.request_timeout_s:g} s.",
        "tags": ["pictures"],
        "parameters": [{"$ref": f"#/components/parameters/{each.name}"} for each in PARAMETERS],
        "requestBody": {"required": True, "content": _bodies(served)},
        "responses": {
            "200": _classified(),
            **errors([kind for kind in all_errors() if kind not in elsewhere]),
        },
    }


def _bodies(served: Served) -> dict[str, Any]:
    kinds = [f"image/{name}" for name in sorted(served.formats)]
    limits = served.limits
    images = {
        **many(ANY_BYTES, minItems=1, maxItems=limits.max_images),
        "description": f"Up to {limits.max_images} pictures of up to {limits.max_image_bytes} "
        "bytes, each a part of the form of this name.",
    }
    form = {"schema": thing(image=images), "encoding": {"image": {"contentType": ", ".join(kinds)}}}
    return {"multipart/form-data": form, **{kind: {} for kind in [*kinds, BYTES]}}


def _classified() -> dict[str, Any]:
    timing = "Server-Timing", "X-Model-Version"
    told = answer("What each picture shows.", ref("Answer"), *timing, "X-Shape")
    # Numbers, where a vector is asked for and ``Accept`` prefers bytes: float32, little-endian.
    told["content"][BYTES] = {}
    return told


# -- what is served, and probes --------------------------------------------------------------------


def _views() -> dict[str, Any]:
    """Return the calls without a body."""
    probe = ref("Probe")
    ready = view("readyz", "Whether it serves: for load balancers", answer("It serves.", probe))
    # Not an error of the contract: nobody is told to try again.
    ready["responses"]["503"] = answer("It has not reached Redis yet, or is about to stop.", probe)
    metrics = {
        "description": "Prometheus text, over all processes of this server.",
        "headers": header_refs(),
        "content": {"text/plain": {"schema": TEXT}},
    }
    return {
        path: {"get": operation}
        for path, operation in {
            "/models": view("models", "What is served", answer("By name.", ref("Models"))),
            "/status": view("status", "How it is doing", answer("By name.", ref("Status"))),
            "/metrics": view("metrics", "Numbers for Prometheus", metrics),
            "/healthz": view("healthz", "Whether the process lives", answer("It does.", probe)),
            "/readyz": ready,
            PATH: view("openapi", "This document", answer("It.", {"type": "object"})),
        }.items()
    }
