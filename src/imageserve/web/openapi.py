"""The description of the HTTP API, OpenAPI 3.1. Pure.

Errors come from the tree in `imageserve.errors`, parameters from `web.parameters`, limits from the
settings of the server that is asked. What bodies look like stands in `web.openapi_schemas`.
"""

from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from http import HTTPStatus
from typing import Any

from imageserve import __version__
from imageserve.errors import (
    AddressTooLong,
    BadRequest,
    HeadTooLarge,
    MethodNotAllowed,
    NotFound,
    RequestError,
    TransferEncodingRefused,
    UploadTooSlow,
)
from imageserve.web.calls import BYTES, JSON
from imageserve.web.openapi_schemas import BYTES as ANY_BYTES
from imageserve.web.openapi_schemas import COUNT, TEXT, Schema, many, one_of, ref, schemas, thing
from imageserve.web.parameters import PARAMETERS, REQUEST_ID, Parameter
from imageserve.web.upload import UploadLimits

PATH = "/openapi.json"

OF_EVERY_CALL: Collection[type[RequestError]] = (
    BadRequest,
    UploadTooSlow,
    AddressTooLong,
    HeadTooLarge,
    RequestError,
    TransferEncodingRefused,
)
"""What is answered to a head that cannot be served, and by a bug: at any address."""

_DESCRIPTION = """\
Post a picture, get its most likely labels. Errors have one shape: a code for programs, a sentence
for people, and the id that finds the request in the server's log."""

Operation = dict[str, Any]


@dataclass(frozen=True, slots=True)
class Served:
    """What a description tells of the server that is asked for it."""

    limits: UploadLimits
    formats: Collection[str]
    """The formats of pictures that are accepted, such as ``jpeg``."""
    request_timeout_s: float
    needs_key: bool


def document(served: Served) -> dict[str, Any]:
    """Return the description of a server, ready to be written as JSON."""
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
        "paths": {"/predict": {"post": _predict(served)}, **_views()},
        "components": {
            "schemas": schemas(),
            "parameters": {each.name: parameter(each) for each in PARAMETERS},
            "headers": _HEADERS,
            "securitySchemes": _KEYS if served.needs_key else {},
        },
    }


# -- parts that calls share ------------------------------------------------------------------------

_TAGS = [
    {"name": "pictures", "description": "Classify pictures."},
    {"name": "service", "description": "What is served, and how it is doing."},
]

_KEYS = {
    "bearer": {"type": "http", "scheme": "bearer", "description": "An API key."},
    "header": {"type": "apiKey", "in": "header", "name": "X-API-Key"},
}

_HEADERS: Mapping[str, Any] = {
    "X-Request-Id": {
        "description": "Finds this request in the log.",
        "required": True,
        "schema": {**TEXT, "pattern": "^[A-Za-z0-9._:/+=@-]{1,128}$"},
    },
    "Server-Timing": {
        "description": "Where the time went, in milliseconds: `decode`, `queue`, `model`, `total`.",
        "schema": TEXT,
    },
    "X-Model-Version": {
        "description": "The version of the model that answered, if it has one; several with commas "
        "between, where it was changed meanwhile.",
        "schema": TEXT,
    },
    "X-Shape": {
        "description": "The sides of the numbers in the body: `1000`, or `3,1000` for three "
        "pictures.",
        "schema": {**TEXT, "pattern": "^[0-9]+(,[0-9]+)?$"},
    },
    "Retry-After": {
        "description": "Seconds after which another try makes sense.",
        "required": True,
        "schema": COUNT,
    },
    "WWW-Authenticate": {"description": "How to send a key.", "required": True, "schema": TEXT},
}


def parameter(of: Parameter) -> dict[str, Any]:
    """Return the description of a parameter."""
    return {"name": of.name, "in": of.place, "description": of.meaning, "schema": of.schema}


def header_refs(*names: str) -> dict[str, Any]:
    """Return the headers of an answer, beside the one that all have."""
    return {name: {"$ref": f"#/components/headers/{name}"} for name in (REQUEST_ID.name, *names)}


def answer(description: str, schema: Schema, *headers: str) -> dict[str, Any]:
    """Return an answer in JSON."""
    told = {"description": description, "headers": header_refs(*headers)}
    return {**told, "content": {JSON: {"schema": schema}}}


# -- errors ----------------------------------------------------------------------------------------


def all_errors(root: type[RequestError] = RequestError) -> Iterator[type[RequestError]]:
    """Yield every error that a client may get, the more general one first."""
    yield root
    for kind in root.__subclasses__():
        yield from all_errors(kind)


def errors(kinds: Collection[type[RequestError]]) -> dict[str, Any]:
    """Return the answers that tell these errors, by status."""
    meanings: dict[HTTPStatus, dict[str, str]] = {}
    for kind in kinds:
        first = (kind.__doc__ or "").partition("\n")[0]
        meanings.setdefault(kind.status, {}).setdefault(kind.code, first)
    return {str(int(status)): _error(status, meanings[status]) for status in sorted(meanings)}


def _error(status: HTTPStatus, meanings: Mapping[str, str]) -> dict[str, Any]:
    description = "\n".join(f"- `{code}`: {meaning}" for code, meaning in meanings.items())
    code = {"properties": {"error": {"properties": {"code": one_of(*meanings)}}}}
    more = {
        HTTPStatus.UNAUTHORIZED: ["WWW-Authenticate"],
        HTTPStatus.SERVICE_UNAVAILABLE: ["Retry-After"],
    }
    return answer(description, {"allOf": [ref("Error"), code]}, *more.get(status, []))


# -- pictures --------------------------------------------------------------------------------------


def _predict(served: Served) -> Operation:
    elsewhere = (NotFound, MethodNotAllowed)
    return {
        "operationId": "predict",
        "summary": "Classify one picture, or several",
        "description": "In a request with several pictures, one bad picture does not fail the "
        f"others. An answer is there within {served.request_timeout_s:g} s.",
        "tags": ["pictures"],
        "security": [{name: []} for name in _KEYS] if served.needs_key else [],
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
    ready = _view("readyz", "Whether it serves: for load balancers", answer("It serves.", probe))
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
            "/models": _view("models", "What is served", answer("By name.", ref("Models"))),
            "/status": _view("status", "How it is doing", answer("By name.", ref("Status"))),
            "/metrics": _view("metrics", "Numbers for Prometheus", metrics),
            "/healthz": _view("healthz", "Whether the process lives", answer("It does.", probe)),
            "/readyz": ready,
            PATH: _view("openapi", "This document", answer("It.", {"type": "object"})),
        }.items()
    }


def _view(name: str, summary: str, told: Mapping[str, Any]) -> Operation:
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["service"],
        "responses": {"200": told, **errors(OF_EVERY_CALL)},
    }
