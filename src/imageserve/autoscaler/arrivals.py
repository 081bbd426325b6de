"""How fast jobs arrive, from a counter that is read now and then. Pure."""

import math
from dataclasses import dataclass

CLEARLY = 1.3
"""A burst has at least so many times the usual arrivals ..."""

BURST_SIGMAS = 5.0
"""... and more than chance brings in a day of looks: so many standard deviations of a count."""

SURE_SIGMAS = 3.0
"""Of a count that is all there is, so many are left out."""


@dataclass(frozen=True, slots=True)
class Arrivals:
    """Readings of a counter that only grows: ``(second, count)``, the newest last."""

    readings: tuple[tuple[float, int], ...] = ()

    def read(self, now_s: float, count: int, window_s: float) -> "Arrivals":
        """Return them with one more reading, and without those that ``window_s`` does not need."""
        earlier = self.readings
        if earlier and earlier[-1][0] == now_s:
            earlier = earlier[:-1]  # The same look again.
        readings = (*earlier, (now_s, count))
        # One reading at or beyond the start of the window is kept: what came since then counts.
        old = sum(second <= now_s - window_s for second, _ in readings)
        return Arrivals(readings[max(0, old - 1) :])

    @property
    def newest(self) -> int:
        """How many came between the last two readings; 0 where there is only one."""
        return self.readings[-1][1] - self.readings[-2][1] if len(self.readings) > 1 else 0

    def per_second(self, window_s: float) -> float | None:
        """Return the mean rate over the window, or over half of it at least; else None."""
        if not self.readings:
            return None
        end_s, end = self.readings[-1]
        start_s, start = self.readings[0]
        for second, count in self.readings:
            if second <= end_s - window_s:
                start_s, start = second, count
        elapsed_s = end_s - start_s
        return (end - start) / elapsed_s if elapsed_s > 0 and elapsed_s >= window_s / 2 else None

    def expected_per_second(self, window_s: float, burst_s: float) -> float | None:
        """Return the rate over ``window_s``, or over the last ``burst_s`` where it clearly rose.

        None while neither is known. Only upwards: a lull of ``burst_s`` says little.
        """
        burst = self.per_second(burst_s)
        usual = self.per_second(window_s)
        if burst is None:
            return usual
        count = burst * burst_s
        if usual is None:
            # So little was seen that half of it may be chance: only what is sure is believed.
            return max(0.0, count - SURE_SIGMAS * math.sqrt(count)) / burst_s
        expected = usual * burst_s
        rose = count > CLEARLY * expected + BURST_SIGMAS * math.sqrt(expected)
        return burst if rose else usual
