"""The order of a queue's list: by class, then by deadline; ``order.lua`` makes it. Pure.

A snapshot tells some jobs of it, so that a web process knows about how many are ahead of a new one.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

from imageserve.queue.wire import BACKGROUND


class Point(NamedTuple):
    """One job of the list."""

    rank: int
    """Jobs of the list before it."""
    priority: str
    deadline: int
    """Redis time, ms; 0 where it does not say."""

    @property
    def key(self) -> tuple[bool, int]:
        """What the list is ordered by."""
        return self.priority == BACKGROUND, self.deadline


@dataclass(frozen=True, slots=True)
class Order:
    """Some jobs of a list, evenly spaced, the first and the last among them."""

    length: int = 0
    background: int = 0
    """How many of all are of the background."""
    points: tuple[Point, ...] = ()

    @classmethod
    def of(cls, length: int, background: int, sketch: Sequence[int]) -> "Order":
        """Read the numbers of ``snapshot.lua``."""
        points = zip(sketch[::3], sketch[1::3], sketch[2::3], strict=True)
        told = (Point(rank, BACKGROUND if kind else "", end) for rank, kind, end in points)
        return cls(length, background, tuple(told))

    @property
    def first_deadline(self) -> int:
        """That of the job at the head; 0 where there is none or it does not say."""
        return self.points[0].deadline if self.points else 0

    @property
    def is_kept(self) -> bool:
        """Whether these jobs are in order. Web processes of 0.1.0 push at the end."""
        return all(one.key <= other.key for one, other in pairwise(self.points))

    def least_ahead(self, priority: str, deadline: int) -> int:
        """Return how many jobs of the list are ahead of a new one at least."""
        key = Point(0, priority, deadline).key
        before = [point.rank + 1 for point in self.points if point.key <= key]
        return self._ahead(max(before, default=0), priority) if self.is_kept else 0

    def most_ahead(self, priority: str, deadline: int) -> int:
        """Return how many jobs of the list are ahead of a new one at most."""
        key = Point(0, priority, deadline).key
        after = [point.rank for point in self.points if point.key > key]
        rank = min(after, default=self.length) if self.is_kept else self.length
        return self._ahead(rank, priority)

    def behind(self, deadline: int) -> Iterator[Point]:
        """Yield the interactive jobs before which one with this deadline would go."""
        return (
            point
            for point in self.points
            if point.priority != BACKGROUND and point.deadline > deadline
        )

    def _ahead(self, rank: int, priority: str) -> int:
        if priority != BACKGROUND:
            return rank
        # Of every ten jobs that are taken one is of the background while it waits.
        theirs = max(0, rank - (self.length - self.background))
        return min(rank, 10 * theirs + 9)
