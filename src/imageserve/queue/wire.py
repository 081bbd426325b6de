"""The wire format, version 1: what crosses Redis, and the keys that hold it. Pure.

Readers ignore unknown fields, so a later release can add some. A worker answers a job of an unknown
``v`` with ``unsupported_job``. Times are milliseconds of the Redis clock.

With Q = ``image_queue``. The hash tag ``{Q}`` puts all of them into one cluster slot.

========================  =======  ===========================================  ====================
key                       type     content                                      lifetime
========================  =======  ===========================================  ====================
``Q``                     list     jobs, JSON                                   capped: QUEUE_LIMIT
``{Q}:hold``              list     jobs moved by a waking BLMOVE                drained by any claim
``{Q}:retry``             list     redelivered jobs: their worker died          1 h guard
``{Q}:leases``            zset     id -> lease expiry, ms                       1 h guard
``{Q}:inflight``          hash     id -> claim token, newline, job              1 h guard
``{Q}:attempts``          hash     id -> leases lost so far                     1 h guard
``{Q}:dead``              list     the last 1000 ``{entry, reason, at}``        24 h
``{Q}:id:<id>``           string   nonce of the enqueue                         deadline + 60 s
``{Q}:p:<id>``            string   the pixels, raw                              the job's deadline
``{Q}:r:<id>``            string   the result, JSON                             result_ttl_ms
``{Q}:stats``             hash     monotonic counters                           none; fixed fields
``{Q}:workers``           zset     worker id -> last seen, ms                   pruned, 1 h guard
``{Q}:workers:info``      hash     worker id -> WorkerInfo, JSON                pruned, 1 h guard
``{Q}:wanted``            string   the desired version of the model             none; one short text
``{Q}:reply:<process>``   channel  results for one web process
``{Q}:selftest:<uuid>:*``            the start-up self-test's own keys            seconds
========================  =======  ===========================================  ====================
"""

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imageserve.predictions import Prediction

VERSION = 1
ENCODING = "rgb8"

GUARD_MS = 3_600_000
"""TTL of keys that are renewed while in use: an abandoned queue leaves nothing behind."""


class Keys:
    """The names of one queue's keys."""

    def __init__(self, queue: str, prefix: str | None = None) -> None:
        self._prefix = prefix = prefix or f"{{{queue}}}"
        self.queue = queue
        self.hold = f"{prefix}:hold"
        self.retry = f"{prefix}:retry"
        self.leases = f"{prefix}:leases"
        self.inflight = f"{prefix}:inflight"
        self.attempts = f"{prefix}:attempts"
        self.dead = f"{prefix}:dead"
        self.stats = f"{prefix}:stats"
        self.workers = f"{prefix}:workers"
        self.workers_info = f"{prefix}:workers:info"
        self.desired = f"{prefix}:wanted"

    def nonce(self, job_id: str) -> str:
        return f"{self._prefix}:id:{job_id}"

    def pixels(self, job_id: str) -> str:
        return f"{self._prefix}:p:{job_id}"

    def result(self, job_id: str) -> str:
        return f"{self._prefix}:r:{job_id}"

    def reply(self, process: str) -> str:
        return f"{self._prefix}:reply:{process}"

    def selftest(self, run: str) -> "Keys":
        """Keys of a throw-away queue in the same slot, for the start-up self-test."""
        prefix = f"{self._prefix}:selftest:{run}"
        return Keys(f"{prefix}:queue", prefix)

    def shared(self) -> tuple[str, ...]:
        """The keys that belong to the queue as a whole, not to one job."""
        waiting = (self.queue, self.hold, self.retry)
        taken = (self.leases, self.inflight, self.attempts, self.dead)
        return (*waiting, *taken, self.stats, self.workers, self.workers_info, self.desired)

    # The keys of a script, in the order in which it takes them.

    def of_enqueue(self, job_id: str) -> list[str]:
        own = [self.nonce(job_id), self.pixels(job_id)]
        return [self.queue, self.hold, *own, self.retry, self.leases, self.stats]

    def of_claim(self) -> list[str]:
        waiting = [self.queue, self.hold, self.retry]
        return [*waiting, self.leases, self.inflight, self.attempts, self.dead, self.stats]

    def of_finish(self) -> list[str]:
        """Those before the keys of each job."""
        return [self.leases, self.inflight, self.attempts, self.stats, self.dead]

    def of_release(self) -> list[str]:
        return [self.queue, self.hold, self.leases, self.inflight, self.attempts, self.retry]

    def of_snapshot(self) -> list[str]:
        waiting = [self.queue, self.hold, self.retry]
        return [*waiting, self.leases, self.stats, self.workers, self.workers_info, self.dead]


@dataclass(frozen=True, slots=True)
class Job:
    """One picture to classify. Its pixels lie in a key of their own."""

    id: str
    model: str
    shape: tuple[int, int, int]
    top: int
    reply: str
    """The channel to which the result is published."""
    trace: str
    """The id of the HTTP request that sent it."""
    result_ttl_ms: int
    encoding: str = ENCODING
    ts: int = 0
    """When it was queued; set by the queue."""
    deadline: int = 0
    """When its client stops waiting; set by the queue."""

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
    """Read an entry of a queue.

    Raises ValueError where it has no id or is no JSON for Python. CLAIM lets some of the latter
    pass: Redis's parser accepts hexadecimal numbers, deeper nesting and lone surrogates.
    """
    try:
        fields = json.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    if not isinstance(fields.get("id"), str):
        raise ValueError("it has no id")
    for name in ("id", "reply", "model", "trace"):
        if isinstance(fields.get(name), str):
            fields[name].encode()  # A lone surrogate is valid JSON and cannot be encoded.
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
    # Python takes True for an int. A TTL that Redis refuses would abort the FINISH of its batch.
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
            {"label": p.label, "probability": p.probability} for p in result.predictions
        ]
    if result.shape is not None:
        fields["shape"] = result.shape
    return json.dumps(fields, separators=(",", ":"))


def decode_result(text: str | bytes) -> Result:
    """Read a result.

    Raises ValueError where it is none: another program wrote it, and the caller drops it.
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
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue


# -- the desired version ------------------------------------------------------------------------

_PART = r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}"
_ALLOWED = "letters, digits, dots, dashes and underscores, at most 64, a letter or digit first"


@dataclass(frozen=True, slots=True)
class DesiredVersion:
    """The version of a model that the workers of a queue should serve.

    ``{Q}:wanted`` holds it until an operator removes it, so it outlives every worker. Workers read
    it in the reply to each heartbeat. The same version with another ``at`` is tried again.
    """

    name: str
    version: str
    at: int
    """When it was set, Redis time in ms."""

    @property
    def text(self) -> str:
        return f"{self.name}@{self.version}"


def parse_desired(text: str, at: int) -> DesiredVersion:
    """Read ``NAME@VERSION``.

    Both become names of folders, so neither may contain a slash or begin with a dot.

    Raises ValueError where it is anything else.
    """
    match = re.fullmatch(f"({_PART})@({_PART})", text)
    if match is None:
        raise ValueError(f"{text[:150]!r} is not NAME@VERSION, each of {_ALLOWED}")
    return DesiredVersion(match[1], match[2], at)


def encode_desired(desired: DesiredVersion) -> str:
    """Write the value of ``{Q}:wanted``."""
    return f"{desired.text} {desired.at}"


def decode_desired(text: str) -> DesiredVersion | None:
    """Read the value of ``{Q}:wanted``; None where it is empty.

    Raises ValueError where another program wrote it.
    """
    if not text:
        return None
    named, _, at = text.rpartition(" ")
    if not re.fullmatch(r"\d{1,15}", at):
        raise ValueError(f"{text[:150]!r} is not NAME@VERSION and a time")
    return parse_desired(named, int(at))
