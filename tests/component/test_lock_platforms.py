"""The table of docs/images.md: what an image has on one machine alone, and what does its work.

Nothing here needs a network: the table was written when the lock files were.
"""

import importlib.metadata
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import lock_platforms
import numpy as np
import onnxruntime
import pytest
from images.sbom import ROOT
from packaging.utils import canonicalize_name
from tests.onnx_files import write_labels, write_onnx

from imageserve.models import load_model
from imageserve.models.model import ScoringModel


def rows() -> dict[str, list[str]]:
    """Return the cells of each image."""
    text = lock_platforms.PAGE.read_text()
    inside = text.partition(lock_platforms.BEGIN)[2].partition(lock_platforms.END)[0]
    head, _, *lines = inside.strip().splitlines()
    assert head == lock_platforms.HEAD
    cells = (line.strip("| ").split(" | ") for line in lines)
    return {image: rest for image, *rest in cells}


def test_the_table_is_that_of_the_lock_files() -> None:
    found = {image: cells[:2] for image, cells in rows().items()}

    assert found == {
        image: lock_platforms.differences(lock) for image, lock in lock_platforms.LOCKS.items()
    }


def test_a_package_without_a_wheel_for_aarch64_is_named_below_the_table() -> None:
    below = lock_platforms.PAGE.read_text().partition(lock_platforms.END)[2]
    paragraph = below.strip().partition("\n\n")[0]

    for image, (*_, absent) in rows().items():
        for name in re.findall(r"`([^`]+)`", absent):
            assert f"`{name}`" in paragraph, f"{image} on aarch64"
            assert f"`imageserve/{image}`" in paragraph


# -- each of those on x86-64 alone is replaced, with nothing set ----------------------------------


def pillow_resizes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    code = """
import sys
sys.modules["cykooz_resizer"] = None  # As if it were not installed.
from imageserve.config.settings import Settings
from imageserve.decoding import DecodingPolicy, resizer_in_use
print(resizer_in_use(DecodingPolicy.from_settings(Settings.from_env({}))))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)

    assert done.stdout == "Pillow resizes pictures: cykooz-resizer is not installed\n"


def onnxruntime_computes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = str(write_onnx(tmp_path / "forms.onnx"))
    labels = write_labels(tmp_path / "names.txt")
    images = np.random.default_rng(5).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)
    whole = load_model(path, weights="", labels_file=labels)
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])

    alone = load_model(path, weights="", labels_file=labels)

    assert isinstance(whole, ScoringModel)
    assert isinstance(alone, ScoringModel)
    np.testing.assert_allclose(alone.scores(images), whole.scores(images), atol=1e-6)


def tensorflow_has_the_same_modules(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names = importlib.metadata.packages_distributions()["tensorflow"]
    assert "tensorflow-cpu" in {canonicalize_name(name) for name in names}
    assert "`tensorflow` " in rows()["model"][1]


def nothing_of_ours_imports_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = [
        path
        for path in (ROOT / "src").rglob("*.py")
        if re.search(r"^\s*(import|from) (sympy|mpmath)\b", path.read_text(), re.MULTILINE)
    ]
    assert not found


INSTEAD: dict[str, Callable[[Path, pytest.MonkeyPatch], None]] = {
    "cykooz-resizer": pillow_resizes,
    "mpmath": nothing_of_ours_imports_them,
    "onnxruntime-openvino": onnxruntime_computes,
    "sympy": nothing_of_ours_imports_them,
    "tensorflow-cpu": tensorflow_has_the_same_modules,
}


@pytest.mark.parametrize(
    "package", sorted({name for row in rows().values() for name in re.findall(r"`(.*?)`", row[0])})
)
def test_without_it_something_else_does_its_work(
    package: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert package in INSTEAD, f"{package} is only on x86-64: say and test what does its work"
    INSTEAD[package](tmp_path, monkeypatch)
