"""``imageserve autoscaler simulate --budget``: several models on too few GPUs, and its page."""

import re
from pathlib import Path

import pytest

from imageserve.errors import ImageserveError, SettingsError
from imageserve_loadtest.simulator.budget_comparison import (
    JointCase,
    Model,
    budget_table,
    built_in_models,
    compare_budget,
)
from imageserve_loadtest.simulator.room import Room
from imageserve_loadtest.simulator.simulate_command import _conditions, _parser, main
from imageserve_loadtest.simulator.trace import Trace

PAGE = Path(__file__).parents[2] / "docs" / "autoscaling.md"
CONDITIONS = _conditions(_parser().parse_args([]))


def trace(name: str, *rates: float) -> Trace:
    """Return a trace that has each rate for ten minutes."""
    return Trace(name, tuple(600.0 * n for n in range(len(rates) + 1)), (*rates, 0.0))


TAKING_TURNS = [Model(trace("first", 60, 0.5, 60)), Model(trace("second", 0.5, 60, 0.5), gpus=2)]


def cells(text: str, rule: str) -> list[list[str]]:
    """Return the rows of a rule, without the padding."""
    rows = [[cell.strip() for cell in line.split("|")] for line in text.splitlines()]
    return [row for row in rows if row[1:2] == [rule]]


def test_pods_wait_for_room_and_a_small_one_passes_a_large_one() -> None:
    room, placed = Room(3), []
    for gpus in (2, 2, 1):
        room.ask(float(gpus), gpus, lambda now_s, gpus=gpus: placed.append((now_s, gpus)))  # type: ignore[misc]
    room.give_back(5.0, 2)
    assert placed == [(2.0, 2), (1.0, 1), (5.0, 2)]


def test_a_pod_that_no_longer_waits_is_not_placed() -> None:
    room, placed = Room(1), list[float]()
    room.ask(0.0, 2, placed.append)
    room.withdraw(2, placed.append)
    room.give_back(1.0, 5)
    assert placed == []


def test_one_budget_answers_more_than_fixed_shares_and_than_each_on_its_own() -> None:
    results = compare_budget(CONDITIONS, TAKING_TURNS, 6, 1, lambda _: None)
    shared, alone, fixed = (sum(each.in_time for each in outcomes) for _, outcomes in results)
    assert shared > max(alone, fixed)
    assert results[2][0] == "fixed shares, 2 + 2 pods"


def test_never_are_there_more_pods_than_gpus() -> None:
    outcomes = JointCase(CONDITIONS, tuple(TAKING_TURNS), 6, shares=True, seed=1).run()
    changes = sorted(
        (second, index, pods * model.gpus)
        for index, (model, outcome) in enumerate(zip(TAKING_TURNS, outcomes, strict=True))
        for second, pods in outcome.replicas
    )
    now = [0, 0]
    for _, index, gpus in changes:
        now[index] = gpus
        assert sum(now) <= 6
    assert max(gpus for _, _, gpus in changes) > 3


def test_the_command_prints_each_rule_and_writes_its_own_block(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    files, page = [tmp_path / "one.csv", tmp_path / "two.csv"], tmp_path / "page.md"
    for file in files:
        file.write_text("second,requests_per_second\n0,20\n100,0\n")
    other = "<!-- simulator -->\nkept\n<!-- /simulator -->\n"
    page.write_text(f"{other}<!-- budget -->\nold\n<!-- /budget -->\n")

    options = ["--budget", "4", "--pod-gpus", "1,3", "--markdown", str(page)]
    assert main([*options, *map(str, files)], {}) == 0

    printed = capsys.readouterr().out
    assert printed.startswith("2 models on 4 GPUs:\n")
    assert [row[2] for row in cells(printed, "one budget")] == ["all", "one", "two"]
    assert [row[3] for row in cells(printed, "fixed shares, 1 + 1 pods")] == ["", "1", "3"]
    assert page.read_text() == f"{other}<!-- budget -->\n\n{printed}\n<!-- /budget -->\n"


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param(
            ["--budget", "3"], "--budget: 3 GPUs have no room for a pod of each", id="few"
        ),
        pytest.param(["--budget", "8", "--pod-gpus", "1,2"], "--pod-gpus: must be 3", id="numbers"),
    ],
)
def test_what_cannot_be_shared_is_named(options: list[str], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        main(options, {})
    with pytest.raises(ImageserveError, match="cannot be read"):
        main(["--budget", "8", "--markdown", "/nowhere/page.md"], {})


def test_the_page_shows_what_a_fresh_run_prints() -> None:
    models = built_in_models()
    outcomes = JointCase(CONDITIONS, tuple(models), 8, shares=True, seed=1).run()
    fresh = cells(budget_table(models, 8, [("one budget", outcomes)]), "one budget")
    between = re.search(r"<!-- budget -->(.*)<!-- /budget -->", PAGE.read_text(), re.DOTALL)
    assert between, "docs/autoscaling.md has no <!-- budget --> ... <!-- /budget -->"
    assert cells(between[1], "one budget") == fresh, (
        "write it anew: imageserve autoscaler simulate --budget 8 --markdown docs/autoscaling.md"
    )
