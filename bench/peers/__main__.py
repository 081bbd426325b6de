"""``python -m bench.peers``: this system beside its peers."""

import argparse
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from bench.machine import Neighbours, describe, processor
from bench.overload import (
    FAST,
    SLOW,
    Contestant,
    Measured,
    StandInTimes,
    measure_overload,
    this_system,
)
from bench.overload_tables import overload_sections
from bench.peers.comparison import FULL as MOST_CLIENTS
from bench.peers.comparison import (
    Comparison,
    Setting,
    Windows,
    best_windows,
    compare,
    usable_peers,
    why,
)
from bench.peers.environments import PEERS, version
from bench.peers.faults import fault_runs
from bench.peers.systems import SHOWN, start_peer
from bench.peers.tables import plot, sections, windows_note
from bench.picture import photo_jpeg
from bench.plan import Plan, say
from bench.report import Section, measured_on, percent, write_between_markers

QUICK = Plan(rounds=1, seconds=1.0, is_quick=True)
FULL = Plan(rounds=3, seconds=3.0)
PLOT = "peers.svg"
MARKERS = "bench-peers"
PARTS = {
    "p1": "each system as its users would write it, at 1, 16, 48 clients",
    "p2": "the same decoding in all",
    "p3": "broken pictures, and a model process that is killed",
    "p4": "overload: answers within their deadlines at 70 to 200 % of each system's capacity",
}


class Given(NamedTuple):
    """The parsed command line."""

    parts: list[str]
    peers: list[str]
    plan: Plan
    markdown: Path | None


def main(arguments: list[str]) -> int:
    given = _parse(arguments)
    plan = given.plan
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Clean up behind us all the same.
    began = time.monotonic()
    peers, reasons = usable_peers(given.peers)
    machine, neighbours = describe(), Neighbours()
    windows = best_windows(plan, peers)
    compared = Comparison(windows, *compare(plan, given.parts, windows, peers), reasons)
    measured = sections(compared, fault_runs(plan, peers, windows) if "p3" in given.parts else [])
    if "p4" in given.parts:
        measured += _overload(plan, peers, windows)
    minutes = (time.monotonic() - began) / 60
    versions = ", ".join(f"{SHOWN[peer]} {version(peer)}" for peer in peers)
    text = "\n\n".join(
        [
            f"Machine: {machine}. Peers: {versions}. "
            f"Others used {percent(neighbours.share())} of it meanwhile.",
            f"{datetime.now(UTC):%Y-%m-%d}, {plan.rounds} round(s) of {plan.seconds:g} s, "
            f"{minutes:.1f} minutes. Medians, in parentheses least and most; ratios are taken "
            f"within a round. {windows_note()}",
            measured_on(processor(), measured),
        ]
    )
    print(text)
    if given.markdown is not None:
        _write(given.markdown, text, plot(compared))
    return 0


def _overload(plan: Plan, peers: Sequence[str], windows: Windows) -> list[Section]:
    """Measure all systems with both stand-ins; of one that fails under the load the reason."""
    contestants = [this_system(), *(_contestant(peer, windows) for peer in peers)]
    measured: dict[StandInTimes, dict[str, Measured]] = {SLOW: {}, FAST: {}}
    failed = {}
    for model, by_system in measured.items():
        for each in contestants:
            try:
                by_system[each.name] = measure_overload(plan, each, model)
            except SystemExit as error:
                failed[f"{each.name}, {model.name}"] = reason = why(error)
                say(f"{each.name} fails under overload: {reason}")
    return overload_sections("p4", measured, failed)


def _contestant(peer: str, windows: Windows) -> Contestant:
    ms = windows[Setting(SHOWN[peer], MOST_CLIENTS)]
    picture = photo_jpeg()
    return Contestant(
        SHOWN[peer],
        lambda bed, model, deadline_s: start_peer(
            bed, peer, ms, "own", picture, model.peer_settings(deadline_s)
        ),
    )


def _write(markdown: Path, text: str, svg: str) -> None:
    (markdown.parent / PLOT).write_text(svg)
    picture = f"![Images per second and CPU time per image over the number of clients]({PLOT})"
    write_between_markers(markdown, f"{text}\n\n{picture}", MARKERS)


def _parse(arguments: list[str]) -> Given:
    parser = _parser()
    given = parser.parse_args(arguments)
    parts = sorted(set(given.parts)) or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if given.markdown is not None and (parts != list(PARTS) or given.peers != list(PEERS)):
        parser.error("--markdown replaces all tables, so it needs all parts and all peers")
    base = QUICK if given.quick else FULL
    plan = Plan(given.rounds or base.rounds, given.seconds or base.seconds, base.is_quick)
    return Given(parts, given.peers, plan, given.markdown)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers",
        description=f"Measure this system beside {', '.join(SHOWN.values())}\n"
        "and its first version. Installs the peers into .venv-peers, and starts everything on\n"
        "free ports. All parts take about an hour, two thirds of it part p4; with --quick a\n"
        "quarter of one.",
        epilog="parts:\n" + "\n".join(f"  {name}  {text}" for name, text in PARTS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("parts", nargs="*", metavar="PART", help="p1 p2 p3 p4; default: all")
    parser.add_argument(
        "--peers",
        nargs="+",
        choices=PEERS,
        default=list(PEERS),
        metavar="PEER",
        help=f"default: {' '.join(PEERS)}",
    )
    parser.add_argument("--rounds", type=int, help="default 3")
    parser.add_argument("--seconds", type=float, help="length of one measurement, default 3")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write the tables into FILE, and a plot"
    )
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
