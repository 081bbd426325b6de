"""What a web process remembers of a Redis that does not answer."""

import time
from collections.abc import Callable

from imageserve.web.refusals import redis_unavailable

OUTAGE_S = 0.5


class Outage:
    """Remembers for a moment that Redis did not answer.

    A Redis that hangs costs every try two seconds; those who come right after a failure are refused
    at once instead.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._until = float("-inf")

    def begin(self) -> None:
        self._until = self._clock() + OUTAGE_S

    def check(self) -> None:
        """Raise RedisUnavailable where the last failure is fresh."""
        if self._clock() < self._until:
            raise redis_unavailable()
