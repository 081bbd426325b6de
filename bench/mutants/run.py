"""Runs mutmut on a copy of the working tree, so that no mutant ever lies in the real one."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.redis_server import executables

from bench.mutants.score import Mutant, Survivor, parse_results, survivor
from bench.plan import say
from bench.processes import ROOT

MUTATED = (
    "src/imageserve/queue/*",
    "src/imageserve/worker/*",
    "src/imageserve/autoscaler/sizing.py",
    "src/imageserve/autoscaler/load.py",
)
"""The core."""

NOT_MUTATED_FILES = ("src/imageserve/worker/process.py",)
"""How a worker's process starts and ends: only system tests run that, in other processes."""

RELEVANT = re.compile(r"imageserve\.(queue|worker|autoscaler\.(sizing|load))\b")
TOO_HEAVY = re.compile(
    r"imageserve(_|\.)loadtest|imageserve\.models\.(keras|onnx)|^import keras", re.M
)
"""Tests that load TensorFlow or ONNX Runtime take long and say little about the core."""

NOT_MUTATED_LINES = (r"\blog\.\w+\(", r"^\s*raise\b", r"[\"'][^\"']* [^\"']* [^\"']*[\"']")
"""Lines that are left alone: what is logged, errors, and sentences. Their words may change."""

_IGNORED = (".git", ".venv*", "*cache*", "__pycache__", "*.egg-info", "build", "dist")
_OPTIONS = (
    *("-p", "no:cacheprovider"),
    *("-p", "bench.mutants.in_order"),
    "--hypothesis-profile=mutants",
    # What one test leaves open must not fail another.
    *("-W", "ignore::ResourceWarning"),
)
_NO_SUCH_MUTANT = "none__mutmut_0"
_PROGRESS = re.compile(r"(\d+)/\d+  🎉")
_FAILED = re.compile(r"^(?:FAILED|ERROR) .*", re.M)


class Trial:
    """A copy of the working tree with its mutants."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._tree = directory / "tree"
        shutil.copytree(ROOT, self._tree, ignore=shutil.ignore_patterns(*_IGNORED))
        with (self._tree / "pyproject.toml").open("a") as file:
            file.write(_config(self._tree))
        (directory / "tmp").mkdir()
        # Before mutmut starts: Python never looks again into a folder of its path that was missing.
        (self._tree / "mutants" / "src").mkdir(parents=True)

    def generate(self) -> list[Mutant]:
        """Write all mutants, run the tests once to see which functions each calls; return them."""
        # mutmut has no command that stops here, but it does where it finds no mutant of a name.
        log = self._mutmut("run", _NO_SUCH_MUTANT)
        mutants = parse_results(self._said("results", "--all", "true"))
        if not mutants or not (self._tree / "mutants" / "mutmut-stats.json").exists():
            raise SystemExit(f"mutants: the tests cannot be run on the copy:\n{_end_of(log)}")
        return mutants

    def run(self, chosen: Sequence[Mutant], processes: int) -> list[Mutant]:
        """Run the tests on each of these; return them as they ended."""
        names = [each.name for each in chosen]
        log = self._mutmut("run", "--max-children", str(processes), *names, count=len(names))
        ended = {each.name: each for each in parse_results(self._said("results", "--all", "true"))}
        tried = [ended[name] for name in names]
        if all(each.status == "not checked" for each in tried):
            raise SystemExit(f"mutants: none was tried:\n{_end_of(log)}")
        return tried

    def survivor(self, mutant: Mutant) -> Survivor:
        path = Path("src", *mutant.module.split(".")).with_suffix(".py")
        if not (self._tree / path).exists():
            path = path.with_suffix("") / "__init__.py"
        source = (self._tree / path).read_text()
        return survivor(mutant, str(path), source, self._said("show", mutant.name))

    def _said(self, *arguments: str) -> str:
        done = subprocess.run(
            _command(*arguments),
            cwd=self._tree,
            env=self._environment(),
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def _mutmut(self, *arguments: str, count: int = 0) -> str:
        """Run a command to its end, with a word on how far it is; return what it printed."""
        with subprocess.Popen(
            _command(*arguments),
            cwd=self._tree,
            env=self._environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
        ) as process:
            try:
                return _followed(process, count)
            finally:
                _end_session(process.pid)

    def _environment(self) -> dict[str, str]:
        mutants = self._tree / "mutants"
        # The path is for the processes that tests start.
        path = os.pathsep.join([str(mutants / "src"), str(mutants)])
        temporary = str(self._directory / "tmp")
        own = {"PYTHONPATH": path, "PYTHONHASHSEED": "0", "TMPDIR": temporary, "CI": ""}
        return {**os.environ, **own}


@contextmanager
def trial() -> Iterator[Trial]:
    """Make a trial that is gone afterwards."""
    with TemporaryDirectory(prefix="mutants-") as directory:
        yield Trial(Path(directory))


def _end_of(log: str) -> str:
    return "\n".join([*_FAILED.findall(log), log[-2000:]])


def _command(*arguments: str) -> list[str]:
    return [str(Path(sys.prefix, "bin", "mutmut")), *arguments]


def _config(tree: Path) -> str:
    copied = sorted(path.name for path in tree.iterdir() if path.name not in ("src", ".hypothesis"))
    settings = {
        "source_paths": ["src"],
        "only_mutate": list(MUTATED),
        "do_not_mutate": list(NOT_MUTATED_FILES),
        "do_not_mutate_patterns": list(NOT_MUTATED_LINES),
        "also_copy": copied,
        "pytest_add_cli_args_test_selection": _tests(tree),
        "pytest_add_cli_args": [*_OPTIONS, *_on_one_redis()],
        # Tests start threads, which a process that is forked must not have.
        "process_isolation": "forkserver",
        # Or nothing tells which test fails without any mutant.
        "debug": True,
        "timeout_multiplier": 3.0,
        "timeout_constant": 10.0,
    }
    lines = [f"{name} = {json.dumps(value)}" for name, value in settings.items()]
    return "\n".join(["", "[tool.mutmut]", *lines, ""])


def _on_one_redis() -> list[str]:
    """Leave out the tests that repeat others on a second redis-server."""
    _, *others = (each.name for each in executables())
    return ["-k", " and ".join(f"not {name}" for name in others)] if others else []


def _tests(tree: Path) -> list[str]:
    """Find the tests of the core that run in the process of pytest."""
    found = []
    for folder in ("unit", "component"):
        for path in sorted((tree / "tests" / folder).glob("test_*.py")):
            text = path.read_text()
            if RELEVANT.search(text) and not TOO_HEAVY.search(text):
                found.append(str(path.relative_to(tree)))
    return found


def _followed(process: "subprocess.Popen[bytes]", count: int) -> str:
    assert process.stdout is not None
    text, told = "", 0
    while data := os.read(process.stdout.fileno(), 65_536):
        text += data.decode(errors="replace")
        numbers = _PROGRESS.findall(text[-400:])
        if count and numbers and int(numbers[-1]) >= told + max(1, count // 20):
            told = int(numbers[-1])
            say(f"{told} of {count} mutants tried")
    return text


def _end_session(leader: int) -> None:
    """End what a killed test has left behind: redis-servers, mostly."""
    for path in Path("/proc").glob("[0-9]*/stat"):
        with suppress(OSError):
            fields = path.read_text().rpartition(")")[2].split()
            if int(fields[3]) == leader and int(path.parent.name) != leader:
                os.kill(int(path.parent.name), signal.SIGKILL)
