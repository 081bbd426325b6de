"""Backoff: pauses that double up to a limit, begin again after a success, and are spread."""

import random

import pytest

from imageserve.backoff import Backoff


def pauses(backoff: Backoff, count: int) -> list[float]:
    return [backoff.next() for _ in range(count)]


def test_pauses_double_up_to_the_longest() -> None:
    assert pauses(Backoff(0.5, 5.0, jitter=False), 6) == [0.5, 1.0, 2.0, 4.0, 5.0, 5.0]


def test_a_first_pause_above_the_longest_is_the_longest() -> None:
    assert pauses(Backoff(60.0, 30.0, jitter=False), 2) == [30.0, 30.0]


def test_pauses_stay_finite_after_any_number_of_failures() -> None:
    assert pauses(Backoff(0.05, 2.0, jitter=False), 5000)[-1] == 2.0


def test_a_reset_begins_with_the_first_pause_again() -> None:
    backoff = Backoff(0.5, 30.0, jitter=False)
    pauses(backoff, 4)

    backoff.reset()

    assert pauses(backoff, 2) == [0.5, 1.0]


def test_jitter_takes_up_to_half_of_a_pause_and_does_not_add_up(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    drawn: list[tuple[float, float]] = []

    def least(_: random.Random, low: float, high: float) -> float:
        drawn.append((low, high))
        return low

    monkeypatch.setattr(random.Random, "uniform", least)

    assert pauses(Backoff(1.0, 4.0), 4) == [0.5, 1.0, 2.0, 2.0]
    assert set(drawn) == {(0.5, 1.0)}
