"""The wire format, version 1: what crosses Redis, and how it is written and read. Pure.

Unknown fields are ignored, so a later release can add some; a job of an unknown ``v`` is
answered ``unsupported_job``. Times are milliseconds of the Redis clock.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imageserve.predictions import Prediction

VERSION = 1
ENCODING = "rgb8"


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to classify. Its pixels lie in a key of their own."""

    id: str
    model: str
    shape: tuple[int, int, int]
    top: int
    reply: str
    """Channel that hears of the result."""
    trace: str
    """The request id of the HTTP request it came from."""
    result_ttl_ms: int
    encoding: str = ENCODING
    ts: int = 0
    """When it was queued; set by the queue."""
    deadline: int = 0
    """When nobody waits for it any more; set by the queue."""

    @property
    def bytes(self) -> int:
        height, width, channels = self.shape
        return height * width * channels


@dataclass(frozen=True, slots=True)
class UnsupportedJob:
    """A job that this version cannot read, with what is needed to answer it all the same."""

    id: str
    reply: str
    model: str
    result_ttl_ms: int
    reason: str
    ts: int = 0


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
    """With ``model_changed``: the input shape that the answering worker's model takes."""
    version: str = ""
    """Which version of the model has answered; empty where none has, or an older worker."""


def encode_job(job: Job) -> str:
    """Write a job, complete."""
    return f'{encode_open_job(job)},"ts":{job.ts},"deadline":{job.deadline}}}'


def encode_open_job(job: Job) -> str:
    """Write a job without its closing brace: ENQUEUE adds ``ts`` and ``deadline``."""
    fields = {
        "v": VERSION,
        "id": job.id,
        "model": job.model,
        "encoding": job.encoding,
        "shape": job.shape,
        "bytes": job.bytes,
        "top": job.top,
        "reply": job.reply,
        "trace": job.trace,
        "result_ttl_ms": job.result_ttl_ms,
    }
    return json.dumps(fields, separators=(",", ":"))[:-1]


def decode_job(text: str | bytes) -> Job | UnsupportedJob:
    """Read a job that CLAIM has let through: a JSON object with a string id.

    Raises ValueError where Redis's parser takes more than Python's: hexadecimal numbers, depth,
    half characters.
    """
    try:
        fields = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    for name in ("id", "reply", "model", "trace"):
        if isinstance(fields.get(name), str):
            fields[name].encode()  # Half a character (a lone surrogate) is JSON, and no text.
    problem = _job_problem(fields)
    if problem is not None:
        return _unsupported(fields, problem)
    height, width, channels = fields["shape"]
    return Job(
        id=fields["id"],
        model=fields["model"],
        shape=(height, width, channels),
        top=fields["top"],
        reply=fields["reply"],
        trace=str(fields.get("trace", "")),
        result_ttl_ms=fields["result_ttl_ms"],
        encoding=fields["encoding"],
        ts=int(fields["ts"]),
        deadline=int(fields["deadline"]),
    )


_JOB_FIELDS: Mapping[str, type | tuple[type, ...]] = {
    "model": str,
    "encoding": str,
    "shape": list,
    "top": int,
    "reply": str,
    "result_ttl_ms": int,
    "ts": (int, float),
    "deadline": (int, float),
}


def _job_problem(fields: Mapping[str, Any]) -> str | None:
    if fields.get("v") != VERSION:
        return f"job version {fields.get('v')!r} is not supported, only {VERSION}"
    for name, kind in _JOB_FIELDS.items():
        if not isinstance(fields.get(name), kind):
            return f"job field {name!r} is missing or of the wrong type"
    if fields["encoding"] != ENCODING:
        return f"encoding {fields['encoding']!r} is not supported, only {ENCODING!r}"
    return _value_problem(fields)


def _value_problem(fields: Mapping[str, Any]) -> str | None:
    if not _is_shape(fields["shape"]):
        return "job field 'shape' is not [height, width, 3]"
    if not (_is_count(fields["top"]) and _is_count(fields["result_ttl_ms"])):
        return "job fields 'top' and 'result_ttl_ms' must be positive whole numbers"
    if not (_is_time(fields["ts"]) and _is_time(fields["deadline"])):
        return "job fields 'ts' and 'deadline' must be milliseconds"
    return None


def _is_time(value: Any) -> bool:
    # Python's JSON reads NaN and Infinity too; both fail here.
    return isinstance(value, int | float) and 0 <= value < 2**53


def _is_count(value: Any) -> bool:
    # True is an int to Python. A lifetime that Redis refuses would abort the FINISH of its batch.
    return type(value) is int and 0 < value < 2**53


def _is_shape(value: Sequence[Any]) -> bool:
    return len(value) == 3 and all(type(n) is int and n > 0 for n in value) and value[2] == 3


def _unsupported(fields: Mapping[str, Any], reason: str) -> UnsupportedJob:
    def text(name: str) -> str:
        value = fields.get(name)
        return value if isinstance(value, str) else ""

    ttl_ms = fields.get("result_ttl_ms")
    ts = fields.get("ts", 0)
    return UnsupportedJob(
        id=fields["id"],
        reply=text("reply"),
        model=text("model"),
        result_ttl_ms=ttl_ms if type(ttl_ms) is int and _is_count(ttl_ms) else 60_000,
        reason=reason,
        ts=int(ts) if _is_time(ts) else 0,
    )


def encode_result(result: Result) -> str:
    """Write a result."""
    fields: dict[str, Any] = {
        "v": VERSION,
        "id": result.id,
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
            {"label": p.label, "probability": p.probability} for p in result.predictions
        ]
    if result.shape is not None:
        fields["shape"] = result.shape
    return json.dumps(fields, separators=(",", ":"))


def decode_result(text: str | bytes) -> Result:
    """Read a result.

    Raises ValueError where it is none: a bug of a foreign writer, for the reader to log and drop.
    """
    try:
        fields = json.loads(text)
        error = fields.get("error")
        return Result(
            id=_string(fields["id"]),
            model=fields.get("model", ""),
            queue_ms=fields.get("queue_ms", 0.0),
            model_ms=fields.get("model_ms", 0.0),
            batch=fields.get("batch", 0),
            predictions=tuple(
                Prediction(p["label"], p["probability"]) for p in fields.get("predictions", ())
            ),
            error=None if error is None else ResultError(error["code"], error["message"]),
            shape=tuple(fields["shape"]) if "shape" in fields else None,
            version=_string(fields.get("version", "")),
        )
    except (KeyError, TypeError, AttributeError, ValueError, RecursionError) as error:
        raise ValueError(f"not a result: {error}") from error


def _string(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not a string")
    return value
