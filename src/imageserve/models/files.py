"""What is known before a model is loaded: errors of its files, its size, labels and version."""

import hashlib
import json
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from imageserve.errors import ModelLoadError
from imageserve.models.huggingface import labels_of, origin

IMAGENET_LABELS = Path(__file__).with_name("imagenet_class_index.json")

_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


@contextmanager
def file_errors(what: object) -> Iterator[None]:
    """Turn an OSError into a ModelLoadError that says what to do.

    Put calls such as ``path.exists()`` inside as well: they fail in a folder that this process may
    not read, for example a volume that belongs to another user.

    Args:
        what: the file or folder, as the message calls it.
    """
    try:
        yield
    except FileNotFoundError as error:
        raise ModelLoadError(f"{what} does not exist: correct its path") from error
    except OSError as error:
        raise ModelLoadError(
            f"{what} cannot be read ({error.strerror}): allow it to the user of this process "
            f"({os.geteuid()}), for the folders above it as well"
        ) from error


def check_file(what: str, path: Path) -> None:
    """Raise ModelLoadError unless the file at ``path`` can be read; ``what`` names it.

    The runtimes report an unreadable file as missing or broken.
    """
    with file_errors(f"{what} {path}"):
        path.open("rb").close()


def only_file(folder: Path, *names: str) -> Path | None:
    """Return the one of these files or folders that exists, None where none does.

    Raises ModelLoadError where there are several.
    """
    found = [folder / name for name in names if (folder / name).exists()]
    if len(found) > 1:
        raise ModelLoadError(
            f"{folder} holds {' and '.join(str(p.relative_to(folder)) for p in found)}: keep one"
        )
    return found[0] if found else None


def agreed_size(
    model: str, own: tuple[int, int] | None, wanted: tuple[int, int] | None
) -> tuple[int, int] | None:
    """Return the (height, width) of a model's pictures: its own, or the settings' where it is open.

    Raises ModelLoadError where the two differ.
    """
    if own and wanted and own != wanted:
        size = f"{own[0]}x{own[1]}"
        raise ModelLoadError(
            f"{model} takes pictures of {size} (height x width) and the settings demand "
            f"{wanted[0]}x{wanted[1]}: set the input size to {size}, or leave it out"
        )
    return own or wanted


def read_labels(path: Path) -> tuple[str, ...]:
    """Read the labels in the order of the classes.

    A file that ends in ``.json`` maps each class number to an id and a label, as in
    ``{"0": ["n01440764", "tench"]}``, or is the ``config.json`` of a Hugging Face folder; any other
    file holds one label a line.

    Raises ModelLoadError where the file is missing, or holds anything else.
    """
    with file_errors(f"the labels file {path}"):
        content = path.read_bytes()
    try:
        text = content.decode("utf-8-sig")
        return _from_json(text) if path.suffix == ".json" else _from_lines(text)
    except UnicodeDecodeError as error:
        raise ModelLoadError(f"the labels file {path} is not UTF-8: save it as UTF-8") from error
    except ValueError as error:
        raise ModelLoadError(f"the labels file {path} cannot be used: {error}") from error


def is_version(text: str) -> bool:
    """Whether a model may have this version; see ``Model.version``."""
    return _VERSION.fullmatch(text) is not None


def content_version(path: Path, *beside: Path) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of a file or of a folder's files.

    With files ``beside`` it, of the checksums of all. Raises ModelLoadError where one cannot be
    read.
    """
    with file_errors(path):
        sha256 = _sha256_of_folder(path) if path.is_dir() else sha256_of(path)
        if beside:
            every = [sha256, *(sha256_of(each) for each in dict.fromkeys(beside))]
            sha256 = hashlib.sha256("\n".join(every).encode()).hexdigest()
    return sha256[:12]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sha256_of_folder(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def _from_lines(text: str) -> tuple[str, ...]:
    # Only line ends divide labels: to `splitlines`, U+2028 and seven other characters do as well.
    lines = re.split("\r\n|\n|\r", text.strip(" \t\r\n"))
    labels = () if lines == [""] else tuple(line.strip(" \t") for line in lines)
    if not all(labels):
        number = labels.index("") + 1
        raise ValueError(f"line {number} is empty; write one label a line, in class order")
    if not labels:
        raise ValueError("it is empty; write one label a line, in class order")
    return labels


def _from_json(text: str) -> tuple[str, ...]:
    expected = 'write {"0": ["id of class 0", "label of class 0"], ...}'
    try:
        classes = json.loads(text)
    except ValueError as error:
        raise ValueError(f"it is no JSON ({error}), or cut short: copy it anew") from error
    if origin(classes) and (own := labels_of(classes)):
        return own
    try:
        pairs = [classes[str(i)] for i in range(len(classes))]
        labels: tuple[Any, ...] = tuple(label for _, label in pairs)
    except (ValueError, LookupError, TypeError) as error:
        raise ValueError(f"it is not ImageNet-style JSON ({error!r}); {expected}") from error
    # A string of two letters unpacks like a pair.
    if not all(isinstance(pair, list) for pair in pairs):
        raise ValueError(f"it holds no pairs; {expected}")
    if not labels or not all(isinstance(label, str) and label for label in labels):
        raise ValueError(f"it holds no labels, or empty ones; {expected}")
    return labels
