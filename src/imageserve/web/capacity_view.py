"""What a web process knows of the workers behind one queue: read on demand, once a second."""

import contextlib
import time
from collections.abc import Callable

from imageserve.errors import QueueError
from imageserve.queue.capacity import largest_backlog_in_time, per_second
from imageserve.queue.queue import JobQueue, Snapshot, live_tables

FRESH_S = 1.0
STALE_S = 15.0
"""Knowledge older than this is no knowledge."""


class CapacityView:
    """Reads the queue's snapshot when somebody asks and the last one is old."""

    def __init__(self, queue: JobQueue, clock: Callable[[], float] = time.monotonic) -> None:
        self._queue = queue
        self._clock = clock
        self._snapshot: Snapshot | None = None
        self._read_at = float("-inf")
        self._tried_at = float("-inf")

    def largest_backlog_in_time(self, timeout_ms: int) -> int:
        """Return how many jobs may be ahead of one with this deadline; 0 for unknown."""
        snapshot = self._recent()
        return 0 if snapshot is None else largest_backlog_in_time(live_tables(snapshot), timeout_ms)

    def per_second(self) -> float:
        """Return how many pictures a second the live workers can do; 0 for unknown."""
        snapshot = self._recent()
        return 0.0 if snapshot is None else sum(map(per_second, live_tables(snapshot)))

    def _recent(self) -> Snapshot | None:
        now = self._clock()
        # One request reads for all; the others use what is known meanwhile.
        if now - self._tried_at > FRESH_S:
            self._tried_at = now
            with contextlib.suppress(QueueError):  # The enqueue that follows reports the outage.
                self._snapshot = self._queue.snapshot()
                self._read_at = self._clock()
        return self._snapshot if now - self._read_at <= STALE_S else None
