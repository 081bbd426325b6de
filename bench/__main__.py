"""``python -m bench``: run the chosen parts, print their tables."""

import argparse
import signal
import sys
import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

from bench.beside import raw_section
from bench.idling import idle_section
from bench.machine import Neighbours, describe
from bench.plan import Plan, say
from bench.redis_ceiling import ceiling_section
from bench.report import Section, percent, summary, write_between_markers
from bench.serving import CLIENTS, Runs, latency_section, measure, throughput_section
from bench.working import scaling_section

PARTS = {
    "a": "images/s and CPU-ms per image at 1, 16, 48 clients, beside the first version",
    "b": "latency added over decoding and model, beside the first version",
    "c": "one worker on a full queue with real networks, beside the bare model, on every runtime",
    "d": "1, 2, 4, 8 workers",
    "e": "CPU time of idle processes",
    "f": "what one Redis can carry, and what a second one adds",
}
QUICK = Plan(rounds=1, seconds=2.0, is_quick=True)


def main(arguments: list[str]) -> int:
    chosen, plan, markdown = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Clean up behind us all the same.
    began = time.monotonic()
    machine, neighbours = describe(), Neighbours()
    say(machine)
    sections = _sections(chosen, plan)
    minutes = (time.monotonic() - began) / 60
    text = "\n\n".join(
        [
            f"Machine: {machine}. Others used {percent(neighbours.share())} of it meanwhile.",
            f"{datetime.now(UTC):%Y-%m-%d}, {plan.rounds} round(s) of {plan.seconds:g} s, "
            f"{minutes:.1f} minutes. Medians, in parentheses least and most; ratios are taken "
            "within a round.",
            summary(sections),
            *map(str, sections),
        ]
    )
    print(text)
    if markdown is not None:
        write_between_markers(markdown, text)
    return 0


def _parse(arguments: list[str]) -> tuple[list[str], Plan, Path | None]:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Measure this system beside its first version and beside the bare model.\n"
        "Starts a Redis, web servers and workers of its own on free ports of this machine.",
        epilog="parts:\n" + "\n".join(f"  {name}  {text}" for name, text in PARTS.items()),
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="a b c d e f; default: all")
    parser.add_argument("--rounds", type=int, help="default 3")
    parser.add_argument("--seconds", type=float, help="length of one measurement, default 5")
    parser.add_argument("--quick", action="store_true", help="one short round, one network")
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="also write the tables between the markers of FILE; only with all parts",
    )
    given = parser.parse_args(arguments)
    chosen = sorted(set(given.parts)) or list(PARTS)
    if unknown := set(chosen) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if given.markdown is not None and chosen != list(PARTS):
        parser.error("--markdown replaces all tables, so it needs all parts")
    base = QUICK if given.quick else Plan()
    plan = Plan(given.rounds or base.rounds, given.seconds or base.seconds, base.is_quick)
    return chosen, plan, given.markdown


def _sections(chosen: list[str], plan: Plan) -> list[Section]:
    sections = []
    if serving := [part for part in chosen if part in "ab"]:
        has_a = "a" in serving
        runs = measure(plan, CLIENTS if has_a else CLIENTS[:1], aof=has_a)
        sections += [_SERVING[part](runs) for part in serving]
    return sections + [_WORKING[part](plan) for part in chosen if part in _WORKING]


_SERVING: dict[str, Callable[[Runs], Section]] = {"a": throughput_section, "b": latency_section}
_WORKING: dict[str, Callable[[Plan], Section]] = {
    "c": raw_section,
    "d": scaling_section,
    "e": idle_section,
    "f": ceiling_section,
}


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
