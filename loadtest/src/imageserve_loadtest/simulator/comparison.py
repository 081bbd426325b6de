"""Runs several rules on several traces under the same conditions; calibrates KEDA and the fleet."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from statistics import fmean
from typing import Protocol, TypeVar

from imageserve.autoscaler.policy import Policy
from imageserve_loadtest.simulator.scalers import FixedFleet, Imageserve, Keda, Scaler
from imageserve_loadtest.simulator.simulation import Outcome, Setting, Simulation
from imageserve_loadtest.simulator.trace import Trace

T = TypeVar("T")
T_co = TypeVar("T_co", covariant=True)

Progress = Callable[[str], None]
"""Called after each run with a line for the terminal."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What all rules have in common: the simulated world, and the limits of the policy."""

    setting: Setting
    policy: Policy

    def imageserve(self, target_utilization: float | None = None) -> Scaler:
        if target_utilization is None:
            return Imageserve(self.policy)
        return Imageserve(replace(self.policy, target_utilization=target_utilization))

    def keda(self, list_length: int, *, count_in_flight: bool) -> Scaler:
        """Return KEDA with the limits and the idle time of the policy."""
        return Keda(
            list_length,
            count_in_flight=count_in_flight,
            min_replicas=self.policy.min_replicas,
            max_replicas=self.policy.max_replicas,
            cooldown_s=self.policy.scale_to_zero_after_s,
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule with its parameter; ``scaler`` makes a new one for each run."""

    kind: str
    number: float = 0

    @property
    def name(self) -> str:
        return _NAMES[self.kind].format(self.number)

    def scaler(self, conditions: Conditions) -> Scaler:
        return _SCALERS[self.kind](conditions, self.number)


NO_FORESIGHT = "no-foresight"
IMAGESERVE, KEDA_LIST, KEDA_SUM, FIXED = "imageserve", "keda-list", "keda-sum", "fixed"
UTILIZATION = "utilization"

_NAMES = {
    IMAGESERVE: "imageserve",
    NO_FORESIGHT: "imageserve, foresight off",
    UTILIZATION: "imageserve, targetUtilization {:g}",
    KEDA_LIST: "KEDA, list, {:g}",
    KEDA_SUM: "KEDA, list + in flight, {:g}",
    FIXED: "fixed fleet of {:g}",
}

_SCALERS: dict[str, Callable[[Conditions, float], Scaler]] = {
    IMAGESERVE: lambda conditions, _: conditions.imageserve(),
    NO_FORESIGHT: lambda conditions, _: Imageserve(replace(conditions.policy, foresight="off")),
    UTILIZATION: lambda conditions, n: conditions.imageserve(n),
    KEDA_LIST: lambda conditions, n: conditions.keda(int(n), count_in_flight=False),
    KEDA_SUM: lambda conditions, n: conditions.keda(int(n), count_in_flight=True),
    FIXED: lambda _, n: FixedFleet(int(n)),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One run. It is picklable, so that it can run in another process."""

    conditions: Conditions
    trace: Trace
    rule: Rule
    seed: int

    @property
    def title(self) -> str:
        return f"{self.trace.name}: {self.rule.name}"

    def run(self) -> Outcome:
        setting = self.conditions.setting
        if self.rule.kind == FIXED:
            setting = replace(
                setting, replicas=int(self.rule.number)
            )  # A fixed fleet is there from the start.
        scaler = self.rule.scaler(self.conditions)
        return Simulation(setting, self.trace, self.trace.requests(self.seed), scaler).run()


Results = dict[tuple[Trace, Rule], Outcome]


def compare(
    conditions: Conditions,
    traces: Sequence[Trace],
    rules: Sequence[Rule],
    seed: int,
    progress: Progress,
) -> Results:
    """Run every rule on every trace."""
    cases = [Case(conditions, trace, rule, seed) for trace in traces for rule in rules]
    outcomes = run_all(cases, progress)
    return {(case.trace, case.rule): each for case, each in zip(cases, outcomes, strict=True)}


class Runnable(Protocol[T_co]):
    """What can run in another process."""

    @property
    def title(self) -> str:
        """Return what is run, for the terminal."""

    def run(self) -> T_co:
        """Run it, once."""


def run_all(cases: Sequence[Runnable[T]], progress: Progress) -> list[T]:
    """Run cases on all cores; return their outcomes in the same order."""
    workers = min(len(cases), os.cpu_count() or 1)
    if workers <= 1:
        return list(_reported(cases, map(_run, cases), progress))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(_reported(cases, pool.map(_run, cases), progress))


def _run(case: Runnable[T]) -> T:
    return case.run()


def _reported(
    cases: Sequence[Runnable[T]], outcomes: Iterable[T], progress: Progress
) -> Iterator[T]:
    for done, (case, outcome) in enumerate(zip(cases, outcomes, strict=True), start=1):
        progress(f"{done}/{len(cases)} {case.title}")
        yield outcome


# -- calibration --------------------------------------------------------------------------------

DAILY = "day"
"""The trace that is used for calibration."""

ENOUGH = 0.95
"""Share of the daily trace's requests that a calibrated rule must answer in time."""

CALIBRATION_SEEDS = 3
"""Number of draws of which a calibration takes the mean, so that luck does not decide."""

LIST_LENGTHS = (1, 2, 3, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128, 192, 256, 320, 384, 448, 512)
"""Values of ``listLength`` that are tried."""

FLEETS = (2, 3, 4, 5, 6, 7, 8, 10, 12, 16, 20)
"""Sizes of a fixed fleet that are tried, up to ``max_replicas``."""

UTILIZATIONS = (0.6, 0.7, 0.8, 0.9, 1.0)
"""Values of ``target_utilization`` that are tried for imageserve."""


@dataclass(frozen=True, slots=True)
class SweepResult:
    """The result of one rule in a sweep, the mean of several draws."""

    rule: Rule
    in_time_share: float
    replica_hours: float
    p99_wait_s: float
    direction_changes: float


def sweep(conditions: Conditions, trace: Trace, seed: int, progress: Progress) -> list[SweepResult]:
    """Try list lengths for KEDA, sizes of a fleet, and utilisations for imageserve."""
    rules = [Rule(KEDA_SUM, length) for length in LIST_LENGTHS]
    rules += [Rule(FIXED, pods) for pods in FLEETS if pods <= conditions.policy.max_replicas]
    rules += [Rule(UTILIZATION, share) for share in UTILIZATIONS]
    seeds = range(seed, seed + CALIBRATION_SEEDS)
    cases = [Case(conditions, trace, rule, each) for rule in rules for each in seeds]
    outcomes = run_all(cases, progress)
    draws = [outcomes[i : i + len(seeds)] for i in range(0, len(outcomes), len(seeds))]
    return [_mean(rule, each) for rule, each in zip(rules, draws, strict=True)]


def _mean(rule: Rule, outcomes: Sequence[Outcome]) -> SweepResult:
    return SweepResult(
        rule,
        fmean(each.in_time_share for each in outcomes),
        fmean(each.replica_hours for each in outcomes),
        fmean(each.p99_wait_s for each in outcomes),
        fmean(each.direction_changes for each in outcomes),
    )


def cheapest(results: Sequence[SweepResult], kind: str) -> Rule | None:
    """Return the cheapest rule of a kind that answers enough in time; None if none does."""
    enough = [each for each in results if each.rule.kind == kind and each.in_time_share >= ENOUGH]
    best = min(enough, key=lambda each: each.replica_hours, default=None)
    return None if best is None else best.rule
