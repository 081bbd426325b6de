"""The simulated queue: admission, leases and deadlines, like the Lua scripts. Pure."""

from array import array
from bisect import bisect_left
from collections import Counter

STEP_S = 300.0

Batch = list[float]
"""Jobs, each represented by its arrival in seconds, oldest first."""


class SimulatedQueue:
    """A list of jobs with leases and deadlines."""

    def __init__(self, timeout_s: float, limit: int) -> None:
        self.timeout_s = timeout_s
        self.limit = limit
        self.waiting = 0
        self.in_flight = 0
        self.accepted = 0
        self.rejected = 0
        self.in_time = 0
        self.in_time_by_step: Counter[int] = Counter()
        """The same by the five minutes in which the newest of their batch arrived."""
        self.waits_s = array("d")
        """Of answered jobs: from arrival to the start of their batch."""
        self._queue: list[float] = []
        self._head = 0
        self._returned: list[float] = []
        """Jobs that stopping workers gave back; they are claimed first."""

    def oldest_s(self, now_s: float) -> float:
        """Return the age of the oldest waiting job; 0 where none waits."""
        if not self.waiting:
            return 0.0
        return now_s - (self._returned[0] if self._returned else self._queue[self._head])

    def arrive(self, requests: list[float], max_backlog: int) -> None:
        """Accept requests while there is room; a ``max_backlog`` of 0 means unknown."""
        done = 0
        while done < len(requests):
            room = self.room(max_backlog)
            if room <= 0:
                self._drop_expired(requests[done])
                room = self.room(max_backlog)
            if room <= 0:
                self.rejected += 1
                done += 1
                continue
            accepted = requests[done : done + room]
            self._queue += accepted
            self.accepted += len(accepted)
            self.waiting += len(accepted)
            done += len(accepted)

    def room(self, max_backlog: int) -> int:
        """Return how many more jobs fit; 0 or less for none."""
        room = self.limit - self.waiting
        return min(room, max_backlog - self.waiting - self.in_flight) if max_backlog else room

    def _drop_expired(self, now_s: float) -> None:
        dead = now_s - self.timeout_s
        while self._returned and self._returned[0] < dead:
            del self._returned[0]
            self.waiting -= 1
        while self._head < len(self._queue) and self._queue[self._head] < dead:
            self._head += 1
            self.waiting -= 1

    def claim(self, now_s: float, size: int) -> Batch:
        """Lease up to ``size`` jobs that have not expired."""
        self._drop_expired(now_s)
        batch = self._returned[:size]
        del self._returned[:size]
        end = self._head + size - len(batch)
        batch += self._queue[self._head : end]
        self._head = min(end, len(self._queue))
        self.in_flight += len(batch)
        self.waiting -= len(batch)
        return batch

    def start(self, now_s: float, batch: Batch) -> None:
        """Record how long the jobs of a batch have waited."""
        self.waits_s.extend([now_s - arrival for arrival in batch])

    def finish(self, now_s: float, batch: Batch) -> None:
        """Acknowledge a batch."""
        self.in_flight -= len(batch)
        in_time = len(batch) - bisect_left(batch, now_s - self.timeout_s)
        self.in_time += in_time
        self.in_time_by_step[int(batch[-1] // STEP_S)] += in_time

    def give_back(self, batch: Batch) -> None:
        """Return jobs that were not started to the head of the queue."""
        self.in_flight -= len(batch)
        self.waiting += len(batch)
        self._returned = sorted(batch + self._returned)
