"""How many pictures a second each engine classifies, by batch size."""

import statistics
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from imageserve.errors import ModelOutOfMemory
from imageserve.models.classifier_checks import Scores

NEARLY = 0.95
"""A batch size this near to the fastest is as good, and answers sooner."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What is measured."""

    input_size: tuple[int, int]
    """Height and width of the pictures."""
    sizes: Sequence[int]
    """Of the batches."""
    rounds: int
    seconds: float
    """Of each measurement, at least one call."""


@dataclass(frozen=True, slots=True)
class Speeds:
    """What was measured: pictures a second of each engine, per batch size, one number a round."""

    rounds: Mapping[str, Mapping[int, Sequence[float]]]

    def median(self, engine: str, size: int) -> float | None:
        """Return the median of the rounds; None where this batch does not fit into memory."""
        values = self.rounds[engine].get(size)
        return statistics.median(values) if values else None

    def best_size(self, engine: str) -> int | None:
        """Return the smallest batch size that is nearly as fast as any."""
        medians = {size: self.median(engine, size) for size in self.rounds[engine]}
        known = {size: value for size, value in medians.items() if value is not None}
        if not known:
            return None
        return min(size for size in known if known[size] >= NEARLY * max(known.values()))

    def ratios(self, engine: str, other: str, size: int) -> list[float]:
        """Divide round by round: what disturbed a round disturbed both."""
        values, others = (self.rounds[name].get(size, ()) for name in (engine, other))
        return [value / one for value, one in zip(values, others, strict=False)]


def measure(
    calls: Mapping[str, Scores],
    plan: Plan,
    progress: Callable[[str], object],
    clock: Callable[[], float] = time.perf_counter,
) -> Speeds:
    """Measure every engine at every batch size, in turn, round after round.

    In turn, because a machine's speed changes over minutes, most of all a shared one's.
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


def _turns(names: Sequence[str], plan: Plan) -> Iterator[tuple[int, int, str]]:
    for number in range(plan.rounds):
        for size in plan.sizes:
            # Who goes first changes: the second may meet a warmer processor.
            order = names if number % 2 == 0 else names[::-1]
            yield from ((number, size, name) for name in order)


def _pictures_per_second(
    call: Scores, size: int, plan: Plan, clock: Callable[[], float]
) -> float | None:
    noise = np.random.default_rng(size)
    batch = noise.integers(0, 256, (size, *plan.input_size, 3), dtype=np.uint8)
    try:
        call(batch)  # Compiles, where that has to be.
        return size * _calls_per_second(lambda: call(batch), plan.seconds, clock)
    except ModelOutOfMemory:
        return None


def _calls_per_second(
    call: Callable[[], object], seconds: float, clock: Callable[[], float]
) -> float:
    began = clock()
    calls = 0
    while not calls or clock() - began < seconds:
        call()
        calls += 1
    return calls / (clock() - began)
