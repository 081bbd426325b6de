"""ImageNet weights in a folder: downloaded once, known by their checksum ever after.

Beside ``resnet50.weights.h5`` lies ``resnet50.weights.h5.sha256``, in the form of ``sha256sum``.
The checksum comes first and each file is put in place whole: weights that are there are complete.
Two that fetch at once write the same bytes.
"""

import hashlib
import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imageserve.errors import ModelLoadError
from imageserve.models.catalog import KNOWN

Save = Callable[[str, Path], None]
"""Writes the weights of a network, given by name, to a path."""

FETCHABLE = tuple(name for name, facts in KNOWN.items() if facts.model_file is None)
"""The networks that need weights; the other models bring their own."""


@dataclass(frozen=True, slots=True)
class Fetched:
    """Weights that are in place and were checked."""

    path: Path
    sha256: str
    size: int
    """In bytes."""
    is_new: bool
    """Downloaded just now."""


def fetch_weights(name: str, folder: Path, save: Save | None = None) -> Fetched:
    """Put the ImageNet weights of a network into a folder, unless they are there already.

    Args:
        name: one of `FETCHABLE`.
        folder: where to; made if it is missing.
        save: how the weights are got; by default Keras downloads them.

    Raises:
        ModelLoadError: they cannot be downloaded or written, or those in place are not the ones
            that were fetched; the message says what to do.
    """
    if name not in FETCHABLE:
        raise ModelLoadError(f"{name!r} needs no weights: fetch {' or '.join(FETCHABLE)}")
    path = folder / f"{name}.weights.h5"
    try:
        if path.exists():
            return _checked(path)
        folder.mkdir(parents=True, exist_ok=True)
        return _fetched(name, path, save or _download)
    except OSError as error:
        raise ModelLoadError(f"{folder} cannot be used: {error}") from error


def _download(name: str, path: Path) -> None:
    from imageserve.models import keras_model

    keras_model.save_imagenet_weights(name, path)


def _checked(path: Path) -> Fetched:
    record = _record(path)
    if not record.is_file():
        raise ModelLoadError(
            f"{path} was not fetched: {record.name} is missing beside it; remove it to fetch it"
        )
    found = _sha256(path)
    if record.read_text().split()[:1] != [found]:
        raise ModelLoadError(
            f"{path} is not what was fetched: its checksum differs from {record.name}; "
            "remove both to fetch it anew"
        )
    return Fetched(path, found, path.stat().st_size, is_new=False)


def _fetched(name: str, path: Path, save: Save) -> Fetched:
    with tempfile.TemporaryDirectory(dir=path.parent, prefix=".fetch-") as temporary:
        made = Path(temporary) / path.name
        save(name, made)
        sha256 = _sha256(made)
        record = _record(made)
        record.write_text(f"{sha256}  {path.name}\n")
        os.replace(record, _record(path))
        os.replace(made, path)
    return Fetched(path, sha256, path.stat().st_size, is_new=True)


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
