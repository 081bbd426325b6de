"""The sections of docs/models.md that lead ten kinds of models from file to answer.

tests/system/test_models_of_others.py serves them.
"""

import json
from pathlib import Path

import pytest
from tests.models_of_others.kinds import (
    HERE,
    KINDS,
    examples,
    kept,
    kept_answers,
    labels_of,
    tolerance,
)

from imageserve.cli import main

CURL = "curl -F image=@cat.jpg http://127.0.0.1:8000/predict"


@pytest.mark.parametrize("kind", KINDS)
def test_the_commands_of_a_section(
    kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    check, serve, classify = examples()[f"{kind}/serve"].splitlines()
    assert (serve, classify) == (f"MODEL=./{kind} imageserve run", CURL)
    program, *command = check.split()
    assert program == "imageserve"
    kept(kind, tmp_path)
    monkeypatch.chdir(tmp_path)

    assert main(command) == 0

    told = capsys.readouterr().out
    assert f"{kind} can be served" in told
    assert f": {', '.join(labels_of(kind))}\n" in told  # No kind has more labels than are shown.
    library = {"timm": "timm", "optimum": "transformers"}.get(kind)
    assert (f"described by the config.json of {library}" in told) == (library is not None)
    assert ("batches are run 1 by 1" in told) == (kind == "fixed_batch")


@pytest.mark.parametrize("kind", KINDS)
def test_the_answer_of_a_section(kind: str) -> None:
    shown = json.loads(examples()[f"{kind}/answer"])
    cat = dict(zip(labels_of(kind), kept_answers()[kind]["cat.jpg"], strict=True))

    assert shown == pytest.approx(cat, abs=max(6e-4, tolerance(kind)))
    assert list(shown.values()) == sorted(shown.values(), reverse=True)


@pytest.mark.parametrize("name", [name for name in examples() if name.endswith("/export")])
def test_the_code_of_a_section_is_that_of_its_script(name: str) -> None:
    script = HERE / f"make_{name.removesuffix('/export')}.py"

    lines = [line.strip() for line in examples()[name].splitlines()]

    assert "\n".join(lines) in "\n".join(map(str.strip, script.read_text().splitlines()))
