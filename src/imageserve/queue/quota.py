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


@dataclass(slots=True)
class _Wait:
    """What is known of one quota, by the clock of `QuotaWaits`."""

    quota: Quota
    asked_at: float = -math.inf
    until: float = -math.inf
    """When the next picture may come."""
    refused: int = 0
    """How often in a row a picture was refused that came when it might."""


class QuotaWaits:
    """From when on the queue takes pictures of each quota again, as ENQUEUE told this process.

    The time counts from before the call, and others' pictures only put it off: where a picture is
    refused by it, ENQUEUE would refuse it too. But many processes are told the same time, and for
    the one picture that may come then each would decode one. So a process that is refused again
    then waits until some may come, twice as many each time: at most half of the burst, so none is
    lost, and at most to the end of the second for which its clients are told to wait.
    """

    def __init__(self, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._waits: dict[str, _Wait] = {}
        """By the name of the quota."""

    def note(self, quota: Quota, asked_at: float, wait_ms: int, *, is_refused: bool) -> None:
        """Take note of the reply to a call of ``asked_at``, by the clock."""
        wait = self._waits.get(quota.name)
        if wait is None or wait.quota != quota:
            if not (wait_ms or is_refused):
                return
            wait = self._waits[quota.name] = _Wait(quota)
        if not is_refused:
            wait.refused = 0
        elif asked_at >= wait.until:  # Others were on their way when the first one was refused.
            wait.refused = min(20, wait.refused + 1)
        if wait_ms or is_refused:  # Of a quick rate the wait may be less than one.
            wait.asked_at = asked_at
            wait.until = asked_at + wait_ms / 1000 + _gathering_s(wait, wait_ms / 1000)

    def check(self, quota: Quota) -> None:
        """Raise QueueRefused where a picture is not to be sent, because of its quota."""
        wait, now = self._waits.get(quota.name), self._clock()
        # A name that has another rate since, as after a change of the file, is asked about anew.
        if wait and wait.quota == quota and now < min(wait.until, wait.asked_at + TRUST_S):
            raise quota.refusal(wait.until - now)


def _gathering_s(wait: _Wait, wait_s: float) -> float:
    """Return how much longer a process waits than for the next picture."""
    quota = wait.quota
    pictures = min(2.0 ** max(0, wait.refused - 1) - 1, (quota.burst - 1) / 2)
    return min(pictures / quota.rate, max(1, math.ceil(wait_s)) - wait_s)
