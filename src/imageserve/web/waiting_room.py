"""Where requests wait, not yet decoded, while the Redis node of their queue is away for a moment.

A Redis whose pod is replaced is away for some seconds. Requests that come meanwhile wait here, and
leave by deadline when it answers, a few at a time: all at once would hold up those that come next.
The wait has two bounds, its length and the number of those who wait; beyond either a request is
refused at once.
"""

import threading
import time
from bisect import insort
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from imageserve import metrics
from imageserve.errors import QueueError
from imageserve.queue.listener import Breaker
from imageserve.web.greenlets import Wait

MOST_LEAVING = 4
"""Requests that decode and enqueue at a time after an outage. Fewer would leave a decoder idle."""


class NotWaited(QueueError):
    """A request need not wait any longer, or not at all: it is refused."""


class Places:
    """How many requests of this process may wait, whatever they wait for.

    A bound of the process and not of each room: two nodes that are away must leave slots to models
    on others.
    """

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.taken = 0
        self.lock = threading.RLock()
        """Of all rooms: in a process of threads two rooms may take a place at a time."""


@dataclass(frozen=True, slots=True, eq=False)
class Guest:
    """A request in the waiting room."""

    deadline: float
    """By the clock `time.monotonic`."""
    wait: Wait


class WaitingRoom:
    """The requests of this process that wait for one Redis node."""

    def __init__(
        self,
        breaker: Breaker,
        places: Places,
        patience_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``patience_s`` is how long after the first failure of an outage requests may wait."""
        self._breaker = breaker
        self._places = places
        self._patience_s = patience_s
        self._clock = clock
        self._guests: list[Guest] = []
        self._leaving = 0
        self._lock = places.lock
        breaker.on_close = self._call_next

    def __len__(self) -> int:
        return len(self._guests)

    @contextmanager
    def turn(self, guest: Guest) -> Iterator[None]:
        """Wait for the node, then decode and enqueue within this context.

        Nobody waits while the node answers. In an outage one request at a time is let through, to
        try.

        Raises NotWaited.
        """
        if not (self._guests or self._breaker.is_open):
            yield
            return
        self._come(guest)
        try:
            yield
        finally:
            with self._lock:
                self._leaving -= 1
            self._call_next()

    def _come(self, guest: Guest) -> None:
        with self._lock:
            if self._breaker.is_open and self._patience_left_s() <= 0:
                if not self._may_try():
                    raise NotWaited("the outage lasts")
                self._leaving += 1
                return
            if self._places.taken >= self._places.limit:
                raise NotWaited("too many requests wait for the end of the outage")
            insort(self._guests, guest, key=lambda each: each.deadline)
            self._places.taken += 1
        metrics.waiting_for_redis.inc()
        try:
            self._stay(guest)
        finally:
            metrics.waiting_for_redis.dec()
            self._call_next()

    def _stay(self, guest: Guest) -> None:
        try:
            while not self._let_out(guest):
                guest.wait.wake.wait(self._doze_s(guest))
                guest.wait.wake.clear()
        except BaseException:  # Also where its greenlet is killed: others wait behind it.
            with self._lock:
                self._remove(guest)
            raise

    def _let_out(self, guest: Guest) -> bool:
        """Let a guest go where it is its turn. Raises NotWaited where it waits no longer."""
        with self._lock:
            if guest.wait.gone or self._clock() >= guest.deadline:
                raise NotWaited("its time is over")
            is_open = self._breaker.is_open
            if is_open and self._patience_left_s() <= 0:
                raise NotWaited("the outage lasts")
            free = self._may_try() if is_open else self._leaving < MOST_LEAVING
            if guest is not self._guests[0] or not free:
                return False
            self._remove(guest)
            self._leaving += 1
            return True

    def _doze_s(self, guest: Guest) -> float:
        """Return how long a guest may sleep if nobody wakes it."""
        with self._lock:
            bounds = [guest.deadline - self._clock()]
            if self._breaker.is_open:
                bounds.append(self._patience_left_s())
                if guest is self._guests[0] and not self._leaving:
                    bounds.append(self._breaker.try_in_s)
            return max(0.001, min(bounds))

    def _remove(self, guest: Guest) -> None:
        self._guests.remove(guest)
        self._places.taken -= 1

    def _may_try(self) -> bool:
        return self._leaving == 0 and self._breaker.try_in_s <= 0

    def _patience_left_s(self) -> float:
        return self._breaker.down_since + self._patience_s - self._clock()

    def _call_next(self) -> None:
        """Wake the guest whose turn it may be."""
        with self._lock:
            if self._guests:
                self._guests[0].wait.wake.set()
