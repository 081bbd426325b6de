"""What is read of a queue at one instant, and what workers say of themselves: JSON and replies."""

import json
import logging
from collections.abc import Sequence
from typing import Any

from imageserve.queue.queue import Snapshot, WorkerInfo

log = logging.getLogger(__name__)


def encode_worker_info(info: WorkerInfo) -> str:
    """Write what ``{Q}:workers:info`` holds of one worker."""
    return json.dumps(
        {
            "model": info.model,
            "shape": info.shape,
            "batch_size": info.batch_size,
            "bucket_ms": {str(size): round(ms, 3) for size, ms in info.bucket_ms.items()},
            "state": info.state,
            "host": info.host,
            "version": info.version,
            "loading": info.loading,
            "problem": info.problem,
            "answered": info.answered,
        },
        separators=(",", ":"),
    )


def decode_worker_info(worker_id: str, last_seen: int, text: str | bytes) -> WorkerInfo:
    """Read it again."""
    fields = json.loads(text)
    height, width, channels = fields["shape"]
    return WorkerInfo(
        id=worker_id,
        model=fields["model"],
        shape=(height, width, channels),
        batch_size=fields["batch_size"],
        bucket_ms={int(size): float(ms) for size, ms in fields["bucket_ms"].items()},
        state=fields["state"],
        host=fields["host"],
        last_seen=last_seen,
        version=str(fields.get("version", "")),
        loading=str(fields.get("loading", "")),
        problem=str(fields.get("problem", "")),
        answered=str(fields.get("answered", "")),
    )


def decode_snapshot(reply: Sequence[Any]) -> Snapshot:
    """Read the reply of ``snapshot.lua``."""
    now, queued, hold, retry, in_flight, dead, head, stats, seen, info = reply
    infos = dict(zip(texts(info[::2]), info[1::2], strict=True))
    workers = zip(texts(seen[::2]), seen[1::2], strict=True)
    return Snapshot(
        now=now,
        queued=queued + hold,
        retry=retry,
        in_flight=in_flight,
        dead=dead,
        oldest_ms=_age_ms(head, now),
        stats={k: int(v) for k, v in zip(texts(stats[::2]), stats[1::2], strict=True)},
        workers=tuple(
            worker
            for worker_id, score in workers
            if (worker := _readable(worker_id, int(float(score)), infos.get(worker_id)))
        ),
    )


def _readable(worker_id: str, last_seen: int, text: bytes | None) -> WorkerInfo | None:
    """Return what a worker says of itself; None where it says nothing that this version knows."""
    try:
        return None if text is None else decode_worker_info(worker_id, last_seen, text)
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        log.warning("worker %s cannot be read, of another version perhaps: %r", worker_id, error)
        return None


def _age_ms(head: bytes, now: int) -> int:
    try:
        return max(0, now - int(json.loads(head)["ts"]))
    except (ValueError, TypeError, KeyError, OverflowError, RecursionError):
        return 0  # Not a job of ours: the next claim sorts it out.


def texts(values: Sequence[bytes]) -> tuple[str, ...]:
    """Decode what Redis keeps as bytes."""
    # A foreign writer may have pushed bytes that are not text; they end on the dead list.
    return tuple(value.decode(errors="replace") for value in values)
