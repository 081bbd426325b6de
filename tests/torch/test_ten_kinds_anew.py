"""The ten kinds, made anew by their own libraries: the same answers as those that are kept, served.

``UPDATE_KEPT=1 make test-torch ARGS="-k anew"`` keeps what the libraries write here and now.
"""

import json
import os
import shutil
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest
from tests.models_of_others.kinds import (
    ANSWERS,
    KEPT,
    KINDS,
    Answers,
    answers_over_http,
    described,
    kept_answers,
    made,
    serving,
    tolerance,
)
from tests.redis_server import executables
from tests.system.stack import Stack

pytestmark = [
    pytest.mark.timeout(600),
    # Of the libraries themselves, about their own and each other's old ways.
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::UserWarning"),
    pytest.mark.filterwarnings("ignore:.*might cause the trace to be incorrect"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("kinds")


@pytest.fixture(scope="module")
def answers(folder: Path) -> Mapping[str, Answers]:
    """Have all ten made; return what their libraries answered."""
    found = {kind: made(kind, folder / kind) for kind in KINDS}
    if os.environ.get("UPDATE_KEPT"):
        shutil.rmtree(KEPT, ignore_errors=True)
        for kind in KINDS:
            shutil.copytree(folder / kind, KEPT / kind)
        ANSWERS.write_text(json.dumps(found, indent=1) + "\n")
    return found


@pytest.fixture(scope="module")
def stack(folder: Path, answers: Mapping[str, Answers]) -> Iterator[Stack]:
    assert answers.keys() == set(KINDS)
    folders = {kind: described(kind, folder / kind) for kind in KINDS}
    with serving(folders, folder / "stack", executables()[0].found()) as stack:
        yield stack


@pytest.mark.parametrize("kind", KINDS)
def test_the_library_answers_as_it_did(kind: str, answers: Mapping[str, Answers]) -> None:
    expected = kept_answers()[kind]

    assert answers[kind].keys() == expected.keys()
    for name, numbers in expected.items():
        assert answers[kind][name] == pytest.approx(numbers, rel=0, abs=tolerance(kind))


@pytest.mark.parametrize("kind", KINDS)
def test_what_it_writes_is_served(kind: str, stack: Stack, answers: Mapping[str, Answers]) -> None:
    for name, numbers in answers_over_http(stack, kind).items():
        assert numbers == pytest.approx(answers[kind][name], rel=0, abs=tolerance(kind))
