"""The best schedule for a load that is known: whole pods in steps of time, by dynamic programming.

Pictures flow like water, in cells of a few pictures. Going back from the end of the trace, each
step finds the cheapest number of ready pods for every number before and every backlog, where a
picture that is not answered in time has a price. docs/autoscaling.md says what this leaves out.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from imageserve_loadtest.simulator.simulation import Setting

LEASED_BATCHES = 2
"""Batches that a worker holds."""

MOST_CELLS = 320
"""Steps of the backlog; with the window, the states are as many times more as a pod is held."""

SEGMENT = 60
"""So many steps are computed again at once, as all of them would not fit into memory."""

Floats = np.ndarray[tuple[int, ...], np.dtype[np.float64]]
Integers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Problem:
    """A load that is known, and the bounds of every rule."""

    setting: Setting
    requests: Sequence[float]
    length_s: float
    min_replicas: int
    max_replicas: int
    window_s: float = 0.0
    """Once the pods have become more, they do not become fewer within this time."""

    @property
    def capacity_per_s(self) -> float:
        """Most pictures a second of one pod."""
        return max(n * 1000 / ms for n, ms in self.setting.bucket_ms.items())

    @property
    def batch_s(self) -> float:
        """Longest time of a batch."""
        return max(self.setting.bucket_ms.values()) / 1000

    def arrivals(self, step_s: float) -> list[int]:
        """Return the requests of each step."""
        counts = [0] * math.ceil(self.length_s / step_s)
        for second in self.requests:
            counts[int(second / step_s)] += 1
        return counts


class DynamicProgram:
    """The cheapest numbers of pods by the price of a late picture.

    With ``is_bound`` every rounding helps: the time of a pod's start and end, the deadline and the
    backlog. Then no rule of the simulator does with fewer pod seconds. Without, what the web
    servers refuse counts as late at once, so that the schedule does in the simulator about what it
    does here.
    """

    def __init__(
        self, problem: Problem, step_s: float, *, is_bound: bool, reserve: float = 0.0
    ) -> None:
        """``reserve`` is the share of the capacity that the schedule does not count on."""
        self._problem = problem
        self._step_s = step_s
        self._is_bound = is_bound
        self._steps = math.ceil(problem.length_s / step_s)
        setting = problem.setting
        deadline_s = setting.timeout_s if is_bound else setting.timeout_s - problem.batch_s
        self._late_steps = max(1, (math.ceil if is_bound else math.floor)(deadline_s / step_s))
        self._held = self._held_steps()
        pods = range(problem.max_replicas + 1)
        most = max(self._backlog(each) for each in pods)
        per_step = problem.capacity_per_s * step_s * (1 - reserve)
        # Whole cells a pod and step, so that no rounding adds up.
        self._pod_cells = max(4, min(64, int(MOST_CELLS * per_step / most)))
        self._cell = per_step / self._pod_cells
        self._cells = math.ceil(most / self._cell) + 1
        self._limits = np.array([math.ceil(self._backlog(each) / self._cell) for each in pods])
        self._rows = np.array(pods)[:, None]
        self._left = np.arange(self._cells)[None, :] - self._pod_cells * self._rows

    def _held_steps(self) -> int:
        """Return for how many steps after its first one a pod stays."""
        window_s = self._problem.window_s - self._problem.setting.pod_start_s
        steps = window_s / self._step_s
        return max(0, (math.floor if self._is_bound else math.ceil)(steps) - 1)

    def _backlog(self, pods: int) -> float:
        """Return the most pictures that so many ready pods have in front of them."""
        setting, problem = self._problem.setting, self._problem
        leased = LEASED_BATCHES * setting.batch_size
        if self._is_bound:
            return setting.queue_limit + leased * problem.max_replicas
        admitted = problem.capacity_per_s * (setting.timeout_s - problem.batch_s) * pods
        most = setting.queue_limit + leased * pods
        return max(1.0, min(admitted, most)) if pods else most

    @cached_property
    def _arrived(self) -> tuple[Integers, Integers]:
        """Cells that have arrived before each step, rounded up and down."""
        counts = self._problem.arrivals(self._step_s)
        total = np.concatenate([[0], np.cumsum(counts)]) / self._cell
        total = np.concatenate([total, np.full(self._late_steps, total[-1])])
        return np.ceil(total - 1e-9).astype(int), np.floor(total + 1e-9).astype(int)

    @property
    def _last(self) -> int:
        return self._steps + self._late_steps

    def _start_s(self, step: int) -> float:
        """Return what it costs that a pod gets ready in a step; without the step itself."""
        ready_s, start_s = step * self._step_s, self._problem.setting.pod_start_s
        # It may have been asked for a step later than here, and have left a step before.
        gift_s = 2 * self._step_s if self._is_bound else 0.0
        if ready_s + gift_s / 2 < start_s:
            return math.inf
        return max(0.0, min(start_s, self._problem.length_s - ready_s + start_s) - gift_s)

    def _stage(self, step: int, price: float) -> tuple[Floats, Integers]:
        """Return the cost of a step by pods and backlog, and the backlog after it."""
        most, least = self._arrived
        came = int(most[step + 1] - most[step])
        not_late = int(most[step + 1] - least[max(0, step + 1 - self._late_steps)])
        limits = np.minimum(self._limits, not_late)[:, None]
        left = self._left + came
        paid_s = min(self._step_s, max(0.0, self._problem.length_s - step * self._step_s))
        cost = price * self._cell * np.maximum(left - limits, 0) + paid_s * self._rows
        if step * self._step_s > self._problem.setting.pod_start_s:
            cost[: self._problem.min_replicas] = math.inf
        return cost, np.clip(left, 0, limits)

    def _back(self, step: int, after: Floats, price: float) -> Floats:
        """Return the cost from a step on, by how long the pods are held, pods and backlog."""
        cost, left = self._stage(step, price)
        then = cost + after[:, self._rows, left]
        start_s = self._start_s(step)
        rise = np.full_like(cost, math.inf)
        if start_s < math.inf:
            started = then[-1] + self._rows * start_s
            least = np.minimum.accumulate(started[::-1])[::-1]
            rise[:-1] = least[1:] - self._rows[:-1] * start_s
        fall = np.minimum.accumulate(then[0])
        return np.concatenate([np.minimum(fall, rise)[None], np.minimum(then[:-1], rise)])

    def _ends(self, price: float) -> list[Floats]:
        """Return the cost from each first step of a segment on, and from the end on: nothing."""
        now: Floats = np.zeros((self._held + 1, len(self._rows), self._cells))
        kept = [now]
        for step in reversed(range(self._last)):
            now = self._back(step, now, price)
            if step % SEGMENT == 0:
                kept.append(now)
        return kept[::-1]

    def least_s(self, price: float, wanted: Sequence[int]) -> list[float]:
        """Return pod seconds without which so many pictures, or so many, are not in time.

        ``price`` is that of a late picture, in pod seconds. Each gives a lower bound; which price
        gives the highest depends on how many pictures are wanted.
        """
        cost = float(self._ends(price)[0][self._held, self._problem.setting.replicas, 0])
        gift_s = self._step_s * self._problem.setting.replicas  # They may go within a step.
        all_ = float(self._arrived[0][-1] * self._cell)
        return [cost - price * (all_ - each) - gift_s for each in wanted]

    def schedule(self, price: float) -> list[int]:
        """Return the wanted pods at the start of each step."""
        ready = self._ready(price)
        start = math.ceil(self._problem.setting.pod_start_s / self._step_s)
        return [max(ready[step : step + start + 1]) for step in range(self._steps)]

    def _ready(self, price: float) -> list[int]:
        ends = self._ends(price)
        pods, held, backlog, found = self._problem.setting.replicas, self._held, 0, []
        for first, end in zip(range(0, self._last, SEGMENT), ends[1:], strict=True):
            steps = range(first, min(first + SEGMENT, self._last))
            costs = [end]
            for step in reversed(steps[1:]):
                costs.append(self._back(step, costs[-1], price))
            for step, after in zip(steps, reversed(costs), strict=True):
                stage, left = self._stage(step, price)
                chosen = self._chosen(step, (pods, held, backlog), after, (stage, left))
                held = self._held if chosen > pods else max(0, held - 1)
                pods, backlog = chosen, int(left[chosen, backlog])
                found.append(pods)
        return found

    def _chosen(
        self, step: int, now: tuple[int, int, int], after: Floats, stage: tuple[Floats, Integers]
    ) -> int:
        """Return the pods with the least cost from here on."""
        pods, held, backlog = now
        cost, left = stage[0][:, backlog], stage[1][:, backlog]
        numbers = self._rows[:, 0]
        kept = after[max(0, held - 1), numbers, left]
        if held:
            kept[:pods] = math.inf
        total = cost + np.where(numbers > pods, after[self._held, numbers, left], kept)
        start_s = self._start_s(step)
        if start_s < math.inf:
            total += np.maximum(0, numbers - pods) * start_s
        else:
            total[pods + 1 :] = math.inf
        return int(total.argmin())
