"""Whether one commit is slower than another: the rule and its table. Pure."""

import statistics
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from bench.report import number, percent, table, times

LEAST_ROUNDS = 7
"""Fewer rounds do not show how much the rounds of one commit differ."""
TOLERANCE = 0.03


class Change(Enum):
    """How a figure changed."""

    BETTER = "better"
    SAME = "same"
    WORSE = "**worse**"


@dataclass(frozen=True, slots=True)
class Figure:
    """One figure of two commits, one value per round each."""

    name: str
    this: Sequence[float]
    that: Sequence[float]
    more_is_better: bool = False

    @property
    def ratio(self) -> float:
        """The median of this commit over the median of the other one."""
        return statistics.median(self.this) / statistics.median(self.that)

    @property
    def change(self) -> Change:
        """Medians must differ by more than 3 % and by more than either middle half."""
        this, that = statistics.median(self.this), statistics.median(self.that)
        noise = max(TOLERANCE * that, middle_half(self.this), middle_half(self.that))
        if abs(this - that) <= noise:
            return Change.SAME
        return Change.BETTER if (this > that) == self.more_is_better else Change.WORSE


def middle_half(values: Sequence[float]) -> float:
    """Return the interquartile range."""
    first, _, third = statistics.quantiles(values, n=4, method="inclusive")
    return third - first


def is_worse(figures: Sequence[Figure]) -> bool:
    return any(figure.change is Change.WORSE for figure in figures)


def comparison(figures: Sequence[Figure]) -> str:
    """Return the table."""
    return table(
        ("figure", "this", "that", "this / that", ""),
        [
            [
                figure.name,
                _with_middle_half(figure.this),
                _with_middle_half(figure.that),
                times(figure.ratio),
                figure.change.value,
            ]
            for figure in figures
        ],
    )


def rule(rounds: int) -> str:
    """Say how the table was made."""
    return (
        f"Medians of {rounds} rounds, in parentheses the middle half (interquartile range). Worse "
        f"or better: medians differ by more than {percent(TOLERANCE)} and by more than either "
        "middle half."
    )


def _with_middle_half(values: Sequence[float]) -> str:
    return f"{number(statistics.median(values))} ({number(middle_half(values))})"
