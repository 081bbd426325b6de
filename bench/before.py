"""Parts (h) and (i): an earlier commit in turns with this one.

(h): under the same overload. At a steady 110 % of what the earlier one can do, more answers come in
time for some clients at the cost of others: all together must not become fewer. (i): instructions
per picture.
"""

import shutil
import statistics
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory

from bench.commits import THAT, THIS, sources
from bench.difference import Change, Figure
from bench.history import NotInHistory
from bench.instructions import ALL, MODEL_ROLE, ROLES, TARGET, measure, parse
from bench.open_loop import Kind, Outcomes
from bench.overload import (
    QUICK_SECONDS,
    SECONDS,
    SLOW,
    Setting,
    capacity,
    mixed_settings,
    offered,
    target_setting,
)
from bench.peers.systems import System, start_ours
from bench.picture import photo_jpeg
from bench.plan import Plan, say
from bench.processes import Bed
from bench.report import Section, Verdict, number, percent, ratios, spread, times
from bench.stacks import write_picture

BEFORE = "27709f3"
"""The state before deadlines decided which picture comes next."""
ROUNDS = 5
QUICK_ROUNDS = 2
COUNTING_ROUNDS = 2
ROUNDS_OF_OTHERS = 2
"""In which rows without a target are measured."""

Runs = Mapping[tuple[str, Setting], Sequence[Sequence[Outcomes]]]
"""By commit and row: of each round the outcomes of each kind of clients."""


def overload_section(plan: Plan) -> Section:
    seconds = QUICK_SECONDS if plan.is_quick else SECONDS
    with _sources() as found:
        return section(_measure(found, plan, seconds), seconds)


@contextmanager
def _sources() -> Iterator[Mapping[str, Path]]:
    """Unpack the earlier commit beside this one.

    Raises SystemExit where git does not have it.
    """
    with TemporaryDirectory(prefix="bench-") as directory:
        try:
            yield sources(BEFORE, Path(directory))
        except NotInHistory as error:
            raise SystemExit(f"bench: no commit {BEFORE} to compare with: {error}") from error


_TITLE = "(h) Overload beside an earlier commit"
_HEADER = ("arrivals, load", "clients: deadline", "in time now", BEFORE, "ratio")


def _measure(found: Mapping[str, Path], plan: Plan, seconds: float) -> Runs:
    runs: dict[tuple[str, Setting], list[list[Outcomes]]] = defaultdict(list)
    order = list(found)
    for number_of_round in range(1, 1 + (QUICK_ROUNDS if plan.is_quick else ROUNDS)):
        with Bed() as bed:
            picture = write_picture(bed, photo_jpeg())
            systems = {label: _start(bed, found[label]) for label in order}
            rate = capacity(systems[THAT], seconds, picture).per_second
            say(f"round {number_of_round}: {BEFORE}: capacity {number(rate)} images/s")
            for setting in _settings(number_of_round):
                for label in order:
                    say(f"round {number_of_round}: {label}")
                    outcomes = offered(
                        systems[label],
                        setting,
                        setting.share * rate,
                        picture,
                        seconds=seconds,
                        seed=number_of_round,
                    )
                    runs[label, setting].append(outcomes)
        order.reverse()  # Take turns: the machine may be slower for the second one.
    return runs


def _start(bed: Bed, source: Path) -> System:
    return start_ours(bed, {**SLOW.our_settings(), "PYTHONPATH": str(source)})


def steady() -> Setting:
    """Return the row of the target."""
    return mixed_settings(SLOW)[1]


def _settings(number_of_round: int) -> list[Setting]:
    others = [target_setting(SLOW), mixed_settings(SLOW)[0]]
    return [steady(), *(others if number_of_round <= ROUNDS_OF_OTHERS else [])]


def section(runs: Runs, seconds: float) -> Section:
    """Write the table, and compare with the target."""
    goodputs = {
        label: [goodput(kinds) / seconds for kinds in runs[label, steady()]]
        for label in (THIS, THAT)
    }
    figure = Figure("goodput", goodputs[THIS], goodputs[THAT], more_is_better=True)
    shown = spread(ratios(goodputs[THIS], goodputs[THAT]), times)
    return Section(
        _TITLE,
        _HEADER,
        [
            row
            for setting in dict.fromkeys(each for _, each in runs)
            for row in _rows(runs, setting)
        ],
        [
            Verdict(
                f"goodput at a steady {percent(steady().share)} not below {BEFORE}",
                shown,
                figure.change is not Change.WORSE,
            )
        ],
        [
            f"Both get the same load, shares of what {BEFORE} can do with 48 clients, in turns. "
            f"{SLOW.name.capitalize()}, as in (g). Rows of {seconds:g} s; the one with the target "
            f"in {len(goodputs[THIS])} round(s). Below: the medians differ by more than 3 % and by "
            "more than the middle half of the rounds of either."
        ],
    )


def _rows(runs: Runs, setting: Setting) -> Iterable[list[str]]:
    where = f"{setting.arrivals}, {percent(setting.share)}"
    for i, kind in enumerate(setting.kinds):
        shares = {label: [kinds[i].share for kinds in runs[label, setting]] for label in _BOTH}
        yield [where, _who(kind), *_cells(shares)]
    if len(setting.kinds) > 1:
        shares = {
            label: [goodput(kinds) / _all(kinds) for kinds in runs[label, setting]]
            for label in _BOTH
        }
        yield [where, "all", *_cells(shares)]


_BOTH = (THIS, THAT)


def _who(kind: Kind) -> str:
    return f"{percent(kind.share)}: {kind.deadline_s:.2g} s"


def _cells(shares: Mapping[str, Sequence[float]]) -> list[str]:
    this, that = (statistics.median(shares[label]) for label in _BOTH)
    ratio = times(this / that) if that else ""
    return [*(spread(shares[label], percent) for label in _BOTH), ratio]


def goodput(kinds: Sequence[Outcomes]) -> int:
    return sum(each.in_time for each in kinds)


def _all(kinds: Sequence[Outcomes]) -> int:
    return sum(each.offered for each in kinds) or 1


# -- (i) ------------------------------------------------------------------------------------------


def instructions_section(plan: Plan) -> Section:
    """Count them.

    Raises SystemExit without valgrind.
    """
    if not shutil.which("valgrind"):
        raise SystemExit("bench: valgrind is not installed")
    rounds = 1 if plan.is_quick else COUNTING_ROUNDS
    with _sources() as found:
        return counts_section(measure(found, parse(["--rounds", str(rounds)])))


def counts_section(counts: Mapping[str, Sequence[Mapping[str, float]]]) -> Section:
    """Write the table, and compare with the target; by commit, the counts of each round."""
    rows = []
    for role in (*ROLES, ALL, MODEL_ROLE):
        this, that = ([each[role] for each in counts[label]] for label in _BOTH)
        rows.append([role, spread(this), spread(that), spread(ratios(this, that), times)])
    this, that = ([each[ALL] for each in counts[label]] for label in _BOTH)
    ratio = statistics.median(ratios(this, that))
    return Section(
        "(i) Instructions per picture beside an earlier commit",
        ("process", "thousands now", BEFORE, "ratio"),
        rows,
        [Verdict(f"<= {TARGET:g} of {BEFORE}, all processes", times(ratio), ratio <= TARGET)],
        [
            "Counted by valgrind, in user mode: of a system call only what leads to it. What idle "
            "processes do is left out, and the stand-in's own labels stand apart. They do not "
            "depend on how busy the machine is; how long one takes depends on the processor."
        ],
    )
