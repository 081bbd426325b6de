"""A model as a folder: the classifier, its labels, and facts about it.

::

    flowers/
    ├── model.keras, model.onnx, ...      one for each runtime; see `RUNTIMES`
    ├── labels.txt   or  labels.json
    └── imageserve.yaml      optional: input_size, interpolation, scaling, version

This module loads no model, so web processes read the facts as well.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imageserve.config.choices import INTERPOLATIONS
from imageserve.config.reader import fields_of, image_size, one_of, optional, read_file
from imageserve.errors import ModelLoadError, SettingsError
from imageserve.models.catalog import SCALINGS
from imageserve.models.files import file_errors, is_version

FACTS_FILE = "imageserve.yaml"


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


NO_FACTS = FolderFacts()
"""Those of a folder without ``imageserve.yaml``."""


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

    Raises ModelLoadError that says what it must hold.
    """
    path = folder / FACTS_FILE
    with file_errors(path):
        if not path.exists():
            return NO_FACTS
    try:
        return FolderFacts(**(read_file(path, _facts) or {}))
    except SettingsError as error:
        raise ModelLoadError(str(error)) from error
