"""Results kept as JSON, so that a run can be interrupted, or made part by part, and loses nothing.

A piece is what was measured in one go; with it is kept when, on what and of which commit.
"""

import argparse
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from bench.history import NotInHistory, name_of_working_tree
from bench.machine import Neighbours, describe, processor
from bench.plan import Plan, say
from bench.processes import ROOT
from bench.report import Section, Verdict, percent, targets

FULL = ROOT / "build" / "bench"
QUICK = ROOT / "build" / "bench-quick"


@dataclass(frozen=True, slots=True)
class Circumstances:
    """When, on what and how something was measured."""

    began: str
    """As ``2026-11-22 10:30``, UTC."""
    machine: str
    processor: str
    commit: str
    rounds: int
    seconds: float
    minutes: float
    others: float
    """The share of the machine that others used meanwhile."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What was measured in one go: anything that JSON can hold."""

    value: Any
    circumstances: Circumstances


class Kept:
    """The pieces of one directory."""

    def __init__(self, directory: Path, *, is_resumed: bool) -> None:
        """With ``is_resumed``, a piece that is there is not measured again."""
        self._directory = directory
        self._is_resumed = is_resumed

    def piece(self, name: str, plan: Plan, measure: Callable[[], Any]) -> Piece:
        """Measure something and keep it, or return it as it was kept."""
        if self.is_done(name):
            say(f"{name}: as it was kept in {self._path(name)}")
            return self.read(name)
        began, neighbours, clock = datetime.now(UTC), Neighbours(), time.monotonic()
        value = measure()
        circumstances = Circumstances(
            began=f"{began:%Y-%m-%d %H:%M}",
            machine=describe(),
            processor=processor(),
            commit=_commit(),
            rounds=plan.rounds,
            seconds=plan.seconds,
            minutes=(time.monotonic() - clock) / 60,
            others=neighbours.share(),
        )
        self._write(name, {"value": value, "circumstances": asdict(circumstances)})
        return self.read(name)  # As JSON has it: the same whether it was kept or not.

    def is_done(self, name: str) -> bool:
        """Whether there is nothing to measure."""
        return self._is_resumed and self.has(name)

    def has(self, name: str) -> bool:
        return self._path(name).exists()

    def read(self, name: str) -> Piece:
        """Return a piece that is there."""
        told = json.loads(self._path(name).read_text())
        return Piece(told["value"], Circumstances(**told["circumstances"]))

    def _write(self, name: str, told: object) -> None:
        self._directory.mkdir(parents=True, exist_ok=True)
        half = self._path(name).with_suffix(".half")
        half.write_text(json.dumps(told))
        half.replace(self._path(name))

    def _path(self, name: str) -> Path:
        return self._directory / f"{name}.json"


def key(*words: object) -> str:
    """Join words to the name of a piece."""
    return "-".join(str(word).lower().replace(" ", "-") for word in words)


def _commit() -> str:
    try:
        return name_of_working_tree()
    except NotInHistory:
        return "unknown"


@dataclass(frozen=True, slots=True)
class Shown:
    """A table, and how what it is made of was measured."""

    section: Section
    pieces: Sequence[Circumstances]

    def __str__(self) -> str:
        return f"{self.section}\n\n{told(self.pieces)}" if self.pieces else str(self.section)


def page(shown: Sequence[Shown], *notes: str) -> str:
    """Return the targets and all tables, each with how it was measured."""
    pieces = [piece for each in shown for piece in each.pieces]
    first = Shown(targets([each.section for each in shown]), pieces)
    return "\n\n".join([machines(pieces), *notes, *map(str, [first, *shown])])


def told(pieces: Sequence[Circumstances]) -> str:
    """Say in a line how one table's pieces were measured."""
    unique = list(dict.fromkeys(pieces))
    began = [each.began for each in unique]
    span = " to ".join(dict.fromkeys([min(began), max(began)]))
    on = "; ".join(dict.fromkeys(each.processor for each in unique))
    commits = " and ".join(dict.fromkeys(each.commit for each in unique))
    return (
        f"Measured on {on}, {span} UTC, {sum(each.minutes for each in unique):.1f} minutes; "
        f"commit {commits}; others used "
        f"{percent(max(each.others for each in unique))} of the machine meanwhile."
    )


def machines(pieces: Sequence[Circumstances]) -> str:
    """Describe the machine, or the machines."""
    return " ".join(f"Machine: {each}." for each in dict.fromkeys(p.machine for p in pieces))


def add_kept_options(parser: argparse.ArgumentParser) -> None:
    """Add the options of a benchmark whose results are kept."""
    parser.add_argument(
        "--resume",
        action="store_true",
        help="measure only what is not kept yet, as after an interrupted run",
    )
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="also write the tables of all parts, and plots, into FILE: a part that was not asked "
        "for is taken as it was kept, and measured only where it was not",
    )


def sections_as_json(sections: Sequence[Section]) -> list[dict[str, Any]]:
    return [asdict(section) for section in sections]


def sections_from_json(told: Sequence[dict[str, Any]]) -> list[Section]:
    return [
        Section(**{**each, "verdicts": [Verdict(**verdict) for verdict in each["verdicts"]]})
        for each in told
    ]
