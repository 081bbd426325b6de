"""A lower bound of the pods that a known load needs: a linear program, solved by HiGHS.

It knows nothing of whole pods, but it is independent of the other bound and solved to the optimum.
The variables of each step are means over the step, so that it holds for every instant at which a
rule may decide: the pods, those that were started so far, and the pictures that were accepted and
served so far.
"""

import math
from collections.abc import Sequence

import highspy
import numpy as np

from imageserve.errors import ImageserveError
from imageserve_loadtest.simulator.dynamic_program import Problem

PODS, STARTED, ACCEPTED, SERVED = range(4)

Terms = Sequence[tuple[int, int, float]]
"""``(variable, step, factor)``."""


def linear_bound_s(problem: Problem, step_s: float, wanted: int) -> float:
    """Return pod seconds without which so many pictures are not in time.

    Raises ImageserveError where the solver finds no solution.
    """
    # ``Highs`` prints a banner before it can be told not to.
    solver = highspy._Highs()  # type: ignore[attr-defined]
    solver.setOptionValue("output_flag", False)
    solver.setOptionValue("threads", 1)
    solver.passModel(_Program(problem, step_s, wanted).model())
    solver.run()
    if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
        raise ImageserveError(f"HiGHS found no bound: {solver.getModelStatus().name}")
    return float(solver.getInfo().objective_function_value)


class _Program:
    def __init__(self, problem: Problem, step_s: float, wanted: int) -> None:
        self._problem = problem
        self._step_s = step_s
        self._counts = problem.arrivals(step_s)
        self._late = math.ceil(problem.setting.timeout_s / step_s)
        self._steps = len(self._counts) + self._late
        self._columns: list[int] = []
        self._factors: list[float] = []
        self._starts = [0]
        self._bounds: list[tuple[float, float]] = []
        for step in range(self._steps):
            self._add_pods(step)
            self._add_pictures(step)
        self._add([(ACCEPTED, self._steps - 1, 1)], wanted)

    def model(self) -> highspy.HighsLp:
        width = 4 * self._steps
        lower, cost = np.zeros(width), np.zeros(width)
        first = math.ceil(self._problem.setting.pod_start_s / self._step_s)
        lower[first : self._steps] = self._problem.min_replicas
        ends = np.arange(1, len(self._counts) + 1) * self._step_s
        last = np.minimum(self._step_s, self._problem.length_s - ends + self._step_s)
        cost[: len(self._counts)] = last
        program = highspy.HighsLp()
        program.num_col_, program.num_row_ = width, len(self._bounds)
        program.col_cost_, program.col_lower_ = cost, lower
        program.col_upper_ = np.full(width, highspy.kHighsInf)
        program.row_lower_ = np.array([low for low, _ in self._bounds])
        program.row_upper_ = np.array([high for _, high in self._bounds])
        program.a_matrix_.format_ = highspy.MatrixFormat.kRowwise
        program.a_matrix_.start_ = np.array(self._starts, np.int32)
        program.a_matrix_.index_ = np.array(self._columns, np.int32)
        program.a_matrix_.value_ = np.array(self._factors, float)
        return program

    def _add(self, terms: Terms, low: float = 0, high: float = math.inf) -> None:
        """Add ``low <= terms <= high``; what a variable was before the trace is nothing."""
        for variable, step, factor in terms:
            if step >= 0:
                self._columns.append(variable * self._steps + step)
                self._factors.append(factor)
        self._starts.append(len(self._columns))
        self._bounds.append((low, high))

    def _add_pods(self, step: int) -> None:
        first = self._problem.setting.replicas if step == 0 else 0
        self._add([(STARTED, step, 1), (STARTED, step - 1, -1)])
        gone = [(STARTED, step, 1.0), (PODS, step, -1.0)]
        before = [(STARTED, step - 1, -1.0), (PODS, step - 1, 1.0)]
        self._add([*gone, *before], -first)
        # A pod that stops still ends its batch, within the next step.
        over = [(PODS, step, 1), (STARTED, step, -1), (STARTED, step - 1, 1)]
        self._add(over, -math.inf, self._problem.max_replicas)
        if self._problem.window_s:
            held = int(self._problem.window_s / self._step_s)
            is_first = step < held - self._problem.setting.pod_start_s / self._step_s
            there = self._problem.setting.replicas if is_first else 0
            young = [(STARTED, step, -1), (STARTED, step - held, 1)]
            self._add([(PODS, step, 1), *young], there)

    def _add_pictures(self, step: int) -> None:
        came = self._counts[step] if step < len(self._counts) else 0
        self._add([(ACCEPTED, step, 1), (ACCEPTED, step - 1, -1)], 0, came)
        self._add([(SERVED, step, 1), (SERVED, step - 1, -1)])
        self._add([(ACCEPTED, step, 1), (SERVED, step, -1)])
        self._add([(SERVED, step, 1), (ACCEPTED, step - self._late, -1)])
        most = self._problem.capacity_per_s * self._step_s
        starting = int(self._problem.setting.pod_start_s / self._step_s)
        old = [(STARTED, step, most), (STARTED, step - starting, -most)]
        served = [(SERVED, step, 1), (SERVED, step - 1, -1)]
        self._add([*served, (PODS, step, -most), *old], -math.inf, 0)
