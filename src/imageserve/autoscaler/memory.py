"""The memory of the week: arrivals in steps of five minutes, for four weeks. Pure.

A recording turns a counter that is read now and then into steps; a memory holds them, as one value
of at most 64 KiB. A step that was not watched from start to end is unknown, which is not 0.
"""

import math
import struct
from dataclasses import dataclass, field, replace

from imageserve.autoscaler.load import Series

STEP_S = 300
STEPS = 4 * 7 * 24 * 3600 // STEP_S
"""Four weeks."""

SLOT_S = 10
SLOTS = STEP_S // SLOT_S
"""The highest rate is that of ten seconds, and a jump is dated to ten seconds."""

GAP_S = 90.0
"""Where the counter was not read for longer, the step is unknown: its peak may lie in there."""

_HEAD = struct.Struct("<4sI")
_FORMAT = b"arr1"
_STEP = struct.Struct("<IeBB")
_MOST_TOTAL, _MOST_PEAK, _UNKNOWN = 2**32 - 1, 65504.0, 255
MOST_BYTES = _HEAD.size + STEPS * _STEP.size


@dataclass(frozen=True, slots=True, order=True)
class Step:
    """The arrivals of five minutes."""

    total: int
    peak: float
    """Most arrivals per second, over ten seconds."""
    first: int = 0
    """When the arrivals first reached half of the peak, in units of ten seconds ..."""
    last: int = SLOTS - 1
    """... and when for the last time."""

    @property
    def span_s(self) -> float:
        """How long the arrivals were at least half of the peak, from the first time to the last."""
        return float((self.last - self.first + 1) * SLOT_S)


@dataclass(frozen=True, slots=True)
class Memory:
    """Known and unknown steps, oldest first. A step's number is its Unix time / 300."""

    end: int = 0
    """The number of the step after the newest."""
    steps: tuple[Step | None, ...] = ()

    @property
    def start(self) -> int:
        """The number of the oldest step."""
        return self.end - len(self.steps)

    @property
    def known(self) -> int:
        """How many steps are known."""
        return sum(step is not None for step in self.steps)

    def at(self, number: int) -> Step | None:
        """Return a step; None where it is unknown, or not held."""
        return self.steps[number - self.start] if self.start <= number < self.end else None

    def until(self, number: int) -> "Memory":
        """Return this without the steps from ``number`` on: a clock that was wrong left them."""
        if number >= self.end:
            return self
        return Memory(number, self.steps[: max(0, number - self.start)])

    def merged(self, other: "Memory") -> "Memory":
        """Return both as one: of a step that both know, who has seen more knows better."""
        if not self.steps or not other.steps:
            return self if self.steps else other
        end = max(self.end, other.end)
        start = max(min(self.start, other.start), end - STEPS)
        pairs = ((self.at(number), other.at(number)) for number in range(start, end))
        return Memory(end, tuple(max(pair, key=_worth) for pair in pairs))

    def add(self, number: int, step: Step) -> "Memory":
        """Return this with one more step, and without those that come after it."""
        return self.until(number + 1).merged(Memory(number + 1, (step,)))

    def encoded(self) -> bytes:
        """Return the value that Redis holds."""
        return _HEAD.pack(_FORMAT, self.end) + b"".join(map(_encoded, self.steps))


def _worth(step: Step | None) -> tuple[bool, Step]:
    return step is not None, step or Step(0, 0.0)


def _encoded(step: Step | None) -> bytes:
    if step is None:
        return _STEP.pack(0, 0.0, _UNKNOWN, _UNKNOWN)
    total, peak = min(step.total, _MOST_TOTAL), min(step.peak, _MOST_PEAK)
    return _STEP.pack(total, peak, step.first, step.last)


def decode_memory(value: bytes) -> Memory:
    """Return what ``Memory.encoded`` wrote. Raises ValueError where it is none."""
    if not _HEAD.size <= len(value) <= MOST_BYTES or value[:4] != _FORMAT:
        raise ValueError(f"is no memory of arrivals ({len(value)} bytes)")
    if (len(value) - _HEAD.size) % _STEP.size:
        raise ValueError(f"is cut off ({len(value)} bytes)")
    _, end = _HEAD.unpack_from(value)
    steps = tuple(_decoded(*fields) for fields in _STEP.iter_unpack(value[_HEAD.size :]))
    if len(steps) > end:
        raise ValueError("has steps before 1970")
    return Memory(end, steps)


def _decoded(total: int, peak: float, first: int, last: int) -> Step | None:
    if first == last == _UNKNOWN:
        return None
    if not (first <= last < SLOTS and 0 <= peak < math.inf):
        raise ValueError(f"has a step that cannot be: {(total, peak, first, last)}")
    return Step(total, peak, first, last)


# -- recording ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Recording:
    """The step that is being counted."""

    number: int = 0
    started: int | None = None
    """The count at its start; None where that was missed."""
    counts: Series = ()
    """``(Unix time, count)`` of the last ten seconds, and the last one before."""
    slots: tuple[float, ...] = field(default=(0.0,) * SLOTS)
    """The highest rate of each ten seconds."""

    def add(self, now_s: float, count: int) -> tuple["Recording", Step | None]:
        """Add a count; returns the step that has ended with it, if that is known.

        Its number is that of the recording before.
        """
        number = int(now_s // STEP_S)
        if not self.counts or self._is_interrupted(now_s, count):
            return Recording(number, None, ((now_s, count),)), None
        ended, now = None, self
        if number != self.number:
            ended = self._step()
            now = Recording(number, self.counts[-1][1], self.counts)
        return now._counted(now_s, count), ended

    def _is_interrupted(self, now_s: float, count: int) -> bool:
        before_s, before = self.counts[-1]
        return not 0 <= now_s - before_s <= GAP_S or count < before

    def _counted(self, now_s: float, count: int) -> "Recording":
        # A read that comes a little early still spans ten seconds.
        old = [each for each in self.counts if now_s - each[0] >= 0.9 * SLOT_S]
        counts = (*old[-1:], *self.counts[len(old) :], (now_s, count))
        if not old:
            return replace(self, counts=counts)
        rate = (count - old[-1][1]) / (now_s - old[-1][0])
        slot = int(now_s % STEP_S // SLOT_S)
        slots = (*self.slots[:slot], max(self.slots[slot], rate), *self.slots[slot + 1 :])
        return replace(self, counts=counts, slots=slots)

    def _step(self) -> Step | None:
        if self.started is None:
            return None
        peak = max(self.slots)
        high = [slot for slot, rate in enumerate(self.slots) if rate >= peak / 2]
        return Step(self.counts[-1][1] - self.started, peak, high[0], high[-1])
