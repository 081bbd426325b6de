"""A process that would be late refuses; whatever it measures, it never refuses without need."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageserve.web.pace import (
    FIRST_PACE_S,
    LATE_S,
    NEVER_REFUSED,
    Gate,
    Pace,
    Spread,
)

SECONDS = st.floats(1e-4, 10)


def gate_at(pace_s: float) -> Gate:
    gate = Gate()
    gate.pace = Pace(pace_s)
    return gate


@given(SECONDS, st.integers(0, NEVER_REFUSED - 1), st.floats(0, 100))
def test_a_picture_with_few_ahead_is_taken_however_old_it_is(
    pace_s: float, ahead: int, age_s: float
) -> None:
    assert gate_at(pace_s).refusal(ahead, age_s, 0.0) is None


def test_slow_first_pictures_refuse_no_burst() -> None:
    gate = Gate()
    for seconds in (0.3, 0.2, 0.1):  # While the process connects to Redis.
        gate.pace.measured(seconds)

    assert gate.refusal(20, 0.0, 0.0) is None


@given(SECONDS, st.integers(NEVER_REFUSED, 10_000), st.floats(0, 100))
def test_it_refuses_just_what_would_be_late_and_names_a_time_within_a_minute(
    pace_s: float, ahead: int, age_s: float
) -> None:
    retry_s = gate_at(pace_s).refusal(ahead, age_s, 0.0)

    if age_s + ahead * pace_s <= LATE_S:
        assert retry_s is None
    else:
        assert retry_s is not None
        assert 1 <= retry_s <= 60
        assert retry_s >= min(60, ahead * pace_s), "not before those ahead of it are decoded"


@given(SECONDS, st.integers(1, 300))
def test_the_more_are_refused_at_once_the_later_they_are_told_to_come(
    pace_s: float, count: int
) -> None:
    gate = gate_at(pace_s)
    ahead = int(LATE_S / pace_s) + NEVER_REFUSED
    told = [gate.refusal(ahead, LATE_S, 5.0) for _ in range(count)]

    assert told == sorted(told, key=lambda seconds: seconds or 0)
    assert (told[-1] or 0) >= min(60, (ahead + count) * pace_s - pace_s)


def test_refusals_are_forgotten_at_the_pace_at_which_they_could_have_been_served() -> None:
    gate = gate_at(0.1)
    at_once = [gate.refusal(11, 0.0, 100.0) for _ in range(200)]
    assert at_once[-1] == 22

    assert gate.refusal(11, 0.0, 100.0 + 10) == 12
    assert gate.refusal(11, 0.0, 100.0 + 60) == 2


@given(st.lists(SECONDS, min_size=1))
def test_the_pace_stays_within_what_was_measured(measured: list[float]) -> None:
    pace = Pace()
    for seconds in measured:
        pace.measured(seconds)

    known = [*measured, FIRST_PACE_S]
    assert min(known) * 0.999 <= pace.seconds <= max(known) * 1.001


@given(st.floats(1e-3, 0.05))
def test_a_halt_of_the_process_hardly_changes_its_pace(pace_s: float) -> None:
    pace = Pace()
    for _ in range(round(5 / pace_s)):
        pace.measured(pace_s)
    pace.measured(1e6)

    assert pace.seconds <= 1.7 * pace_s


@pytest.mark.parametrize("pace_s", [0.001, 0.01, 0.1, 0.5])
def test_the_pace_is_known_within_seconds(pace_s: float) -> None:
    pace = Pace()
    for _ in range(round(10 / pace_s)):
        pace.measured(pace_s)

    assert pace.seconds == pytest.approx(pace_s, rel=0.15)


@given(st.lists(SECONDS, min_size=1))
def test_a_spread_stays_within_what_was_measured(measured: list[float]) -> None:
    spread = Spread()
    for seconds in measured:
        spread.measured(seconds)

    assert min(measured) * 0.999 <= spread.mean_s <= max(measured) * 1.001
    assert spread.mean_s <= spread.most_s
    assert spread.most_s <= spread.mean_s + 2.001 * (max(measured) - min(measured))


def test_a_spread_covers_nearly_all_and_forgets_a_halt() -> None:
    spread = Spread()
    for number in range(200):
        spread.measured(0.03 + 0.01 * (number % 2))
    assert 0.03 < spread.mean_s < 0.04 < spread.most_s < 0.05

    spread.measured(2.0)
    assert spread.most_s > 0.2
    for _ in range(100):
        spread.measured(0.03)
    assert spread.most_s < 0.05


def test_what_is_never_in_time_is_learnt_too() -> None:
    gate = gate_at(0.01)
    for _ in range(30):
        gate.answered("m", 0.03)
        gate.unanswered("m", 0.02)
    assert gate.needed_s(0, "m", surely=True) < 0.04, "that says nothing: it may have come at 0.03"

    for _ in range(60):
        gate.unanswered("m", 0.08)
    assert gate.needed_s(0, "m", surely=False) > 0.07

    for _ in range(1000):
        gate.unanswered("m", 30.0)
    assert gate.needed_s(0, "m", surely=True) < 2, "a dead worker is no pace"


def test_what_is_needed_is_decoding_and_the_time_after_it_of_that_model() -> None:
    gate = gate_at(0.01)
    assert gate.needed_s(3, "new", surely=True) == pytest.approx(0.03)
    for seconds in (0.1, 0.2):
        gate.answered("slow", seconds)

    likely, sure = (gate.needed_s(3, "slow", surely=surely) for surely in (False, True))
    assert 0.13 <= likely < sure < 0.3
    assert gate.needed_s(3, None, surely=True) == pytest.approx(0.03)


def test_models_that_clients_only_name_take_no_memory() -> None:
    gate = gate_at(0.01)
    for number in range(100):
        gate.needed_s(1, f"model-{number}", surely=True)
    assert not gate._after
