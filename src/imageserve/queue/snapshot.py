"""One queue at one instant: its counts, its workers, and what they can do.

Capacity is measured, never configured: each worker times its model per batch size and publishes the
table as ``bucket_ms``. Recent throughput is not used: an idle system has none, and small batches
hide what a worker could do.
"""

import json
import logging
import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field, fields, replace
from typing import Any

from imageserve.errors import QueueError
from imageserve.predictions import Outputs
from imageserve.preparation import Preparation, decode_preparation, encode_preparation
from imageserve.queue.fields import (
    amount_of,
    is_count,
    is_text,
    json_object,
    object_of,
    shape_of,
    text_of,
)
from imageserve.queue.order import Order

log = logging.getLogger(__name__)

BucketMs = Mapping[int, float]
"""Batch size -> milliseconds of one model call."""

HEARTBEAT_S = 5.0
"""How often a worker sends its heartbeat."""

LIVE_MS = 15_000
"""A worker whose last heartbeat is younger than this (three heartbeats) counts as capacity."""

SILENT_MS = 30_000
"""A worker without a heartbeat for this long is removed."""


@dataclass(frozen=True, slots=True)
class WorkerInfo:
    """One worker, as its heartbeat describes it."""

    id: str
    model: str
    shape: tuple[int, int, int]
    batch_size: int
    bucket_ms: BucketMs
    state: str
    """``ready``, ``busy`` or ``stopping``."""
    host: str
    last_seen: int = 0
    """Redis time of the last heartbeat, ms; set by the queue."""
    version: str = ""
    """The version of the model that it serves."""
    loading: str = ""
    """The version that it is loading, if any."""
    problem: str = ""
    """Why it does not serve the desired version; empty where it does."""
    answered: str = ""
    """The last desired version that was handled, with success or not."""
    runtime: str = ""
    """What runs its model, such as ``onnx`` or ``stand-in``; old workers do not say it."""
    preparation: Preparation | str | None = None
    """What its model needs. None: workers of 0.1.0 do not say it. A text: why it cannot be read; a
    later release may do more with pictures than this one can."""
    outputs: Outputs | None = None
    """What its model gives; None: workers of 0.1.0 do not say it."""
    classes: int = 0
    """Number of its labels; 0 where it does not say."""
    load_s: float = 0.0
    """From the start of its process until its first model was loaded; 0 where it does not say."""


@dataclass(frozen=True, slots=True)
class WebInfo:
    """One web process, as its heartbeat describes it."""

    id: str
    per_s: float
    """Pictures per second that it could decode; 0 where it has not decoded any yet."""
    last_seen: int = 0
    """Redis time of the last heartbeat, ms."""


@dataclass(frozen=True, slots=True)
class Snapshot:
    """One queue at one instant. Times are Redis times in ms."""

    now: int
    queued: int
    retry: int
    """Redelivered jobs: their worker died, and each waits to run alone."""
    in_flight: int
    dead: int
    oldest_ms: int
    """Age of the oldest waiting job; 0 when none waits."""
    stats: Mapping[str, int] = field(default_factory=dict)
    """Counters that only grow: accepted, rejected, completed, failed, expired, dead, batches..."""
    workers: tuple[WorkerInfo, ...] = ()
    run: str = ""
    """Changes when Redis may have lost the queue and its counters; "" where it was not read."""
    web: tuple[WebInfo, ...] = ()
    order: Order = field(default_factory=Order)
    """What is known of the jobs in the queue's list."""
    kept: str = ""
    """What ``{Q}:preparation`` holds; see `imageserve.queue.preparations`."""
    redis_bytes: int = 0
    """Memory that its Redis uses; only a `Monitor` reads it and the next one."""
    redis_bytes_limit: int = 0
    """``maxmemory`` of its Redis; 0 where it has none, or does not say."""

    @property
    def background(self) -> int:
        """Waiting jobs of the background."""
        return self.order.background

    @property
    def waiting(self) -> int:
        """Jobs that wait, redelivered ones included."""
        return self.queued + self.retry

    @property
    def backlog(self) -> int:
        """Jobs that wait or are in work."""
        return self.waiting + self.in_flight

    @property
    def live_workers(self) -> list[WorkerInfo]:
        """The workers that take jobs: neither silent nor stopping."""
        return [
            worker
            for worker in self.workers
            if worker.state != "stopping" and self._is_live(worker.last_seen)
        ]

    def _is_live(self, last_seen: int) -> bool:
        # One that was seen in the future lived before the clock of Redis was set back.
        return abs(self.now - last_seen) <= LIVE_MS

    @property
    def tables(self) -> list[BucketMs]:
        """``bucket_ms`` of each live worker."""
        return [worker.bucket_ms for worker in self.live_workers]

    @property
    def capacity_per_s(self) -> float:
        """Pictures per second that the live workers can do together."""
        return sum(map(per_second, self.tables))

    @property
    def web_capacity_per_s(self) -> float | None:
        """Pictures per second that the live web processes could decode together; None: unknown.

        One that has decoded nothing yet counts like the others.
        """
        live = [each.per_s for each in self.web if self._is_live(each.last_seen)]
        known = [per_s for per_s in live if per_s > 0]
        return sum(known) * len(live) / len(known) if known else None

    @property
    def expected_wait_ms(self) -> int | None:
        """How long a new job waits; None where the capacity is unknown."""
        return round(1000 * self.backlog / self.capacity_per_s) if self.capacity_per_s else None


class Run:
    """Notices that a queue was lost although the server is the same: a counter fell."""

    def __init__(self) -> None:
        self._stats: Mapping[str, int] = {}
        self._losses = 0

    def noted(self, snapshot: Snapshot) -> Snapshot:
        """Return the snapshot with a ``run`` that changes with each loss."""
        stats = snapshot.stats
        self._losses += any(stats.get(name, 0) < count for name, count in self._stats.items())
        self._stats = stats
        return replace(snapshot, run=f"{snapshot.run}/{self._losses}")


# -- capacity -----------------------------------------------------------------------------------


def per_second(bucket_ms: BucketMs) -> float:
    """Return the most pictures per second that a worker with this table can do."""
    return max((size * 1000.0 / ms for size, ms in bucket_ms.items() if ms > 0), default=0.0)


@dataclass(frozen=True, slots=True)
class Speed:
    """How fast the live workers of a queue are together."""

    per_s: float = 0.0
    """Pictures per second; 0 where no worker has published a table."""
    batch_ms: float = 0.0
    """The shortest time of a batch of the best size."""
    batch: int = 0
    """The pictures that all workers take at once."""
    least_ms: float = 0.0
    """The shortest time of any batch."""

    @classmethod
    def of(cls, tables: Iterable[BucketMs]) -> "Speed":
        tables = [table for table in tables if table]
        per_s = sum(per_second(table) for table in tables)
        if per_s <= 0:
            return cls()
        return cls(
            per_s,
            min(max(table) * 1000.0 / per_second(table) for table in tables),
            sum(max(table) for table in tables),
            min(ms for table in tables for ms in table.values()),
        )

    @property
    def besides_ms(self) -> float:
        """What a job takes beside the jobs ahead of it and itself, at full speed.

        Half a batch: jobs travel in whole batches, and of the one that runs half is over.
        """
        return self.batch_ms / 2

    def end_ms(self, ahead: int) -> float:
        """Return after how many ms a job ends with so many ahead of it; 0 where unknown."""
        return 1000.0 * (ahead + 1) / self.per_s + self.besides_ms if self.per_s > 0 else 0.0

    def largest_backlog(self, timeout_ms: int) -> int:
        """Return how many jobs may be ahead of one that must be answered within ``timeout_ms``.

        0 means unknown: only the hard limits can refuse. Otherwise at least 1: a job with nothing
        ahead of it is never refused.
        """
        if self.per_s <= 0:
            return 0
        return max(1, math.floor(self.per_s * (timeout_ms - self.besides_ms) / 1000.0))


@dataclass(frozen=True, slots=True)
class Pace:
    """How fast a worker is, as far as it knows."""

    begin_ms: float = 0.0
    """Until a batch that is claimed now would begin, and what is lost on the way to its client."""
    bucket_ms: BucketMs = field(default_factory=dict)
    """Empty: it does not know."""


UNKNOWN_PACE = Pace()


def retry_after_s(excess: int, capacity_per_s: float) -> int:
    """Return the whole seconds, 1 to 60, that the workers need for ``excess`` jobs.

    5 where it is not known what they can do.
    """
    if capacity_per_s <= 0:
        return 5
    return min(60, max(1, math.ceil(excess / capacity_per_s)))


# -- encoding -----------------------------------------------------------------------------------


def encode_worker_info(info: WorkerInfo) -> str:
    """Write the JSON that ``{Q}:workers:info`` holds of one worker: all but id and time."""
    told = {
        f.name: getattr(info, f.name) for f in fields(info) if f.name not in ("id", "last_seen")
    }
    told["load_s"] = round(info.load_s, 3)
    told["bucket_ms"] = {str(size): round(ms, 3) for size, ms in info.bucket_ms.items()}
    if isinstance(info.preparation, Preparation):
        told["preparation"] = encode_preparation(info.preparation)
    else:
        del told["preparation"]
    del told["outputs"]
    if info.outputs is not None:
        told |= {"outputs": info.outputs.vectors, "multi_label": info.outputs.multi_label}
    return json.dumps(told, separators=(",", ":"))


def decode_worker_info(worker_id: str, last_seen: int, text: str | bytes) -> WorkerInfo:
    """Read what `encode_worker_info` wrote, in this version or another.

    Raises ValueError where it cannot be read.
    """
    try:
        told = json_object(text)
        batch_size = told.get("batch_size")
        if not is_count(batch_size):
            raise ValueError("'batch_size' is no whole number from 1")
        return WorkerInfo(
            id=worker_id,
            model=text_of(told, "model"),
            shape=shape_of(told, "shape"),
            batch_size=int(batch_size or 0),
            bucket_ms=_bucket_ms(object_of(told, "bucket_ms")),
            state=text_of(told, "state"),
            host=text_of(told, "host"),
            last_seen=last_seen,
            version=text_of(told, "version", ""),
            loading=text_of(told, "loading", ""),
            problem=text_of(told, "problem", ""),
            answered=text_of(told, "answered", ""),
            runtime=text_of(told, "runtime", ""),
            preparation=_preparation(told),
            outputs=_outputs(told),
            classes=int(amount_of(told, "classes")),
            load_s=amount_of(told, "load_s"),
        )
    except ValueError as error:
        raise ValueError(f"worker {worker_id[:80]!r} cannot be read: {error}") from error


def _preparation(told: Mapping[str, Any]) -> Preparation | str | None:
    if "preparation" not in told:
        return None
    try:
        return decode_preparation(told["preparation"])
    except ValueError as error:
        return str(error)


def _outputs(told: Mapping[str, Any]) -> Outputs | None:
    vectors = told.get("outputs")
    # A later release may say it in another way: such a worker counts, and gives labels.
    if not (isinstance(vectors, list) and all(map(is_text, vectors))):
        return None
    return Outputs(tuple(vectors), told.get("multi_label") is True)


def _bucket_ms(told: Mapping[str, Any]) -> BucketMs:
    """Read a table; times are rounded as they are written, so that no capacity is endless."""
    if not all(re.fullmatch("[1-9][0-9]{0,8}", size) for size in told):
        raise ValueError("a batch size in 'bucket_ms' is no whole number from 1")
    return {int(size): round(amount_of(told, size), 3) for size in told}


def encode_web_info(info: WebInfo) -> str:
    """Write the JSON that ``{Q}:web:info`` holds of one web process."""
    return json.dumps({"per_s": round(info.per_s, 3)}, separators=(",", ":"))


def decode_snapshot(reply: Sequence[Any], run: str = "") -> Snapshot:
    """Read the reply of ``snapshot.lua``. A worker that cannot be read is left out.

    Raises QueueError where a number cannot be read: another program wrote into a counter, perhaps.
    """
    try:
        return _decoded(reply, run)
    except (ValueError, TypeError) as error:
        raise QueueError(f"Redis: the queue's numbers cannot be read: {error!s:.200}") from error


def _decoded(reply: Sequence[Any], run: str) -> Snapshot:
    now, queued, hold, retry, in_flight, dead, oldest, stats, seen, info, *rest = reply
    web, web_info, kept, background, sketch = rest
    infos = dict(zip(texts(info[::2]), info[1::2], strict=True))
    workers = zip(texts(seen[::2]), seen[1::2], strict=True)
    return Snapshot(
        now=now,
        queued=queued + hold,
        retry=retry,
        in_flight=in_flight,
        dead=dead,
        oldest_ms=max(0, now - oldest) if oldest else 0,
        order=Order.of(queued, background, sketch),
        stats={k: _counter(v) for k, v in zip(texts(stats[::2]), stats[1::2], strict=True)},
        workers=tuple(
            worker
            for worker_id, score in workers
            if (worker := _worker(worker_id, score, infos.get(worker_id)))
        ),
        web=tuple(_web(web, web_info)),
        kept=texts([kept])[0],
        run=run,
    )


def _counter(text: bytes) -> int:
    # Not int() alone, which reads "1_000" and " 7" too.
    if not re.fullmatch(rb"[0-9]{1,19}", text):
        raise ValueError("a counter is no whole number from 0")
    return int(text)


def _worker(worker_id: str, last_seen: bytes, text: bytes | None) -> WorkerInfo | None:
    try:
        seen = int(float(last_seen))
        return None if text is None else decode_worker_info(worker_id, seen, text)
    except (ValueError, OverflowError) as error:
        log.warning("a worker of another version, perhaps, is left out: %s", error)
        return None


def _web(seen: Sequence[bytes], info: Sequence[bytes]) -> Iterator[WebInfo]:
    """Yield the web processes. One that cannot be read is of another version, and left out."""
    infos = dict(zip(info[::2], info[1::2], strict=True))
    for web_id, score in zip(seen[::2], seen[1::2], strict=True):
        with suppress(KeyError, ValueError, OverflowError):
            per_s = amount_of(json_object(infos[web_id]), "per_s")
            yield WebInfo(texts([web_id])[0], per_s, int(float(score)))


def texts(values: Sequence[bytes]) -> tuple[str, ...]:
    """Decode byte strings of Redis; bytes that are no UTF-8 are replaced."""
    return tuple(value.decode(errors="replace") for value in values)
