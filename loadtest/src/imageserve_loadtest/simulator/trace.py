"""Load traces: read from CSV, and turned into single requests."""

import csv
import random
from collections.abc import Sequence
from dataclasses import dataclass
from importlib import resources
from pathlib import Path

from imageserve.errors import SettingsError

COLUMNS = ["second", "requests_per_second"]

MOST_REQUESTS = 20_000_000
"""More would not fit into memory."""


@dataclass(frozen=True, slots=True)
class Trace:
    """Requests a second from each of these seconds on; the last second is the end."""

    name: str
    seconds: tuple[float, ...]
    rates: tuple[float, ...]

    @property
    def length_s(self) -> float:
        return self.seconds[-1]

    def requests(self, seed: int) -> list[float]:
        """Draw the instants of requests as a Poisson process; the same seed gives the same."""
        random_ = random.Random(f"{seed} {self.name}")
        instants: list[float] = []
        rows = zip(self.seconds, self.seconds[1:], self.rates, strict=False)
        for start, end, rate in rows:
            second = start
            while rate > 0 and (second := second + random_.expovariate(rate)) < end:
                instants.append(second)
        return instants


def shipped_traces() -> list[Trace]:
    """Return the traces that come with imageserve."""
    folder = resources.files(__package__) / "traces"
    files = sorted((f for f in folder.iterdir() if f.name.endswith(".csv")), key=lambda f: f.name)
    return [parse_trace(f.name.removesuffix(".csv"), f.read_text("utf-8")) for f in files]


def read_trace(path: Path) -> Trace:
    """Read a CSV file with the columns ``second`` and ``requests_per_second``.

    Raises SettingsError, which names the file and the line, where it is not valid.
    """
    try:
        text = path.read_text("utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"{path}: cannot be read: {error}") from error
    try:
        return parse_trace(path.stem, text)
    except SettingsError as error:
        raise SettingsError(f"{path}: {error}") from error


def parse_trace(name: str, text: str) -> Trace:
    """Read the text of such a file.

    Raises SettingsError, which names the line, where it is not valid.
    """
    rows = list(csv.reader(text.split("\n")))
    if not rows or [column.strip() for column in rows[0]] != COLUMNS:
        raise SettingsError(f"line 1: must be {','.join(COLUMNS)}")
    numbers = [_row(line, row) for line, row in enumerate(rows[1:], start=2) if row]
    if len(numbers) < 2:
        raise SettingsError("must have at least two rows: the last one is the end")
    seconds, rates = zip(*numbers, strict=True)
    _check(seconds, rates)
    return Trace(name, seconds, rates)


def _row(line: int, row: Sequence[str]) -> tuple[float, float]:
    try:
        second, rate = map(float, row)
    except ValueError as error:
        raise SettingsError(f"line {line}: must be two numbers, not {','.join(row)!r}") from error
    if not (0 <= second < float("inf") and 0 <= rate < float("inf")):
        raise SettingsError(f"line {line}: numbers must be 0 or more")
    return second, rate


def _check(seconds: Sequence[float], rates: Sequence[float]) -> None:
    steps = list(zip(seconds, seconds[1:], rates, strict=False))
    for start, end, _ in steps:
        if end <= start:
            raise SettingsError(f"second {end:g} must be after second {start:g}")
    expected = sum((end - start) * rate for start, end, rate in steps)
    if expected > MOST_REQUESTS:
        raise SettingsError(f"has {expected:.0f} requests; at most {MOST_REQUESTS} are allowed")
