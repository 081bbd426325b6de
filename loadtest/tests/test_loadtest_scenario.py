"""Scenario files: what is read, and the errors."""

from pathlib import Path

import pytest

from imageserve_loadtest.scenario import (
    BUILT_IN,
    Phase,
    PictureMix,
    Scenario,
    ScenarioError,
    load_scenario,
)
from imageserve_loadtest.schedule import RateSegment
from imageserve_loadtest.verdict import Objective

SHIPPED = sorted(BUILT_IN.glob("*.yaml"))


def written(folder: Path, text: str) -> Path:
    path = folder / "mine.yaml"
    path.write_text(text)
    return path


def test_all_keys_of_a_scenario_are_read(tmp_path: Path) -> None:
    text = """
description: two lines
  become one
arrivals: constant
phases:
  - {name: up, seconds: 5, rate_per_s: 0, to_rate_per_s: 20}
  - {seconds: 30, share_of_capacity: 0.7}
pictures:
  {source: files, distinct: 5, per_request: 3, broken_share: 0.5, broken: [cut], multipart: true}
timeout_s: 7
seed: 9
slo: [p99=500ms, "errors=1%"]
"""
    assert load_scenario(written(tmp_path, text)) == Scenario(
        name="mine",
        description="two lines become one",
        arrivals="constant",
        phases=(
            Phase(5.0, "up", rate_per_s=0.0, to_rate_per_s=20.0),
            Phase(30.0, share_of_capacity=0.7),
        ),
        pictures=PictureMix("files", 5, 3, 0.5, ("cut",), multipart=True),
        timeout_s=7.0,
        seed=9,
        objective=Objective.parse(["p99=500ms,errors=1%"]),
    )


@pytest.mark.parametrize("path", SHIPPED, ids=lambda path: str(path.stem))
def test_every_built_in_scenario_is_valid_and_has_a_description(path: Path) -> None:
    scenario = load_scenario(path)

    assert scenario.description
    assert scenario.objective.within_ms is not None


def test_the_built_in_scenarios_are_these() -> None:
    wanted = {"smoke", "clients", "steady", "ramp", "steps", "spike", "overload", "broken", "soak"}

    assert {path.stem for path in SHIPPED} == wanted


ONE = "phases: [{seconds: 1, rate_per_s: 1}]\n"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        pytest.param("[]", "must be a mapping", id="a list"),
        pytest.param("a: [", "cannot be read", id="no YAML"),
        pytest.param("{}", "phases: is missing", id="no phases"),
        pytest.param("phases: []", "phases: must be a list", id="no phase"),
        pytest.param("phases: [7]", "phases[0]: must be a mapping", id="a phase that is a number"),
        pytest.param("phases: [{rate_per_s: 1}]", "phases[0]: seconds: is missing", id="no end"),
        pytest.param("phases: [{seconds: 1}]", "phases[0]: must have exactly one", id="no load"),
        pytest.param(
            "phases: [{seconds: 1, rate_per_s: 1, share_of_capacity: 1}]",
            "phases[0]: must have exactly one",
            id="two loads",
        ),
        pytest.param(
            "phases: [{seconds: 1, rate_per_s: 1, clients: 1}]",
            "phases[0]: clients: does not fit a loop that is open",
            id="clients in an open loop",
        ),
        pytest.param(
            "loop: closed\nphases: [{seconds: 1, clients: 1, rate_per_s: 5}]",
            "phases[0]: rate_per_s: does not fit a loop that is closed",
            id="a rate in a closed loop",
        ),
        pytest.param(
            "phases: [{seconds: 1, share_of_capacity: 1, to_rate_per_s: 5}]",
            "to_rate_per_s: needs rate_per_s",
            id="a ramp to something else",
        ),
        pytest.param(
            "phases: [{seconds: 0, rate_per_s: 1}]", "seconds: must be a number", id="no time"
        ),
        pytest.param(
            "phases: [{seconds: .nan, rate_per_s: 1}]", "seconds: must be", id="not a number"
        ),
        pytest.param(
            "phases: [{seconds: 1, rate_per_s: true}]",
            "rate_per_s: must be",
            id="a flag for a rate",
        ),
        pytest.param(
            "phases: [{seconds: 1, rate: 1}]",
            "phases[0]: must have",
            id="another name for the rate",
        ),
        pytest.param(ONE + "sead: 1", "mine.yaml: sead: is unknown; known are", id="a slip"),
        pytest.param(ONE + "loop: ajar", "loop: must be one of open, closed", id="no such loop"),
        pytest.param(ONE + "seed: x", "seed: must be a whole number", id="a word for a seed"),
        pytest.param(ONE + "slo: p99=5s", "slo: must be a list", id="an objective outside a list"),
        pytest.param(ONE + "slo: [fast]", "slo: 'fast' is not an objective", id="no objective"),
        pytest.param(ONE + "description: 7", "description: must be text", id="a number for text"),
        pytest.param(
            ONE + "pictures: {broken: [bent]}",
            "pictures: broken: must be a list",
            id="no such kind",
        ),
        pytest.param(
            ONE + "pictures: {broken_share: 2}", "pictures: broken_share", id="more than all"
        ),
        pytest.param(
            ONE + "pictures: {multipart: 1}", "multipart: must be true or false", id="no flag"
        ),
    ],
)
def test_a_wrong_scenario_is_refused_with_the_file_and_the_key(
    tmp_path: Path, text: str, said: str
) -> None:
    path = written(tmp_path, text)

    with pytest.raises(ScenarioError) as raised:
        load_scenario(path)

    assert str(path) in str(raised.value)
    assert said in str(raised.value)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ScenarioError, match=r"none\.yaml: cannot be read"):
        load_scenario(tmp_path / "none.yaml")


def test_shares_of_the_capacity_become_requests_a_second() -> None:
    phase = Phase(10.0, share_of_capacity=0.5, to_share_of_capacity=1.0)
    scenario = Scenario("s", (phase,), pictures=PictureMix(per_request=4))

    assert scenario.needs_capacity
    assert not scenario.at_capacity(80.0).needs_capacity
    assert scenario.at_capacity(80.0).segments() == [RateSegment(10.0, 10.0, 20.0)]


def test_a_scenario_can_be_shortened_as_a_whole() -> None:
    scenario = Scenario("s", (Phase(10.0, rate_per_s=1.0), Phase(30.0, rate_per_s=2.0)))

    assert [phase.seconds for phase in scenario.lasting(8.0).phases] == [2.0, 6.0]
