"""Ten models of ten kinds, as their own libraries wrote them, served with those libraries' answers.

``make test-torch`` makes them anew.
"""

from collections.abc import Iterator

import pytest
from tests.models_of_others.kinds import (
    KINDS,
    answers_over_http,
    kept,
    kept_answers,
    serving,
    tolerance,
)
from tests.models_of_others.teaching import PICTURES
from tests.system.stack import Stack


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_program: str) -> Iterator[Stack]:
    folder = tmp_path_factory.mktemp("kinds")
    folders = {kind: kept(kind, folder) for kind in KINDS}
    with serving(folders, folder / "stack", redis_program) as stack:
        yield stack


def test_there_are_ten() -> None:
    assert len(KINDS) == 10
    assert kept_answers().keys() == set(KINDS)


@pytest.mark.parametrize("kind", KINDS)
def test_the_answers_are_those_of_its_own_library(kind: str, stack: Stack) -> None:
    expected = kept_answers()[kind]

    found = answers_over_http(stack, kind)

    assert found.keys() == expected.keys()
    for name, numbers in expected.items():
        assert found[name] == pytest.approx(numbers, rel=0, abs=tolerance(kind))


def test_labels_that_are_not_probable_enough_are_left_out(stack: Stack) -> None:
    cat = (PICTURES / "cat.jpg").read_bytes()

    reply = stack.http.predict(cat, "?model=multi_label&min=0.7")

    assert reply.labels == ["alive", "furry"]
