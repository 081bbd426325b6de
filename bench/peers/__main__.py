"""``python -m bench.peers``: this system beside its peers."""

import argparse
import signal
import sys
import time
from datetime import UTC, datetime
from pathlib import Path

from bench.machine import Neighbours, describe
from bench.peers.comparison import compare, usable_peers
from bench.peers.environments import version
from bench.peers.faults import fault_runs
from bench.peers.systems import SHOWN
from bench.peers.tables import plot, sections, windows_note
from bench.plan import Plan
from bench.report import percent, summary, write_between_markers

QUICK = Plan(rounds=1, seconds=1.0, is_quick=True)
FULL = Plan(rounds=3, seconds=3.0)
PLOT = "peers.svg"
MARKERS = "bench-peers"


def main(arguments: list[str]) -> int:
    plan, markdown = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Clean up behind us all the same.
    began = time.monotonic()
    peers, reasons = usable_peers()
    machine, neighbours = describe(), Neighbours()
    compared = compare(plan, peers)
    measured = sections(compared, fault_runs(plan, peers, compared.windows))
    minutes = (time.monotonic() - began) / 60
    versions = ", ".join(f"{SHOWN[peer]} {version(peer)}" for peer in peers)
    text = "\n\n".join(
        [
            f"Machine: {machine}. Peers: {versions}. "
            f"Others used {percent(neighbours.share())} of it meanwhile.",
            *(
                f"{peer} is missing: it cannot be installed here ({why})."
                for peer, why in reasons.items()
            ),
            f"{datetime.now(UTC):%Y-%m-%d}, {plan.rounds} round(s) of {plan.seconds:g} s, "
            f"{minutes:.1f} minutes. Medians, in parentheses least and most; ratios are taken "
            f"within a round. {windows_note()}",
            summary(measured),
            *map(str, measured),
        ]
    )
    print(text)
    if markdown is not None:
        _write(markdown, text, plot(compared))
    return 0


def _write(markdown: Path, text: str, svg: str) -> None:
    (markdown.parent / PLOT).write_text(svg)
    picture = f"![Images per second and CPU time per image over the number of clients]({PLOT})"
    write_between_markers(markdown, f"{text}\n\n{picture}", MARKERS)


def _parse(arguments: list[str]) -> tuple[Plan, Path | None]:
    parser = argparse.ArgumentParser(
        prog="python -m bench.peers",
        description="Measure this system beside mosec, LitServe, BentoML and its first version.\n"
        "Installs the peers into .venv-peers, and starts everything on free ports.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--rounds", type=int, help="default 3")
    parser.add_argument("--seconds", type=float, help="length of one measurement, default 3")
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write the tables into FILE, and a plot"
    )
    given = parser.parse_args(arguments)
    base = QUICK if given.quick else FULL
    plan = Plan(given.rounds or base.rounds, given.seconds or base.seconds, base.is_quick)
    return plan, given.markdown


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
