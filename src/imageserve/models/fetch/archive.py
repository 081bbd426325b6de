"""Unpacks the archive of a model folder: plain files only, none outside the folder, bounded.

A stranger may have made the archive. So no member decides about a path, a link, an owner, a mode,
or how much is written.
"""

import shutil
import stat
import tarfile
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import IO

from imageserve.errors import ModelLoadError
from imageserve.models.fetch.address import inside

MOST_FILES = 1000
MOST_BYTES = 16 * 2**30
"""Most bytes of a model folder."""

_CHUNK = 2**20
_BROKEN = (tarfile.TarError, zipfile.BadZipFile, zlib.error, EOFError, RuntimeError)
"""What the libraries raise for damaged archives, and for encrypted ones."""


@dataclass(frozen=True, slots=True)
class _Member:
    name: str
    is_folder: bool
    is_file: bool
    size: int


def unpack(archive: Path, folder: Path, shown: str) -> None:
    """Unpack an archive into an empty folder. One folder around all its files is left out.

    Args:
        archive: a ``.tar.gz`` or ``.zip`` file; what it is, its first bytes say.
        folder: where the files are put.
        shown: what messages call the archive.

    Raises:
        ModelLoadError: it is damaged, has other members than files, or too many; some may lie in
            the folder then.
        OSError: the files cannot be written.
    """
    opened: _Zip | _Tar
    try:
        opened = _Zip(archive) if zipfile.is_zipfile(archive) else _Tar(archive)
        with closing(opened):
            _unpack(opened, folder, shown)
    except (*_BROKEN, OSError) as error:
        # Python's gzip says "not a gzipped file" as an OSError without a number.
        if isinstance(error, OSError) and error.errno is not None:
            raise
        raise ModelLoadError(
            f"{shown} cannot be unpacked ({error}): make it anew, with tar -czf or zip -r"
        ) from error


class _Zip:
    def __init__(self, path: Path) -> None:
        self._zip = zipfile.ZipFile(path)
        self.close = self._zip.close

    def members(self) -> Iterator[_Member]:
        for info in self._zip.infolist():
            kind = stat.S_IFMT(info.external_attr >> 16)
            is_file = not info.is_dir() and kind in (0, stat.S_IFREG)
            yield _Member(info.filename, info.is_dir(), is_file, info.file_size)

    def read(self) -> Iterator[tuple[str, IO[bytes]]]:
        for info in self._zip.infolist():
            if not info.is_dir():
                with self._zip.open(info) as file:
                    yield info.filename, file


class _Tar:
    def __init__(self, path: Path) -> None:
        self._tar = tarfile.open(path, "r:gz")  # noqa: SIM115 - closed by close()
        self.close = self._tar.close

    def members(self) -> Iterator[_Member]:
        for info in self._tar:
            yield _Member(info.name, info.isdir(), info.isreg(), info.size)

    def read(self) -> Iterator[tuple[str, IO[bytes]]]:
        for info in self._tar:
            file = self._tar.extractfile(info) if info.isreg() else None
            if file is not None:
                yield info.name, file


def _unpack(opened: _Zip | _Tar, folder: Path, shown: str) -> None:
    names = _checked(opened.members(), shown)
    around = {name.parts[0] for name in names}
    skipped = int(len(around) == 1 and all(len(name.parts) > 1 for name in names))
    for name, file in opened.read():
        path = folder.joinpath(*inside(name).parts[skipped:])
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("xb") as target:
            # No more than the size that the member says; that has been counted.
            shutil.copyfileobj(file, target, _CHUNK)


def _checked(members: Iterator[_Member], shown: str) -> list[PurePosixPath]:
    """Return the names of all files, after looking at every member."""
    files: dict[PurePosixPath, int] = {}
    for number, each in enumerate(members, start=1):
        if number > 2 * MOST_FILES or len(files) > MOST_FILES:
            raise ModelLoadError(f"{shown} holds more than {MOST_FILES} files: leave some out")
        if each.is_folder:
            continue
        name = inside(each.name)
        if not each.is_file:
            raise ModelLoadError(
                f"{shown} holds {each.name!r}, which is a link or no file: make the archive "
                "with plain files (tar --dereference)"
            )
        if name in files:
            raise ModelLoadError(f"{shown} holds {each.name!r} twice: make the archive anew")
        files[name] = each.size
        if sum(files.values()) > MOST_BYTES:
            raise ModelLoadError(
                f"{shown} holds more than {MOST_BYTES / 2**30:.0f} GiB: leave out what no model "
                "needs"
            )
    if not files:
        raise ModelLoadError(f"{shown} holds no files: make the archive of the model's folder")
    return list(files)
