"""Runs all tests as CI does: what fails is run once more, and what passes then is named as flaky.

The second run is a new pytest process, so that it begins with servers and fixtures of its own, and
runs nothing but what failed. `.ci/run` calls it in the root of a checkout, and `make test` does so
with `--once`.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import tomllib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import pytest

MOST_FLAKY = 3
"""With more flaky tests than this the run fails."""

MOST_AGAIN = 20
"""With more failures than this there is no second run: that is no flakiness."""

SYSTEM = "tests/system"
_PYTEST = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text())["tool"][
    "pytest"
]
_OTHERS = [path for path in reversed(_PYTEST["ini_options"]["testpaths"]) if path != SYSTEM]

_UNTIMED = (
    "bad_models",
    "checked_models",
    "error_contract",
    "fetched_models",
    "foreign_keys",
    "imagenet",
    "inference_protocol",
    "models_document",
    "models_of_others",
    "openapi",
    "page",
    "scores_and_embeddings",
    "several_models",
    "starting",
)
"""System tests that judge answers, not times: beside tests that calculate, too."""
_ALONE = (
    "cluster",
    "decoder_processes",
    "keys_on_two_pods",
    "sizing_proof",
    "web_under_pressure",
    "who_goes_first",
)
"""System tests that judge times, or need both processors."""


def _system(names: Iterable[str]) -> list[str]:
    return [f"{SYSTEM}/test_{name}.py" for name in names]


def _all_but(paths: Iterable[str]) -> list[str]:
    return [SYSTEM, *(f"--ignore={path}" for path in paths)]


_FILES = ("--dist", "loadfile")

GROUPS = (
    # In this order: short files come last, so that all processes end together.
    ["-n", "3", *_FILES, "--no-loadscope-reorder", *_system(_UNTIMED), *_OTHERS],
    ["-n", "2", *_FILES, *_all_but(_system(_UNTIMED + _ALONE))],
    _system(_ALONE),
)
"""What pytest is given, one process after the other, for two processors: tests that calculate or
wait for servers, three files at once; system tests that wait, most of their time, for leases and
outages to end, two at once; and those that others would slow down."""

Outcome = Literal["passed", "skipped", "failed"]
_FROM_BEST = ("passed", "skipped", "failed")


class Recorder:
    """A pytest plugin that writes what became of each test into a file: the worst of its phases."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._outcomes: dict[str, Outcome] = {}

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        before = self._outcomes.get(report.nodeid, "passed")
        self._outcomes[report.nodeid] = max(before, report.outcome, key=_FROM_BEST.index)

    def pytest_sessionfinish(self) -> None:
        self._path.write_text(json.dumps(self._outcomes))


@dataclass(frozen=True, slots=True)
class Run:
    """One run of pytest."""

    status: int
    outcomes: Mapping[str, Outcome]
    """Empty where pytest was ended before it could write them."""

    @property
    def failed(self) -> list[str]:
        return [test for test, outcome in self.outcomes.items() if outcome == "failed"]


@dataclass(frozen=True, slots=True)
class Verdict:
    """What two runs say together."""

    flaky: Sequence[str]
    """Failed, then passed."""
    broken: Sequence[str]
    """Failed, and did not pass when run again."""

    @property
    def is_good(self) -> bool:
        return not self.broken and len(self.flaky) <= MOST_FLAKY

    def __str__(self) -> str:
        lines = [f"FLAKY   {test}" for test in self.flaky]
        lines += [f"FAILED  {test}" for test in self.broken]
        lines.append(
            f"{len(self.flaky)} flaky (failed, then passed when run again), "
            f"{len(self.broken)} did not pass"
        )
        if len(self.flaky) > MOST_FLAKY:
            lines.append(f"more than {MOST_FLAKY} flaky tests: the run fails")
        return "\n".join(lines)


def verdict(first: Run, second: Run) -> Verdict:
    """Tell flaky tests from broken ones; only a test that passed is not broken."""
    flaky = [test for test in first.failed if second.outcomes.get(test) == "passed"]
    return Verdict(flaky, [test for test in first.failed if test not in flaky])


def main(groups: Sequence[Sequence[str]], *, once: bool) -> int:
    """Return the exit status; ``groups`` is what pytest is given, as in `GROUPS`."""
    first = together([run(group) for group in groups])
    if once or first.status != pytest.ExitCode.TESTS_FAILED or not first.failed:
        return first.status  # All is well, or pytest itself failed or was ended.
    if len(first.failed) > MOST_AGAIN:
        say(f"{len(first.failed)} tests failed: too many to be flaky, so none is run again")
        return first.status
    say(f"{len(first.failed)} failed: running them again, in a new process")
    second = run(first.failed)
    both = verdict(first, second)
    say(str(both))
    return 0 if both.is_good and second.status == 0 else int(pytest.ExitCode.TESTS_FAILED)


def together(runs: Sequence[Run]) -> Run:
    """Return several runs as one, with the worst of their exit statuses."""
    outcomes = {test: outcome for each in runs for test, outcome in each.outcomes.items()}
    return Run(max(each.status for each in runs), outcomes)


def run(arguments: Sequence[str]) -> Run:
    """Run pytest with these arguments."""
    with tempfile.TemporaryDirectory(prefix="ci-tests-") as directory:
        path = Path(directory) / "outcomes.json"
        command = [sys.executable, __file__, "--record", str(path), "--", *arguments]
        status = subprocess.run(command, env=_environment(), check=False).returncode
        return Run(status, json.loads(path.read_text()) if path.exists() else {})


def _environment() -> dict[str, str]:
    """Tests start hundreds of processes: none shall compile our modules again."""
    return {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}


def say(text: str) -> None:
    print(f"\nci-tests: {text}", flush=True)


def _parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--record", type=Path, metavar="FILE", help=argparse.SUPPRESS)
    parser.add_argument("--once", action="store_true", help="run nothing a second time")
    parser.add_argument("--one-group", action="store_true", help=argparse.SUPPRESS)
    parser.add_argument("arguments", nargs="*", help=argparse.SUPPRESS)
    return parser.parse_args()


if __name__ == "__main__":
    given = _parse()
    if given.record is None:
        sys.exit(main([[]] if given.one_group else GROUPS, once=given.once))
    sys.exit(pytest.main(given.arguments, plugins=[Recorder(given.record)]))
