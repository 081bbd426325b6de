"""What goes wrong between one model and the API: which right is missing, how long to rest."""

import random
from collections.abc import Callable

from imageserve.errors import (
    ClusterConflict,
    ClusterError,
    ClusterForbidden,
    ClusterMissing,
    ClusterUnavailable,
)

LONGEST_REST_S = 30.0
LONGEST_RETRY_AFTER_S = 300.0

_SOURCES: dict[type[ClusterError], str] = {
    ClusterForbidden: "rbac",
    ClusterMissing: "target",
    ClusterConflict: "conflict",
}


class Trouble:
    """Failures in a row. What is public may be read by other threads."""

    def __init__(self, interval_s: float, clock: Callable[[], float]) -> None:
        """``interval_s`` is about how long a first failure is rested."""
        self.denied = ""
        """The right that is missing, in words."""
        self._interval_s = interval_s
        self._clock = clock
        self._failures = 0
        self._kind: type[ClusterError] | None = None
        self._rest_until_s = -float("inf")

    @property
    def target_is_missing(self) -> bool:
        return self._kind is ClusterMissing

    def resting(self) -> bool:
        """Whether the API is to be left alone."""
        return self._clock() < self._rest_until_s

    def add(self, error: ClusterError) -> bool:
        """Note a failure; returns whether it is another kind than the one before."""
        is_new = self._kind is not type(error)
        self._kind = type(error)
        self._failures += 1
        self._rest_until_s = self._clock() + self._rest_s(error)
        if isinstance(error, ClusterForbidden):
            self.denied = str(error)
        return is_new

    def _rest_s(self, error: ClusterError) -> float:
        """Return how long to rest: longer each time, or for as long as the API asked."""
        doubled_s = self._interval_s * 2.0 ** min(self._failures - 1, 10)
        rest_s = min(LONGEST_REST_S, doubled_s) * random.uniform(0.5, 1.0)
        if isinstance(error, ClusterUnavailable) and error.retry_after_s is not None:
            rest_s = max(rest_s, min(error.retry_after_s, LONGEST_RETRY_AFTER_S))
        return rest_s

    def over(self) -> bool:
        """Note that all went well; returns whether it did not before."""
        was = self._kind is not None
        self._kind, self._failures, self.denied = None, 0, ""
        return was


def source_of(error: ClusterError) -> str:
    """Return the word by which failures of this kind are counted."""
    return _SOURCES.get(type(error), "api")
