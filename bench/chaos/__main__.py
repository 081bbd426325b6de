"""``python -m bench.chaos``: attack the service, and account for every request."""

import argparse
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import NamedTuple

from bench.chaos.arena import FULL, QUICK, Scale
from bench.chaos.run import NotRun, Report, run
from bench.chaos.scenarios import Scenario
from bench.chaos.surroundings import ALL, BY_NAME
from bench.chaos.tables import guarantees, method, numbers, outages
from bench.machine import describe
from bench.plan import say
from bench.processes import redis_server
from bench.report import write_between_markers


class Given(NamedTuple):
    """The parsed command line."""

    chosen: list[Scenario]
    scale: Scale
    seed: int
    markdown: Path | None
    all_must_run: bool


def main(arguments: list[str]) -> int:
    """Return 0 where everything that was run held, else 1."""
    given = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Run the clean-up.
    began = time.monotonic()
    reports, not_run = _run_all(given.chosen, given.scale, given.seed)
    run = _run_in_words(given, (time.monotonic() - began) / 60)
    parts = {
        "chaos": f"{run}\n\n{guarantees(reports, not_run)}\n\n{numbers(reports)}",
        "outages": f"{run}\n\n{table}" if (table := outages(reports)) else "",
    }
    print("\n\n".join(filter(None, parts.values())))
    if given.markdown is not None:
        for marker, text in parts.items():
            write_between_markers(given.markdown, text, marker)
    held = all(report.holds for report in reports) and not (given.all_must_run and not_run)
    return 0 if held else 1


def _parse(arguments: list[str]) -> Given:
    parser = argparse.ArgumentParser(
        prog="python -m bench.chaos",
        formatter_class=argparse.RawDescriptionHelpFormatter,
        description="Break parts of a service under load, and account for every request.\n"
        "Starts a Redis, web servers and workers of its own on free ports of this machine.",
        epilog="scenarios:\n" + "\n".join(f"  {s.name:14} {s.does}" for s in ALL),
    )
    parser.add_argument("scenarios", nargs="*", metavar="SCENARIO", help="default: all")
    parser.add_argument("--quick", action="store_true", help="seconds each, for a quick check")
    parser.add_argument("--seed", type=int, default=1, help="seed of all random choices, default 1")
    parser.add_argument(
        "--all-must-run",
        action="store_true",
        help="exit with 1, too, where a right was missing and a scenario was not run",
    )
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
    chosen = [BY_NAME[name] for name in given.scenarios] or list(ALL)
    scale = QUICK if given.quick else FULL
    return Given(chosen, scale, given.seed, given.markdown, given.all_must_run)


def _run_all(
    chosen: Sequence[Scenario], scale: Scale, seed: int
) -> tuple[list[Report], list[NotRun]]:
    reports, not_run = [], []
    with tempfile.TemporaryDirectory(prefix="chaos-") as directory:
        for scenario in chosen:
            say(f"{scenario.name}: {scenario.does}")
            if lacks := scenario.lacks():
                say(f"  not run: it needs {lacks}")
                not_run.append(NotRun(scenario, lacks))
                continue
            report = run(scenario, scale, seed, Path(directory) / scenario.name, redis_server())
            _tell(report)
            reports.append(report)
    return reports, not_run


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


def _run_in_words(given: Given, minutes: float) -> str:
    size = f"{given.scale.name} size, seed {given.seed}, {minutes:.1f} minutes"
    when = f"{datetime.now(UTC):%Y-%m-%d}, {size}. {method(given.scale)}"
    return f"Machine: {describe()}.\n\n{when}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
