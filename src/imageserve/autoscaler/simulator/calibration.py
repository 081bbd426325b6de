"""Which number suits KEDA, and how large a fixed fleet must be: tried out on one trace."""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from imageserve.autoscaler.simulator.comparison import (
    FIXED,
    KEDA_SUM,
    UTILIZATION,
    Case,
    Conditions,
    Progress,
    Rule,
    run_all,
)
from imageserve.autoscaler.simulator.outcome import Outcome
from imageserve.autoscaler.simulator.traces import Trace

DAILY = "day"
"""The trace that calibrates."""

ENOUGH = 0.95
"""The share that must be answered in time on the daily trace for a calibration to count."""

CALIBRATION_SEEDS = 3
"""A calibration counts the mean of so many draws: with one, luck decides."""

LIST_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 320, 384, 448, 512)
"""What is tried for ``listLength``."""

FLEETS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20)
"""What is tried for a fixed fleet, up to the most pods that are allowed."""

UTILIZATIONS = (0.6, 0.7, 0.8, 0.9, 1.0)
"""What is tried for imageserve, beside them."""


@dataclass(frozen=True, slots=True)
class Tried:
    """One number of a sweep, the mean of several draws."""

    rule: Rule
    in_time_share: float
    replica_hours: float
    p99_wait_s: float
    direction_changes: float


def sweep(conditions: Conditions, trace: Trace, seed: int, progress: Progress) -> list[Tried]:
    """Try list lengths for KEDA, sizes of a fleet, and beside them utilisations of our own."""
    rules = [Rule(KEDA_SUM, length) for length in LIST_LENGTHS]
    rules += [Rule(FIXED, pods) for pods in FLEETS if pods <= conditions.policy.max_replicas]
    rules += [Rule(UTILIZATION, share) for share in UTILIZATIONS]
    seeds = range(seed, seed + CALIBRATION_SEEDS)
    cases = [Case(conditions, trace, rule, each) for rule in rules for each in seeds]
    outcomes = run_all(cases, progress)
    draws = [outcomes[i : i + len(seeds)] for i in range(0, len(outcomes), len(seeds))]
    return [_mean(rule, each) for rule, each in zip(rules, draws, strict=True)]


def _mean(rule: Rule, outcomes: Sequence[Outcome]) -> Tried:
    return Tried(
        rule,
        fmean(each.in_time_share for each in outcomes),
        fmean(each.replica_hours for each in outcomes),
        fmean(each.p99_wait_s for each in outcomes),
        fmean(each.direction_changes for each in outcomes),
    )


def cheapest(tried: Sequence[Tried], kind: str) -> Rule | None:
    """Return the cheapest of a kind that answers enough in time; None where none does."""
    enough = [each for each in tried if each.rule.kind == kind and each.in_time_share >= ENOUGH]
    best = min(enough, key=lambda each: each.replica_hours, default=None)
    return None if best is None else best.rule
