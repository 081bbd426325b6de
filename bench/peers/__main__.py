"""``python -m bench.peers``: this system beside its peers."""

import argparse
import signal
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import NamedTuple

from bench import kept
from bench.kept import Kept, Shown, add_kept_options, page
from bench.overload import SLOW, Contestant, this_system
from bench.overload_rounds import Overload, measure_overload
from bench.overload_tables import overload_plot, overload_sections
from bench.peers.comparison import FULL as MOST_CLIENTS
from bench.peers.comparison import Setting, Tried, compare, tried
from bench.peers.environments import PEERS, package
from bench.peers.faults import fault_runs
from bench.peers.systems import SHOWN, start_peer
from bench.peers.tables import (
    fault_section,
    identical_section,
    own_section,
    plot,
    windows_note,
)
from bench.picture import photo_jpeg
from bench.plan import Plan, say
from bench.report import write_between_markers

QUICK = Plan(rounds=1, seconds=1.0, is_quick=True)
FULL = Plan(rounds=5, seconds=3.0)
OVERLOAD_ROUNDS = 3
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
    is_resumed: bool


class Made(NamedTuple):
    """The tables and plots of some parts."""

    shown: list[Shown]
    plots: dict[str, tuple[str, str]]
    """By file name: what the plot shows, and the plot."""


def main(arguments: list[str]) -> int:
    given = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Clean up behind us all the same.
    began = time.monotonic()
    found = tried(_store(given, is_resumed=given.is_resumed), given.plan, given.peers)
    peers = [peer for peer in given.peers if SHOWN[peer] in found.rates]
    made = Made([], {})
    for part in PARTS if given.markdown is not None else given.parts:
        is_resumed = given.is_resumed or part not in given.parts
        _PARTS[part](_store(given, is_resumed=is_resumed), given.plan, part, peers, found, made)
    text = page(
        made.shown,
        f"Peers: {', '.join(map(package, peers))}.",
        "Medians, in parentheses least and most; ratios are taken within a round of "
        f"{given.plan.seconds:g} s. {windows_note()}",
    )
    print(text)
    if given.markdown is not None:
        _write(given.markdown, text, made)
    say(f"{(time.monotonic() - began) / 60:.1f} minutes")
    return 0


def _store(given: Given, *, is_resumed: bool) -> Kept:
    return Kept(kept.QUICK if given.plan.is_quick else kept.FULL, is_resumed=is_resumed)


def _own(
    store: Kept, plan: Plan, part: str, peers: Sequence[str], found: Tried, made: Made
) -> None:
    compared = compare(store, plan, _name(part, peers, found), peers, found.windows)
    made.shown.append(own_section(compared, found))
    made.plots["peers.svg"] = (
        "Images per second, CPU time per image and latencies over the number of clients",
        plot(compared.runs),
    )


def _identical(
    store: Kept, plan: Plan, part: str, peers: Sequence[str], found: Tried, made: Made
) -> None:
    name = _name(part, peers, found)
    compared = compare(store, plan, name, peers, found.windows, is_identical=True)
    made.shown.append(identical_section(compared, found))


def _faults(
    store: Kept, plan: Plan, part: str, peers: Sequence[str], found: Tried, made: Made
) -> None:
    made.shown.append(fault_section(fault_runs(store, plan, part, peers, found.windows)))


def _overload(
    store: Kept, plan: Plan, part: str, peers: Sequence[str], found: Tried, made: Made
) -> None:
    contestants = [this_system(), *(_contestant(peer, found) for peer in peers)]
    rounds = Plan(min(plan.rounds, OVERLOAD_ROUNDS), plan.seconds, plan.is_quick)
    overload: Overload = measure_overload(store, rounds, contestants, part)
    made.shown.extend(overload_sections(part, overload))
    made.plots["overload.svg"] = (
        "Answers in time over load, as a share of each system's own capacity",
        overload_plot(overload.measured[SLOW]),
    )


_PARTS: dict[str, Callable[[Kept, Plan, str, Sequence[str], Tried, Made], None]] = {
    "p1": _own,
    "p2": _identical,
    "p3": _faults,
    "p4": _overload,
}


def _name(part: str, peers: Sequence[str], found: Tried) -> str:
    """Name the piece of a part that measures all systems in turns: fewer peers, another piece."""
    is_whole = len(peers) + len(found.reasons) == len(PEERS)
    return part if is_whole else kept.key(part, *peers)


def _contestant(peer: str, found: Tried) -> Contestant:
    name = SHOWN[peer]
    ms = found.windows[Setting(name, MOST_CLIENTS)]
    picture = photo_jpeg()
    return Contestant(
        name,
        lambda bed, model, deadline_s: start_peer(
            bed, peer, ms, "own", picture, model.peer_settings(deadline_s)
        ),
        one_for_all=peer == "kserve",  # It knows no time-out.
        is_slow=name in found.slow,
    )


def _write(markdown: Path, text: str, made: Made) -> None:
    pictures = []
    for name, (shows, svg) in made.plots.items():
        (markdown.parent / name).write_text(svg)
        pictures.append(f"![{shows}]({name})")
    write_between_markers(markdown, "\n\n".join([text, *pictures]), MARKERS)


def _parse(arguments: list[str]) -> Given:
    parser = _parser()
    given = parser.parse_args(arguments)
    parts = sorted(set(given.parts)) or list(PARTS)
    if unknown := set(parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if given.markdown is not None and given.peers != list(PEERS):
        parser.error("--markdown replaces all tables, so it needs all peers")
    base = QUICK if given.quick else FULL
    plan = Plan(given.rounds or base.rounds, given.seconds or base.seconds, base.is_quick)
    return Given(parts, given.peers, plan, given.markdown, given.resume)


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers",
        description=f"Measure this system beside {', '.join(SHOWN.values())}\n"
        "and its first version. Installs the peers into .venv-peers, and starts everything on\n"
        "free ports. All parts take about three quarters of an hour, half of it part p4; with\n"
        "--quick a quarter. Results are kept under build/bench as they come.",
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
    parser.add_argument("--rounds", type=int, help="default 5; p2 and p4 have 3")
    parser.add_argument("--seconds", type=float, help="length of one measurement, default 3")
    parser.add_argument("--quick", action="store_true", help="one short round")
    add_kept_options(parser)
    return parser


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
