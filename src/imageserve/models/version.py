"""What tells two models of one name apart, where nobody has said it: the content of their files."""

import hashlib
import re
from pathlib import Path

from imageserve.models.reading import reading

_DIGITS = 12
_VERSION = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")


def is_version(text: str) -> bool:
    """Whether this may be a version: what ``Model.version`` allows, a letter or digit first."""
    return _VERSION.fullmatch(text) is not None


def content_version(path: Path) -> str:
    """Return the first 12 hexadecimal digits of the SHA-256 of a file, or of a folder's files.

    Raises:
        ModelLoadError: it cannot be read.
    """
    with reading(path):
        return (_of_folder(path) if path.is_dir() else sha256_of(path))[:_DIGITS]


def sha256_of(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _of_folder(folder: Path) -> str:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    lines = [f"{sha256_of(path)}  {path.relative_to(folder).as_posix()}\n" for path in files]
    return hashlib.sha256("".join(lines).encode()).hexdigest()
