"""tritonclient gets over the Open Inference Protocol what ``/predict`` answers."""

from typing import Any

import pytest
from tests.clients.conftest import asked


@pytest.fixture(scope="module", params=["http", "grpc"])
def found(request: pytest.FixtureRequest, addresses: dict[str, str]) -> Any:
    kind = request.param
    return asked("tritonclient", "ask_tritonclient.py", kind, addresses[kind])


def test_it_finds_server_and_model(found: Any) -> None:
    assert found["live"] is found["ready"] is found["model_ready"] is True
    assert found["server"]["name"] == "imageserve"
    assert found["model"]["name"] == "shapes"


def test_it_gets_the_same_probabilities(found: Any, predicted: list[dict[str, float]]) -> None:
    assert found["id"] == "of-triton"
    for row, labels in zip(found["probabilities"], predicted, strict=True):
        assert sorted(row, reverse=True) == pytest.approx([*labels.values()], abs=1e-6)


def test_it_gets_the_same_labels(found: Any, predicted: list[dict[str, float]]) -> None:
    for row, labels in zip(found["classes"], predicted, strict=True):
        got = [text.split(":", 2) for text in row]
        assert [label for _, _, label in got] == [*labels][: len(got)]
        assert [float(value) for value, _, _ in got] == pytest.approx(
            [*labels.values()][: len(got)], abs=1e-6
        )


@pytest.mark.parametrize("found", ["http"], indirect=True)
def test_it_reads_configuration_and_statistics(found: Any) -> None:
    assert found["config"]["name"] == "shapes"
    (of_model,) = found["statistics"]["model_stats"]
    assert of_model["name"] == "shapes"
    assert int(of_model["inference_count"]) >= 4
    assert int(of_model["inference_stats"]["compute_infer"]["ns"]) > 0


def test_it_is_told_that_there_is_no_such_model(found: Any) -> None:
    assert "nothing" in found["unknown"]
    assert "shapes" in found["unknown"]
