"""What a queued entry says, whoever has written it: for readers that must not stumble. Pure."""

import json
from collections.abc import Iterator, Sequence
from typing import Any

from imageserve.queue.queue import Finished
from imageserve.queue.wire import Result, ResultError, decode_job

PURGED = "the queue was emptied by its operator; send the picture again"


def entry_fields(entry: str) -> dict[str, Any]:
    """Return what is in it; nothing where it is no JSON object."""
    try:
        fields = json.loads(entry)
    except (ValueError, RecursionError):
        return {}
    return fields if isinstance(fields, dict) else {}


def entry_id(entry: str) -> str | None:
    """Return its job's id; None where it is no job."""
    job_id = entry_fields(entry).get("id")
    return job_id if isinstance(job_id, str) else None


def is_expired(entry: str, now: int) -> bool:
    """Whether nobody waits for it any more at ``now``, ms."""
    deadline = entry_fields(entry).get("deadline")
    return isinstance(deadline, int | float) and deadline <= now


def queued_at(entry: str, now: int) -> int:
    """Return when it was queued, ms; ``now`` where it does not say."""
    ts = entry_fields(entry).get("ts")
    return int(ts) if isinstance(ts, int | float) and 0 <= ts <= now else now


def purged(entries: Sequence[str]) -> Iterator[Finished]:
    """Yield what those hear who wait for jobs that were thrown away."""
    for entry in entries:
        if entry_id(entry) is None:
            continue  # Not a job: nobody waits for it.
        try:
            job = decode_job(entry)
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
            continue  # Redis reads more than Python does; nobody of ours has queued it.
        error = ResultError("busy", PURGED)
        result = Result(job.id, job.model, 0, 0, 0, error=error)
        yield Finished(job.id, job.reply, result, job.result_ttl_ms, "failed")
