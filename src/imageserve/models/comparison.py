"""Comparing models on several runtimes: whether their answers agree, and how fast they are."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imageserve.errors import ModelOutOfMemory
from imageserve.models.model import Pictures, Probabilities, Scores

SAMPLES = 64
_BATCH = 16

NEARLY = 0.95
"""A batch size that reaches this part of the highest speed counts as equally fast."""


@dataclass(frozen=True, slots=True)
class Agreement:
    """How close the probabilities of two models are, over some pictures."""

    pictures: int
    same_best: int
    """Number of pictures with the same likeliest label."""
    largest_difference: float
    """The largest difference between two probabilities."""


def agreement(scores: Probabilities, expected: Probabilities) -> Agreement:
    """Compare the answers of two models to the same pictures."""
    same = scores.argmax(axis=1) == expected.argmax(axis=1)
    return Agreement(len(scores), int(same.sum()), float(np.abs(scores - expected).max()))


def scores_of(call: Scores, pictures: Pictures) -> Probabilities:
    """Call a model in batches small enough for any machine."""
    starts = range(0, len(pictures), _BATCH)
    return np.concatenate([call(pictures[start : start + _BATCH]) for start in starts])


def as_pictures(decoded: Sequence[bytes], shape: tuple[int, int, int]) -> Pictures:
    """Put decoded pictures of one shape into an array."""
    return np.stack([np.frombuffer(one, np.uint8).reshape(shape) for one in decoded])


def drawn_pictures(shape: tuple[int, int, int], count: int = SAMPLES) -> Pictures:
    """Draw pictures with coarse and fine structure, the same ones each time.

    Most networks answer every picture of plain noise alike, and many every plain colour.
    """
    random = np.random.default_rng(7)
    height, width, channels = shape
    sum_of_scales = np.zeros((count, *shape), np.float32)
    for cells in (2, 5, 13, 31):
        rows, columns = np.arange(height) * cells // height, np.arange(width) * cells // width
        colours = random.normal(0, 45, (count, cells, cells, channels)).astype(np.float32)
        sum_of_scales += colours[:, rows][:, :, columns]
    tint = random.uniform(60, 200, (count, 1, 1, channels)).astype(np.float32)
    pictures: Pictures = np.clip(sum_of_scales + tint, 0, 255).astype(np.uint8)
    return pictures


@dataclass(frozen=True, slots=True)
class BenchPlan:
    """What is measured."""

    shape: tuple[int, int, int]
    """Of the pictures: height, width and bytes a pixel."""
    batch_sizes: Sequence[int]
    rounds: int
    seconds: float
    """Length of each measurement; at least one call is made."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """Pictures a second: model, then batch size, then one number for each round."""

    rounds: Mapping[str, Mapping[int, Sequence[float]]]

    def median(self, name: str, size: int) -> float | None:
        """Return the median of the rounds; None where this batch does not fit into memory."""
        values = self.rounds[name].get(size)
        return statistics.median(values) if values else None

    def best_size(self, name: str) -> int | None:
        """Return the smallest batch size that is nearly as fast as the fastest."""
        medians = {size: statistics.median(v) for size, v in self.rounds[name].items()}
        if not medians:
            return None
        return min(size for size in medians if medians[size] >= NEARLY * max(medians.values()))

    def ratios(self, name: str, other: str, size: int) -> list[float]:
        """Divide round by round, because a disturbance of the machine slows both of a round."""
        values, others = (self.rounds[each].get(size, ()) for each in (name, other))
        return [value / one for value, one in zip(values, others, strict=False)]


def measure(
    calls: Mapping[str, Scores],
    plan: BenchPlan,
    progress: Callable[[str], object],
    clock: Callable[[], float] = time.perf_counter,
) -> Speeds:
    """Measure every model at every batch size, in turns, round after round.

    In turns, because the speed of a machine changes over minutes, above all that of a shared one.
    """
    found: dict[str, dict[int, list[float]]] = {name: {} for name in calls}
    for number, size, name in _turns(list(calls), plan):
        if number and size not in found[name]:
            continue  # It did not fit into memory.
        progress(f"round {number + 1} of {plan.rounds}, batches of {size}, {name}")
        speed = _pictures_per_second(calls[name], size, plan, clock)
        if speed is not None:
            found[name].setdefault(size, []).append(speed)
    return Speeds(found)


def _turns(names: Sequence[str], plan: BenchPlan) -> Iterator[tuple[int, int, str]]:
    for number in range(plan.rounds):
        for size in plan.batch_sizes:
            # The order changes from round to round: the second one meets a warmer processor.
            order = names if number % 2 == 0 else names[::-1]
            yield from ((number, size, name) for name in order)


def _pictures_per_second(
    call: Scores, size: int, plan: BenchPlan, clock: Callable[[], float]
) -> float | None:
    noise = np.random.default_rng(size)
    batch = noise.integers(0, 256, (size, *plan.shape), dtype=np.uint8)
    try:
        call(batch)  # The first call may compile.
        began, calls = clock(), 0
        while not calls or clock() - began < plan.seconds:
            call(batch)
            calls += 1
        return size * calls / (clock() - began)
    except ModelOutOfMemory:
        return None
