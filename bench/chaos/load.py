"""The load: ``imageserve loadtest`` in a process of its own, and its records."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from tests.system.stack import Program

from imageserve_loadtest.result import Outcome, Result

DRAIN_S = 90.0
"""How long the tool may take beyond its load: every request ends within its own time-out."""

_DISTINCT = 1000
"""Number of different pictures, each with a label of its own."""


@dataclass(frozen=True, slots=True)
class Record:
    """One request as its sender saw it. Times are seconds since the epoch."""

    intended: float
    sent: float
    done: float
    outcome: Outcome
    status: int
    """0: there was no answer."""
    code: str
    has_retry_after: bool
    error: str

    @property
    def latency_s(self) -> float:
        return self.done - self.intended


@dataclass(frozen=True, slots=True)
class Shape:
    """What load to make: options of the tool, and how long it lasts."""

    options: tuple[str, ...]
    seconds: float


def open_loop(rate_per_s: float, seconds: float, *more: str) -> Shape:
    """Describe requests that come at random times, however long the answers take."""
    return Shape(("--rate", f"{rate_per_s:g}", "--arrivals", "poisson", *more), seconds)


def closed_loop(clients: int, seconds: float) -> Shape:
    """Describe clients that each wait for their answer before they ask again."""
    return Shape(("--clients", str(clients)), seconds)


class Load:
    """One run of the tool against a web server."""

    def __init__(self, directory: Path, name: str, url: str, shape: Shape, seed: int) -> None:
        self._name = name
        self._directory = directory
        self._seconds = shape.seconds
        constant = ("--duration", f"{shape.seconds:g}", "--seed", str(seed), "--quiet")
        pictures = ("--source", "generated", "--distinct", str(_DISTINCT))
        outputs = ("--json", str(self._file("json")), "--records", str(self._file("jsonl")))
        self.program = Program(
            f"loadtest-{name}",
            ["loadtest", url, *shape.options, *constant, *pictures, *outputs],
            {},
            self._file("log"),
        )

    def _file(self, kind: str) -> Path:
        return self._directory / f"loadtest-{self._name}.{kind}"

    def finish(self) -> tuple[Result, list[Record]]:
        """Wait for its end and read what it found.

        Raises SystemExit where it failed to run; its verdict is ignored.
        """
        self.program.wait(self._seconds + DRAIN_S)
        try:
            result = Result.from_json(self._file("json").read_text())
        except OSError:
            raise SystemExit(f"chaos: the load tool failed:\n{self.program.output()}") from None
        records = _records(self._file("jsonl"), _epoch_s(result.started_at))
        if len(records) != result.counts.sent:
            raise SystemExit(f"chaos: {result.counts.sent} requests, but {len(records)} records")
        return result, records


def _epoch_s(moment: str) -> float:
    return datetime.fromisoformat(moment).timestamp()


def _records(path: Path, began: float) -> list[Record]:
    return [_record(json.loads(line), began) for line in path.read_text().splitlines()]


def _record(line: Mapping[str, Any], began: float) -> Record:
    return Record(
        intended=began + line["intended_s"],
        sent=began + line["sent_s"],
        done=began + line["done_s"],
        outcome=Outcome(line["outcome"]),
        status=line["status"],
        code=line["code"],
        has_retry_after=line["retry_after"] is not None,
        error=line["error"],
    )
