"""What the server itself shows meanwhile: memory, descriptors, long stretches, its log."""

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from tests.system.stack import Stack, resident_bytes

from bench.fuzz.pictures import CANARY

LONGEST_MS = 50.0
"""The most processor time that the event loop may spend on one stretch."""

GROWTH_BYTES = 48 * 2**20
GROWTH_DESCRIPTORS = 24
"""How much more a web process may hold afterwards than when it was warm. Allocators keep some
memory, and a pool keeps a connection to Redis for each client that it ever met at once. A leak of
five kilobytes, or of a descriptor in a hundred requests, would still be seen."""

HOOK = Path(__file__).parent / "hook"
_ESCAPED_BYTES = re.compile(r"(?:\\\\x[0-9a-f]{2}[^\\]{0,2}){8}")
_LONGEST_LINE = 20_000


@dataclass(frozen=True, slots=True)
class Stretch:
    """One greenlet that held the event loop."""

    ended: float
    """Seconds since the epoch."""
    ms: float
    port: int
    place: str


def stretches(folder: Path) -> list[Stretch]:
    """Return the long stretches that the hook has noted, the longest first."""
    texts = (path.read_text() for path in folder.glob("stretches-*"))
    lines = (json.loads(line) for text in texts for line in text.splitlines())
    return sorted((Stretch(**line) for line in lines), key=lambda each: -each.ms)


@dataclass(frozen=True, slots=True)
class Holdings:
    """What each web process holds; its own children count as part of it."""

    bytes: tuple[int, ...]
    descriptors: tuple[int, ...]

    @classmethod
    def of(cls, stack: Stack) -> "Holdings":
        families = [(pid, *_children(pid)) for pid in stack.web.children()]
        return cls(
            tuple(sum(map(resident_bytes, family)) for family in families),
            tuple(sum(map(_descriptors, family)) for family in families),
        )

    def excess(self, later: "Holdings") -> list[str]:
        """Return what is not back where it was."""
        if len(self.bytes) != len(later.bytes):
            return [f"{len(self.bytes)} web processes before, {len(later.bytes)} after"]
        megabytes = [round((b - a) / 2**20) for a, b in zip(self.bytes, later.bytes, strict=True)]
        more = [b - a for a, b in zip(self.descriptors, later.descriptors, strict=True)]
        found = []
        if max(megabytes) > GROWTH_BYTES / 2**20:
            found.append(f"memory has grown by {megabytes} MiB per process")
        if max(more) > GROWTH_DESCRIPTORS:
            found.append(f"descriptors have grown by {more} per process")
        return found


def _children(pid: int) -> Sequence[int]:
    tasks = Path(f"/proc/{pid}/task").glob("*/children")
    direct = [int(text) for task in tasks for text in task.read_text().split()]
    return [each for child in direct for each in (child, *_children(child))]


def _descriptors(pid: int) -> int:
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def faults_of_log(text: str) -> Iterator[str]:
    """Yield what is wrong with the lines of a log, each kind of fault once."""
    seen = set()
    for line in text.splitlines():
        for fault in _faults_of_line(line):
            if fault not in seen:  # Once is enough to look for its cause.
                seen.add(fault)
                yield f"{fault}: {line[:300]}"


def _faults_of_line(line: str) -> Iterator[str]:
    try:
        is_json = isinstance(json.loads(line), dict)
    except ValueError:
        is_json = False
    if not is_json:
        yield "a line of the log is no JSON"
    if CANARY.decode() in line or _ESCAPED_BYTES.search(line):
        yield "a line of the log holds bytes of a body"
    if len(line) > _LONGEST_LINE:
        yield "a line of the log is very long"
    if '"bug while answering' in line or '"error below the application' in line:
        yield "the log tells of a bug"


def gauges(text: str) -> list[str]:
    """Return the gauges of ``/metrics`` that are not back at zero."""
    names = ("imageserve_slots_in_use", "imageserve_upload_bytes_held")
    lines = [line for line in text.splitlines() if line.startswith(names)]
    return [f"{line} at the end" for line in lines if float(line.rpartition(" ")[2]) != 0]
