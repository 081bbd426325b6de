"""``--search``: finds the highest rate that meets the objective.

The rate is doubled until it fails; then the gap between the two is halved until it is small.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import replace

from imageserve_loadtest.result import Result, SearchStep

PRECISION = 0.05
"""The search ends when the rates that hold and fail differ by no more than this share."""
MOST_STEPS = 16
LOWEST_PER_S = 0.1


def next_rate(first_per_s: float, steps: Sequence[SearchStep]) -> float | None:
    """Return the next rate to try; None where the search is over."""
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
    """Return the highest rate that held below the lowest one that failed.

    A rate that held above one that failed was luck: the result must hold for all lower rates too.
    """
    worst = _lowest_failure(steps)
    held = [s.rate_per_s for s in steps if s.holds and (worst is None or s.rate_per_s < worst)]
    return max(held, default=None)


def _lowest_failure(steps: Sequence[SearchStep]) -> float | None:
    return min((step.rate_per_s for step in steps if not step.holds), default=None)


async def search(
    first_per_s: float,
    load_at: Callable[[float], Awaitable[Result]],
    on_step: Callable[[SearchStep], None],
) -> Result:
    """Try rates, and return the result of the best one with all steps in it.

    Args:
        first_per_s: the first rate.
        load_at: sends a load at a rate.
        on_step: called after each load.
    """
    results: list[Result] = []
    steps: list[SearchStep] = []
    while (rate_per_s := next_rate(first_per_s, steps)) is not None:
        results.append(await load_at(rate_per_s))
        steps.append(_step(rate_per_s, results[-1]))
        on_step(steps[-1])
        if results[-1].interrupted:
            break
    best = None if results[-1].interrupted else best_rate(steps)
    chosen = next((i for i, step in enumerate(steps) if step.rate_per_s == best), -1)
    return replace(results[chosen], search=tuple(steps))


def _step(rate_per_s: float, result: Result) -> SearchStep:
    figures = result.latency.good.percentiles_ms([50.0, 99.0])
    return SearchStep(
        rate_per_s=rate_per_s,
        holds=result.verdict.holds,
        goodput_per_s=result.goodput_per_s,
        p50_ms=figures.get(50.0),
        p99_ms=figures.get(99.0),
        reasons=result.verdict.reasons,
    )
