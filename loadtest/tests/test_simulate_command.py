"""``imageserve autoscaler simulate``: what it prints, writes and refuses, and the docs page."""

import re
from dataclasses import fields
from pathlib import Path

import pytest

from imageserve.autoscaler.policy import Policy
from imageserve.errors import ImageserveError, SettingsError
from imageserve_loadtest.simulator.simulate_command import CALIBRATED, main

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "autoscaling.md"
TRACES = ROOT / "loadtest" / "src" / "imageserve_loadtest" / "simulator" / "traces"


@pytest.fixture
def trace(tmp_path: Path) -> Path:
    file = tmp_path / "quick.csv"
    file.write_text("second,requests_per_second\n0,2\n100,20\n200,0\n300,0\n")
    return file


def simulate(*arguments: object) -> int:
    return main([str(each) for each in arguments], {})


def test_it_prints_every_rule_and_the_targets(
    trace: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert simulate(trace) == 0
    lines = capsys.readouterr().out.splitlines()
    rules = [line.split("|")[2].strip() for line in lines if line.startswith("| quick")]
    assert rules == [
        "imageserve",
        "KEDA, list, 32",
        "KEDA, list + in flight, 4",
        "fixed fleet of 6",
    ]
    assert any("replica-hours: on no trace more than 110 % of it" in line for line in lines)


def test_options_change_what_is_simulated(trace: Path, capsys: pytest.CaptureFixture[str]) -> None:
    options = ["--list-length", 7, "--fleet", 2, "--bucket-ms", "1=500,4=900", "--seed", 5]
    assert simulate(trace, *options, "--set", "max_replicas=3", "--pod-start", 20) == 0
    printed = capsys.readouterr().out
    assert "KEDA, list, 4 " in printed
    assert "KEDA, list + in flight, 7" in printed
    assert "fixed fleet of 2" in printed


def test_a_sweep_prints_what_was_tried_and_taken(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    file = tmp_path / "short.csv"
    file.write_text("second,requests_per_second\n0,3\n60,0\n")
    assert simulate(file, "--sweep") == 0
    rows = [line.split("|") for line in capsys.readouterr().out.splitlines() if "|" in line]
    taken = {row[1].strip() for row in rows if row[2].strip() == "taken"}
    assert len(taken) == 2
    assert "fixed fleet of 2" in taken
    assert {"imageserve, targetUtilization 0.9"} < {row[1].strip() for row in rows}


def test_it_draws_and_writes_between_marks(trace: Path, tmp_path: Path) -> None:
    page, plot = tmp_path / "page.md", tmp_path / "plot.svg"
    page.write_text("before\n<!-- simulator -->\nold\n<!-- /simulator -->\nafter\n")
    assert simulate(trace, "--markdown", page, "--plot", plot) == 0
    text = page.read_text()
    assert text.startswith("before\n<!-- simulator -->\n\n| trace ")
    assert text.endswith(" |\n\n<!-- /simulator -->\nafter\n")
    assert "old" not in text
    assert ">quick</text>" in plot.read_text()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--bucket-ms", "1:5"], "must be like 1=100", id="no table"),
        pytest.param(["--bucket-ms", "0=5"], "sizes must be from 1 to 1024", id="no batch"),
        pytest.param(["--set", "pods=3"], "'pods' is none of min_replicas", id="no such field"),
        pytest.param(["--set", "max_replicas=3.5"], "max_replicas: '3.5' is not", id="half a pod"),
    ],
)
def test_an_option_that_is_not_valid_is_refused(
    options: list[str], message: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        simulate(*options)
    assert message in capsys.readouterr().err


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(["--pod-start", 0], "--pod-start: must be above 0", id="no start"),
        pytest.param(["--timeout", 1e9], "--timeout: must be above 0, at most 3600", id="for ever"),
        pytest.param(["--set", "min_replicas=30"], "max_replicas: must not be below", id="bounds"),
        pytest.param(["/nowhere/x.csv"], "/nowhere/x.csv: cannot be read", id="no such file"),
    ],
)
def test_a_value_that_is_not_valid_is_named(options: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(message)):
        simulate(*options)


def test_a_page_without_marks_is_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "page.md").write_text("no marks")
    with pytest.raises(ImageserveError, match=r"page\.md: must have the lines <!-- simulator -->"):
        simulate("--markdown", tmp_path / "page.md")
    with pytest.raises(ImageserveError, match=r"missing\.md: cannot be read"):
        simulate("--markdown", tmp_path / "missing.md")


def test_a_plot_that_cannot_be_written_is_named(trace: Path, tmp_path: Path) -> None:
    with pytest.raises(ImageserveError, match=r"plot\.svg: cannot be written"):
        simulate(trace, "--plot", tmp_path / "missing" / "plot.svg")


def quoted() -> str:
    between = re.search(r"<!-- simulator -->\n(.*)<!-- /simulator -->", PAGE.read_text(), re.DOTALL)
    assert between, "docs/autoscaling.md has no <!-- simulator --> ... <!-- /simulator -->"
    return between[1]


def cells(text: str, name: str) -> list[list[str]]:
    """Return the rows of a trace, without the padding."""
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    return [row for row in rows if row[1:2] == [name]]


def test_the_page_shows_what_a_fresh_run_prints(capsys: pytest.CaptureFixture[str]) -> None:
    assert simulate(TRACES / "long-idle.csv") == 0
    fresh = cells(capsys.readouterr().out, "long-idle")
    assert len(fresh) == 4
    on_page = cells(quoted(), "long-idle")
    columns = len(fresh[0]) - 1
    assert [row[:columns] for row in on_page[:4]] == [row[:columns] for row in fresh], (
        "write it anew: imageserve autoscaler simulate --sweep --clairvoyant --weeks "
        "--markdown docs/autoscaling.md --plot docs/autoscaling.svg"
    )


def test_the_default_rules_are_those_that_the_sweep_on_the_page_took() -> None:
    rows = [line.split("|") for line in quoted().splitlines() if "|" in line]
    taken = {row[1].strip() for row in rows if row[2].strip() == "taken"}
    assert taken == {rule.name for rule in CALIBRATED.values()}


def test_the_page_explains_every_field_with_its_default() -> None:
    rows = re.findall(r"^\| `(\w+)` \| `([\w.]+)` \| \W?\w", PAGE.read_text(), re.MULTILINE)
    documented = {_field(value): default for value, default in rows}
    fields_ = {f.name: f"{f.default:g}" if f.type is not str else f.default for f in fields(Policy)}
    del fields_["batch_size"]
    assert documented == fields_


def _field(value: str) -> str:
    """Turn the name of a value of the chart into that of a field."""
    snake = re.sub(r"([A-Z])", lambda match: f"_{match[1].lower()}", value)
    return re.sub(r"_seconds$", "_s", snake)
