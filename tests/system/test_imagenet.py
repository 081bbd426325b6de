"""A thousand classes from a package of weights, made without PyTorch and served over HTTP."""

import io
import pickle
import re
import sys
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import make_imagenet
import numpy as np
import pytest
from tests.imagenet import CROPPED_ANSWERS, PHOTOGRAPHS, SQUEEZED_ANSWERS, squeeze
from tests.system.stack import Stack, running

from imageserve.cli import models

ROOT = Path(__file__).parents[2]
ANSWERS = {"imagenet": CROPPED_ANSWERS, "squeezed": SQUEEZED_ANSWERS}


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_program: str) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("imagenet")
    with pytest.MonkeyPatch.context() as patch:
        for name in ANSWERS:
            patch.setattr(sys, "argv", ["make_imagenet.py", str(directory / name)])
            assert make_imagenet.main() == 0
    squeeze(directory / "squeezed")
    entries = directory / "models.yaml"
    entries.write_text("".join(f"{n}: {{queue: {n}, network: {directory / n}}}\n" for n in ANSWERS))
    with running(directory, redis_program, workers=0, MODELS_FILE=str(entries), MODEL="") as stack:
        for name in ANSWERS:
            stack.start_worker(wait=False, MODEL=name)
        for worker in stack.workers:
            stack.wait_for(partial(worker.lines, "ready"), f"{worker.name} is ready", 60)
        yield stack


@pytest.mark.parametrize("name", list(ANSWERS))
@pytest.mark.parametrize("photograph", ["chelsea.jpg", "coffee.jpg"])
def test_a_photograph_gets_the_answer_of_pytorch(stack: Stack, name: str, photograph: str) -> None:
    data = (PHOTOGRAPHS / photograph).read_bytes()

    reply = stack.http.predict(data, f"?model={name}&top=3")

    assert reply.status == 200, reply.text
    told = {each["label"]: each["probability"] for each in reply.json["predictions"]}
    assert told == pytest.approx(ANSWERS[name][photograph], abs=1e-4)
    assert list(told) == list(ANSWERS[name][photograph])


def test_the_documented_check_is_what_the_check_says(
    stack: Stack, capsys: pytest.CaptureFixture[str]
) -> None:
    text = (ROOT / "docs" / "models.md").read_text(encoding="utf-8")
    block = re.search(r"<!-- imagenet check -->\n```\n(.*?)```", text, re.DOTALL)
    assert block
    folder = stack.directory / "imagenet"

    assert (
        models.main(["check", str(folder), "--pictures", str(PHOTOGRAPHS)], {"BATCH_SIZE": "1"})
        == 0
    )

    said = capsys.readouterr().out.splitlines()
    # Checksums depend on the version of onnx, and times on the machine.
    changing = ("model", "loaded", "warm")
    documented = block[1].splitlines()
    assert [each for each in said if not each.startswith(changing)] == [
        each for each in documented if not each.startswith(changing)
    ]


def test_a_file_that_holds_more_than_weights_is_not_read(
    capsys: pytest.CaptureFixture[str],
) -> None:
    file = io.BytesIO(b"".join(map(pickle.dumps, (1, 1001, {}, print))))

    with pytest.raises(pickle.UnpicklingError, match=r"holds builtins\.print, which is no weight"):
        make_imagenet.read_weights(file)


def test_a_graph_is_only_made_of_the_file_that_is_known(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "weights.pth"
    other.write_bytes(np.arange(9).tobytes())
    monkeypatch.setattr(make_imagenet, "weights_file", lambda: other)
    monkeypatch.setattr(sys, "argv", ["make_imagenet.py", str(tmp_path / "made")])

    assert make_imagenet.main() == 1

    assert capsys.readouterr().err == f"{other} is not the file that is known: install it anew\n"
    assert not (tmp_path / "made").exists()


def test_a_missing_package_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(make_imagenet, "PACKAGE", "no-such-weights")
    monkeypatch.setattr(sys, "argv", ["make_imagenet.py", str(tmp_path / "made")])

    assert make_imagenet.main() == 1

    assert "the package no-such-weights is not installed here" in capsys.readouterr().err
