"""``python -m bench.sizing``: how far the simulator is from real workers under real load."""

import argparse
import sys
import tempfile
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.machine import describe
from bench.plan import say
from bench.processes import redis_server
from bench.report import write_between_markers
from bench.sizing.replay import Plan, Proof, compressed_policy, replay
from imageserve_loadtest.simulator.trace import Trace, shipped_traces

COMPRESSION = 10.0
MOST_POINTS = 5.0
"""How far the shares in time may be apart, in points."""

EXCERPTS = {
    "day": (2400.0, 4000.0),
    "flash-crowd": (900.0, 2400.0),
    "on-off": (300.0, 1800.0),
    "step": (900.0, 2400.0),
}
"""From which second of a shipped trace to which."""

HIGHEST_PER_S, LOWEST_PER_S = 80.0, 0.5
"""Rates of an excerpt are multiplied so that this is the highest; the load tool knows no 0."""


def excerpt(trace: Trace, start_s: float, end_s: float) -> Trace:
    """Cut a trace, compress its time, and scale its rates."""
    rows = zip(trace.seconds, trace.seconds[1:], trace.rates, strict=False)
    kept = [(max(a, start_s), rate) for a, b, rate in rows if b > start_s and a < end_s]
    factor = HIGHEST_PER_S / max(rate for _, rate in kept)
    seconds = [(second - start_s) / COMPRESSION for second, _ in kept]
    rates = [max(LOWEST_PER_S, rate * factor) for _, rate in kept]
    length_s = (end_s - start_s) / COMPRESSION
    return Trace(trace.name, (*seconds, length_s), (*rates, 0.0))


def main(arguments: Sequence[str]) -> int:
    """Return 0 where simulator and reality are as close as they should be, else 1."""
    given = _parser().parse_args(arguments)
    traces = {trace.name: trace for trace in shipped_traces()}
    proofs = []
    with tempfile.TemporaryDirectory(prefix="sizing-") as directory:
        for name in given.traces or EXCERPTS:
            trace = excerpt(traces[name], *EXCERPTS[name])
            say(f"{name}: {trace.length_s:g} s")
            plan = Plan(trace, COMPRESSION, compressed_policy(COMPRESSION), given.seed)
            proofs.append(replay(plan, Path(directory) / name, redis_server()))
            say(line(proofs[-1]))
            say(str(proofs[-1].decisions))
    text = report(proofs, given.seed)
    print(text)
    if given.markdown is not None:
        write_between_markers(given.markdown, text, "sizing")
    return 0 if all(proof.points_apart <= MOST_POINTS for proof in proofs) else 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.sizing",
        description="Let the autoscaler size real workers under real load, and compare the outcome "
        "with the simulator's. Starts a Redis, a web server and workers of its own on free ports.",
    )
    parser.add_argument("traces", nargs="*", metavar="TRACE", help="default: all")
    parser.add_argument("--seed", type=int, default=1, help="of the arrivals, default 1")
    parser.add_argument(
        "--markdown", type=Path, metavar="FILE", help="also write the table between its markers"
    )
    return parser


def line(proof: Proof) -> str:
    """Return one row of the table."""
    real, simulated = proof.real, proof.simulated
    cells = (
        proof.plan.trace.name,
        f"{proof.requests:,}",
        f"{proof.pod_start_s:.1f} s",
        f"{proof.most_workers}",
        f"{100 * real.in_time:.1f} %",
        f"{100 * simulated.in_time:.1f} %",
        f"{proof.points_apart:.1f}",
        f"{60 * real.worker_hours:.2f}",
        f"{60 * simulated.worker_hours:.2f}",
        f"{proof.hours_apart:.1f} %",
    )
    return f"| {' | '.join(cells)} |"


HEAD = """| trace | requests | worker start | most workers | in time, real | simulated | points \
apart | worker-minutes, real | simulated | apart |
| :-- | --: | --: | --: | --: | --: | --: | --: | --: | --: |"""


def report(proofs: Sequence[Proof], seed: int) -> str:
    """Return the table as Markdown."""
    rows = "\n".join(map(line, proofs))
    about = f"{datetime.now(UTC):%Y-%m-%d}, seed {seed}. Machine: {describe()}."
    return f"{about}\n\n{HEAD}\n{rows}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
