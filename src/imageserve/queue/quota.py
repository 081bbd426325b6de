"""How many pictures a named key may send to one queue, and what ENQUEUE told of it. Pure.

ENQUEUE counts, in ``{Q}:quota:<name>``, and only what it accepts. It is the generic cell rate
algorithm: pictures may come at ``rate`` a second, and ``burst`` of them at once.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass

from imageserve.errors import QueueRefused

RATE_LIMITED = "rate_limited"

LEAST_RATE = 1e-6
"""Pictures per second: one in twelve days."""

LONGEST_COUNT_MS = 28 * 86_400_000
"""How long Redis keeps the count of a key that sends nothing: after that it has its burst anew,
even where it would take longer at its rate."""

TRUST_S = 5.0
"""How long a process believes at most what it was told. It is wrong where Redis loses the count, or
its clock jumps: that must not last, though a slow rate's next picture may be far."""


@dataclass(frozen=True, slots=True)
class Quota:
    """What one key, by its name, may send to one queue."""

    name: str
    """Letters, digits, ``.``, ``_`` and ``-``. Quotas of one name share a count."""
    rate: float
    """Accepted pictures per second, from `LEAST_RATE` on."""
    burst: int
    """Pictures that may come at once, at least 1."""

    @property
    def interval_us(self) -> int:
        """The time in which one more may come. Whole numbers, with which Lua reckons exactly."""
        return max(1, round(1e6 / self.rate))

    def refusal(self, wait_s: float) -> QueueRefused:
        """Return the refusal of a picture that would be accepted after this time."""
        why = (
            f"the key {self.name} may send {self.rate:g} pictures a second, and {self.burst} at "
            "once"
        )
        return QueueRefused(RATE_LIMITED, 0, retry_after_s=max(1, math.ceil(wait_s)), why=why)


class QuotaWaits:
    """From when on the queue takes pictures of each quota again, as ENQUEUE told this process.

    The time counts from before the call, and others' pictures only put it off: where a picture is
    refused by it, ENQUEUE would refuse it too.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._until: dict[str, tuple[Quota, float, float]] = {}
        """By name: since when it is known, and when the next picture may come."""

    def note(self, quota: Quota, asked_at: float, wait_ms: int) -> None:
        """Take note of a reply to a call of ``asked_at``, by the clock."""
        if wait_ms > 0:
            self._until[quota.name] = quota, asked_at, asked_at + wait_ms / 1000

    def check(self, quota: Quota) -> None:
        """Raise QueueRefused where ENQUEUE would refuse a picture for its quota."""
        known, asked_at, until = self._until.get(quota.name, (None, 0.0, 0.0))
        now = self._clock()
        # A name that has another rate since, as after a change of the file, is asked about anew.
        if known == quota and now < min(until, asked_at + TRUST_S):
            raise quota.refusal(until - now)
