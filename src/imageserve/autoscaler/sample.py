"""What one look at Redis brought, and what of it is one model's. Pure."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from statistics import harmonic_mean

from imageserve.autoscaler.observation import Observation
from imageserve.queue.capacity import BucketMs
from imageserve.queue.observations import Reading
from imageserve.queue.queue import Snapshot, live_tables


@dataclass(frozen=True, slots=True)
class Sample:
    """What one round trip to Redis brought, for all models together."""

    at_s: float
    """Seconds on a monotonic clock."""
    reading: Reading | None
    """None where Redis did not answer, or not with everything."""
    problem: str = ""


def with_queue(seen: Observation, run: str, snapshot: Snapshot) -> Observation:
    """Return ``seen`` with what is known of the queue."""
    return replace(
        seen,
        known=True,
        run=run,
        backlog=snapshot.queued + snapshot.retry,
        in_flight=snapshot.in_flight,
        accepted=snapshot.stats.get("accepted", 0),
        rejected=snapshot.stats.get("rejected", 0),
        oldest_s=snapshot.oldest_ms / 1000,
        bucket_ms=usual_table(live_tables(snapshot)),
    )


def usual_table(tables: Iterable[BucketMs]) -> BucketMs:
    """Return the table of a worker with the usual speed: that of all of them, shared out equally.

    Speeds add up, times do not; hence the harmonic mean of the times.
    """
    by_size: dict[int, list[float]] = {}
    for table in tables:
        for batch, ms in table.items():
            if ms > 0:
                by_size.setdefault(batch, []).append(ms)
    return {batch: harmonic_mean(times) for batch, times in by_size.items()}
