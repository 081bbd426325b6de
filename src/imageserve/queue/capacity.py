"""How fast the live workers are, and what follows for a job that wants in. Pure.

Capacity is measured, never configured: every worker times its model per batch size and publishes
the table as ``bucket_ms``. Recent throughput is not used: an idle system has none, and small
batches hide what a worker could do.
"""

import math
from collections.abc import Iterable, Mapping

BucketMs = Mapping[int, float]
"""Batch size -> milliseconds of one model call."""


def per_second(bucket_ms: BucketMs) -> float:
    """Return the most images per second that a worker with this table can do."""
    return max((size * 1000.0 / ms for size, ms in bucket_ms.items() if ms > 0), default=0.0)


def largest_backlog_in_time(tables: Iterable[BucketMs], timeout_ms: int) -> int:
    """Return how many jobs may be ahead of one that must be answered within ``timeout_ms``.

    0 means unknown: no worker has published anything, so only the hard limits can refuse.
    A job ahead of which nothing waits is never refused: at least 1 is returned.
    """
    tables = [table for table in tables if table]
    capacity = sum(per_second(table) for table in tables)
    if capacity <= 0:
        return 0
    # The job itself rides in a batch at the end of the wait: under load, in the one that is best.
    own_batch_ms = min(max(table) * 1000.0 / per_second(table) for table in tables)
    return max(1, math.floor(capacity * (timeout_ms - own_batch_ms) / 1000.0))


def expected_wait_ms(backlog: int, capacity_per_s: float) -> float | None:
    """Return how long a new job waits behind ``backlog`` others; None where nothing is known."""
    if capacity_per_s <= 0:
        return None
    return backlog * 1000.0 / capacity_per_s


def retry_after_s(excess: int, capacity_per_s: float, *, unknown_s: int = 5) -> int:
    """Return in how many whole seconds ``excess`` jobs will have been worked off, 1..60."""
    if capacity_per_s <= 0:
        return unknown_s
    return min(60, max(1, math.ceil(excess / capacity_per_s)))
