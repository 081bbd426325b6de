"""``python -m bench.mutants``: put small faults into the core, and see which the tests notice."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path

from bench.mutants.run import trial
from bench.mutants.score import MISSED, Mutant, Survivor, sample, scores
from bench.plan import say
from bench.report import write_between_markers


def main(arguments: list[str]) -> int:
    given = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Clean up behind us all the same.
    began = time.monotonic()
    with trial() as made:
        say("writing mutants, and running the tests once without one")
        there = [each for each in made.generate() if _is_wanted(each, given.modules)]
        chosen = sample(there, given.per_module, given.seed)
        say(f"trying {len(chosen)} of {len(there)} mutants")
        tried = made.run(chosen, given.processes)
        survivors = [made.survivor(each) for each in tried if each.status in MISSED]
    minutes = (time.monotonic() - began) / 60
    head = (
        f"{datetime.now(UTC):%Y-%m-%d}, mutmut {version('mutmut')}, at most {given.per_module} "
        f"mutants of each module, seed {given.seed}, {minutes:.0f} minutes."
    )
    text = f"{head}\n\n{scores(tried, there)}"
    print(text)
    print(_listed(survivors))
    if given.markdown is not None:
        write_between_markers(given.markdown, text, "mutants")
    return 0


def _is_wanted(mutant: Mutant, modules: Sequence[str]) -> bool:
    return not modules or any(module in mutant.module for module in modules)


def _listed(survivors: Sequence[Survivor]) -> str:
    return "\n\n".join(["", "No test noticed:", *map(str, survivors)]) if survivors else ""


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.mutants",
        description="Change the core in small ways (a + to a -, a < to a <=, an argument to None), "
        "one at a time, and run the tests that call the changed function. A change that no test "
        "notices survives: a test is missing there, or the change makes no difference.",
    )
    parser.add_argument(
        "modules", nargs="*", metavar="MODULE", help="a part of a module's name; default: all"
    )
    parser.add_argument(
        "--per-module", type=int, default=15, metavar="N", help="how many are drawn, default 15"
    )
    parser.add_argument("--seed", type=int, default=1, help="of the draw, default 1")
    parser.add_argument(
        "--processes",
        type=int,
        default=2 * (os.cpu_count() or 1),
        metavar="N",
        help="how many are tried at once; default: two for each core, because tests often wait",
    )
    parser.add_argument(
        "--markdown",
        type=Path,
        metavar="FILE",
        help="also write the scores between the markers of FILE; only with all modules",
    )
    given = parser.parse_args(arguments)
    if given.markdown is not None and given.modules:
        parser.error("--markdown replaces all scores, so it needs all modules")
    return given


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
