"""The forecast: what it expects, what it never expects, and what it says about itself."""

import random
from collections.abc import Callable, Sequence
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageserve.autoscaler.forecast import DAY, HOUR, WEEK, Expected, Forecast, lead_s
from imageserve.autoscaler.foresight import Counted, Foresight
from imageserve.autoscaler.memory import SLOT_S, STEP_S, Memory, Step
from imageserve.autoscaler.policy import Policy

POLICY = Policy(max_replicas=20)
CAPACITY = 24.0
START = 20_000 * WEEK
QUIET = Step(600, 2.0)
BURST = Step(12_600, 200.0, 6, 12)
"""A minute of 200/s, a minute after the start of its step."""


def forecast(steps: Sequence[Step | None], policy: Policy = POLICY) -> Forecast:
    return Forecast(Memory(START + len(steps), tuple(steps)), policy, CAPACITY, 60.0)


def steps(length: int, is_burst: Callable[[int], bool]) -> list[Step | None]:
    return [BURST if is_burst(n) else QUIET for n in range(length)]


def hourly(n: int) -> bool:
    return n % HOUR == 5


def expected(memory: Sequence[Step | None], policy: Policy = POLICY) -> Expected | None:
    """Return what is expected of the next step."""
    return forecast(memory, policy).expected(START + len(memory))


def test_what_came_twice_at_an_hours_distance_is_expected_a_third_time() -> None:
    memory = steps(2 * HOUR + 5, hourly)

    jump = expected(memory)

    assert jump is not None
    assert (jump.per_s, jump.pods, jump.distance, jump.seen, jump.of) == (200.0, 10, HOUR, 2, 2)
    start_s = (START + len(memory)) * STEP_S
    assert (jump.start_s, jump.end_s) == (start_s + 6 * SLOT_S, start_s + 13 * SLOT_S)
    assert (jump.test.tested, jump.test.right) == (1, 1)
    assert jump.test.saved > 0 < jump.test.hours
    assert expected(memory[:-1]) is None
    assert expected(memory[: HOUR + 5]) is None


@pytest.mark.parametrize(
    ("distance", "text"),
    [
        pytest.param(HOUR, "seen on 5 of 5 hours", id="hour"),
        pytest.param(DAY, "seen on 5 of 5 days", id="day"),
        pytest.param(HOUR // 3, "seen on 5 of 5 times every 20 min", id="20 min"),
        pytest.param(18, "seen on 5 of 5 times every 1 h 30 min", id="90 min"),
    ],
)
def test_it_says_what_it_expects_and_how_often_that_came(distance: int, text: str) -> None:
    # A distance that no clock makes needs more evidence.
    times = 5 if distance in (HOUR, DAY) else 9
    jump = expected(steps(times * distance + 1, lambda n: n % distance == 1))

    assert jump is not None
    assert text in jump.text
    assert "expects 200/s at " in jump.text


def test_a_week_is_a_season_too() -> None:
    jump = expected(steps(2 * WEEK + 7, lambda n: n % WEEK == 7))
    assert jump is not None
    assert "seen on 2 of 2 weeks" in jump.text


def test_one_that_failed_to_come_once_is_still_expected() -> None:
    memory = steps(5 * HOUR + 5, lambda n: hourly(n) and n // HOUR != 3)
    jump = expected(memory)
    assert jump is not None
    assert (jump.seen, jump.of, jump.per_s) == (4, 5, 200.0)


def test_one_that_has_ended_is_no_longer_expected() -> None:
    memory = steps(3 * DAY, lambda n: hourly(n) and n // DAY < 2)
    late = [n for n in range(2 * DAY + 5, 3 * DAY, HOUR) if expected(memory[:n])]
    assert late == [2 * DAY + 5, 2 * DAY + HOUR + 5]


def test_a_job_of_the_working_hours_is_expected_in_those() -> None:
    memory = steps(5 * DAY, lambda n: hourly(n) and 9 <= n % DAY // HOUR < 17)
    found = [n % DAY // HOUR for n in range(4 * DAY + 5, 5 * DAY, HOUR) if expected(memory[:n])]
    assert set(range(9, 17)) <= set(found)
    assert len(found) <= 8 + 4  # By the hour it goes on until it failed twice.


def test_a_gap_makes_no_forecast() -> None:
    memory = steps(2 * HOUR + 5, hourly)
    for gap in (5, HOUR + 5, 4, HOUR + 4):  # The jump, or what it jumped from.
        assert expected([None if n == gap else each for n, each in enumerate(memory)]) is None


@pytest.mark.parametrize("gap", [6 * HOUR, 6 * HOUR - 1], ids=["the jump", "what it jumped from"])
def test_a_gap_is_no_end_of_what_came_more_often(gap: int) -> None:
    memory = steps(3 * DAY + 12 * HOUR, lambda n: n % DAY in (6 * HOUR, 12 * HOUR))
    memory[3 * DAY + gap] = None

    jump = expected(memory)

    assert jump is not None
    assert jump.distance == DAY


def test_what_the_pods_can_do_is_no_jump() -> None:
    low = replace(BURST, total=24 * 60, peak=24.0)
    assert (
        expected([low if each is BURST else each for each in steps(2 * HOUR + 5, hourly)]) is None
    )
    many = Policy(min_replicas=10, max_replicas=20)
    assert expected(steps(2 * HOUR + 5, hourly), many) is None


def test_a_jump_that_is_not_worth_its_pods_is_left_alone() -> None:
    short = Step(1600, 100.0, 6, 6)  # Ten seconds: nearly all of it can wait.
    assert (
        expected([short if each is BURST else each for each in steps(9 * HOUR + 5, hourly)]) is None
    )


def test_no_more_pods_than_allowed() -> None:
    jump = expected(steps(2 * HOUR + 5, hourly), Policy(max_replicas=4))
    assert jump is not None
    assert jump.pods == 4


@pytest.mark.parametrize("seed", range(4))
def test_of_chance_it_expects_next_to_nothing(seed: int) -> None:
    random_ = random.Random(seed)
    share = random_.choice([0.01, 0.05, 0.2])
    memory = steps(WEEK, lambda _: random_.random() < share)
    false = sum(expected(memory[:n]) is not None for n in range(HOUR, WEEK, 71))
    assert false <= 1


@settings(max_examples=30)
@given(
    st.lists(st.sampled_from([None, QUIET, BURST, Step(60_000, 200.0), Step(0, 0.0)]), max_size=60)
)
def test_it_expects_only_what_came_twice(memory: list[Step | None]) -> None:
    jump = expected(memory)
    if jump is not None:
        came = [
            each
            for n in range(len(memory) - jump.distance, -1, -jump.distance)
            if (each := memory[n]) is not None
        ]
        assert sum(each.peak >= jump.per_s for each in came) >= 1
        assert len(came) >= jump.of >= jump.seen >= 2
        assert 2 * jump.test.right > jump.test.tested


def test_pods_are_asked_for_before_with_time_for_their_steps() -> None:
    assert [lead_s(POLICY, 60.0, pods) for pods in (2, 7, 8, 14, 15)] == [75, 75, 90, 90, 105]


def test_what_comes_now_before_and_now_after_the_edge_of_a_step_is_expected_in_both() -> None:
    early, late = (Step(60_000, 200.0, 27, 29), Step(60_000, 200.0, 2, 29))
    memory = [QUIET] * (3 * DAY)
    memory[DAY - 1], memory[DAY] = early, Step(60_000, 200.0)
    memory[2 * DAY] = late
    edge_s = (START + 3 * DAY) * STEP_S

    before, after = forecast(memory[:-1]), forecast(memory)

    first = before.expected(START + 3 * DAY - 1)
    second = after.expected(START + 3 * DAY)
    assert first is not None
    assert second is not None
    assert (first.start_s, first.end_s) == (edge_s - 30, edge_s)
    assert (second.start_s, second.end_s) == (edge_s, edge_s + STEP_S)
    assert after.expected(START + 3 * DAY + 1) is None


# -- one model's foresight ----------------------------------------------------------------------


def watched(
    foresight: Foresight, length_s: int, rate: Callable[[int], float]
) -> list[tuple[int, int]]:
    """Count for so long; return when pods were foreseen, and how many."""
    count, found = 0.0, []
    for second in range(0, length_s, 5):
        foresight.count(Counted(START * STEP_S + float(second), "a", round(count)), leading=True)
        foreseen = foresight.foreseen(START * STEP_S + float(second), CAPACITY, 60.0)
        if foreseen:
            found.append((second, foreseen.pods))
        count += 5 * rate(second)
    return found


def test_pods_are_foreseen_from_their_start_to_the_end_of_the_jump() -> None:
    found = watched(
        Foresight(POLICY), 5 * 3600, lambda s: 200.0 if 1380 <= s % 3600 < 1440 else 2.0
    )

    hours = {second // 3600 for second, _ in found}
    # The first step is not whole, but the jump of the first hour is in one that is.
    assert hours == {2, 3, 4}
    third = [second - 2 * 3600 for second, _ in found if second // 3600 == 2]
    assert 1380 - 120 <= third[0] <= 1380 - 75
    assert 1440 - 10 <= third[-1] <= 1460
    assert {pods for _, pods in found} == {10}


def test_another_run_of_redis_interrupts_the_memory() -> None:
    foresight = Foresight(POLICY)
    for n in range(200):
        run = "a" if n < 100 else "b"
        foresight.count(Counted(START * STEP_S + 5.0 * n, run, n), leading=True)
    assert foresight.memory.known == 1


def test_without_capacity_nothing_is_foreseen_and_nothing_is_said() -> None:
    foresight = Foresight(POLICY)

    assert foresight.foreseen(0.0, None, 60.0) is None
    assert "per_s" not in foresight.facts()
    assert foresight.facts()["expects"].startswith("not known")
