"""``python -m bench --beside COMMIT``: another commit in turns with this one, under HTTP load."""

import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from bench.closed_loop import Form
from bench.difference import Figure, comparison, is_worse, rule
from bench.history import SOURCE, NotInHistory, name_of, name_of_working_tree, unpack_source
from bench.load import Demand, Run, measured
from bench.picture import photo_jpeg
from bench.plan import Plan, say
from bench.processes import Bed
from bench.report import number
from bench.stacks import Stack, check_answer, start_imageserve, write_picture

MANY, ONE = 48, 1
"""Numbers of clients: many for rate and CPU time, one for latency."""
THIS, THAT = "this", "that"


class Outcome(NamedTuple):
    """The text to print, and whether this commit is worse in any figure."""

    text: str
    is_worse: bool


Runs = Mapping[tuple[str, int], Sequence[Run]]
"""By commit and number of clients."""


def compare_with(commit: str, plan: Plan) -> Outcome:
    """Measure that commit and the working tree.

    Raises SystemExit where git does not have that commit.
    """
    try:
        names = {THIS: name_of_working_tree(), THAT: name_of(commit)}
        with TemporaryDirectory(prefix="bench-") as directory:
            runs = _measure(sources(commit, Path(directory)), plan)
    except NotInHistory as error:
        raise SystemExit(f"bench: no commit {commit} to compare with: {error}") from error
    measured_figures = figures(runs)
    lines = [f"{label}: {name}" for label, name in names.items()]
    text = "\n\n".join(["\n".join(lines), comparison(measured_figures), rule(plan.rounds)])
    return Outcome(text, is_worse(measured_figures))


def sources(commit: str | None, directory: Path) -> Mapping[str, Path]:
    """Write both sources into one directory, so that neither gains by its place on disk.

    Raises NotInHistory. Without ``commit`` there is only this one.
    """
    this = directory / THIS / "src"
    shutil.copytree(SOURCE, this, ignore=shutil.ignore_patterns("__pycache__"))
    that = {} if commit is None else {THAT: unpack_source(commit, directory / THAT)}
    return {THIS: this, **that}


def figures(runs: Runs) -> list[Figure]:
    """Return the figures that are compared."""
    this, that = (runs[label, MANY] for label in (THIS, THAT))
    return [
        Figure(
            f"images/s, {MANY} clients",
            [run.per_second for run in this],
            [run.per_second for run in that],
            more_is_better=True,
        ),
        Figure(
            f"CPU-ms per image, {MANY} clients",
            [run.total_cpu_ms for run in this],
            [run.total_cpu_ms for run in that],
        ),
        Figure(
            f"p50 latency, ms, {ONE} client",
            [run.latency_ms for run in runs[THIS, ONE]],
            [run.latency_ms for run in runs[THAT, ONE]],
        ),
    ]


def _measure(sources: Mapping[str, Path], plan: Plan) -> Runs:
    picture = photo_jpeg()
    runs: dict[tuple[str, int], list[Run]] = defaultdict(list)
    order = list(sources)
    for number_of_round in range(1, plan.rounds + 1):
        with Bed() as bed:
            # New processes in each round: by chance, some stay a little slower than others.
            stacks = {label: _start(bed, label, sources[label], picture) for label in order}
            path = write_picture(bed, picture)
            for clients in (MANY, ONE):
                for label in order:
                    run = measured(stacks[label], Demand(clients, form=Form.PLAIN), plan, path)
                    runs[label, clients].append(run)
                    say(f"round {number_of_round} of {plan.rounds}: {_shown(label, clients, run)}")
        order.reverse()  # Take turns: the machine may be slower for the second one.
    return runs


def _start(bed: Bed, label: str, source: Path, picture: bytes) -> Stack:
    stack = start_imageserve(bed, label, settings={"PYTHONPATH": str(source)})
    check_answer(stack, picture)
    return stack


def _shown(label: str, clients: int, run: Run) -> str:
    return (
        f"{label}, {clients} client(s): {number(run.per_second)} images/s, "
        f"{number(run.latency_ms)} ms, {number(run.total_cpu_ms)} CPU-ms per image"
    )
