"""The wire format, version 1: what crosses Redis. Pure. ``keys.py`` says where it lies.

Readers ignore unknown fields, so a later release can add some. A worker answers a job of an unknown
``v`` with ``unsupported_job``. Times are milliseconds of the Redis clock.
"""

import base64
import functools
import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from imageserve.predictions import FEW_LABELS, Prediction
from imageserve.preparation import Preparation, decode_preparation, encode_preparation, plain
from imageserve.queue.fields import (
    amount_of,
    is_amount,
    is_count,
    is_number,
    is_shape,
    is_text,
    json_object,
    object_of,
    shape_of,
    text_of,
)
from imageserve.trace_context import TraceContext, read_context

_encode = json.JSONEncoder(separators=(",", ":"), check_circular=False).encode

VERSION = 1
ENCODING = "rgb8"
"""What workers of every release can read. They take it for squeezed pictures: see `encoding_of`."""
ENCODINGS: Mapping[str, int] = {ENCODING: 3, "rgb8-prepared": 3, "grey8": 1, "rgba8": 4}
"""How pixels are written, one byte a colour -> colours."""

LOST, UNREADABLE = "job_lost", "result_unreadable"
"""Errors that never cross the wire: Redis has lost the job; what answers it is no result. Either
way nothing else will come, and the picture is worth sending again."""

WOULD_TIME_OUT = "would_time_out"
"""The error of a job that was not run, because its answer would have come after its deadline."""

BACKGROUND = "background"
"""The priority of a job that others go before; "" is that of the others."""


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to classify. Its pixels lie in a key of their own."""

    id: str
    model: str
    shape: tuple[int, int, int]
    top: int
    reply: str
    """The channel to which the result is published."""
    request_id: str
    """Of the request that sent it; ``trace`` on the wire, as 0.1.0 has it."""
    result_ttl_ms: int
    encoding: str = ENCODING
    """A key of `ENCODINGS`; it fits the shape."""
    ts: int = 0
    """When it was queued; set by the queue."""
    deadline: int = 0
    """When its client stops waiting; set by the queue."""
    preparation: str = ""
    """The fingerprint of what was done to the picture; old web processes do not say it."""
    least: float = 0.0
    """Labels of a lower probability are not asked for."""
    want: str = ""
    """The vector that is asked for, one of `VECTORS`; "" for labels alone."""
    priority: str = ""
    """`BACKGROUND`, or ""; anything else is read as ""."""
    context: TraceContext | None = None
    """The span of the request that sent it; None where nobody traces it."""

    @property
    def bytes(self) -> int:
        height, width, channels = self.shape
        return height * width * channels


@dataclass(frozen=True, slots=True)
class UnsupportedJob:
    """A job that this version cannot run, with the fields that an error answer needs."""

    id: str
    reply: str
    model: str
    result_ttl_ms: int
    reason: str
    ts: int = 0
    request_id: str = ""
    context: TraceContext | None = None


@dataclass(frozen=True, slots=True)
class ResultError:
    """Why a job has no predictions."""

    code: str
    message: str


@dataclass(frozen=True, slots=True)
class Result:
    """The answer to one job: predictions, or an error."""

    id: str
    model: str
    queue_ms: float
    model_ms: float
    batch: int
    predictions: tuple[Prediction, ...] = ()
    error: ResultError | None = None
    shape: tuple[int, int, int] | None = None
    """With ``model_changed``: the input shape of the model of the worker that answered."""
    version: str = ""
    """The version of the model that answered; empty where no model or an older worker did."""
    preparation: Preparation | None = None
    """With ``model_changed``: what the model of that worker needs; None where it does not say, or
    says something that this release does not know."""
    vector: bytes = b""
    """What the job wants: float32, little-endian. Empty where its worker does not give that."""

    @property
    def is_long(self) -> bool:
        """Whether it takes so much of Redis that it is measured, and removed once it was read."""
        return bool(self.vector) or len(self.predictions) > FEW_LABELS


@dataclass(frozen=True, slots=True)
class Finished:
    """A job with its result, ready to be acknowledged."""

    id: str
    reply: str
    result: Result
    ttl_ms: int
    counter: str
    """The counter it adds to: ``completed``, ``failed`` or ``expired``."""
    dead: str = ""
    """Why it goes to the dead list; empty where it does not."""


# -- jobs ---------------------------------------------------------------------------------------


@functools.lru_cache(maxsize=256)
def encoding_of(preparation: Preparation) -> str:
    """Return how pixels of this preparation are written.

    Workers of 0.1.0 run all that is ``rgb8`` and know nothing of fingerprints. Other pixels than
    squeezed ones have names that they refuse, so that no such worker answers for them.
    """
    if preparation == plain(preparation):
        return ENCODING
    return {"rgb": "rgb8-prepared", "grey": "grey8", "rgba": "rgba8"}[preparation.colour]


def encode_open_job(job: Job) -> str:
    """Write a job without its closing brace: ENQUEUE adds ``ts`` and ``deadline``."""
    fields: dict[str, Any] = {
        "v": VERSION,
        "id": job.id,
        "model": job.model,
        "encoding": job.encoding,
        "shape": job.shape,
        "bytes": job.bytes,
        "top": job.top,
        "reply": job.reply,
        "trace": job.request_id,
        "result_ttl_ms": job.result_ttl_ms,
    }
    if job.preparation:
        fields["preparation"] = job.preparation
    if job.least:
        fields["min"] = job.least
    if job.want:
        fields["want"] = job.want
    if job.priority:
        fields["priority"] = job.priority
    if job.context:
        fields["traceparent"] = job.context.traceparent
        if job.context.state:
            fields["tracestate"] = job.context.state
    return _encode(fields)[:-1]


def decode_job(text: str | bytes) -> Job | UnsupportedJob:
    """Read an entry of a queue.

    Raises ValueError where it has no id or is no JSON for Python. CLAIM lets some of the latter
    pass: Redis's parser accepts hexadecimal numbers, deeper nesting and lone surrogates.
    """
    fields = json_object(text)
    job_id = text_of(fields, "id")
    problem = _job_problem(fields)
    if problem is not None:
        return _unsupported(job_id, fields, problem)
    return Job(
        id=job_id,
        model=fields["model"],
        shape=shape_of(fields, "shape"),
        top=fields["top"],
        reply=fields["reply"],
        request_id=_text_or_none(fields, "trace"),
        result_ttl_ms=fields["result_ttl_ms"],
        encoding=fields["encoding"],
        ts=int(fields["ts"]),
        deadline=int(fields["deadline"]),
        preparation=fields.get("preparation", ""),
        least=fields.get("min", 0.0),
        want=fields.get("want", ""),
        priority=BACKGROUND if fields.get("priority") == BACKGROUND else "",
        context=_context(fields),
    )


_JOB_FIELDS: Mapping[str, tuple[Callable[[Any], bool], str, Any]] = {
    "model": (is_text, "a text", None),
    "encoding": (is_text, "a text", None),
    "shape": (is_shape, "[height, width, colours]", None),
    "top": (is_count, "a positive whole number", None),
    "reply": (is_text, "a text", None),
    "result_ttl_ms": (is_count, "a positive whole number", None),
    "ts": (is_amount, "milliseconds", None),
    "deadline": (is_amount, "milliseconds", None),
    "preparation": (is_text, "a text", ""),
    "min": (is_amount, "a number from 0", 0),
    "want": (is_text, "a text", ""),
}
"""Name -> what it must be, and what stands for it where it may be left out."""


def _job_problem(fields: Mapping[str, Any]) -> str | None:
    if type(fields.get("v")) is not int or fields["v"] != VERSION:
        return f"job version {fields.get('v')!r:.40} is not supported, only {VERSION}"
    for name, (is_right, right, default) in _JOB_FIELDS.items():
        if not is_right(fields.get(name, default)):
            return f"job field {name!r} is not {right}"
    if fields["encoding"] not in ENCODINGS:
        able = ", ".join(ENCODINGS)
        return f"encoding {fields['encoding']!r:.40} is not supported, only {able}"
    if fields["shape"][2] != ENCODINGS[fields["encoding"]]:
        return f"job field 'shape' does not fit the encoding {fields['encoding']!r}"
    return None


def _context(fields: Mapping[str, Any]) -> TraceContext | None:
    if "traceparent" not in fields:
        return None
    return read_context(_text_or_none(fields, "traceparent"), _text_or_none(fields, "tracestate"))


def _text_or_none(fields: Mapping[str, Any], name: str) -> str:
    value = fields.get(name)
    return str(value) if is_text(value) else ""


def _unsupported(job_id: str, fields: Mapping[str, Any], reason: str) -> UnsupportedJob:
    ttl_ms, ts = fields.get("result_ttl_ms"), fields.get("ts")
    return UnsupportedJob(
        id=job_id,
        reply=_text_or_none(fields, "reply"),
        model=_text_or_none(fields, "model"),
        result_ttl_ms=ttl_ms if ttl_ms is not None and is_count(ttl_ms) else 60_000,
        reason=reason,
        ts=int(ts) if ts is not None and is_amount(ts) else 0,
        request_id=_text_or_none(fields, "trace"),
        context=_context(fields),
    )


# -- results ------------------------------------------------------------------------------------


def encode_result(result: Result, claim: str = "") -> str:
    """Write a result; ``claim`` is the token of the claim that it ends.

    No reader uses the token. By it FINISH recognises a result that it has stored already.
    """
    fields: dict[str, Any] = {
        "v": VERSION,
        "id": result.id,
        **({"claim": claim} if claim else {}),
        "model": result.model,
        **({"version": result.version} if result.version else {}),
        "queue_ms": round(result.queue_ms, 1),
        "model_ms": round(result.model_ms, 1),
        "batch": result.batch,
    }
    if result.error is not None:
        fields["error"] = {"code": result.error.code, "message": result.error.message}
    else:
        fields["predictions"] = [
            {"label": p.label, "probability": p.probability}
            if p.index is None
            else {"label": p.label, "probability": p.probability, "class": p.index}
            for p in result.predictions
        ]
    if result.vector:
        fields["vector"] = base64.b64encode(result.vector).decode()
    if result.shape is not None:
        fields["shape"] = result.shape
    if result.preparation is not None:
        fields["preparation"] = encode_preparation(result.preparation)
    return _encode(fields)


class NotAResult(ValueError):
    """A text that is no result: another program wrote it. It may still name its job."""

    def __init__(self, why: str, job_id: str = "") -> None:
        super().__init__(f"not a result: {why}")
        self.job_id = job_id


def decode_result(text: str | bytes) -> Result:
    """Read a result; each field has its type, or it is none.

    Raises NotAResult.
    """
    job_id = ""
    try:
        fields = json_object(text)
        job_id = text_of(fields, "id")
        return _decoded_result(job_id, fields)
    except ValueError as error:
        raise NotAResult(str(error), job_id) from error


def _decoded_result(job_id: str, fields: Mapping[str, Any]) -> Result:
    if type(fields.get("v")) is not int or fields["v"] != VERSION:
        raise ValueError("'v' is of another version")
    error = None
    if fields.get("error") is not None:
        told = object_of(fields, "error")
        error = ResultError(text_of(told, "code"), text_of(told, "message"))
    return Result(
        id=job_id,
        model=text_of(fields, "model", ""),
        queue_ms=amount_of(fields, "queue_ms"),
        model_ms=amount_of(fields, "model_ms"),
        batch=int(amount_of(fields, "batch")),
        predictions=() if error else _predictions(fields.get("predictions")),
        error=error,
        shape=shape_of(fields, "shape") if "shape" in fields else None,
        version=text_of(fields, "version", ""),
        preparation=_preparation(fields["preparation"]) if "preparation" in fields else None,
        vector=_vector(text_of(fields, "vector")) if "vector" in fields else b"",
    )


def _vector(told: str) -> bytes:
    vector = base64.b64decode(told, validate=True)
    if len(vector) % 4:
        raise ValueError("'vector' holds no float32 numbers")
    return vector


def _preparation(told: Any) -> Preparation | None:
    with suppress(ValueError):
        return decode_preparation(told)
    return None


def _predictions(told: Any) -> tuple[Prediction, ...]:
    if not (isinstance(told, list) and told):
        raise ValueError("neither predictions nor an error")
    return tuple([_prediction(each) for each in told])


def _prediction(told: Any) -> Prediction:
    if not isinstance(told, dict):
        raise ValueError("neither predictions nor an error")
    probability = told.get("probability")
    if not is_number(probability):
        raise ValueError("a probability is no number")
    index = told.get("class")
    if index is not None and not (type(index) is int and is_amount(index)):
        raise ValueError("a class is no number")
    return Prediction(text_of(told, "label"), probability, index)  # type: ignore[arg-type]


def unread_result(job_id: str, code: str) -> Result:
    """Return what stands for a result that never came or cannot be read: `LOST`, `UNREADABLE`."""
    return Result(job_id, "", 0, 0, 0, error=ResultError(code, "no result can be read"))


def result_of_error(job: Job | UnsupportedJob, code: str, message: str) -> Finished:
    """Return a job that ends with an error and without the model."""
    result = Result(job.id, job.model, 0, 0, 0, error=ResultError(code, message))
    return Finished(job.id, job.reply, result, job.result_ttl_ms, "failed")


# -- entries of the list, whoever wrote them ----------------------------------------------------


def readable(entries: Sequence[str]) -> Iterator[tuple[str, Job | UnsupportedJob]]:
    """Yield the entries that are jobs, each with its job; the rest is left out."""
    for entry in entries:
        try:
            yield entry, decode_job(entry)
        except ValueError:
            continue
