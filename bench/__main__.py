"""``python -m bench``: run the chosen parts, or another commit beside this one; print tables."""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from bench import kept
from bench.before import BEFORE, instructions_section, overload_section
from bench.beside import raw_section
from bench.commits import compare_with
from bench.difference import LEAST_ROUNDS
from bench.doors import doors_section
from bench.idling import idle_section
from bench.kept import Kept, Shown, add_kept_options, page, sections_from_json
from bench.machine import Neighbours, describe
from bench.overload import this_system
from bench.overload_rounds import measure_overload
from bench.overload_tables import overload_sections
from bench.peers.reasons import why
from bench.plan import Plan, say
from bench.quotas import quotas_section
from bench.redis_ceiling import ceiling_section
from bench.report import Section, percent, write_between_markers
from bench.serving import latency_section, measure, throughput_section
from bench.working import scaling_section

PARTS = {
    "a": "images/s, CPU-ms per image and, as table (b), latency, beside the first version",
    "c": "one worker on a full queue with real networks, beside the bare model, on every runtime",
    "d": "1, 2, 4, 8 workers",
    "e": "CPU time of idle processes",
    "f": "what one Redis can carry, and what a second one adds",
    "g": "overload: answers within their deadlines at 70 to 200 % of the capacity",
    "h": f"overload beside {BEFORE}",
    "i": f"instructions per picture beside {BEFORE}; needs valgrind",
    "j": "the Open Inference Protocol beside /predict",
    "k": "one key and its quota on two web servers, and what a quota costs ENQUEUE",
}
QUICK = Plan(rounds=1, seconds=2.0, is_quick=True)
BESIDE = Plan(rounds=LEAST_ROUNDS)
QUICK_BESIDE = Plan(rounds=3, seconds=2.0, is_quick=True)


class Given(NamedTuple):
    """The parsed command line."""

    parts: list[str]
    plan: Plan
    markdown: Path | None
    is_resumed: bool
    beside: str | None
    """The commit to compare with, instead of the parts."""


def main(arguments: list[str]) -> int:
    """Return 1 where another commit is compared with and this one is worse, else 0."""
    given = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Run the clean-up.
    began = time.monotonic()
    machine, neighbours = describe(), Neighbours()
    say(machine)
    if given.beside is not None:
        outcome = compare_with(given.beside, given.plan)
        others = f"Others used {percent(neighbours.share())} of it meanwhile."
        print(f"Machine: {machine}. {others}\n\n{datetime.now(UTC):%Y-%m-%d}. {outcome.text}")
        return int(outcome.is_worse)
    text = page(
        _shown(given),
        f"{given.plan.rounds} round(s) of {given.plan.seconds:g} s, where a table says nothing "
        "else. Medians, in parentheses least and most; ratios are taken within a round.",
    )
    print(text)
    if given.markdown is not None:
        write_between_markers(given.markdown, text)
    say(f"{(time.monotonic() - began) / 60:.1f} minutes")
    return 0


def _shown(given: Given) -> list[Shown]:
    """Measure what was asked for; with a file, show the other parts as they were kept."""
    shown = []
    for part in PARTS if given.markdown is not None else given.parts:
        is_resumed = given.is_resumed or part not in given.parts
        directory = kept.QUICK if given.plan.is_quick else kept.FULL
        shown += _part(part, Kept(directory, is_resumed=is_resumed), given)
    return shown


def _part(part: str, store: Kept, given: Given) -> list[Shown]:
    """Return the tables of a part; where it fails, the reason: the other parts are worth having."""
    try:
        return _tables(part, store, given)
    except SystemExit as error:
        reason = why(error)
        say(f"part {part} failed: {reason}")
        return [Shown(Section(f"({part}) {PARTS[part]}", ("no numbers",), [[reason]], []), [])]


def _tables(part: str, store: Kept, given: Given) -> list[Shown]:
    if part == "c":
        return [raw_section(store, given.plan, part)]
    if part == "g":
        return overload_sections(part, measure_overload(store, given.plan, [this_system()], part))
    piece = store.piece(part, given.plan, lambda: _measured(part, given))
    return [Shown(section, [piece.circumstances]) for section in sections_from_json(piece.value)]


def _measured(part: str, given: Given) -> list[dict[str, Any]]:
    return kept.sections_as_json(_MEASURED[part](given.plan))


def _parse(arguments: list[str]) -> Given:
    parser = _parser()
    given = parser.parse_args(arguments)
    chosen = sorted(set(given.parts)) or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if given.beside is not None and (given.parts or given.markdown is not None):
        parser.error("--beside measures whole systems: it takes no parts and no --markdown")
    base = _base(is_beside=given.beside is not None, is_quick=given.quick)
    plan = Plan(given.rounds or base.rounds, given.seconds or base.seconds, base.is_quick)
    if given.beside is not None and not plan.is_quick and plan.rounds < LEAST_ROUNDS:
        parser.error(f"--beside needs at least {LEAST_ROUNDS} rounds for a verdict")
    return Given(chosen, plan, given.markdown, given.resume, given.beside)


def _base(*, is_beside: bool, is_quick: bool) -> Plan:
    if is_beside:
        return QUICK_BESIDE if is_quick else BESIDE
    return QUICK if is_quick else Plan()


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure this system beside its first version and beside the bare model,\n"
        "or beside another commit. Starts a Redis, web servers and workers of its own on free\n"
        "ports of this machine. All parts take about half an hour; with --quick about 6 minutes.\n"
        "Results are kept under build/bench as they come.",
        epilog="parts:\n" + "\n".join(f"  {name}  {text}" for name, text in PARTS.items()),
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{' '.join(PARTS)}; default: all")
    parser.add_argument(
        "--rounds", type=int, help=f"default 3; with --beside {LEAST_ROUNDS}, and no fewer"
    )
    parser.add_argument("--seconds", type=float, help="length of one measurement, default 5")
    parser.add_argument("--quick", action="store_true", help="short rounds, one network")
    parser.add_argument(
        "--beside",
        metavar="COMMIT",
        help="measure that commit in turns with this one instead; exit status 1 if this is worse",
    )
    add_kept_options(parser)
    return parser


def _serving(plan: Plan) -> list[Section]:
    runs = measure(plan)
    return [throughput_section(runs), latency_section(runs)]


_MEASURED: dict[str, Callable[[Plan], list[Section]]] = {
    "a": _serving,
    "d": lambda plan: [scaling_section(plan)],
    "e": lambda plan: [idle_section(plan)],
    "f": lambda plan: [ceiling_section(plan)],
    "h": lambda plan: [overload_section(plan)],
    "i": lambda plan: [instructions_section(plan)],
    "j": lambda plan: [doors_section(plan)],
    "k": lambda plan: [quotas_section(plan)],
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
