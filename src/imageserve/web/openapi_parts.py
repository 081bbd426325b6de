"""What the descriptions of calls share: headers, parameters, answers, errors. Pure."""

from collections.abc import Callable, Collection, Iterator, Mapping
from http import HTTPStatus
from typing import Any

from imageserve.errors import (
    AddressTooLong,
    BadRequest,
    HeadTooLarge,
    RequestError,
    TransferEncodingRefused,
    UploadTooSlow,
)
from imageserve.web.calls import JSON
from imageserve.web.openapi_schemas import COUNT, TEXT, Schema, one_of, ref
from imageserve.web.parameters import REQUEST_ID, Parameter

Operation = dict[str, Any]
Shape = Callable[[Collection[str]], Schema]
"""The body of an error that has one of these codes."""

OF_EVERY_CALL: Collection[type[RequestError]] = (
    BadRequest,
    UploadTooSlow,
    AddressTooLong,
    HeadTooLarge,
    RequestError,
    TransferEncodingRefused,
)
"""What is answered to a head that cannot be served, and by a bug: at any address."""

HEADERS: Mapping[str, Any] = {
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


def our_error(codes: Collection[str]) -> Schema:
    """Return the body of an error with one of these codes."""
    code = {"properties": {"error": {"properties": {"code": one_of(*codes)}}}}
    return {"allOf": [ref("Error"), code]}


def errors(kinds: Collection[type[RequestError]], shape: Shape = our_error) -> dict[str, Any]:
    """Return the answers that tell these errors, by status."""
    meanings: dict[HTTPStatus, dict[str, str]] = {}
    for kind in kinds:
        first = (kind.__doc__ or "").partition("\n")[0]
        meanings.setdefault(kind.status, {}).setdefault(kind.code, first)
    return {
        str(int(status)): _error(status, meanings[status], shape) for status in sorted(meanings)
    }


def _error(status: HTTPStatus, meanings: Mapping[str, str], shape: Shape) -> dict[str, Any]:
    description = "\n".join(f"- `{code}`: {meaning}" for code, meaning in meanings.items())
    more = {
        HTTPStatus.UNAUTHORIZED: ["WWW-Authenticate"],
        HTTPStatus.TOO_MANY_REQUESTS: ["Retry-After"],
        HTTPStatus.SERVICE_UNAVAILABLE: ["Retry-After"],
    }
    return answer(description, shape(meanings), *more.get(status, []))


def view(name: str, summary: str, told: Mapping[str, Any]) -> Operation:
    """Return the description of a call without a body."""
    return {
        "operationId": name,
        "summary": summary,
        "tags": ["service"],
        "responses": {"200": told, **errors(OF_EVERY_CALL)},
    }
