"""What bodies look like, as JSON Schema: the components of the API's description. Pure."""

from collections.abc import Mapping
from typing import Any

from imageserve.config.choices import CROP_ROUNDINGS, INTERPOLATIONS, RESIZES
from imageserve.preparation import COLOURS
from imageserve.web.parameters import OUTPUTS

Schema = Mapping[str, Any]

TEXT: Schema = {"type": "string"}
NUMBER: Schema = {"type": "number"}
COUNT: Schema = {"type": "integer", "minimum": 0}
MILLISECONDS: Schema = {"type": "integer"}
FLAG: Schema = {"type": "boolean"}
BYTES: Schema = {"contentMediaType": "application/octet-stream"}


def ref(name: str) -> Schema:
    """Return a reference to one of the `schemas`."""
    return {"$ref": f"#/components/schemas/{name}"}


def thing(**properties: Schema) -> Schema:
    """Return an object in which all of these are there."""
    return {"type": "object", "required": list(properties), "properties": properties}


def many(items: Schema, **bounds: int) -> Schema:
    return {"type": "array", "items": items, **bounds}


def or_null(schema: Schema) -> Schema:
    """Return a schema for what may not be known."""
    kind = schema.get("type")
    return {**schema, "type": [kind, "null"]} if kind else {"anyOf": [schema, {"type": "null"}]}


def one_of(*values: object) -> Schema:
    return {"enum": list(values)}


def schemas() -> dict[str, Schema]:
    """Return all schemas by name."""
    return {**_answers(), **_models(), **_status()}


def _answers() -> dict[str, Schema]:
    done = {"const": True}
    kinds = [ref(name) for name in ("Labels", "Scores", "Embedding")]
    return {
        "Prediction": thing(label=TEXT, probability={**NUMBER, "minimum": 0, "maximum": 1}),
        "Labels": thing(success=done, predictions=many(ref("Prediction"))),
        "Scores": thing(success=done, scores=many(NUMBER)),
        "Embedding": thing(success=done, embedding=many(NUMBER)),
        "PictureError": thing(success={"const": False}, error=ref("Problem")),
        "Several": thing(
            success=done, results=many({"oneOf": [*kinds, ref("PictureError")]}, minItems=2)
        ),
        "Answer": {"oneOf": [*kinds, ref("Several")]},
        "Problem": thing(code=TEXT, message=TEXT),
        "Error": thing(success={"const": False}, error=ref("Problem"), request_id=TEXT),
    }


def _models() -> dict[str, Schema]:
    side = {"type": "integer", "minimum": 1}
    size = many(side, minItems=2, maxItems=2)
    preparation = thing(
        size=size,
        resize=one_of(*RESIZES),
        resize_to=or_null(side),
        interpolation=one_of(*INTERPOLATIONS),
        antialias=FLAG,
        colour=one_of(*COLOURS),
        pad={**COUNT, "maximum": 255},
        crop_rounding=one_of(*CROP_ROUNDINGS),
    )
    model = thing(
        queue=TEXT,
        input_size=or_null(size),
        interpolation=one_of(*INTERPOLATIONS, None),
        preparation=or_null(ref("Preparation")),
        workers=or_null(COUNT),
        runtime=or_null(TEXT),
        outputs=or_null(many(one_of(*OUTPUTS))),
        multi_label=or_null(FLAG),
        classes=or_null(side),
        stand_in=FLAG,
    )
    return {
        "Preparation": preparation,
        "Model": model,
        "Models": thing(models={"type": "object", "additionalProperties": ref("Model")}),
    }


def _status() -> dict[str, Schema]:
    worker = thing(
        id=TEXT,
        host=TEXT,
        state=one_of("ready", "busy", "stopping"),
        last_seen_ms=MILLISECONDS,
        version=TEXT,
        problem=TEXT,
    )
    queue = thing(
        queued=COUNT,
        background=COUNT,
        in_flight=COUNT,
        completed=COUNT,
        oldest_ms=MILLISECONDS,
        expected_wait_ms=or_null(MILLISECONDS),
        capacity_per_s=NUMBER,
        web_capacity_per_s=or_null(NUMBER),
        dead=COUNT,
        queue_limit=COUNT,
        queue_bytes=or_null(COUNT),
        queue_bytes_limit=COUNT,
        redis_bytes=or_null(COUNT),
        redis_bytes_limit=or_null(COUNT),
        workers=many(ref("Worker")),
    )
    return {
        "Worker": worker,
        "QueueStatus": queue,
        "Status": thing(
            models={"type": "object", "additionalProperties": ref("QueueStatus")},
            redis=one_of("ok", "unavailable"),
        ),
        "Probe": thing(status=TEXT),
    }
