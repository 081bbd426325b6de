"""The order in which pictures that wait in one web process are decoded. Pure.

Interactive ones go before background ones; within a class the earliest deadline goes first, and of
equal ones what came first. While both classes wait, every tenth picture is a background one.
"""

from bisect import bisect_right, insort
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import Generic, TypeVar

ONE_IN = 10
"""Of so many pictures that are decoded while both classes wait, one is of the background."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What decides when a picture is decoded, and whether it is in time."""

    deadline: float
    """When its client stops waiting, by the clock `time.monotonic`."""
    is_background: bool = False
    model: str | None = None
    """As the client names it; None: the default."""

    def is_before(self, other: "Asked") -> bool:
        """Whether it goes before one that comes later than it."""
        if self.is_background == other.is_background:
            return self.deadline <= other.deadline
        return other.is_background


@dataclass(slots=True, eq=False)
class Place:
    """One picture that waits; ``pictures`` counts those that follow it in its request, too."""

    asked: Asked
    pictures: int = 1
    number: int = 0


def _deadline(place: Place) -> float:
    return place.asked.deadline


def _key(place: Place) -> tuple[float, int]:
    return place.asked.deadline, place.number


_P = TypeVar("_P", bound=Place)


class DecodeOrder(Generic[_P]):
    """The places that wait."""

    def __init__(self) -> None:
        self._classes: tuple[list[_P], list[_P]] = [], []
        """Interactive and background."""
        self._pictures = [0, 0]
        self._numbers = count()
        self._taken_while_both = 0

    def __len__(self) -> int:
        """Return the number of places."""
        return len(self._classes[0]) + len(self._classes[1])

    @property
    def pictures(self) -> int:
        """Those of all places."""
        return sum(self._pictures)

    def add(self, place: _P) -> None:
        place.number = next(self._numbers)
        insort(self._classes[place.asked.is_background], place, key=_key)
        self._pictures[place.asked.is_background] += place.pictures

    def remove(self, place: _P) -> bool:
        """Take a place out; return False where it is not there."""
        try:
            self._classes[place.asked.is_background].remove(place)
        except ValueError:
            return False
        self._pictures[place.asked.is_background] -= place.pictures
        return True

    def take(self) -> _P | None:
        """Take out the place whose turn it is; None where nobody waits."""
        interactive, background = self._classes
        if interactive and background:
            self._taken_while_both += 1
            is_background = self._taken_while_both % ONE_IN == 0
        else:
            is_background = bool(background)
        line = self._classes[is_background]
        if not line:
            return None
        self._pictures[is_background] -= line[0].pictures
        return line.pop(0)

    def ahead(self, asked: Asked) -> int:
        """Return how many pictures that wait are decoded before one that comes now."""
        line = self._classes[asked.is_background]
        own = self._counted(line, bisect_right(line, asked.deadline, key=_deadline))
        interactive, background = self._pictures
        to_next = ONE_IN - 1 - self._taken_while_both % ONE_IN
        if asked.is_background:
            return own + min(interactive, own * (ONE_IN - 1) + to_next)
        return own + min(background, max(0, (own - to_next) // (ONE_IN - 1) + 1))

    def _counted(self, line: Sequence[_P], end: int) -> int:
        """Return the pictures of the first places; nearly always each has one."""
        if sum(self._pictures) == len(self):
            return end
        return sum(place.pictures for place in line[:end])
