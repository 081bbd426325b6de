"""What the line of a web process refuses, without a server: its counts and the clock are given."""

import re
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageserve.errors import Busy, WouldTimeOut, rounded_up
from imageserve.web.decode_order import Asked, Place
from imageserve.web.line import DecodeLine
from imageserve.web.pace import NEVER_TOO_LATE, Pace

NOW = 1000.0
SECONDS = st.floats(0.001, 20)
WAITING = st.lists(st.tuples(SECONDS, st.booleans()), max_size=40)


def line_of(waiting: list[tuple[float, bool]], pace_s: float, after_s: float) -> DecodeLine:
    """Return a line that is busy, where these wait: their timeouts, and who is background."""
    line = DecodeLine(lambda: NOW)
    line._busy = True
    line._gate.pace = Pace(pace_s)
    line.answered("m", after_s)
    for timeout_s, is_background in waiting:
        line._order.add(Place(Asked(NOW + timeout_s, is_background, "m")))  # type: ignore[arg-type]
    return line


def refusal_of(line: DecodeLine, asked: Asked) -> WouldTimeOut | None:
    try:
        with suppress(Busy):  # Then no timeout helps: too many pictures wait.
            line.check(asked)
    except WouldTimeOut as refusal:
        return refusal
    return None


@given(WAITING, SECONDS, st.booleans(), st.floats(0.001, 0.2), st.floats(0, 1))
def test_the_timeout_that_a_refusal_names_is_accepted(
    waiting: list[tuple[float, bool]],
    timeout_s: float,
    is_background: bool,
    pace_s: float,
    after_s: float,
) -> None:
    line = line_of(waiting, pace_s, after_s)
    refusal = refusal_of(line, Asked(NOW + timeout_s, is_background, "m"))
    if refusal is None:
        return

    named = re.search("X-Request-Timeout that is accepted now is ([0-9.]+)$", str(refusal))
    assert named
    assert float(named[1]) >= timeout_s
    assert refusal_of(line, Asked(NOW + float(named[1]), is_background, "m")) is None
    assert refusal.retry_after_s in range(1, 61)


@given(SECONDS, st.floats(0.001, 5), st.floats(0, 5))
def test_a_line_in_which_hardly_one_waits_refuses_nobody(
    timeout_s: float, pace_s: float, after_s: float
) -> None:
    line = line_of([(timeout_s, False)] * (NEVER_TOO_LATE - 2), pace_s, after_s)

    line.check(Asked(NOW + timeout_s))


def test_the_next_one_gets_the_benefit_of_the_doubt_and_others_do_not() -> None:
    line = line_of([(5.0, False)] * 4, 0.01, 0.1)
    for _ in range(50):
        for after_s in (0.08, 0.12):
            line.answered("m", after_s)
    tight = Asked(NOW + 0.13, model="m")

    line.check(tight)  # One is decoded now, and then this one: 0.02 s, and 0.1 s after that.
    line._order.add(Place(Asked(NOW + 0.12, model="m")))  # type: ignore[arg-type]

    with pytest.raises(WouldTimeOut):
        line.check(tight)


@pytest.mark.parametrize("is_background", [False, True])
def test_what_goes_behind_does_not_delay_what_goes_before(is_background: bool) -> None:
    line = line_of([(30.0, is_background)] * 90, 0.01, 0.1)

    line.check(Asked(NOW + 0.3, model="m"))
    with pytest.raises(WouldTimeOut, match="accepted now is 1"):
        line_of([(0.2, False)] * 90, 0.01, 0.1).check(Asked(NOW + 0.3, model="m"))


@given(SECONDS)
def test_what_a_client_is_told_is_no_less_and_hardly_more(seconds: float) -> None:
    told = rounded_up(seconds)

    assert seconds - 1e-6 <= told <= seconds * 1.11 + 0.01
    assert rounded_up(told) == told
