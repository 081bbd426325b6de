"""How much load there is, and how many pods it takes: arrivals, capacity, demand. Pure."""

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from statistics import harmonic_mean

from imageserve.autoscaler.policy import Policy

BURST_FACTOR = 1.3
"""A burst is a count above this many times the expected one ..."""

BURST_SIGMAS = 5.0
"""... and this many standard deviations above it: by chance alone less than once a day."""

FIRST_SIGMAS = 3.0
"""Subtracted from the count while only the short window is known, as it may be mostly chance."""

ROUNDING = 0.05
"""A fraction of a pod that does not count: 6.04 pods of load are 6."""

SECOND_POD = 0.5
"""From this load in pods on, there are two: a jump would meet a single one for a whole pod start.
It goes at half of that, so that it does not come and go."""

MARGIN_SIGMAS = 5.0
"""A pod goes only when the load is this many standard deviations below what the others can do."""

Series = tuple[tuple[float, int], ...]
"""Numbers over time: ``(second, number)``, newest last."""


def since(series: Series, start_s: float) -> Series:
    """Return the entries after ``start_s``, and the last one before: it still held at the start."""
    old = sum(second <= start_s for second, _ in series)
    return series[max(0, old - 1) :]


@dataclass(frozen=True, slots=True)
class Arrivals:
    """The rate of arrivals, from a counter that only grows and is read now and then."""

    counts: Series = ()

    def add(self, now_s: float, count: int, window_s: float) -> "Arrivals":
        """Return these with one more count, without those that ``window_s`` does not need."""
        earlier = self.counts
        if earlier and earlier[-1][0] == now_s:
            earlier = earlier[:-1]  # The same observation once more.
        return Arrivals(since((*earlier, (now_s, count)), now_s - window_s))

    @property
    def latest(self) -> int | None:
        """The last count; None before the first."""
        return self.counts[-1][1] if self.counts else None

    @property
    def newest(self) -> int:
        """Arrivals between the last two counts; 0 where there are no two."""
        return self.counts[-1][1] - self.counts[-2][1] if len(self.counts) > 1 else 0

    def per_second(self, window_s: float) -> float | None:
        """Return the mean rate over the window; None while less than half of it is known."""
        if not self.counts:
            return None
        end_s, end = self.counts[-1]
        start_s, start = since(self.counts, end_s - window_s)[0]
        elapsed_s = end_s - start_s
        return (end - start) / elapsed_s if elapsed_s > 0 and elapsed_s >= window_s / 2 else None

    def expected_per_second(self, window_s: float, burst_s: float) -> float | None:
        """Return the rate over ``window_s``, or over the last ``burst_s`` in a burst.

        None while neither is known. A short lull does not lower the rate.
        """
        burst = self.per_second(burst_s)
        usual = self.per_second(window_s)
        if burst is None:
            return usual
        count = burst * burst_s
        if usual is None:
            return max(0.0, count - FIRST_SIGMAS * math.sqrt(count)) / burst_s
        expected = usual * burst_s
        is_burst = count > BURST_FACTOR * expected + BURST_SIGMAS * math.sqrt(expected)
        return burst if is_burst else usual

    def falls_to_per_second(self, window_s: float, burst_s: float) -> float | None:
        """Return the rate over the last ``burst_s`` where it is clearly lower; None where not."""
        burst, usual = self.per_second(burst_s), self.per_second(window_s)
        if burst is None or usual is None:
            return None
        expected = usual * burst_s
        least = expected / BURST_FACTOR - BURST_SIGMAS * math.sqrt(expected)
        return burst if burst * burst_s < least else None


def average_table(tables: Iterable[Mapping[int, float]]) -> Mapping[int, float]:
    """Return the ``bucket_ms`` of a pod with the average speed of these.

    Speeds add up, times do not: hence the harmonic mean of the times.
    """
    by_size: dict[int, list[float]] = {}
    for table in tables:
        for batch, ms in table.items():
            if ms > 0:
                by_size.setdefault(batch, []).append(ms)
    return {batch: harmonic_mean(times) for batch, times in by_size.items()}


def capacity_per_s(bucket_ms: Mapping[int, float], policy: Policy) -> float | None:
    """Return how many pictures per second one pod can do; None where it is not known.

    The batches that run now say nothing: with more pods they are smaller, and each pod seems
    slower.
    """
    batch = capacity_batch(bucket_ms, policy)
    if batch is None:
        return policy.service_rate_per_replica or None
    return batch * 1000 / bucket_ms[batch]


def capacity_batch(bucket_ms: Mapping[int, float], policy: Policy) -> int | None:
    """Return the largest batch that fits the target wait, else the smallest; None for no times."""
    usable = {n: ms for n, ms in bucket_ms.items() if ms > 0 and 0 < n <= policy.batch_size}
    fitting = [n for n, ms in usable.items() if ms <= policy.target_wait_s * 1000]
    return max(fitting) if fitting else min(usable, default=None)


@dataclass(frozen=True, slots=True)
class Demand:
    """The load in pods, as fractions."""

    arrivals_per_s: float
    capacity_per_s: float
    for_arrivals: float
    for_excess: float
    """For the jobs that wait beyond what the target wait allows."""
    deviation: float
    """Standard deviation of ``for_arrivals``: a low rate is measured less exactly."""

    @property
    def exact(self) -> float:
        return self.for_arrivals + self.for_excess

    @property
    def pods(self) -> int:
        """The load in whole pods, with the one against jumps."""
        return max(_whole(self.exact), 2 if self.for_arrivals > SECOND_POD else 0)

    @property
    def has_spare(self) -> bool:
        """Whether one of the pods is there only for a jump."""
        return self.pods > _whole(self.exact)

    def answered_per_s(self, pods: int) -> float:
        """Return how many pictures per second so many pods are expected to answer in time.

        The load that comes is taken to lie between what was measured and the most that the pods for
        ``exact`` can do, each as likely as the other: reserve is worth less than what serves.
        """
        able, most = pods * self.capacity_per_s, self.exact * self.capacity_per_s
        sure = self.arrivals_per_s + self.for_excess * self.capacity_per_s
        if able <= sure or most <= sure:
            return min(able, sure)
        beyond, spread = min(able, most) - sure, most - sure
        return sure + beyond * (1 - beyond / (2 * spread))

    def pods_with_margin(self, tolerance: float) -> int:
        """Return the number below which no pod goes: with less, it would soon be started again."""
        margin = max(tolerance * self.for_arrivals, MARGIN_SIGMAS * self.deviation)
        second = 2 if self.for_arrivals > SECOND_POD / 2 else 0
        return max(_whole(self.exact + margin), second)


def _whole(pods: float) -> int:
    return max(0, math.ceil(pods - ROUNDING))


def demand(
    policy: Policy, arrivals_per_s: float, waiting: int, capacity: float, pod_start_s: float | None
) -> Demand:
    """Return the pods that arrivals and waiting jobs need, if one pod does ``capacity`` per second.

    Little's law: with a wait of W, ``arrivals x W`` jobs wait. Only those beyond are excess. It is
    to be worked off within the drain target, or within the start of a pod where that is longer:
    pods that come too late to help would be idle.
    """
    usable = capacity * policy.target_utilization
    excess = max(0.0, waiting - arrivals_per_s * policy.target_wait_s)
    start_s = policy.pod_start_s if pod_start_s is None else pod_start_s
    # Not below the target wait, or more arrivals could need fewer pods.
    drain_s = max(policy.target_drain_s, start_s, policy.target_wait_s)
    return Demand(
        arrivals_per_s=arrivals_per_s,
        capacity_per_s=capacity,
        for_arrivals=arrivals_per_s / usable,
        for_excess=excess / (capacity * drain_s),
        deviation=math.sqrt(arrivals_per_s / policy.arrivals_window_s) / usable,
    )
