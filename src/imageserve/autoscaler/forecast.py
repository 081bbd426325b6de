"""What the memory of the week expects: jumps that came at the same distance before. Pure.

A *jump* is a step whose highest rate is more than what the pods of the step before could do: only
there pods come too late. One that came two of the last three times at the same distance (an hour, a
day, a week, or any other number of steps) is expected again, if the distance has proved itself:
over all that the memory holds, forecasts by it would have been right more often than wrong, and
would have saved enough late pictures for the pod hours they take. docs/autoscaling.md explains it.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from functools import cached_property

from imageserve.autoscaler.load import demand
from imageserve.autoscaler.memory import SLOT_S, SLOTS, STEP_S, Memory, Step
from imageserve.autoscaler.policy import Policy

HOUR, DAY, WEEK = 12, 288, 2016
"""In steps."""

USUAL = frozenset(
    {HOUR, DAY, WEEK, *(HOUR // n for n in (2, 3, 4)), *(HOUR * n for n in (2, 3, 4, 6, 8, 12))}
)
"""Distances that clocks and calendars make. One forecast more right than wrong is enough."""

LEAST_LEAD = 6
"""Any other distance needs so many more that are right: among 2000 some fit by chance."""

LIFT = 2.0
"""And it must be right so many times as often as jumps come anyway."""

PRICE = 0.02
"""A pod must save at least this share of the pictures that it can do in its extra time from being
late; or the jump is not worth its pods."""

NEAR = 6
"""So near to the edge of a step, in slots of ten seconds, a jump may fall into the next one too."""

LOOKED_AT = 5
"""Occurrences that a forecast looks at, the latest ones ..."""

QUANTILE = 0.6
"""... and the share of them that reached no more than what it expects."""

TESTED = 50
"""The latest forecasts of one distance for which the price is checked."""

UTILIZATION = 0.9
"""Share of a pod's capacity that foreseen load may use: the reserve is for what nobody foresees."""

SLACK_S = 15.0
"""Pods are ready so much before the jump: it is dated to ten seconds, decisions come every five."""


@dataclass(frozen=True, slots=True)
class BackTest:
    """What forecasts by one distance would have done, over what the memory holds."""

    tested: int
    right: int
    saved: float
    """Pictures fewer that would have been late."""
    hours: float
    """Replica-hours more."""

    @property
    def text(self) -> str:
        """Return this for people."""
        return (
            f"right {self.right} of {self.tested} times, with {self.saved:.0f} late pictures fewer "
            f"for {self.hours:.2f} replica-hours"
        )


@dataclass(frozen=True, slots=True)
class Expected:
    """A jump that is expected."""

    start_s: float
    """Unix time."""
    end_s: float
    """When it should be over, or the usual rule has noticed it."""
    per_s: float
    pods: int
    distance: int
    """In steps."""
    seen: int
    of: int
    """How often it came, of the latest times at this distance that are known."""
    test: BackTest

    @property
    def text(self) -> str:
        """Return this for people."""
        at = datetime.fromtimestamp(self.start_s, UTC)
        return (
            f"the forecast expects {self.per_s:.0f}/s at {at:%H:%M} UTC "
            f"(seen on {self.seen} of {self.of} {self.every})"
        )

    @property
    def every(self) -> str:
        """Return the plural of the distance, for people."""
        names = {HOUR: "hours", DAY: "days", WEEK: "weeks"}
        return names.get(self.distance, f"times every {_duration(self.distance)}")


def _duration(steps: int) -> str:
    minutes = steps * STEP_S // 60
    hours = "" if minutes < 60 else f"{minutes // 60} h"
    return " ".join(filter(None, (hours, f"{minutes % 60} min" if minutes % 60 else "")))


def lead_s(policy: Policy, pod_start_s: float, wanted: int) -> float:
    """Return how long before a jump pods are asked for: their start, and the limited steps."""
    now, periods = 1, 0
    while (now := _grown(policy, now)) < wanted:
        periods += 1
    return pod_start_s + periods * policy.scale_up_period_s + SLACK_S


def _grown(policy: Policy, pods: int) -> int:
    return max(math.ceil(pods * policy.scale_up_max_factor), pods + policy.scale_up_max_pods)


@dataclass(frozen=True, slots=True)
class _Jump:
    step: Step
    before: int
    """The pods that it met."""
    is_beside: bool = False
    """Whether it was in the step before or after, near the edge."""

    def beside(self, slot: int) -> "_Jump":
        return _Jump(replace(self.step, first=slot, last=slot), self.before, is_beside=True)


class Forecast:
    """The jumps that a memory expects, for pods of one capacity."""

    def __init__(
        self, memory: Memory, policy: Policy, capacity_per_s: float, pod_start_s: float
    ) -> None:
        self._memory = memory
        self._policy = policy
        self._capacity_per_s = capacity_per_s
        self._pod_start_s = pod_start_s
        self._tests: dict[int, BackTest] = {}

    def expected(self, number: int) -> Expected | None:
        """Return the highest jump that is expected in a step; None for none."""
        found = [
            each
            for distance in self._candidates(number)
            if (each := self._by(number, distance)) is not None
        ]
        return max(found, key=lambda each: (each.pods, each.per_s, each.seen), default=None)

    def _candidates(self, number: int) -> Iterator[int]:
        """Return the distances at which there were jumps two of the last three times."""
        index = number - self._memory.start
        ages = [index - each for each in self._jumps]
        # It came the last time or the one before.
        distances = {*ages, *(age // 2 for age in ages if age % 2 == 0)}
        for distance in sorted(each for each in distances if 2 <= each <= WEEK):
            came = self._came(index, distance)
            if len(came) < 2 or all(self._jumps[each].is_beside for each in came):
                continue
            if self._is_proven(distance) and not self._is_over(index, distance, came):
                yield distance

    def _came(self, index: int, distance: int) -> list[int]:
        """Return the indexes of those of the last three times at which there was a jump."""
        times = [index - distance * each for each in (1, 2, 3)]
        return [each for each in times if each in self._jumps]

    def _is_over(self, index: int, distance: int, came: list[int]) -> bool:
        """Whether each time it was part of a faster rhythm, which has stopped since.

        Else an hourly job that is no more would be expected for days, as it came on earlier days.
        """
        for part in range(2, distance // 2 + 1):
            before = index - part
            if distance % part or before in self._jumps or not self._is_known(before):
                continue
            earlier = [each - part for each in came if each >= part]
            if earlier and all(each in self._jumps for each in earlier):
                return True
        return False

    def _is_known(self, index: int) -> bool:
        """Whether it is known if there was a jump."""
        steps = self._memory.steps
        is_held = index < len(steps)
        return is_held and steps[index] is not None and self._standing[index] is not None

    def _by(self, number: int, distance: int) -> Expected | None:
        test = self.test(distance)
        if test.saved <= 0 or test.saved < self._price * test.hours:
            return None
        index = number - self._memory.start
        steps, jumps = self._occurrences(index, distance)
        if len(jumps) < 2:
            return None
        per_s, pods = self._wanted(steps)
        start_s = number * STEP_S
        return Expected(
            start_s + min(each.first for each in jumps) * SLOT_S,
            start_s + (max(each.last for each in jumps) + 1) * SLOT_S,
            per_s,
            pods,
            distance,
            len(jumps),
            len(steps),
            test,
        )

    def _occurrences(self, index: int, distance: int) -> tuple[list[Step], list[Step]]:
        """Return the latest known steps at a distance, and those of them that were jumps."""
        steps, jumps = self._memory.steps, list[Step]()
        known: list[Step] = []
        for each in range(index - distance, -1, -distance):
            if each in self._jumps:
                jumps.append(self._jumps[each].step)
                known.append(jumps[-1])
            elif each < len(steps) and (step := steps[each]) is not None:
                known.append(step)
            if len(known) == LOOKED_AT:
                break
        return known, jumps

    def _wanted(self, steps: list[Step]) -> tuple[float, int]:
        peaks = sorted(step.peak for step in steps)
        per_s = peaks[math.ceil(QUANTILE * len(peaks)) - 1]
        usable = self._capacity_per_s * max(self._policy.target_utilization, UTILIZATION)
        return per_s, min(math.ceil(per_s / usable), self._policy.max_replicas)

    # -- jumps --------------------------------------------------------------------------------

    @cached_property
    def _standing(self) -> list[int | None]:
        """The pods that each step begins with, by the load before it; None: unknown."""
        policy, steps = self._policy, self._memory.steps
        least, idle = max(1, policy.min_replicas), 0
        found: list[int | None] = [None]
        for step in steps[:-1]:
            idle = idle + 1 if step is not None and step.total == 0 else 0
            if step is None:
                found.append(None)
            elif policy.min_replicas == 0 and idle * STEP_S > policy.scale_to_zero_after_s:
                found.append(0)
            else:
                load = demand(policy, step.peak, 0, self._capacity_per_s, self._pod_start_s)
                found.append(min(max(load.pods, least), policy.max_replicas))
        return found

    @cached_property
    def _jumps(self) -> dict[int, "_Jump"]:
        """The jumps by index. One near the edge of its step counts for the step beside it too."""
        found: dict[int, _Jump] = {}
        pairs = zip(self._memory.steps, self._standing, strict=False)
        for index, (step, pods) in enumerate(pairs):
            if step is not None and pods is not None and self._is_worth(step, pods):
                found[index] = _Jump(step, pods)
        beside: dict[int, _Jump] = {}
        for index, jump in found.items():
            if jump.step.first < NEAR:
                beside[index - 1] = jump.beside(SLOTS - 1)
            elif jump.step.first >= SLOTS - NEAR:
                beside[index + 1] = jump.beside(0)
        return {**beside, **found}

    def _is_worth(self, step: Step, before: int) -> bool:
        """Whether pods that were there before would have saved enough pictures."""
        if step.peak <= before * self._capacity_per_s:
            return False
        _, wanted = self._wanted([step])
        saved, hours = self._gain(step, before, max(before, wanted), is_right=True)
        return saved > 0 and saved >= self._price * hours

    def _gain(self, step: Step, before: int, pods: int, *, is_right: bool) -> tuple[float, float]:
        """Return how many pictures fewer are late with so many pods, and their replica-hours."""
        lead = lead_s(self._policy, self._pod_start_s, pods)
        # What came would have brought the pods all the same, only later.
        paid_s = lead if is_right else lead + step.span_s
        return self._late(step, before) - self._late(step, pods), (pods - before) * paid_s / 3600

    def _late(self, step: Step, pods: int) -> float:
        """Return how many pictures come too late while more pods start. Some can wait."""
        late_s = min(step.span_s, self._pod_start_s)
        came = min(step.total, step.peak * late_s)
        return max(0.0, came - pods * self._capacity_per_s * (late_s + self._policy.target_drain_s))

    @property
    def _price(self) -> float:
        return PRICE * self._capacity_per_s * 3600

    @cached_property
    def _bits(self) -> tuple[int, int]:
        """Jumps and known steps, the oldest as the lowest bit.

        Whether a jump came beside the newest step is not known before the next one has ended.
        """
        known = [
            pods is not None and step is not None
            for step, pods in zip(self._memory.steps, self._standing, strict=True)
        ]
        jumps = [index in self._jumps for index in range(len(known))]
        known[-1] = known[-1] and jumps[-1]
        return _as_bits(jumps), _as_bits(known)

    # -- the back-test ------------------------------------------------------------------------

    def _is_proven(self, distance: int) -> bool:
        """Whether forecasts by a distance were right often enough."""
        jumps, known = self._bits
        forecasts = self._forecasts(distance)
        tested = forecasts.bit_count()
        right = (forecasts & jumps).bit_count()
        least = 1 if distance in USUAL else LEAST_LEAD
        usual = jumps.bit_count() / known.bit_count()
        return 2 * right - tested >= least and right >= LIFT * usual * tested

    def _forecasts(self, distance: int) -> int:
        """Return the steps with a forecast by two of three times; where there are none, by one."""
        jumps, known = self._bits
        once, twice, thrice = (jumps << distance * times for times in (1, 2, 3))
        forecasts = (once & twice | once & thrice | twice & thrice) & known
        return forecasts or once & known

    def test(self, distance: int) -> BackTest:
        """Return what forecasts by this distance would have done."""
        if distance not in self._tests:
            self._tests[distance] = self._tested(distance)
        return self._tests[distance]

    def _tested(self, distance: int) -> BackTest:
        jumps, _ = self._bits
        forecasts = self._forecasts(distance)
        indexes = _ones(forecasts)
        results = [self._result(index, distance) for index in indexes[-TESTED:]]
        return BackTest(
            len(indexes),
            (forecasts & jumps).bit_count(),
            sum(saved for saved, _ in results),
            sum(hours for _, hours in results),
        )

    def _result(self, index: int, distance: int) -> tuple[float, float]:
        """Return the late pictures that a forecast would have saved, and its replica-hours."""
        step, before = self._memory.steps[index], self._standing[index]
        jump = self._jumps.get(index)
        if jump:
            step, before = jump.step, jump.before
        if step is None or before is None:
            return 0.0, 0.0
        _, wanted = self._wanted(self._occurrences(index, distance)[0])
        return self._gain(step, before, max(before, wanted), is_right=jump is not None)


def _as_bits(flags: list[bool]) -> int:
    return int("".join("1" if flag else "0" for flag in reversed(flags)) or "0", 2)


def _ones(bits: int) -> list[int]:
    return [index for index, bit in enumerate(reversed(f"{bits:b}")) if bit == "1"]
