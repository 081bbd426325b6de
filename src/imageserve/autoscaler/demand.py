"""How many pods a load needs, were they there at once and for ever. Pure."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from imageserve.autoscaler.policy import Policy

EPSILON = 0.05
"""Parts of a pod that are not worth another one: 6.04 pods of load are 6."""

SIGMAS = 5.0
"""By how many standard deviations of chance a load must lie below a step before a pod goes."""


def capacity_per_s(bucket_ms: Mapping[int, float], policy: Policy) -> float | None:
    """Return how many pictures a second one pod can do; None where nothing is known.

    Of the largest batch that fits the target wait: that is what a pod does when it has to. What
    pods do just now says nothing: the more of them there are, the smaller are their batches.
    """
    usable = {n: ms for n, ms in bucket_ms.items() if ms > 0 and 0 < n <= policy.batch_size}
    if not usable:
        return policy.service_rate_per_replica or None
    fitting = [n for n, ms in usable.items() if ms <= policy.target_wait_s * 1000]
    size = max(fitting) if fitting else min(usable)
    return size * 1000 / usable[size]


@dataclass(frozen=True, slots=True)
class Demand:
    """What the load asks for, in pods with fractions."""

    arrivals_per_s: float
    capacity_per_s: float
    excess: float
    """Jobs that wait beyond what the target wait allows."""
    for_arrivals: float
    for_excess: float
    chance: float
    """Standard deviation of ``for_arrivals``: few arrivals are counted less surely than many."""

    @property
    def pods(self) -> int:
        """Return the whole pods that it takes."""
        return _whole(self.for_arrivals + self.for_excess)

    def pods_with_margin(self, tolerance: float) -> int:
        """Return the pods below which no pod may go: more than it takes, or they would be back."""
        margin = max(tolerance * self.for_arrivals, SIGMAS * self.chance)
        return _whole(self.for_arrivals + margin + self.for_excess)


def _whole(pods: float) -> int:
    return max(0, math.ceil(pods - EPSILON))


def demand(
    policy: Policy, arrivals_per_s: float, backlog: int, capacity: float, pod_start_s: float | None
) -> Demand:
    """Weigh arrivals and backlog against the capacity of one pod.

    Little's law: with a wait of W, ``arrivals x W`` jobs wait; only those beyond are too many.
    They are to be worked off within the drain target, but not faster than a pod can start: pods
    that come too late to help would only be more than enough.
    """
    usable = capacity * policy.target_utilization
    excess = max(0.0, backlog - arrivals_per_s * policy.target_wait_s)
    start_s = policy.pod_start_s if pod_start_s is None else pod_start_s
    # Not below the wait either: more arrivals must never ask for fewer pods.
    drain_s = max(policy.target_drain_s, start_s, policy.target_wait_s)
    return Demand(
        arrivals_per_s=arrivals_per_s,
        capacity_per_s=capacity,
        excess=excess,
        for_arrivals=arrivals_per_s / usable,
        for_excess=excess / (capacity * drain_s),
        chance=math.sqrt(arrivals_per_s / policy.arrivals_window_s) / usable,
    )
