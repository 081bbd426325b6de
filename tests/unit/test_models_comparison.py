"""Comparing models: their speed and their answers."""

from collections.abc import Callable

import numpy as np
import pytest
from numpy.typing import NDArray

from imageserve.errors import ModelOutOfMemory
from imageserve.models.comparison import (
    BenchPlan,
    Speeds,
    agreement,
    as_pictures,
    drawn_pictures,
    measure,
    scores_of,
)

Call = Callable[[NDArray[np.uint8]], NDArray[np.float32]]


class Clock:
    """Advances only while a model computes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        return self.now

    def model(self, batch_s: float, picture_s: float, most: int = 1024) -> Call:
        def call(images: NDArray[np.uint8]) -> NDArray[np.float32]:
            if len(images) > most:
                raise ModelOutOfMemory("too large")
            self.now += batch_s + picture_s * len(images)
            return np.zeros((len(images), 2), np.float32)

        return call


def measured(clock: Clock, calls: dict[str, Call], said: list[str] | None = None) -> Speeds:
    plan = BenchPlan((2, 2, 3), [1, 4, 16], rounds=3, seconds=2.0)
    return measure(calls, plan, (said if said is not None else []).append, clock)


def test_every_model_is_measured_in_turn_and_the_medians_are_right() -> None:
    clock, said = Clock(), list[str]()
    calls = {"slow": clock.model(0.25, 0.25), "fast": clock.model(0.25, 0.0)}

    speeds = measured(clock, calls, said)

    assert [speeds.median("slow", n) for n in (1, 4, 16)] == pytest.approx([2, 3.2, 64 / 17])
    assert [speeds.median("fast", n) for n in (1, 4, 16)] == pytest.approx([4, 16, 64])
    assert speeds.ratios("fast", "slow", 4) == pytest.approx([5, 5, 5])
    assert said[:2] == ["round 1 of 3, batches of 1, slow", "round 1 of 3, batches of 1, fast"]
    assert said[6:8] == ["round 2 of 3, batches of 1, fast", "round 2 of 3, batches of 1, slow"]


def test_the_best_batch_size_is_the_smallest_that_is_nearly_the_fastest() -> None:
    speeds = Speeds({"a": {1: [10.0], 8: [96.0], 16: [100.0], 32: [99.0]}, "b": {}})

    assert (speeds.best_size("a"), speeds.best_size("b")) == (8, None)


def test_a_batch_that_does_not_fit_is_left_out_and_not_tried_again() -> None:
    clock, said = Clock(), list[str]()

    speeds = measured(clock, {"small": clock.model(0.5, 0.0, most=4)}, said)

    assert speeds.median("small", 16) is None
    assert speeds.best_size("small") == 4
    assert sum("batches of 16" in line for line in said) == 1


def test_agreement_counts_first_labels_and_finds_the_largest_difference() -> None:
    a = np.array([[0.6, 0.4], [0.5, 0.5], [0.2, 0.8]], np.float32)
    b = np.array([[0.6, 0.4], [0.4, 0.6], [0.1, 0.9]], np.float32)

    found = agreement(a, b)

    assert (found.pictures, found.same_best) == (3, 2)
    assert found.largest_difference == pytest.approx(0.1)


def test_drawn_pictures_are_the_same_each_time_and_differ_from_one_another() -> None:
    pictures = drawn_pictures((24, 32, 3), count=5)

    assert pictures.shape == (5, 24, 32, 3)
    assert pictures.dtype == np.uint8
    np.testing.assert_array_equal(pictures, drawn_pictures((24, 32, 3), count=5))
    assert len({picture.tobytes() for picture in pictures}) == 5
    assert pictures.std() > 20


def test_many_pictures_are_scored_in_batches_and_keep_their_order() -> None:
    sizes = []

    def call(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        sizes.append(len(images))
        return images[:, 0, 0, :].astype(np.float32)

    pictures = as_pictures([bytes([i] * 12) for i in range(37)], (2, 2, 3))

    assert scores_of(call, pictures)[:, 0].tolist() == list(range(37))
    assert max(sizes) < 37
