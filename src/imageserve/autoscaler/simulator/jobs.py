"""The queue of the simulation: who is let in, who waits, who was answered in time."""

from array import array
from bisect import bisect_left
from collections import deque

Batch = list[float]
"""Jobs, each known by the second of its arrival, the oldest first."""


class Jobs:
    """A list in Redis with leases and deadlines, as the Lua scripts keep it."""

    def __init__(self, timeout_s: float, limit: int) -> None:
        self.timeout_s = timeout_s
        self.limit = limit
        self.in_flight = 0
        self.accepted = 0
        self.rejected = 0
        self.in_time = 0
        self.waits_s = array("d")
        """Of jobs that were answered: from arrival to the start of their batch."""
        self._queue: list[float] = []
        self._head = 0
        self._returned: deque[float] = deque()

    @property
    def waiting(self) -> int:
        return len(self._queue) - self._head + len(self._returned)

    def oldest_s(self, now_s: float) -> float:
        """Return the age of the job that waits longest; 0 where none does."""
        if self._returned:
            return now_s - self._returned[0]
        return now_s - self._queue[self._head] if self._head < len(self._queue) else 0.0

    def arrive(self, requests: list[float], max_backlog: int) -> None:
        """Let in those for which there is room; ``max_backlog`` 0 is not known, as for the web."""
        done = 0
        while done < len(requests):
            room = self._room(max_backlog) or self._room_after_expiry(requests[done], max_backlog)
            let_in = requests[done : done + max(room, 1)]
            if room:
                self._queue.extend(let_in)
                self.accepted += len(let_in)
            else:
                self.rejected += 1
            done += len(let_in)

    def _room(self, max_backlog: int) -> int:
        room = self.limit - self.waiting
        if max_backlog:
            room = min(room, max_backlog - self.waiting - self.in_flight)
        return max(0, room)

    def _room_after_expiry(self, now_s: float, max_backlog: int) -> int:
        self._drop_expired(now_s)
        return self._room(max_backlog)

    def _drop_expired(self, now_s: float) -> None:
        dead = now_s - self.timeout_s
        while self._returned and self._returned[0] < dead:
            self._returned.popleft()
        while self._head < len(self._queue) and self._queue[self._head] < dead:
            self._head += 1

    def claim(self, now_s: float, size: int) -> Batch:
        """Lease up to ``size`` jobs that can still be answered."""
        self._drop_expired(now_s)
        batch = [self._returned.popleft() for _ in range(min(size, len(self._returned)))]
        end = self._head + size - len(batch)
        batch += self._queue[self._head : end]
        self._head = min(end, len(self._queue))
        self.in_flight += len(batch)
        return batch

    def start(self, now_s: float, batch: Batch) -> None:
        """Note how long the jobs of a batch have waited."""
        self.waits_s.extend([now_s - arrival for arrival in batch])

    def finish(self, now_s: float, batch: Batch) -> None:
        """Acknowledge a batch."""
        self.in_flight -= len(batch)
        self.in_time += len(batch) - bisect_left(batch, now_s - self.timeout_s)

    def give_back(self, batch: Batch) -> None:
        """Put unstarted jobs back to the head."""
        self.in_flight -= len(batch)
        self._returned.extendleft(reversed(batch))
