"""The memory of the week: what is recorded, what stays unknown, and the value that holds it."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageserve.autoscaler.memory import (
    GAP_S,
    MOST_BYTES,
    SLOT_S,
    SLOTS,
    STEP_S,
    STEPS,
    Memory,
    Recording,
    Step,
    decode_memory,
)

START_S = 1_000 * STEP_S
"""When a step begins."""


def steps_() -> st.SearchStrategy[Step]:
    slots = st.lists(st.integers(0, SLOTS - 1), min_size=2, max_size=2).map(sorted)
    peaks = st.floats(0, 65504, width=16)
    return st.builds(
        lambda total, peak, edges: Step(total, peak, *edges),
        st.integers(0, 2**32 - 1),
        peaks,
        slots,
    )


def memories() -> st.SearchStrategy[Memory]:
    some = st.lists(st.one_of(st.none(), steps_()), max_size=12).map(tuple)
    ends = st.integers(STEPS, STEPS + 20)
    return st.builds(lambda end, steps: Memory(end, steps) if steps else Memory(), ends, some)


def recorded(reads: list[tuple[float, int]]) -> list[tuple[int, Step | None]]:
    """Return each step that ended, by its number."""
    recording, ended = Recording(), []
    for now_s, count in reads:
        number = recording.number
        recording, step = recording.add(now_s, count)
        if recording.number != number and number:
            ended.append((number, step))
    return ended


def reads(length_s: float, rate: float, every_s: float = 5.0) -> list[tuple[float, int]]:
    return [
        (START_S + n * every_s, round(n * every_s * rate))
        for n in range(int(length_s / every_s) + 1)
    ]


def test_the_step_in_which_counting_began_is_unknown_and_the_next_one_is_known() -> None:
    assert recorded([(s + 7, n) for s, n in reads(3 * STEP_S, 4.0)]) == [
        (1000, None),
        (1001, Step(1200, 4.0)),
        (1002, Step(1200, 4.0)),
    ]


def test_the_peak_is_that_of_ten_seconds_and_is_dated() -> None:
    counts, now = [], 0
    for n in range(3 * STEP_S // 5):
        second = n * 5
        now += 5 * (100 if STEP_S + 120 < second <= STEP_S + 180 else 1)
        counts.append((START_S + float(second), now))

    (_, first), (number, step) = recorded(counts)

    assert (first, number) == (None, 1001)
    assert step == Step(12 * 500 + 48 * 5, 100.0, 12, 18)
    assert step.span_s == 70.0


@pytest.mark.parametrize(
    "broken",
    [
        pytest.param([(STEP_S + 100.0, STEP_S + 100.0 + GAP_S + 5)], id="not read for too long"),
        pytest.param([(0.0, STEP_S * 2.0)], id="begun only now"),
    ],
)
def test_a_step_with_a_gap_is_unknown(broken: list[tuple[float, float]]) -> None:
    counts = [
        (s, n)
        for s, n in reads(3 * STEP_S, 2.0)
        if not any(start < s - START_S < end for start, end in broken)
    ]
    assert dict(recorded(counts)).get(1001) is None


@pytest.mark.parametrize("jump_s", [-3600.0, 7200.0], ids=["back", "forward"])
def test_a_clock_that_jumps_makes_no_step(jump_s: float) -> None:
    counts = [(s + (jump_s if n > 700 else 0), n) for s, n in reads(3 * STEP_S, 1.0)]
    assert [step for _, step in recorded(counts) if step and step.total != STEP_S] == []


def test_a_counter_that_falls_makes_no_step() -> None:
    counts = [(s, n if n < 400 else n - 400) for s, n in reads(3 * STEP_S, 1.0)]
    assert dict(recorded(counts))[1001] is None


@given(memories())
def test_a_memory_is_read_as_it_was_written(memory: Memory) -> None:
    assert decode_memory(memory.encoded()) == memory


def test_four_weeks_fit_into_64_kib() -> None:
    whole = Memory(STEPS, (Step(2**40, math.inf, 3, 4),) * STEPS)
    value = whole.encoded()
    assert len(value) == MOST_BYTES <= 2**16
    assert decode_memory(value).at(7) == Step(2**32 - 1, 65504.0, 3, 4)


@given(st.one_of(st.binary(max_size=40), st.binary(max_size=64).map(lambda rest: b"arr1" + rest)))
def test_any_other_value_is_refused_or_a_memory(value: bytes) -> None:
    try:
        memory = decode_memory(value)
    except ValueError:
        return
    assert decode_memory(memory.encoded()) == memory


@given(memories(), memories(), memories())
def test_two_memories_become_one_in_any_order(a: Memory, b: Memory, c: Memory) -> None:
    assert a.merged(a) == a
    assert a.merged(b) == b.merged(a)
    assert a.merged(b).merged(c) == a.merged(b.merged(c))
    for number in range(a.merged(b).start, a.merged(b).end):
        mine, other = a.at(number), b.at(number)
        assert a.merged(b).at(number) in (mine, other)
        assert (a.merged(b).at(number) is None) == (mine is None and other is None)


@given(memories(), st.integers(0, 3 * STEPS), steps_())
def test_a_step_is_added_to_at_most_four_weeks(memory: Memory, number: int, step: Step) -> None:
    now = memory.add(number, step)
    assert now.end == number + 1
    assert now.at(number) in (step, memory.at(number))
    assert len(now.steps) <= STEPS
    # What a clock that was ahead has left is gone, and nothing is invented between.
    assert all(now.at(each) == memory.at(each) for each in range(now.start, number))


def test_slots_divide_a_step() -> None:
    assert SLOT_S * SLOTS == STEP_S
