"""Looks for the highest rate that meets an objective: doubles, then halves the gap. Pure."""

from collections.abc import Sequence

from imageserve.loadtest.result import SearchStep

PRECISION = 0.05
"""The search ends when the rate that holds and the one that does not are this close."""
MOST_STEPS = 16
LOWEST_PER_S = 0.1


def next_rate(first_per_s: float, steps: Sequence[SearchStep]) -> float | None:
    """Return the rate to try next; None where the search is over."""
    best, worst = best_rate(steps), _lowest_failure(steps)
    if not steps:
        return first_per_s
    if len(steps) >= MOST_STEPS or (best is None and (worst or 0.0) <= LOWEST_PER_S):
        return None
    if worst is None:
        return 2 * (best or first_per_s)
    if best is None:
        return worst / 2
    return None if worst <= best * (1 + PRECISION) else (best + worst) / 2


def best_rate(steps: Sequence[SearchStep]) -> float | None:
    """Return the highest rate that held, below the lowest that did not.

    A rate that held above one that failed was luck: what is promised must hold up to it.
    """
    worst = _lowest_failure(steps)
    held = [s.rate_per_s for s in steps if s.holds and (worst is None or s.rate_per_s < worst)]
    return max(held, default=None)


def _lowest_failure(steps: Sequence[SearchStep]) -> float | None:
    return min((step.rate_per_s for step in steps if not step.holds), default=None)
