"""Several rules on several traces, all under the same conditions."""

import multiprocessing
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace

from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.simulator.keda import Keda
from imageserve.autoscaler.simulator.outcome import Outcome
from imageserve.autoscaler.simulator.scalers import FixedFleet, Imageserve, Scaler
from imageserve.autoscaler.simulator.simulation import Setting, Simulation
from imageserve.autoscaler.simulator.traces import Trace

Progress = Callable[[str], None]
"""Is told of each run that is done."""


@dataclass(frozen=True, slots=True)
class Conditions:
    """What is the same for all rules: the world, and the bounds within which they may act."""

    setting: Setting
    policy: Policy

    def imageserve(self, target_utilization: float | None = None) -> Scaler:
        if target_utilization is None:
            return Imageserve(self.policy)
        return Imageserve(replace(self.policy, target_utilization=target_utilization))

    def keda(self, list_length: int, *, count_in_flight: bool) -> Scaler:
        """Return KEDA with the bounds and the idle time of the policy."""
        return Keda(
            list_length,
            count_in_flight=count_in_flight,
            min_replicas=self.policy.min_replicas,
            max_replicas=self.policy.max_replicas,
            cooldown_s=self.policy.scale_to_zero_after_s,
        )


@dataclass(frozen=True, slots=True)
class Rule:
    """One rule, by its name and its one number; made anew for each run."""

    kind: str
    number: float = 0

    @property
    def name(self) -> str:
        return _NAMES[self.kind].format(self.number)

    def scaler(self, conditions: Conditions) -> Scaler:
        return _SCALERS[self.kind](conditions, self.number)


IMAGESERVE, KEDA_LIST, KEDA_SUM, FIXED = "imageserve", "keda-list", "keda-sum", "fixed"
UTILIZATION = "utilization"

_NAMES = {
    IMAGESERVE: "imageserve",
    UTILIZATION: "imageserve, targetUtilization {:g}",
    KEDA_LIST: "KEDA, list, {:g}",
    KEDA_SUM: "KEDA, list + in flight, {:g}",
    FIXED: "fixed fleet of {:g}",
}

_SCALERS: dict[str, Callable[[Conditions, float], Scaler]] = {
    IMAGESERVE: lambda conditions, _: conditions.imageserve(),
    UTILIZATION: lambda conditions, n: conditions.imageserve(n),
    KEDA_LIST: lambda conditions, n: conditions.keda(int(n), count_in_flight=False),
    KEDA_SUM: lambda conditions, n: conditions.keda(int(n), count_in_flight=True),
    FIXED: lambda _, n: FixedFleet(int(n)),
}


@dataclass(frozen=True, slots=True)
class Case:
    """One run: picklable, so that another process can do it."""

    conditions: Conditions
    trace: Trace
    rule: Rule
    seed: int

    def run(self) -> Outcome:
        setting = self.conditions.setting
        if self.rule.kind == FIXED:
            setting = replace(setting, replicas=int(self.rule.number))  # It was always there.
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


def run_all(cases: Sequence[Case], progress: Progress) -> list[Outcome]:
    """Run cases on all cores; returns their outcomes in the same order."""
    workers = min(len(cases), os.cpu_count() or 1)
    if workers <= 1:
        return list(_reported(cases, map(Case.run, cases), progress))
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        return list(_reported(cases, pool.map(Case.run, cases), progress))


def _reported(
    cases: Sequence[Case], outcomes: Iterable[Outcome], progress: Progress
) -> Iterator[Outcome]:
    for done, (case, outcome) in enumerate(zip(cases, outcomes, strict=True), start=1):
        progress(f"{done}/{len(cases)} {case.trace.name}: {case.rule.name}")
        yield outcome
