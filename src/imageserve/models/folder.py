"""A model as a folder: the classifier, its labels, and what else has to be known of it.

::

    flowers/
    ├── model.keras, model.onnx, ...      one for each runtime; see `RUNTIMES`
    ├── labels.txt   or  labels.json
    └── imageserve.yaml      optional: input_size, interpolation, scaling, version

This module loads no model, so web processes read the facts as well.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from imageserve.config.settings import INTERPOLATIONS
from imageserve.errors import ModelLoadError
from imageserve.models.catalog import SCALINGS
from imageserve.models.files import file_errors, is_version

FACTS_FILE = "imageserve.yaml"


@dataclass(frozen=True, slots=True)
class FolderFacts:
    """What ``imageserve.yaml`` says; None where it says nothing."""

    input_size: tuple[int, int] | None = None
    """Height and width, in pixels."""
    interpolation: str | None = None
    """How pictures are resized."""
    scaling: str = "none"
    """What is put in front of ``model.keras`` or ``saved_model``, by the name in `SCALINGS`."""
    version: str | None = None


def read_facts(folder: Path) -> FolderFacts:
    """Read the folder's ``imageserve.yaml``; a missing one says nothing.

    Raises:
        ModelLoadError: it cannot be used; the message says what it must hold.
    """
    path = folder / FACTS_FILE
    with file_errors(path):
        content = _yaml(path) if path.exists() else None
    if content is None:
        return FolderFacts()
    if not isinstance(content, Mapping):
        raise ModelLoadError(f"{path} must hold lines such as 'input_size: 224'")
    return FolderFacts(**{str(key): _fact(path, str(key), content[key]) for key in content})


def size_of(value: Any) -> tuple[int, int] | None:
    """Read a size as YAML gives it: one number or [height, width], 8 to 4096; None for others."""
    if isinstance(value, int):
        value = [value, value]
    if not isinstance(value, list) or len(value) != 2:
        return None
    height, width = value
    if not all(isinstance(n, int) and 8 <= n <= 4096 for n in (height, width)):
        return None
    return height, width


def _yaml(path: Path) -> Any:
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, yaml.YAMLError) as error:
        raise ModelLoadError(f"{path} cannot be read: {_one_line(error)}") from error


def _fact(path: Path, key: str, value: Any) -> Any:
    if key not in _FACTS:
        raise ModelLoadError(f"{path}: unknown {key!r}; known are {', '.join(_FACTS)}")
    read, allowed = _FACTS[key]
    fact = read(value)
    if fact is None:
        raise ModelLoadError(f"{path}: {key} must be {allowed} (it is {value!r})")
    return fact


def _choice(choices: Mapping[str, Any] | tuple[str, ...]) -> Callable[[Any], str | None]:
    return lambda value: value if isinstance(value, str) and value in choices else None


def _version(value: Any) -> str | None:
    # Not 2.10 without quotes, which YAML reads as the number 2.1.
    text = str(value) if isinstance(value, str | int) else ""
    return text if is_version(text) and not isinstance(value, bool) else None


_FACTS: Mapping[str, tuple[Callable[[Any], Any], str]] = {
    "input_size": (size_of, "a number or [height, width], 8 to 4096 pixels"),
    "interpolation": (_choice(INTERPOLATIONS), f"one of {', '.join(INTERPOLATIONS)}"),
    "scaling": (_choice(SCALINGS), f"one of {', '.join(SCALINGS)}"),
    "version": (_version, "1 to 64 letters, digits, dots, dashes and underscores, in quotes"),
}


def _one_line(error: Exception) -> str:
    return " ".join(str(error).split())
