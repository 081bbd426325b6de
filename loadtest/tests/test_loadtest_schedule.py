"""When requests are due."""

from itertools import pairwise

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from imageserve_loadtest.schedule import (
    CONSTANT,
    POISSON,
    RateSegment,
    Shard,
    clients_of,
    instants,
)

rates = st.floats(0, 200)
segments = st.lists(st.builds(RateSegment, st.floats(0.1, 6), rates, rates), min_size=1, max_size=4)
"""At most 4,800 requests."""


@given(segments, st.sampled_from([CONSTANT, POISSON]), st.integers(0, 99))
def test_requests_are_due_in_order_and_within_the_load(
    parts: list[RateSegment], arrivals: str, seed: int
) -> None:
    times = list(instants(parts, arrivals, seed))

    assert times == sorted(times)
    assert all(0 <= time <= sum(part.seconds for part in parts) + 1e-9 for time in times)


@given(segments)
def test_the_number_of_constant_arrivals_is_as_the_rates_ask_for(parts: list[RateSegment]) -> None:
    asked = sum(part.requests for part in parts)

    assert abs(len(list(instants(parts, CONSTANT, 1))) - asked) <= 1


@given(st.floats(0.1, 10), rates, rates, st.floats(0, 1))
@example(1.0, 0.0, 1.2e-308, 1.0)  # The sums are too small for a float.
def test_a_ramp_has_sent_at_any_time_the_integral_of_its_rate(
    seconds: float, rate: float, to_rate: float, share: float
) -> None:
    ramp = RateSegment(seconds, rate, to_rate)
    due = share * ramp.requests

    t = ramp.instant(due)

    added_up = rate * t + (to_rate - rate) / seconds * t**2 / 2
    assert added_up == pytest.approx(due, rel=1e-6, abs=1e-6)


def test_constant_arrivals_at_a_constant_rate_are_equally_spaced() -> None:
    times = list(instants([RateSegment(2.0, 50.0, 50.0)], CONSTANT, 1))

    assert len(times) == 100
    assert [b - a for a, b in pairwise(times)] == pytest.approx([0.02] * 99)


def test_a_pause_sends_nothing() -> None:
    parts = [RateSegment(1.0, 10.0, 10.0), RateSegment(5.0, 0.0, 0.0), RateSegment(1.0, 10.0, 10.0)]

    times = list(instants(parts, CONSTANT, 1))

    assert len(times) == 20
    assert not [time for time in times if 1.0 <= time < 6.0]


@given(segments, st.integers(1, 7))
def test_the_constant_arrivals_of_all_shards_together_are_those_of_one(
    parts: list[RateSegment], shards: int
) -> None:
    spread = [list(instants(parts, CONSTANT, 1, Shard(i, shards))) for i in range(shards)]

    assert sorted(time for times in spread for time in times) == list(instants(parts, CONSTANT, 1))
    assert max(map(len, spread)) - min(map(len, spread)) <= 1


@given(st.integers(0, 10_000))
def test_the_number_of_poisson_arrivals_is_that_of_a_poisson_process(seed: int) -> None:
    expected = 2_000

    count = len(list(instants([RateSegment(20.0, 100.0, 100.0)], POISSON, seed)))

    assert abs(count - expected) < 7 * expected**0.5  # Seven standard deviations.


def test_poisson_arrivals_of_shards_differ_and_add_up_to_the_full_rate() -> None:
    parts = [RateSegment(20.0, 100.0, 100.0)]

    spread = [list(instants(parts, POISSON, 1, Shard(i, 4))) for i in range(4)]

    assert abs(sum(map(len, spread)) - 2_000) < 7 * 2_000**0.5
    assert len({times[0] for times in spread}) == 4


def test_the_same_seed_gives_the_same_arrivals_and_another_seed_others() -> None:
    parts = [RateSegment(1.0, 100.0, 100.0)]

    assert list(instants(parts, POISSON, 5)) == list(instants(parts, POISSON, 5))
    assert list(instants(parts, POISSON, 5)) != list(instants(parts, POISSON, 6))


@given(st.integers(0, 1000), st.integers(1, 20))
def test_clients_are_evenly_spread_over_shards(clients: int, shards: int) -> None:
    spread = [clients_of(clients, Shard(i, shards)) for i in range(shards)]

    assert sum(spread) == clients
    assert max(spread) - min(spread) <= 1
