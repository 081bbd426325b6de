"""How CI runs tests: failures are run once more, and flaky tests are named."""

import os
import subprocess
import sys
import textwrap
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

import pytest
from ci_tests import GROUPS, Run, together

TOOL = Path(__file__).parents[2] / "tools" / "ci_tests.py"

FLAKY = """
    def test_{name}():
        count = pathlib.Path(__file__).with_name("{name}.count")
        is_first = not count.exists()
        count.touch()
        assert not is_first
"""
BROKEN = """
    def test_{name}():
        raise RuntimeError("broken")
"""
GOOD = """
    def test_{name}():
        with open(pathlib.Path(__file__).with_name("{name}.runs"), "a") as file:
            file.write("run ")
"""
TEARS_DOWN_BADLY = """
    @pytest.fixture
    def fixture_{name}():
        yield
        raise RuntimeError("teardown")

    def test_{name}(fixture_{name}):
        pass
"""
SKIPPED_THE_SECOND_TIME = """
    def test_{name}():
        count = pathlib.Path(__file__).with_name("{name}.count")
        if count.exists():
            pytest.skip("no longer")
        count.touch()
        raise RuntimeError("broken")
"""
GONE_THE_SECOND_TIME = """
    COUNT = pathlib.Path(__file__).with_name("{name}.count")
    if not COUNT.exists():
        def test_{name}():
            COUNT.touch()
            raise RuntimeError("broken")
"""
COMPILES_ONCE = """
    def test_{name}():
        assert not sys.dont_write_bytecode
"""
ENDS_PYTEST = """
    def test_{name}():
        os._exit(1)
"""


def ran(directory: Path, *tests: str) -> tuple[int, list[str]]:
    """Run a file made of these tests, in this order; return exit status and output."""
    made = [textwrap.dedent(test.format(name=number)) for number, test in enumerate(tests)]
    return ran_file(directory, "import os, pathlib, pytest, sys\n" + "".join(made))


def ran_file(directory: Path, text: str, *options: str) -> tuple[int, list[str]]:
    (directory / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    (directory / "test_it.py").write_text(text)
    done = subprocess.run(
        [sys.executable, str(TOOL), "--one-group", *options],
        cwd=directory,
        env={**os.environ, "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout.splitlines()


def test_where_all_pass_nothing_is_run_again(tmp_path: Path) -> None:
    status, said = ran(tmp_path, GOOD)
    assert status == 0
    assert "1 passed" in said[-1]
    assert (tmp_path / "0.runs").read_text() == "run "


def test_a_flaky_test_is_named_at_the_end_and_only_it_is_run_again(tmp_path: Path) -> None:
    status, said = ran(tmp_path, GOOD, FLAKY)
    assert status == 0
    assert said[-2:] == [
        "ci-tests: FLAKY   test_it.py::test_1",
        "1 flaky (failed, then passed when run again), 0 did not pass",
    ]
    assert any("1 passed in" in line for line in said)  # pytest's own closing line.
    assert (tmp_path / "0.runs").read_text() == "run "


@pytest.mark.parametrize(
    "test",
    [
        pytest.param(BROKEN, id="it fails again"),
        pytest.param(TEARS_DOWN_BADLY, id="its fixture fails again"),
        pytest.param(SKIPPED_THE_SECOND_TIME, id="it is skipped"),
        pytest.param(GONE_THE_SECOND_TIME, id="it is gone"),
    ],
)
def test_what_does_not_pass_when_run_again_fails_the_run(tmp_path: Path, test: str) -> None:
    status, said = ran(tmp_path, FLAKY, test)
    assert status == 1
    assert any(line.endswith("FAILED  test_it.py::test_1") for line in said)


@pytest.mark.parametrize(("count", "status"), [(3, 0), (4, 1)])
def test_more_than_three_flaky_tests_fail_the_run(tmp_path: Path, count: int, status: int) -> None:
    got, said = ran(tmp_path, *[FLAKY] * count)
    assert got == status
    assert sum("FLAKY " in line for line in said) == count
    assert ("more than 3 flaky tests: the run fails" in said) is bool(status)


def test_once_is_once(tmp_path: Path) -> None:
    text = "import pathlib" + textwrap.dedent(FLAKY.format(name="0"))
    status, said = ran_file(tmp_path, text, "--once")
    assert status == 1
    assert not any("ci-tests" in line for line in said)


def test_no_process_compiles_our_modules_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    status, _ = ran(tmp_path, COMPILES_ONCE)
    assert status == 0


def test_the_groups_hold_each_test_once() -> None:
    files: Counter[Path] = Counter()
    for group in GROUPS:
        ignored = [path for _, is_one, path in (e.partition("--ignore=") for e in group) if is_one]
        files.update(files_of(group) - files_of(ignored))
    tests = files_of(["tests/unit", "tests/component", "tests/chart", "tests/system"])
    assert tests <= files.keys()
    assert set(files.values()) == {1}


def files_of(paths: Iterable[str]) -> set[Path]:
    """Return the files of tests that pytest would find there; options are left out."""
    there = [TOOL.parents[1] / each for each in paths if "/" in each and "=" not in each]
    assert all(path.exists() for path in there)
    return {file for path in there for file in [path, *path.glob("test_*.py")] if file.is_file()}


def test_the_worst_status_of_the_groups_counts() -> None:
    both = together([Run(0, {"a": "passed"}), Run(1, {"b": "failed"})])
    assert both == Run(1, {"a": "passed", "b": "failed"})
    assert both.failed == ["b"]


def test_no_two_files_of_tests_have_one_name() -> None:
    # Without packages pytest imports them by their names alone.
    names = [file.name for file in files_of([*GROUPS[0], "tests/system"])]
    assert sorted(names) == sorted(set(names))


def test_when_very_many_fail_there_is_no_second_run(tmp_path: Path) -> None:
    status, said = ran(tmp_path, *[FLAKY] * 21)
    assert status == 1
    assert "none is run again" in said[-1]


def test_a_pytest_that_exits_early_fails_the_run(tmp_path: Path) -> None:
    status, said = ran(tmp_path, FLAKY, ENDS_PYTEST)
    assert status == 1
    assert not any("ci-tests" in line for line in said)


@pytest.mark.parametrize(
    ("text", "status"),
    [pytest.param("import nothing_like_it", 2, id="a file cannot be read"), ("", 5)],
)
def test_a_run_without_tests_keeps_its_status(tmp_path: Path, text: str, status: int) -> None:
    got, said = ran_file(tmp_path, text)
    assert got == status
    assert not any("ci-tests" in line for line in said)
