"""Tables, verdicts, and the text that is printed. Pure, but for the file it is written into."""

import statistics
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Verdict:
    """One target, and whether it is met."""

    target: str
    measured: str
    is_met: bool


@dataclass(frozen=True, slots=True)
class Section:
    """The result of one part of the benchmark."""

    title: str
    header: Sequence[str]
    rows: Sequence[Sequence[str]]
    verdicts: Sequence[Verdict]
    notes: Sequence[str] = ()

    def __str__(self) -> str:
        return "\n\n".join([f"### {self.title}", table(self.header, self.rows), *self.notes])


def targets(sections: Sequence[Section]) -> Section:
    """Return all targets in one table."""
    rows = [
        [section.title, each.target, each.measured, "met" if each.is_met else "**missed**"]
        for section in sections
        for each in section.verdicts
    ]
    return Section("Targets", ("part", "target", "measured", ""), rows, ())


def summary(sections: Sequence[Section]) -> str:
    """Return the table of all targets alone."""
    section = targets(sections)
    return table(section.header, section.rows)


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Return a table in Markdown, numbers to the right."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]

    def line(cells: Sequence[str]) -> str:
        padded = [cells[0].ljust(widths[0])]
        padded += [cell.rjust(width) for cell, width in zip(cells[1:], widths[1:], strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (widths[0] - 1), *("-" * (width - 1) + ":" for width in widths[1:])]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def number(value: float) -> str:
    """Write a number with three significant digits, more only before the point."""
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def spread(values: Sequence[float], show: Callable[[float], str] = number) -> str:
    """Write a median, followed by least and most if there were several rounds."""
    middle = show(statistics.median(values))
    if len(values) == 1:
        return middle
    return f"{middle} ({show(min(values))}-{show(max(values))})"


def ratios(values: Sequence[float], others: Sequence[float]) -> list[float]:
    """Divide round by round: what disturbed a round disturbed both."""
    return [value / other for value, other in zip(values, others, strict=True)]


def times(value: float) -> str:
    return f"{number(value)}x"


def percent(value: float) -> str:
    return f"{100 * value:.1f} %"


def write_between_markers(path: Path, text: str, name: str = "bench") -> None:
    """Replace what stands between the markers of that name in a Markdown file.

    Raises SystemExit where it has none.
    """
    first, last = f"<!-- {name}: begin -->", f"<!-- {name}: end -->"
    old = path.read_text()
    head, begin, rest = old.partition(first)
    _, end, tail = rest.partition(last)
    if not begin or not end:
        raise SystemExit(f"bench: {path} has no lines {first} and {last} to write between")
    path.write_text(f"{head}{first}\n\n{text}\n\n{last}{tail}")
