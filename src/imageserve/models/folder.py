"""A model as a folder: the classifier, its labels, and facts about it.

::

    flowers/
    ├── model.keras or saved_model/, or model.onnx, or both
    ├── labels.txt   or  labels.json
    └── imageserve.yaml      optional: input_size, interpolation, scaling, version

A folder that is a SavedModel itself, with ``saved_model.pb``, counts as a model folder without
labels. This module loads no model, so web processes read the facts as well.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imageserve.config.choices import INTERPOLATIONS
from imageserve.config.reader import fields_of, image_size, one_of, optional, read_file
from imageserve.errors import ModelLoadError, SettingsError
from imageserve.models.reading import reading
from imageserve.models.scaling import SCALINGS
from imageserve.models.version import is_version

FACTS_FILE = "imageserve.yaml"
KERAS_FILE = "model.keras"
ONNX_FILE = "model.onnx"
SAVED_MODEL = "saved_model"
_LABELS = ("labels.txt", "labels.json")


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """The content of ``imageserve.yaml``; None for what it leaves out."""

    input_size: tuple[int, int] | None = None
    """Height and width, in pixels."""
    interpolation: str | None = None
    """How pictures are resized."""
    scaling: str = "none"
    """Name of the scaling, in `SCALINGS`, that runs before ``model.keras`` or ``saved_model``."""
    version: str | None = None


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """A folder and the files found in it."""

    path: Path
    facts: FolderFacts
    labels: Path | None
    keras: Path | None
    """``model.keras`` or ``saved_model``, what Keras loads."""
    onnx: Path | None


def read_folder(path: Path) -> ModelFolder:
    """Find the model in a folder.

    Raises:
        ModelLoadError: there is none, or more than one; the message says what to do.
    """
    with reading(f"the model folder {path}"):
        return _found_in(path)


def _found_in(path: Path) -> ModelFolder:
    if path.is_file():
        raise ModelLoadError(
            f"{path} is no model folder: a model in one file ends in .keras or .onnx; an .h5 file "
            "must be loaded in Keras and saved as .keras"
        )
    if not path.is_dir():
        raise ModelLoadError(f"the model folder {path} does not exist: correct its path")
    is_saved_model = (path / "saved_model.pb").exists()
    keras = path if is_saved_model else _only(path, KERAS_FILE, SAVED_MODEL)
    onnx = _only(path, ONNX_FILE)
    if keras is None and onnx is None:
        raise ModelLoadError(
            f"{path} holds no model: put {KERAS_FILE}, {ONNX_FILE} or {SAVED_MODEL}/ into it"
        )
    return ModelFolder(path, read_facts(path), _only(path, *_LABELS), keras, onnx)


def _version(value: Any) -> str:
    # A version such as 2.10 needs quotes: YAML reads the number 2.1.
    version = str(value) if type(value) in (int, str) else ""
    if not is_version(version):
        raise ValueError("must be 1 to 64 letters, digits, dots, dashes and underscores, in quotes")
    return version


_facts = optional(
    fields_of(
        {
            "input_size": image_size,
            "interpolation": one_of(*INTERPOLATIONS),
            "scaling": one_of(*SCALINGS),
            "version": _version,
        }
    )
)


def read_facts(folder: Path) -> FolderFacts:
    """Read the folder's ``imageserve.yaml``, which may be missing.

    Raises:
        ModelLoadError: it cannot be used; the message says what it must hold.
    """
    path = folder / FACTS_FILE
    with reading(path):
        if not path.exists():
            return FolderFacts()
    try:
        return FolderFacts(**(read_file(path, _facts) or {}))
    except SettingsError as error:
        raise ModelLoadError(str(error)) from error


def _only(folder: Path, *names: str) -> Path | None:
    found = [folder / name for name in names if (folder / name).exists()]
    if len(found) > 1:
        raise ModelLoadError(f"{folder} holds {' and '.join(p.name for p in found)}: keep one")
    return found[0] if found else None
