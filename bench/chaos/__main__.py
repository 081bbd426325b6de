"""``python -m bench.chaos``: attack the service, and account for every request."""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from bench.chaos.arena import FULL, QUICK, Scale
from bench.chaos.run import Report, run
from bench.chaos.scenarios import BY_NAME, SCENARIOS, Scenario
from bench.chaos.tables import guarantees, method, numbers
from bench.machine import describe
from bench.plan import say
from bench.processes import redis_server
from bench.report import write_between_markers


def main(arguments: list[str]) -> int:
    """Return 0 where everything held, else 1."""
    chosen, scale, seed, markdown = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Run the clean-up.
    began = time.monotonic()
    reports = _run_all(chosen, scale, seed)
    text = _text(reports, scale, seed, (time.monotonic() - began) / 60)
    print(text)
    if markdown is not None:
        write_between_markers(markdown, text, "chaos")
    return 0 if all(report.holds for report in reports) else 1


def _parse(arguments: list[str]) -> tuple[list[Scenario], Scale, int, Path | None]:
    parser = argparse.ArgumentParser(
        prog="python -m bench.chaos",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Break parts of a service under load, and account for every request.\n"
        "Starts a Redis, web servers and workers of its own on free ports of this machine.",
        epilog="scenarios:\n" + "\n".join(f"  {s.name:14} {s.does}" for s in SCENARIOS),
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="default: all")
    parser.add_argument("--quick", action="store_true", help="seconds each, for a quick check")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices, default 1")
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="also write the tables between the markers of FILE; only with all scenarios",
    )
    given = parser.parse_args(arguments)
    if unknown := set(given.scenarios) - set(BY_NAME):
        parser.error(f"no such scenario: {', '.join(sorted(unknown))}")
    if given.markdown is not None and given.scenarios:
        parser.error("--markdown replaces all tables, so it needs all scenarios")
    chosen = [BY_NAME[name] for name in given.scenarios] or list(SCENARIOS)
    return chosen, QUICK if given.quick else FULL, given.seed, given.markdown


def _run_all(chosen: Sequence[Scenario], scale: Scale, seed: int) -> list[Report]:
    reports = []
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
        for scenario in chosen:
            say(f"{scenario.name}: {scenario.does}")
            report = run(scenario, scale, seed, Path(directory) / scenario.name, redis_server())
            _tell(report)
            reports.append(report)
    return reports


def _tell(report: Report) -> None:
    seen = report.account
    say(
        f"  {seen.sent} sent, {seen.accepted} accepted, {seen.answered} answered, "
        f"{seen.lost} lost, {seen.duplicated} duplicated, {seen.wrong} wrong, "
        f"{seen.refused} refused, {seen.resets} reset; {dict(report.done)}"
    )
    for verdict in report.verdicts:
        if not verdict.is_met:
            say(f"  MISSED {verdict.target}: {verdict.measured}")


def _text(reports: Sequence[Report], scale: Scale, seed: int, minutes: float) -> str:
    when = f"{datetime.now(UTC):%Y-%m-%d}, {scale.name} size, seed {seed}, {minutes:.1f} minutes."
    return "\n\n".join(
        [
            f"Machine: {describe()}.",
            f"{when} {method(scale)}",
            guarantees(reports),
            numbers(reports),
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
