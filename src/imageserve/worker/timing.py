"""When a worker fetches its next batch, and what it knows of the end of a batch that it claims."""

import threading
from collections.abc import Callable
from time import monotonic

from imageserve.queue.snapshot import UNKNOWN_PACE, BucketMs, Pace

LEAST_LEAD_S = 0.005
LEAD_FETCHES = 2.0
LEAD_SHARE = 0.1
"""A fetch begins so long before the model is free: the least, as many of the slowest fetches, and
this share of the running batch, whose time is not known exactly."""

FORGET = 0.95
"""The slowest known fetch is multiplied by this after each one, so that it is forgotten."""

WEIGHT = 0.1
"""Of the newest measurement in a running mean."""

MOST_TIMES_USUAL, ALWAYS_USUAL_S = 3, 0.05
"""A measurement is cut to this multiple of the usual time, or to these seconds if they are more:
what takes longer was an outage of Redis, or the worker was halted."""

KNOWN_S = 10.0
"""A worker that has run no batch for so long does not know how fast it is."""


class Timing:
    """One worker's clock: the model's thread tells it of batches, the queue's thread asks."""

    def __init__(self, clock: Callable[[], float] = monotonic) -> None:
        self._clock = clock
        self._free_at = float("-inf")
        self._ended_at = float("-inf")
        self._slowest_fetch_s = 0.0
        self._besides_s = 0.0
        self._lead_s = 0.0
        self._is_free = threading.Event()

    def began(self, expected_ms: float) -> None:
        """Note that a batch starts now, and how long the model should take."""
        self._free_at = self._clock() + expected_ms / 1000
        self._lead_s = (
            LEAST_LEAD_S + LEAD_FETCHES * self._slowest_fetch_s + LEAD_SHARE * expected_ms / 1000
        )
        self._is_free.clear()

    def ended(self) -> None:
        """Note that the model is free."""
        self._ended_at = self._free_at = self._clock()
        self._is_free.set()

    def wait_until_due(self) -> None:
        """Block until the next batch is to be fetched.

        Not before: a job that comes meanwhile and is due earlier goes first, and a fetched batch is
        a place in the queue that nobody can have.
        """
        self._is_free.wait(max(0.0, self._free_at - self._lead_s - self._clock()))

    def fetched(self, began: float) -> None:
        """Note how long a fetch took that began at this time."""
        took_s = _usual(self._clock() - began, self._slowest_fetch_s)
        self._slowest_fetch_s = max(took_s, FORGET * self._slowest_fetch_s)

    def told(self, began: float, busy_ms: float) -> None:
        """Note that the results of a batch are stored that began at this time."""
        besides_s = _usual(self._clock() - began - busy_ms / 1000, self._besides_s)
        self._besides_s += WEIGHT * (besides_s - self._besides_s)

    def pace(self, bucket_ms: BucketMs) -> Pace:
        """Return what is known of a batch that is claimed now."""
        now = self._clock()
        if now > self._free_at and now - self._ended_at > KNOWN_S:
            return UNKNOWN_PACE
        return Pace(1000 * (max(0.0, self._free_at - now) + self._besides_s), dict(bucket_ms))


def _usual(seconds: float, usual_s: float) -> float:
    return max(0.0, min(seconds, max(MOST_TIMES_USUAL * usual_s, ALWAYS_USUAL_S)))
