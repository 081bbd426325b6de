"""ImageNet weights in a folder: downloaded once and checked by their checksum afterwards.

Beside ``resnet50.weights.h5`` lies ``resnet50.weights.h5.sha256``, in the format of ``sha256sum``.
The checksum is written first and each file is moved into place whole, so weights that exist are
complete. Two processes that fetch at the same time write the same bytes.
"""

import os
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from imageserve.errors import ModelLoadError
from imageserve.models.catalog import NETWORKS
from imageserve.models.files import sha256_of
from imageserve.models.runtimes import KERAS, Engine

Save = Callable[[str, Path], None]
"""Writes the weights of a network, given by name, to a path."""

ENDING = ".weights.h5"


@dataclass(frozen=True, slots=True)
class Fetched:
    """Weights that are in place and have the right checksum."""

    path: Path
    sha256: str
    size: int
    """In bytes."""
    is_new: bool
    """Whether they were downloaded just now."""


def fetch_weights(name: str, folder: Path, save: Save) -> Fetched:
    """Put the ImageNet weights of a network into a folder, unless they are there already.

    Args:
        name: one of `NETWORKS`; the other models bring their own weights.
        folder: created if it is missing.
        save: gets the weights, such as `download`.

    Raises:
        ModelLoadError: they cannot be downloaded or written, or the weights in place do not have
            their checksum; the message says what to do.
    """
    if name not in NETWORKS:
        raise ModelLoadError(
            f"{name!r} is not a network with weights to fetch: 'imageserve models list' shows them"
        )
    path = folder / f"{name}{ENDING}"
    try:
        if path.exists():
            return _checked(path)
        folder.mkdir(parents=True, exist_ok=True)
        return _fetched(name, path, save)
    except OSError as error:
        raise ModelLoadError(f"{folder} cannot be used: {error}") from error


def download(name: str, path: Path, engine: Engine) -> None:
    """Let Keras, on the backend of ``engine``, download the weights, and save them.

    Raises ModelLoadError where they cannot be downloaded, or Keras is not installed.
    """
    KERAS.module(engine)  # Where Keras is missing, this says what to install.
    from imageserve.models import keras_model

    keras_model.save_imagenet_weights(name, path)


def _checked(path: Path) -> Fetched:
    record = _record(path)
    if not record.is_file():
        raise ModelLoadError(
            f"{path} was not fetched: {record.name} is missing beside it; remove it to fetch it"
        )
    found = sha256_of(path)
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
        sha256 = sha256_of(made)
        record = _record(made)
        record.write_text(f"{sha256}  {path.name}\n")
        os.replace(record, _record(path))
        os.replace(made, path)
    return Fetched(path, sha256, path.stat().st_size, is_new=True)


def _record(path: Path) -> Path:
    return path.with_name(f"{path.name}.sha256")
