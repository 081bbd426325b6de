"""What a web process remembers of a Redis that does not answer."""

import time
from collections.abc import Callable

from imageserve.web.refusals import redis_unavailable

OUTAGE_S = 0.5


class Outage:
    """Remembers for a moment that Redis did not answer.

    A Redis that hangs costs every try two seconds; those who come right after a failure are refused
    at once instead. A connection made since then ends the outage: ``connections`` counts them.
    """

    def __init__(
        self, connections: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._connections = connections
        self._clock = clock
        self._until = float("-inf")
        self._connections_then = 0

    def begin(self) -> None:
        self._until = self._clock() + OUTAGE_S
        self._connections_then = self._connections()

    def check(self) -> None:
        """Raise RedisUnavailable where the last failure is fresh."""
        if self._clock() < self._until and self._connections() == self._connections_then:
            raise redis_unavailable()
