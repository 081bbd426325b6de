"""Several models on too few GPUs: one budget, fixed shares, and each model scaled on its own."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product

from imageserve.autoscaler.budget import Budget, Claim
from imageserve.errors import SettingsError
from imageserve_loadtest.simulator.comparison import (
    FIXED,
    Case,
    Conditions,
    Progress,
    Rule,
    run_all,
)
from imageserve_loadtest.simulator.comparison_report import percent, table
from imageserve_loadtest.simulator.room import Room
from imageserve_loadtest.simulator.scalers import Budgeted, Imageserve, Scaler
from imageserve_loadtest.simulator.simulation import Outcome, Simulation, run_together
from imageserve_loadtest.simulator.trace import Trace, shipped_traces


@dataclass(frozen=True, slots=True)
class Model:
    """One model: its load, and the GPUs of one of its pods."""

    trace: Trace
    gpus: int = 1


def built_in_models() -> list[Model]:
    """Return three models of four hours: two with a day each, half of one apart, and a batch job.

    The job comes for ten minutes, goes for ten, and its pods have two GPUs.
    """
    shipped = {trace.name: trace for trace in shipped_traces()}
    day, job = shipped["day"], shipped["on-off"]
    return [
        Model(_changed(day, "by day", factor=0.5)),
        Model(_changed(day, "by night", factor=0.5, later_s=day.length_s / 2)),
        Model(_changed(job, "batch job", factor=0.4, times=2), gpus=2),
    ]


def _changed(trace: Trace, name: str, factor: float, later_s: float = 0.0, times: int = 1) -> Trace:
    """Return a trace with another rate, ``later_s`` later (its end comes first), or repeated."""
    length_s = trace.length_s
    rows = list(zip(trace.seconds[:-1], trace.rates[:-1], strict=True))
    at_begin = max(row for row in rows if row[0] <= length_s - later_s)[1]
    moved = {(second + later_s) % length_s: rate for second, rate in rows}
    whole = sorted({0.0: at_begin, **moved}.items()) if later_s else rows
    copies = [(s + n * length_s, rate * factor) for n in range(times) for s, rate in whole]
    seconds, rates = zip(*copies, (times * length_s, 0.0), strict=True)
    return Trace(name, seconds, rates)


@dataclass(frozen=True, slots=True)
class JointCase:
    """All models on the same GPUs, once; with one budget, or each for itself."""

    conditions: Conditions
    models: tuple[Model, ...]
    gpus: int
    shares: bool
    seed: int

    @property
    def title(self) -> str:
        return "one budget" if self.shares else "each on its own"

    def run(self) -> tuple[Outcome, ...]:
        room, scalers = Room(self.gpus), self._scalers()
        simulations = [
            Simulation(
                replace(self.conditions.setting, gpus=model.gpus),
                model.trace,
                model.trace.requests(self.seed),
                scaler,
                room,
            )
            for model, scaler in zip(self.models, scalers, strict=True)
        ]
        return tuple(run_together(simulations))

    def _scalers(self) -> list[Scaler]:
        policies = [
            replace(self.conditions.policy, max_replicas=self.gpus // model.gpus)
            for model in self.models
        ]
        if not self.shares:
            return [Imageserve(policy) for policy in policies]
        claims = {model.trace.name: Claim(model.gpus, has=1, wants=1) for model in self.models}
        budget = Budget(self.gpus, claims)
        return [
            Budgeted(policy, budget, model.trace.name, model.gpus)
            for model, policy in zip(self.models, policies, strict=True)
        ]


Result = tuple[str, tuple[Outcome, ...]]
"""The name of a rule, and what became of each model."""


def compare_budget(
    conditions: Conditions, models: Sequence[Model], gpus: int, seed: int, progress: Progress
) -> list[Result]:
    """Run all models under each rule.

    Raises SettingsError where not every model can have a pod.
    """
    if sum(model.gpus for model in models) > gpus:
        raise SettingsError(f"--budget: {gpus} GPUs have no room for a pod of each model")
    joint = [JointCase(conditions, tuple(models), gpus, shares, seed) for shares in (True, False)]
    shared, alone = run_all(joint, progress)
    return [
        ("one budget", shared),
        ("each on its own", alone),
        _best_split(conditions, models, gpus, seed, progress),
    ]


def _best_split(
    conditions: Conditions, models: Sequence[Model], gpus: int, seed: int, progress: Progress
) -> Result:
    """Return the fixed numbers of pods with which most pictures are in time."""
    most = [(gpus - sum(model.gpus for model in models)) // model.gpus + 1 for model in models]
    cases = {
        (index, pods): Case(conditions, model.trace, Rule(FIXED, pods), seed)
        for index, model in enumerate(models)
        for pods in range(1, most[index] + 1)
    }
    outcomes = dict(zip(cases, run_all(list(cases.values()), progress), strict=True))
    best = max(
        (
            split
            for split in product(*(range(1, n + 1) for n in most))
            if _fits(split, models, gpus)
        ),
        key=lambda split: sum(outcomes[each].in_time for each in enumerate(split)),
    )
    name = f"fixed shares, {' + '.join(map(str, best))} pods"
    return name, tuple(outcomes[each] for each in enumerate(best))


def _fits(split: Sequence[int], models: Sequence[Model], gpus: int) -> bool:
    return sum(n * model.gpus for n, model in zip(split, models, strict=True)) <= gpus


# -- the report -----------------------------------------------------------------------------------


def budget_table(models: Sequence[Model], gpus: int, results: Sequence[Result]) -> str:
    """Return one row per rule and model, and one per rule for all models together."""
    header = ["rule", "model", "GPUs a pod", "GPU-hours", "in time", "p99 wait", "turns"]
    rows = [
        row
        for name, outcomes in results
        for row in _rows(name, list(zip(models, outcomes, strict=True)))
    ]
    count = f"{len(models)} models on {gpus} GPUs"
    return f"{count}:\n\n{table(header, rows, texts=2)}"


def _rows(name: str, ran: Sequence[tuple[Model, Outcome]]) -> Iterator[list[str]]:
    in_time = sum(outcome.in_time for _, outcome in ran) / sum(each.requests for _, each in ran)
    hours = sum(model.gpus * outcome.replica_hours for model, outcome in ran)
    yield [name, "all", "", f"{hours:.2f}", percent(in_time), "", ""]
    for model, outcome in ran:
        yield [
            name,
            model.trace.name,
            str(model.gpus),
            f"{model.gpus * outcome.replica_hours:.2f}",
            percent(outcome.in_time_share),
            f"{outcome.p99_wait_s:.1f} s",
            str(outcome.direction_changes),
        ]
