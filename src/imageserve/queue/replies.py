"""Waiting for results: who waits for which job, and how the answer reaches him.

One ``Waiters`` per web process; whatever hears of a result (the pub/sub connection, the in-memory
twin) calls ``deliver``. No thread waits for more than its own event, and nothing polls.
"""

import threading
from typing import Protocol

from imageserve.queue.wire import Result

JOB_LOST = "job_lost"
"""Code of an error that never crosses the wire: this process has found out that a job is gone."""


class Waiter:
    """One job's answer-to-be. Set once; later answers are ignored."""

    def __init__(self, job_id: str, queue: str, wake: "threading.Event") -> None:
        self.job_id = job_id
        self.queue = queue
        self.sent = False
        """Whether the job was accepted: only then can it be missing."""
        self.result: Result | None = None
        self._wake = wake

    def resolve(self, result: Result) -> None:
        if self.result is None:
            self.result = result
            self._wake.set()


class Waiters:
    """Every job that this process waits for, by id."""

    def __init__(self) -> None:
        self._by_id: dict[str, Waiter] = {}

    def expect(self, job_id: str, queue: str, wake: "threading.Event") -> Waiter:
        """Register before the job is sent: its answer may be faster than the enqueue's."""
        waiter = Waiter(job_id, queue, wake)
        self._by_id[job_id] = waiter
        return waiter

    def forget(self, job_id: str) -> None:
        self._by_id.pop(job_id, None)

    def deliver(self, result: Result) -> None:
        """Hand a result to whoever waits for it; drop it where nobody does."""
        waiter = self._by_id.get(result.id)
        if waiter is not None:
            waiter.resolve(result)

    def pending(self, queue: str) -> list[Waiter]:
        return [w for w in list(self._by_id.values()) if w.queue == queue and not w.result]

    def __len__(self) -> int:
        return len(self._by_id)


class Replies(Protocol):
    """What carries results to this process."""

    waiters: Waiters

    def channel(self, queue: str) -> str:
        """Return the channel that jobs of ``queue`` name as their reply."""

    def start(self) -> None:
        """Begin to listen, in the background."""

    @property
    def connected(self) -> bool:
        """Whether results are heard of at this moment."""

    @property
    def connections(self) -> int:
        """How often listening has begun: a new one proves that the queue answers again."""
