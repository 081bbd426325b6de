"""How few pods a load needs at least, and the best schedule found, where the whole load is known.

Both bounds hold for every rule in the simulator with the same pod start, limits and requests. The
schedule is run in the simulator like a rule: what it costs and answers is measured, not computed.
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import pairwise
from typing import TYPE_CHECKING

from imageserve.errors import ImageserveError
from imageserve_loadtest.simulator.comparison import (
    FIXED,
    IMAGESERVE,
    Conditions,
    Progress,
    Results,
    Rule,
    run_all,
)
from imageserve_loadtest.simulator.scalers import Schedule
from imageserve_loadtest.simulator.simulation import Outcome, Simulation
from imageserve_loadtest.simulator.trace import Trace

if TYPE_CHECKING:
    from imageserve_loadtest.simulator.dynamic_program import DynamicProgram, Problem

MISSING = "--clairvoyant needs a solver: pip install 'imageserve-loadtest[clairvoyant]'"

STEP_S, HELD_STEP_S = 5.0, 15.0
"""Steps without and with the scale-down window, in traces of up to four hours ..."""

STEPS, HELD_STEPS = 2880, 960
"""... longer ones have so many, which are longer."""

PRICES = tuple(0.02 * 1.6**power for power in range(14))
"""Prices of a late picture that are tried for the bound, in pod seconds."""

MOST_PRICE = 100.0
"""At this price hardly a picture is late."""

RESERVES = (0.0, 0.02, 0.03, 0.05, 0.1)
"""Shares of the capacity that are tried, until enough is in time at the highest price."""

TRIES = 8
"""Schedules that are tried, each with another price."""


@dataclass(frozen=True, slots=True)
class Best:
    """The fewest pods for one trace that answer as many in time as a rule did."""

    window_s: float
    linear_hours: float
    """Bound: the linear relaxation."""
    whole_hours: tuple[float, ...]
    """Bound: whole pods; for as many in time as the rule, then for as many as each other one."""
    found: Outcome
    """The best schedule found."""

    @property
    def name(self) -> str:
        return f"clairvoyant, {self.window_s:g} s window" if self.window_s else "clairvoyant"

    @property
    def least_hours(self) -> float:
        return max(self.linear_hours, self.whole_hours[0])


@dataclass(frozen=True, slots=True)
class BestCase:
    """One search. It is picklable, so that it can run in another process."""

    conditions: Conditions
    trace: Trace
    seed: int
    own: Outcome
    """That of the rule which answered as many in time as are wanted."""
    others: tuple[Outcome, ...] = ()
    """Those of other rules that start with the same pods, for which a bound is wanted too."""
    has_window: bool = False
    """Whether the scale-down window of the policy holds."""
    most_steps: int = HELD_STEPS
    """So many steps at most with the window, and in the linear program."""

    @property
    def title(self) -> str:
        return f"{self.trace.name}: clairvoyant"

    def run(self) -> Best:
        return _Search(self).best()


Bests = Mapping[Trace, tuple[Best, Best]]
"""Without and with the scale-down window."""


def foresee(conditions: Conditions, results: Results, seed: int, progress: Progress) -> Bests:
    """Find the fewest pods that answer as many in time as imageserve, and bounds for each rule."""
    traces = list(dict.fromkeys(trace for trace, _ in results))
    cases = [
        BestCase(
            conditions,
            trace,
            seed,
            results[trace, Rule(IMAGESERVE)],
            tuple(each for (of, rule), each in results.items() if of is trace if _is_equal(rule)),
            has_window=has_window,
        )
        for trace in traces
        for has_window in (False, True)
    ]
    found = run_all(cases, progress)
    return dict(zip(traces, zip(found[::2], found[1::2], strict=True), strict=True))


def _is_equal(rule: Rule) -> bool:
    """Whether a rule starts with the same pods: a fixed fleet is there from the start."""
    return rule.kind != FIXED


def require_solver() -> None:
    """Raise ImageserveError where what this needs is not installed."""
    try:
        import imageserve_loadtest.simulator.linear_bound  # noqa: F401
    except ImportError as error:
        raise ImageserveError(MISSING) from error


class _Search:
    def __init__(self, case: BestCase) -> None:
        self._case = case
        self._requests = case.trace.requests(case.seed)
        self._window_s = case.conditions.policy.scale_down_window_s if case.has_window else 0.0
        self._held_step_s = _step_s(case.trace, HELD_STEP_S, case.most_steps)
        self._step_s = self._held_step_s if case.has_window else _step_s(case.trace, STEP_S, STEPS)

    @cached_property
    def _problem(self) -> "Problem":
        from imageserve_loadtest.simulator.dynamic_program import Problem

        policy = self._case.conditions.policy
        return Problem(
            self._case.conditions.setting,
            self._requests,
            self._case.trace.length_s,
            policy.min_replicas,
            policy.max_replicas,
            self._window_s,
        )

    def best(self) -> Best:
        from imageserve_loadtest.simulator.linear_bound import linear_bound_s

        wanted = [each.in_time for each in (self._case.own, *self._case.others)]
        bounds = self._bounds(wanted)
        return Best(
            self._window_s,
            linear_bound_s(self._problem, self._held_step_s, wanted[0]) / 3600,
            tuple(max(0.0, *(row[i] for row in bounds)) / 3600 for i in range(len(wanted))),
            self._found(bounds),
        )

    def _program(self, *, is_bound: bool, reserve: float = 0.0) -> "DynamicProgram":
        from imageserve_loadtest.simulator.dynamic_program import DynamicProgram

        return DynamicProgram(self._problem, self._step_s, is_bound=is_bound, reserve=reserve)

    def _bounds(self, wanted: Sequence[int]) -> list[list[float]]:
        program = self._program(is_bound=True)
        return [program.least_s(price, wanted) for price in PRICES]

    def _found(self, bounds: Sequence[Sequence[float]]) -> Outcome:
        """Search the price whose schedule just answers enough in time."""
        own = self._case.own
        # Under the window, that of another rule may be another one.
        found = [own] if self._window_s else [own, *self._case.others]
        low = PRICES[max(range(len(PRICES)), key=lambda i: bounds[i][0])] / 8
        for reserve in RESERVES:
            program = self._program(is_bound=False, reserve=reserve)
            found.append(self._run(program.schedule(MOST_PRICE)))
            if found[-1].in_time >= own.in_time:
                found += self._cheaper(program, low)
                break
        enough = [each for each in found if each.in_time >= own.in_time]
        return min(enough, key=lambda each: each.replica_hours)

    def _cheaper(self, program: "DynamicProgram", low: float) -> Iterator[Outcome]:
        high = MOST_PRICE
        for _ in range(TRIES):
            price = math.sqrt(low * high)
            outcome = self._run(program.schedule(price))
            low, high = (price, high) if outcome.in_time < self._case.own.in_time else (low, price)
            yield outcome

    def _run(self, pods: Sequence[int]) -> Outcome:
        scaler = Schedule(pods, self._step_s)
        setting = self._case.conditions.setting
        return Simulation(setting, self._case.trace, self._requests, scaler).run()


def _step_s(trace: Trace, shortest_s: float, most: int) -> float:
    return shortest_s * max(1, math.ceil(trace.length_s / (most * shortest_s)))


def share_of_time(trace: Trace, rule: Outcome, best: Outcome, more: int = 0) -> float:
    """Return the share of time in which a rule had at most so many pods more than the best."""
    edges = sorted({0.0, trace.length_s, *(s for o in (rule, best) for s, _ in o.replicas)})
    inside = [each for each in edges if each <= trace.length_s]
    few = sum(
        end - start
        for start, end in pairwise(inside)
        if _at(rule, start) <= _at(best, start) + more
    )
    return few / trace.length_s


def _at(outcome: Outcome, second: float) -> int:
    return [pods for since, pods in outcome.replicas if since <= second][-1]
