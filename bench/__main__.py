"""``python -m bench``: run the chosen parts, or another commit beside this one; print tables."""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from bench.beside import raw_section
from bench.commits import compare_with
from bench.difference import LEAST_ROUNDS
from bench.idling import idle_section
from bench.machine import Neighbours, describe, processor
from bench.overload import FAST, SLOW, measure_overload, this_system
from bench.overload_tables import overload_sections
from bench.plan import Plan, say
from bench.redis_ceiling import ceiling_section
from bench.report import Section, measured_on, percent, write_between_markers
from bench.serving import CLIENTS, Runs, latency_section, measure, throughput_section
from bench.working import scaling_section

PARTS = {
    "a": "images/s and CPU-ms per image at 1, 16, 48 clients, beside the first version",
    "b": "latency added over decoding and model, beside the first version",
    "c": "one worker on a full queue with real networks, beside the bare model, on every runtime",
    "d": "1, 2, 4, 8 workers",
    "e": "CPU time of idle processes",
    "f": "what one Redis can carry, and what a second one adds",
    "g": "overload: answers within their deadlines at 70 to 200 % of the capacity",
}
QUICK = Plan(rounds=1, seconds=2.0, is_quick=True)
BESIDE = Plan(rounds=LEAST_ROUNDS)
QUICK_BESIDE = Plan(rounds=3, seconds=2.0, is_quick=True)


class Given(NamedTuple):
    """The parsed command line."""

    parts: list[str]
    plan: Plan
    markdown: Path | None
    beside: str | None
    """The commit to compare with, instead of the parts."""


def main(arguments: list[str]) -> int:
    """Return 1 where another commit is compared with and this one is worse, else 0."""
    given = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Run the clean-up.
    began = time.monotonic()
    machine, neighbours = describe(), Neighbours()
    say(machine)
    parts, is_worse = _measured(given)
    minutes = (time.monotonic() - began) / 60
    text = "\n\n".join(
        [
            f"Machine: {machine}. Others used {percent(neighbours.share())} of it meanwhile.",
            f"{datetime.now(UTC):%Y-%m-%d}, {given.plan.rounds} round(s) of "
            f"{given.plan.seconds:g} s, {minutes:.1f} minutes. {parts}",
        ]
    )
    print(text)
    if given.markdown is not None:
        write_between_markers(given.markdown, text)
    return int(is_worse)


def _measured(given: Given) -> tuple[str, bool]:
    if given.beside is not None:
        return compare_with(given.beside, given.plan)
    sections = _sections(given.parts, given.plan)
    legend = "Medians, in parentheses least and most; ratios are taken within a round."
    return f"{legend}\n\n{measured_on(processor(), sections)}", False


def _parse(arguments: list[str]) -> Given:
    parser = _parser()
    given = parser.parse_args(arguments)
    chosen = sorted(set(given.parts)) or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if given.markdown is not None and chosen != list(PARTS):
        parser.error("--markdown replaces all tables, so it needs all parts")
    if given.beside is not None and (given.parts or given.markdown is not None):
        parser.error("--beside measures whole systems: it takes no parts and no --markdown")
    base = _base(is_beside=given.beside is not None, is_quick=given.quick)
    plan = Plan(given.rounds or base.rounds, given.seconds or base.seconds, base.is_quick)
    if given.beside is not None and not plan.is_quick and plan.rounds < LEAST_ROUNDS:
        parser.error(f"--beside needs at least {LEAST_ROUNDS} rounds for a verdict")
    return Given(chosen, plan, given.markdown, given.beside)


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
        "ports of this machine. All parts take about 25 minutes, 6 of them part g; with --quick\n"
        "about 3.",
        epilog="parts:\n" + "\n".join(f"  {name}  {text}" for name, text in PARTS.items()),
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="a b c d e f g; default: all")
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
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="also write the tables between the markers of FILE; only with all parts",
    )
    return parser


def _sections(chosen: list[str], plan: Plan) -> list[Section]:
    sections = []
    if serving := [part for part in chosen if part in "ab"]:
        has_a = "a" in serving
        runs = measure(plan, CLIENTS if has_a else CLIENTS[:1], aof=has_a)
        sections += [_SERVING[part](runs) for part in serving]
    sections += [_WORKING[part](plan) for part in chosen if part in _WORKING]
    return sections + (_overload(plan) if "g" in chosen else [])


def _overload(plan: Plan) -> list[Section]:
    ours = this_system()
    measured = {model: {ours.name: measure_overload(plan, ours, model)} for model in (SLOW, FAST)}
    return overload_sections("g", measured)


_SERVING: dict[str, Callable[[Runs], Section]] = {"a": throughput_section, "b": latency_section}
_WORKING: dict[str, Callable[[Plan], Section]] = {
    "c": raw_section,
    "d": scaling_section,
    "e": idle_section,
    "f": ceiling_section,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
