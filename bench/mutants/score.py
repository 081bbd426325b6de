"""What the tests noticed: scores and the mutants that survived. Pure."""

import ast
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from random import Random

from bench.report import percent, table

NOTICED = frozenset({"killed", "timeout", "segfault"})
MISSED = frozenset({"survived", "no tests"})
"""No tests: no test in the process of pytest calls the function at all."""


@dataclass(frozen=True, slots=True)
class Mutant:
    """One fault, as mutmut names it: ``imageserve.queue.keys.xǁKeysǁpixels__mutmut_2``."""

    name: str
    status: str = "not checked"

    @property
    def module(self) -> str:
        return self.name.rpartition(".")[0]

    @property
    def function(self) -> list[str]:
        """The class, where there is one, and the function."""
        mangled = self.name.rpartition(".")[2].rpartition("__mutmut_")[0]
        return mangled.split("ǁ")[1:] if "ǁ" in mangled else [mangled.removeprefix("x_")]


def parse_results(text: str) -> list[Mutant]:
    """Read what ``mutmut results`` prints."""
    lines = (line.strip().rpartition(": ") for line in text.splitlines())
    return [Mutant(name, status) for name, _, status in lines if "__mutmut_" in name]


def sample(mutants: Iterable[Mutant], per_module: int, seed: int) -> list[Mutant]:
    """Draw some mutants of every module; the same ones for the same seed and code."""
    by_module = grouped(mutants)
    return [
        each
        for module, there in sorted(by_module.items())
        for each in Random(f"{seed} {module}").sample(there, min(per_module, len(there)))
    ]


def grouped(mutants: Iterable[Mutant]) -> Mapping[str, Sequence[Mutant]]:
    by_module: dict[str, list[Mutant]] = {}
    for each in mutants:
        by_module.setdefault(each.module, []).append(each)
    return by_module


def score(tried: Sequence[Mutant]) -> float | None:
    """Return the share that was noticed; None where nothing was tried."""
    noticed = sum(each.status in NOTICED for each in tried)
    missed = sum(each.status in MISSED for each in tried)
    return noticed / (noticed + missed) if noticed + missed else None


def scores(tried: Sequence[Mutant], there: Sequence[Mutant]) -> str:
    """Return a table with one row for each module, and the sum."""
    all_by_module = grouped(there)
    rows = [_row(name, own, all_by_module[name]) for name, own in grouped(tried).items()]
    rows.append(_row("all", tried, there))
    return table(
        ("module", "mutants", "tried", "noticed", "survived", "no tests", "unclear", "score"), rows
    )


def _row(name: str, tried: Sequence[Mutant], there: Sequence[Mutant]) -> list[str]:
    counts = [
        sum(each.status in wanted for each in tried)
        for wanted in (NOTICED, {"survived"}, {"no tests"})
    ]
    share = score(tried)
    numbers = [len(there), len(tried), *counts, len(tried) - sum(counts)]
    return [name, *map(str, numbers), "-" if share is None else percent(share)]


@dataclass(frozen=True, slots=True)
class Survivor:
    """A fault that no test noticed."""

    path: str
    line: int
    status: str
    change: str
    """The lines that differ, with a minus and a plus."""

    def __str__(self) -> str:
        return f"{self.path}:{self.line} ({self.status})\n{self.change}"


def survivor(mutant: Mutant, path: str, source: str, diff: str) -> Survivor:
    """Place a diff, which ``mutmut show`` gives relative to the function, in its file."""
    hunk = re.search(r"^@@ -(\d+)\S* ", diff, re.MULTILINE)
    body = diff[hunk.start() :].splitlines()[1:] if hunk else []
    unchanged = next((n for n, line in enumerate(body) if line[:1] in "+-"), 0)
    line = _first_line(source, mutant.function) + (int(hunk[1]) if hunk else 1) - 1 + unchanged
    changed = [each for each in body if each[:1] in ("+", "-")]
    return Survivor(path, line, mutant.status, "\n".join(changed))


def _first_line(source: str, function: Sequence[str]) -> int:
    """Find a function, or a method by its class and name; 1 where it is not there."""
    nodes: list[ast.stmt] = ast.parse(source).body
    first = 1
    for name in function:
        for node in nodes:
            if isinstance(node, _NAMED) and node.name == name:
                first = min([node.lineno, *(each.lineno for each in node.decorator_list)])
                nodes = node.body
                break
    return first


_NAMED = (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)
