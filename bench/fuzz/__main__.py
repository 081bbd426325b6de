"""``python -m bench.fuzz``: send random requests and pictures to a service, and judge it."""

import argparse
import signal
import sys
import tempfile
import time
from pathlib import Path

from bench.fuzz.run import KINDS, Case, Result, fuzzing
from bench.plan import say
from bench.processes import redis_server

DEFAULT_CASES = 20_000


def main(arguments: list[str]) -> int:
    """Return 0 where nothing was wrong, else 1."""
    given = _parse(arguments)
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))  # Run the clean-up.
    cases = _cases(given)
    folder = given.folder or Path(tempfile.mkdtemp(prefix="fuzz-"))
    say(f"seed {given.seed}, {len(cases)} cases; what is found goes to {folder}")
    began = time.monotonic()
    with fuzzing(folder / "stack", redis_server()) as fuzz:
        fuzz.feed(cases)
        result = fuzz.finish()
    print(_summary(result, given.seed, time.monotonic() - began))
    return 1 if result.faults else 0


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m bench.fuzz",
        description="Send random requests and mutated pictures to a web server of two processes. "
        "Starts a Redis, the web server and a stand-in worker of its own on free ports.",
    )
    parser.add_argument(
        "kinds", nargs="*", metavar="KIND", help=f"{', '.join(KINDS)}; default: all"
    )
    parser.add_argument("--seed", type=int, default=1, help="seed of all cases, default 1")
    parser.add_argument(
        "--count", type=int, default=DEFAULT_CASES, help=f"of each kind, default {DEFAULT_CASES}"
    )
    parser.add_argument("--first", type=int, default=0, help="number of the first case, default 0")
    parser.add_argument("--case", type=int, help="only this one, again")
    parser.add_argument("--folder", type=Path, help="for logs and inputs; default: a new one")
    given = parser.parse_args(arguments)
    if unknown := set(given.kinds) - set(KINDS):
        parser.error(f"no such kind: {', '.join(sorted(unknown))}")
    return given


def _cases(given: argparse.Namespace) -> list[Case]:
    first, count = (given.first, given.count) if given.case is None else (given.case, 1)
    kinds = given.kinds or list(KINDS)
    # In turn, so that each kind meets what the other has left behind.
    return [Case(kind, given.seed, first + i) for i in range(count) for kind in kinds]


def _summary(result: Result, seed: int, seconds: float) -> str:
    statuses = ", ".join(f"{n} x {status}" for status, n in sorted(result.statuses.items()))
    # The hook writes none of 25 ms or less.
    longest = f"{result.longest_ms:.0f} ms" if result.longest_ms else "at most 25 ms"
    return "\n".join(
        [
            f"{result.cases} cases of seed {seed} in {seconds:.0f} s. Answers: {statuses}.",
            f"Longest stretch on the event loop: {longest} of processor.",
            f"Faults: {len(result.faults)}",
        ]
    )


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
