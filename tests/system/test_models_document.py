"""The worked example of docs/models.md, from the training script to a served label."""

import io
import os
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tests.system.conftest import MakeStack
from tests.system.stack import clean_environment

ROOT = Path(__file__).parents[2]
DOCUMENT = ROOT / "docs" / "models.md"
_EXAMPLE = re.compile(
    r"^ *<!-- example: (\S+) -->\n( *)```\w+\n(.*?)^\2```", re.MULTILINE | re.DOTALL
)


def examples() -> dict[str, str]:
    found = _EXAMPLE.findall(DOCUMENT.read_text(encoding="utf-8"))
    return {name: textwrap.dedent(text) for name, _, text in found}


def picture(colour: int) -> bytes:
    pixels = np.random.default_rng(colour).integers(0, 120, (90, 70, 3), dtype=np.uint8)
    pixels[:, :, colour] += 100
    file = io.BytesIO()
    Image.fromarray(pixels).save(file, "PNG")
    return file.getvalue()


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Do what the document says up to serving."""
    here = tmp_path_factory.mktemp("reader")
    written = examples()
    (here / "train.py").write_text(written["train.py"])
    shell(here, f"{sys.executable} train.py")
    (here / "colours" / "imageserve.yaml").write_text(written["colours/imageserve.yaml"])
    assert "colours can be served" in shell(here, written["check"])
    assert "model.onnx" in shell(here, written["export"])
    return here / "colours"


def shell(folder: Path, command: str) -> str:
    programs = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    ended = subprocess.run(
        ["/bin/sh", "-ec", command],
        cwd=folder,
        env={**clean_environment(), "PATH": programs},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


def test_the_example_of_the_document_is_served(folder: Path, make_stack: MakeStack) -> None:
    *settings, program, command = examples()["serve"].split()
    given = dict(setting.split("=") for setting in settings)
    assert (given["MODEL"], program, command) == ("./colours", "imageserve", "run")

    stack = make_stack(**{**given, "MODEL": str(folder)})

    replies = [stack.http.predict(picture(colour)) for colour in range(3)]
    assert [reply.labels[0] for reply in replies] == ["red", "green", "blue"]
    assert {reply.headers["x-model-version"] for reply in replies} == {"1"}
