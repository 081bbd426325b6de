"""KServe's clients get over the Open Inference Protocol what ``/predict`` answers."""

from typing import Any

import pytest
from tests.clients.conftest import asked


@pytest.fixture(scope="module", params=["http", "grpc"])
def found(request: pytest.FixtureRequest, addresses: dict[str, str]) -> Any:
    kind = request.param
    return asked("kserve", "ask_kserve.py", kind, addresses[kind])


def test_they_find_server_and_model(found: Any) -> None:
    assert found["live"] is found["ready"] is found["model_ready"] is True


@pytest.mark.parametrize(
    ("found", "form"),
    [("http", "json"), ("http", "binary"), ("grpc", "binary")],
    indirect=["found"],
)
def test_they_get_the_same_probabilities(
    found: Any, predicted: list[dict[str, float]], form: str
) -> None:
    assert (found[form]["id"], found[form]["output"]) == ("of-kserve", "probabilities")
    for row, labels in zip(found[form]["probabilities"], predicted, strict=True):
        assert sorted(row, reverse=True) == pytest.approx([*labels.values()], abs=1e-6)
