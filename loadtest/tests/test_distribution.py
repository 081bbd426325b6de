"""imageserve-loadtest as a distribution: found where it is installed, not needed elsewhere."""

import importlib.metadata
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

import imageserve
from imageserve.cli import extras

ROOT = Path(__file__).parents[2]
PROJECT = tomllib.loads((ROOT / "loadtest" / "pyproject.toml").read_text())["project"]

WITHOUT_IT = """
import importlib.metadata, sys
installed = importlib.metadata.distributions
importlib.metadata.distributions = lambda **context: (
    each for each in installed(**context) if each.metadata["Name"] != "imageserve-loadtest"
)
sys.modules["imageserve_loadtest"] = None  # Importing it raises ImportError.
from imageserve.cli import main
sys.exit(main(sys.argv[1:]))
"""


def without_it(*arguments: str) -> "subprocess.CompletedProcess[str]":
    """Run ``imageserve`` as where the distribution is not installed."""
    command = [sys.executable, "-c", WITHOUT_IT, *arguments]
    return subprocess.run(command, cwd=ROOT / "src", capture_output=True, text=True, check=False)


def test_it_has_the_version_of_imageserve_and_needs_exactly_that() -> None:
    assert PROJECT["version"] == imageserve.__version__
    assert f"imageserve=={imageserve.__version__}" in PROJECT["dependencies"]


def test_its_commands_are_those_that_imageserve_looks_for() -> None:
    declared = PROJECT["entry-points"][extras.GROUP]
    installed = importlib.metadata.entry_points(group=extras.GROUP)

    assert {each.name: each.value for each in installed} == declared
    assert all(callable(extras.extra_command(name)) for name in declared)


@pytest.mark.parametrize("arguments", [["--help"], ["web", "--help"], ["worker", "--help"]])
def test_imageserve_works_without_it(arguments: list[str]) -> None:
    done = without_it(*arguments)

    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("usage: imageserve ")


@pytest.mark.parametrize(
    "arguments",
    [["loadtest"], ["loadtest", "--help"], ["loadtest", "merge", "-"], ["autoscaler", "simulate"]],
)
def test_without_it_its_commands_say_in_one_sentence_how_to_install_it(
    arguments: list[str],
) -> None:
    done = without_it(*arguments)

    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr.startswith(f"imageserve {arguments[0]}: ")
    assert done.stderr.endswith("pip install imageserve-loadtest\n")
    assert len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize("command", [[], ["autoscaler"]])
def test_the_help_marks_a_command_that_is_not_installed(command: list[str]) -> None:
    here = subprocess.run(
        [sys.executable, "-m", "imageserve", *command, "--help"],
        capture_output=True,
        text=True,
        check=True,
    )

    assert without_it(*command, "--help").stdout.count("(not installed)\n") == 1
    assert "(not installed)" not in here.stdout
