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
"""How long a process believes what it was told at most: Redis may lose the count, or its clock may
jump."""


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

    def interval_s(self, pictures: float) -> float:
        """Return the time in which so many more may come."""
        return pictures * self.interval_us / 1e6

    def refusal(self, wait_s: float) -> QueueRefused:
        """Return the refusal of a picture that would be accepted after this time."""
        why = (
            f"the key {self.name} may send {self.rate:g} pictures a second, and {self.burst} at "
            "once"
        )
        return QueueRefused(RATE_LIMITED, 0, retry_after_s=max(1, math.ceil(wait_s)), why=why)


@dataclass(slots=True)
class _Wait:
    """What is known of one quota, by the clock of `QuotaWaits`."""

    quota: Quota
    asked_at: float = -math.inf
    until: float = -math.inf
    """When the next picture may come."""
    refused: int = 0
    """How often in a row a picture was refused although the time that was told was over."""


class QuotaWaits:
    """From when on the queue takes pictures of each quota again, as ENQUEUE told this process.

    The time counts from before the call, and others' pictures only put it off: where a picture is
    refused by it, ENQUEUE would refuse it too.

    Many processes are told the same time. One picture may come then, but each process would decode
    one. So a process that is refused a second time waits longer, until 2, 4, 8 ... may come. It
    waits for half of the burst at most, so that none is lost, and no longer than the whole seconds
    that `Quota.refusal` tells its clients.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waits: dict[str, _Wait] = {}
        """By the name of the quota."""

    def note(self, quota: Quota, asked_at: float, wait_ms: int, refused: int) -> None:
        """Take note of the reply to a call of ``asked_at``, by the clock.

        ``refused``: the pictures for which there was no room; 0 where its picture was accepted.
        """
        wait = self._waits.get(quota.name)
        if wait is None or wait.quota != quota:
            if not (wait_ms or refused):
                return
            wait = self._waits[quota.name] = _Wait(quota)
        if not refused:
            wait.refused = 0
        elif asked_at >= wait.until:  # Others were on their way when the first one was refused.
            wait.refused = min(20, wait.refused + 1)
        if wait_ms or refused:  # At a high rate the wait may be less than 1 ms.
            wait_s = wait_ms / 1000
            wait.asked_at = asked_at
            wait.until = asked_at + wait_s + _gathering_s(wait, wait_s, refused)
            wait.until -= quota.interval_s(max(0, refused - 1))

    def check(self, quota: Quota, together: int) -> None:
        """Raise QueueRefused where the quota has no room yet for so many pictures."""
        wait, now = self._waits.get(quota.name), self._clock()
        # A name that has another rate since, as after a change of the file, is asked about anew.
        if wait is None or wait.quota != quota:
            return
        until = wait.until + quota.interval_s(together - 1)
        if now < min(until, wait.asked_at + TRUST_S):
            raise quota.refusal(until - now)


def _gathering_s(wait: _Wait, wait_s: float, refused: int) -> float:
    """Return how much longer a process waits than it was told."""
    quota = wait.quota
    pictures = min(2 ** max(0, wait.refused - 1) - 1, max(0, quota.burst - refused) / 2)
    return min(quota.interval_s(pictures), max(1, math.ceil(wait_s)) - wait_s)
