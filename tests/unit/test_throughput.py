"""What a web process could decode, from the processor time that pictures have taken."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageserve.web.pace import REMEMBERED, Throughput, Used


def pictures(count: int, each_s: float = 0.002, slowed: float = 1.0) -> Used:
    """``slowed``: how much longer they took than their processor time."""
    return Used(count, count * each_s * slowed, count * each_s)


def test_before_the_first_picture_nothing_is_known() -> None:
    throughput = Throughput()
    assert throughput.per_s(1) == 0
    throughput.add(5.0, 0.1, pictures(0))
    assert throughput.per_s(1) == 0


@given(st.integers(1, 400), st.floats(0.001, 0.01))
def test_it_does_not_depend_on_how_many_come(count: int, cost_s: float) -> None:
    throughput = Throughput()
    for _ in range(4):
        throughput.add(5.0, 0.05, pictures(0))  # Probes and the like.
    for _ in range(3):
        throughput.add(5.0, 0.05 + count * cost_s, pictures(count))

    found = throughput.per_s(1)
    assert found <= 1.01 / cost_s
    if count * cost_s > 0.05:  # With fewer, what else the process does hides what they took.
        assert found == pytest.approx(1 / cost_s, rel=0.02)


@pytest.mark.parametrize(
    ("processors", "slowed", "share"),
    [
        pytest.param(1.0, 1.0, 1.0, id="a processor of its own"),
        pytest.param(8.0, 1.0, 1.0, id="one process uses one"),
        pytest.param(0.25, 1.0, 0.25, id="a limit of a quarter"),
        pytest.param(1.0, 4.0, 0.25, id="others take three quarters"),
        pytest.param(0.25, 2.0, 0.25, id="the smaller one counts"),
    ],
)
def test_it_has_no_more_than_its_share_of_the_processors(
    processors: float, slowed: float, share: float
) -> None:
    throughput = Throughput()
    throughput.add(5.0, 0.5, pictures(100, 0.002, slowed))

    assert throughput.per_s(processors) == pytest.approx(share * 200)


def test_what_was_long_ago_is_forgotten() -> None:
    throughput = Throughput()
    throughput.add(5.0, 20.0, pictures(REMEMBERED))
    for _ in range(8):
        throughput.add(5.0, 2.0, pictures(REMEMBERED))

    assert throughput.per_s(1) == pytest.approx(500, rel=0.05)


def test_an_interval_is_a_difference() -> None:
    before, after = Used(), Used()
    for used in (before, after):
        used.add(0.2, 0.1)
    after.add(0.5, 0.25)

    found = after.since(before)
    assert found.pictures == 1
    assert (found.wall_s, found.cpu_s) == pytest.approx((0.5, 0.25))
