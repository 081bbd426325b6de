"""The description of the Open Inference Protocol's calls, below ``/v2``. Pure."""

from collections.abc import Collection, Iterator, Mapping, Sequence
from typing import Any

from imageserve.errors import (
    MethodNotAllowed,
    NotFound,
    RateLimited,
    RedisUnavailable,
    RequestError,
    UnknownModel,
    UnknownVersion,
)
from imageserve.inference.contract import BYTES, EXTENSIONS, FP32, INPUTS, OUTPUTS, SERVER, UINT8
from imageserve.web.calls import BYTES as OCTETS
from imageserve.web.calls import JSON
from imageserve.web.openapi_parts import OF_EVERY_CALL, Operation, all_errors, answer, errors
from imageserve.web.openapi_schemas import COUNT, FLAG, TEXT, Schema, many, one_of, ref, thing
from imageserve.web.parameters import INFERENCE_HEADER as LENGTH
from imageserve.web.parameters import PARAMETERS as OURS
from imageserve.web.parameters import Parameter

Security = Sequence[Mapping[str, Any]]

TAG = {
    "name": "inference protocol",
    "description": "The same by the Open Inference Protocol, version 2. Its errors are "
    "`error` as a text, with our `code` beside it.",
}
HEADERS: Mapping[str, Any] = {
    LENGTH: {"description": "Bytes of the JSON before the outputs.", "schema": COUNT}
}
PARAMETERS = (
    Parameter(
        LENGTH,
        "header",
        "Bytes of the JSON at the beginning of the body; without it all of it is JSON.",
        COUNT,
    ),
)
_PARAMETERS = (LENGTH, *(each.name for each in OURS if each.place == "header"))
_OF_MODELS = (UnknownModel, UnknownVersion, RedisUnavailable)

_SIDE: Schema = {"type": "integer", "minimum": -1}


def optional(required: Schema, **more: Schema) -> Schema:
    """Return an object with further properties that may be missing."""
    return {**required, "properties": {**required["properties"], **more}}


def inference_schemas() -> dict[str, Schema]:
    """Return the schemas of the protocol, by name."""
    return {**_server(), **_model(), **_statistics(), **_request(), **_response()}


def _server() -> dict[str, Schema]:
    extensions = many(one_of(*EXTENSIONS))
    return {
        "ServerMetadata": thing(name={"const": SERVER}, version=TEXT, extensions=extensions),
        "Live": thing(live=FLAG),
        "Ready": thing(ready=FLAG),
        "ModelReady": thing(name=TEXT, ready=FLAG),
        "InferenceError": thing(error=TEXT, code=TEXT, request_id=TEXT),
    }


def _model() -> dict[str, Schema]:
    tensor = thing(name=TEXT, datatype=one_of(BYTES, UINT8, FP32), shape=many(_SIDE))
    metadata = thing(
        name=TEXT,
        versions=many(TEXT),
        platform=TEXT,
        inputs=many(ref("TensorMetadata")),
        outputs=many(ref("TensorMetadata")),
    )
    types = one_of("TYPE_STRING", "TYPE_UINT8", "TYPE_FP32")
    put = thing(name=TEXT, data_type=types, dims=many(_SIDE))
    config = thing(
        name=TEXT,
        platform=TEXT,
        backend=TEXT,
        max_batch_size=COUNT,
        input=many(ref("ConfiguredInput")),
        output=many(ref("ConfiguredOutput")),
        dynamic_batching={"type": "object"},
        model_transaction_policy=thing(decoupled={"const": False}),
    )
    return {
        "TensorMetadata": tensor,
        "ModelMetadata": metadata,
        "ConfiguredInput": optional(put, optional=FLAG),
        "ConfiguredOutput": put,
        "ModelConfig": config,
    }


def _statistics() -> dict[str, Schema]:
    times = ref("Duration")
    parts = {f"compute_{part}": times for part in ("input", "infer", "output")}
    shares = thing(
        success=times, fail=times, queue=times, **parts, cache_hit=times, cache_miss=times
    )
    of_model = thing(
        name=TEXT,
        version=TEXT,
        last_inference=COUNT,
        inference_count=COUNT,
        execution_count=COUNT,
        inference_stats=shares,
        batch_stats=many(thing(batch_size=COUNT, **parts)),
    )
    return {
        "Duration": thing(count=COUNT, ns=COUNT),
        "ModelStatistics": of_model,
        "Statistics": thing(model_stats=many(ref("ModelStatistics"))),
    }


def _request() -> dict[str, Schema]:
    shape = many({"type": "integer", "minimum": 1}, minItems=1, maxItems=4)
    request = optional(
        thing(inputs=many(ref("Input"), minItems=1, maxItems=1)),
        id=TEXT,
        parameters=ref("RequestParameters"),
        outputs=many(ref("AskedOutput")),
    )
    return {
        "InferenceRequest": request,
        "RequestParameters": optional(
            thing(),
            timeout={**COUNT, "description": "Microseconds; shortens the deadline."},
            priority={**COUNT, "description": "0 and 1: interactive; above: background."},
            binary_data_output=FLAG,
        ),
        "Input": optional(
            thing(name=one_of(*INPUTS), datatype=one_of(BYTES, UINT8), shape=shape),
            data={"type": "array", "description": "Files in base64; or numbers, also nested."},
            parameters=ref("TensorParameters"),
        ),
        "TensorParameters": optional(thing(), binary_data_size=COUNT),
        "AskedOutput": optional(thing(name=one_of(*OUTPUTS)), parameters=ref("OutputParameters")),
        "OutputParameters": optional(
            thing(),
            binary_data=FLAG,
            classification={
                **COUNT,
                "description": "So many labels, as `probability:class:label`, best first.",
            },
        ),
    }


def _response() -> dict[str, Schema]:
    sides = many(COUNT, minItems=2, maxItems=2)
    response = thing(model_name=TEXT, model_version=TEXT, outputs=many(ref("Output"), minItems=1))
    return {
        "InferenceResponse": optional(response, id=TEXT),
        "Output": optional(
            thing(name=one_of(*OUTPUTS), datatype=one_of(BYTES, FP32), shape=sides),
            data={"type": "array", "items": {"type": ["number", "string"]}},
            parameters=ref("TensorParameters"),
        ),
    }


# -- calls -----------------------------------------------------------------------------------------


def protocol_error(codes: Collection[str]) -> Schema:
    """Return the body of an error as the protocol has it, with one of our codes beside it."""
    return {"allOf": [ref("InferenceError"), {"properties": {"code": one_of(*codes)}}]}


def inference_paths(security: Security, models: Schema) -> dict[str, Any]:
    """Return the calls below ``/v2``.

    ``security``: that of calls that classify. ``models``: the names of those that are served.
    """
    model = _in_path("model", "The name of a model.", models)
    version = _in_path("version", "One that its workers serve; `1` where it has none.", TEXT)
    addresses = (
        ("/v2/models/{model}", "Model", [model]),
        ("/v2/models/{model}/versions/{version}", "Version", [model, version]),
    )
    server = {
        "/v2": _asked("v2", "What this server is", "ServerMetadata"),
        "/v2/health/live": _asked("v2Live", "Whether the process lives", "Live"),
        "/v2/health/ready": _ready("v2Ready", "Whether it serves", "Ready"),
        "/v2/models/stats": _asked(
            "v2Stats", "Statistics of all models", "Statistics", RedisUnavailable
        ),
    }
    paths: dict[str, Any] = {path: {"get": told} for path, told in server.items()}
    for at, which, parameters in addresses:
        for path, item in _of_model(which, security):
            paths[f"{at}{path}"] = {"parameters": parameters, **item}
    return paths


def _in_path(name: str, meaning: str, schema: Schema) -> dict[str, Any]:
    return {"name": name, "in": "path", "required": True, "description": meaning, "schema": schema}


def _of_model(which: str, security: Security) -> Iterator[tuple[str, dict[str, Any]]]:
    of = which.lower()
    views = {
        "": ("Metadata", f"Inputs and outputs of a {of}", "ModelMetadata"),
        "/config": ("Config", f"Configuration of a {of}", "ModelConfig"),
        "/stats": ("Statistics", f"Statistics of a {of}", "Statistics"),
    }
    for path, (name, summary, schema) in views.items():
        yield path, {"get": _asked(f"v2{which}{name}", summary, schema, *_OF_MODELS)}
    ready = _ready(f"v2{which}Ready", f"Whether a {of} can answer", "ModelReady", *_OF_MODELS)
    yield "/ready", {"get": ready}
    yield "/infer", {"post": _infer(f"v2{which}Infer", f"Ask a {of} for its answers", security)}


def _asked(name: str, summary: str, schema: str, *more: type[RequestError]) -> Operation:
    return {
        "operationId": name,
        "summary": summary,
        "tags": [TAG["name"]],
        "responses": {
            "200": answer("It.", ref(schema)),
            **errors([*OF_EVERY_CALL, *more], protocol_error),
        },
    }


def _ready(name: str, summary: str, schema: str, *more: type[RequestError]) -> Operation:
    told = _asked(name, summary, schema, *more)
    if RedisUnavailable in more:
        both = {"oneOf": [ref(schema), protocol_error([RedisUnavailable.code])]}
        told["responses"]["503"] = answer("It cannot, or nobody knows.", both)
    else:
        told["responses"]["503"] = answer("It does not.", ref(schema))
    return told


def _infer(name: str, summary: str, security: Security) -> Operation:
    told = answer("The outputs.", ref("InferenceResponse"), "Server-Timing", "X-Model-Version")
    # JSON, and behind it the outputs that were asked for as bytes.
    told["content"][OCTETS] = {}
    told["headers"][LENGTH] = {"$ref": f"#/components/headers/{LENGTH}"}
    elsewhere = [NotFound, MethodNotAllowed, *([] if security else [RateLimited])]
    kinds = [kind for kind in all_errors() if kind not in elsewhere]
    return {
        "operationId": name,
        "summary": summary,
        "description": "JSON; or JSON and behind it the contents of its inputs as bytes; or a "
        f"single file as it is, with `{LENGTH}: 0`.",
        "tags": [TAG["name"]],
        "security": security,
        "parameters": [{"$ref": f"#/components/parameters/{each}"} for each in _PARAMETERS],
        "requestBody": {
            "required": True,
            "content": {JSON: {"schema": ref("InferenceRequest")}, OCTETS: {}},
        },
        "responses": {"200": told, **errors(kinds, protocol_error)},
    }
