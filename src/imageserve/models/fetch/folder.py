"""A version of a model, fetched into its folder: whole and checked, or not there.

Beside the folder ``2026-02`` lies ``2026-02.sha256``: where it came from, and the checksums of its
files, in the format of ``sha256sum``. All is written into a hidden folder beside it, which gets
its name at the end. Two processes that fetch at the same time write the same bytes.
"""

import hashlib
import os
import secrets
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from imageserve.errors import ModelLoadError
from imageserve.models.fetch.address import ARCHIVES, Origin, inside
from imageserve.models.fetch.archive import MOST_BYTES, MOST_FILES, unpack
from imageserve.models.fetch.hub import open_repository
from imageserve.models.fetch.remote import Remote
from imageserve.models.files import is_version, sha256_of
from imageserve.models.runtimes import RUNTIMES, folder_files

UNCHECKED = "unchecked"
"""Stands for the checksum of what is to be taken as it comes."""

Told = Callable[[int, int], None]
"""Is told how many bytes have come, and how many there will be; 0 where that is not known."""

_HIDDEN = ".fetch-"
_FORGOTTEN_S = 24 * 3600.0


@dataclass(frozen=True, slots=True)
class FetchedFolder:
    """A model folder that is in place and has the right checksums."""

    path: Path
    sha256: str
    """Of the archive or file that came; of a folder's, that of its list of checksums."""
    files: int
    size: int
    """In bytes."""
    is_new: bool
    """Whether it was downloaded just now."""


def fetch_folder(
    origin: Origin,
    folder: Path,
    sha256: str | None,
    told: Told,
    environ: Mapping[str, str],
) -> FetchedFolder:
    """Put a model into a folder, unless it is there already.

    Args:
        origin: where it comes from.
        folder: its name is the version; the folders above it are created.
        sha256: what must come, see `FetchedFolder.sha256`, or `UNCHECKED`. A web server's file
            needs one of the two; with None, others are taken as they come.
        told: is told how far it is.
        environ: the variables of `hub`.

    Raises:
        ModelLoadError: it cannot be fetched, or is not what was asked for; the message says what
            to do. Then the folder is as before.
    """
    _check_arguments(origin, folder, sha256)
    wanted = None if sha256 == UNCHECKED else sha256
    try:
        if folder.exists():
            return _kept(origin, folder, wanted)
        folder.parent.mkdir(parents=True, exist_ok=True)
        _remove_forgotten(folder)
        with _hidden(folder) as hidden:
            made = hidden / folder.name
            got = _download(origin, made, hidden, wanted, told, environ)
            _check_is_model(origin, made)
            return _put(origin, made, folder, got)
    except OSError as error:
        raise ModelLoadError(
            f"{folder} cannot be written ({error.strerror or error}): nothing was changed; make "
            "room or allow it, and fetch again"
        ) from error


def _check_arguments(origin: Origin, folder: Path, sha256: str | None) -> None:
    if not is_version(folder.name):
        raise ModelLoadError(
            f"{str(folder)!r} ends in no version: write DIR/NAME/VERSION, VERSION of letters, "
            "digits, dots, dashes and underscores"
        )
    if sha256 is None and origin.scheme == "https":
        raise ModelLoadError(
            f"{origin.shown} needs --sha256, the checksum of the file (sha256sum prints it), or "
            f"--sha256 {UNCHECKED} to take what comes"
        )
    is_checksum = sha256 is None or (len(sha256) == 64 and set(sha256) <= set("0123456789abcdef"))
    if not (is_checksum or sha256 == UNCHECKED):
        raise ModelLoadError(
            f"{sha256!r} is no checksum: --sha256 takes 64 of 0 to 9 and a to f, or {UNCHECKED}"
        )


@contextmanager
def _hidden(folder: Path) -> Iterator[Path]:
    """Make a folder beside ``folder`` that no worker looks into, and remove it at the end."""
    hidden = folder.with_name(f"{_HIDDEN}{folder.name}-{secrets.token_hex(4)}")
    hidden.mkdir()
    try:
        yield hidden
    finally:
        shutil.rmtree(hidden, ignore_errors=True)


def _remove_forgotten(folder: Path) -> None:
    """Remove what a process left that was killed at fetching this version."""
    for each in folder.parent.glob(f"{_HIDDEN}{folder.name}-*"):
        with suppress(FileNotFoundError):  # Another process has just finished.
            if time.time() - each.stat().st_mtime > _FORGOTTEN_S:
                shutil.rmtree(each, ignore_errors=True)


def _download(
    origin: Origin,
    made: Path,
    hidden: Path,
    wanted: str | None,
    told: Told,
    environ: Mapping[str, str],
) -> str:
    """Fill the folder ``made``; return the checksum of what came."""
    made.mkdir()
    if origin.ending is None:
        if origin.scheme == "hf":
            _from_hub(origin, made, told, environ)
        else:
            _from_store(origin, made, told)
        found = _folder_sha256(_checksums(made))
        _check_sha256(origin, wanted, found)
        return found
    is_archive = origin.ending in ARCHIVES
    came = hidden / "archive" if is_archive else made / f"model{origin.ending}"
    tally = _Tally(told)
    Remote(origin.address, origin.shown).download("", came, tally.add, MOST_BYTES)
    found = sha256_of(came)
    _check_sha256(origin, wanted, found)
    if is_archive:
        unpack(came, made, origin.shown)
        came.unlink()
    return found


class _Tally:
    def __init__(self, told: Told, total: int = 0) -> None:
        self._told, self._total, self._come = told, total, 0

    def add(self, count: int) -> None:
        self._come += count
        self._told(self._come, self._total)


def _from_store(origin: Origin, made: Path, told: Told) -> None:
    remote = Remote(origin.address, origin.shown)
    # Consoles make an empty object for each "folder".
    files = [each for each in remote.files(MOST_FILES) if not each.path.endswith("/")]
    if not files:
        raise ModelLoadError(f"{origin.shown} holds no files: correct the address")
    _check_bounds(origin, len(files), sum(each.size for each in files))
    tally = _Tally(told, sum(each.size for each in files))
    for each in files:
        remote.download(each.path, _place(made, each.path), tally.add, MOST_BYTES)


def _from_hub(origin: Origin, made: Path, told: Told, environ: Mapping[str, str]) -> None:
    repository = open_repository(origin, environ)
    files = repository.files
    _check_bounds(origin, len(files), sum(each.size for each in files))
    tally = _Tally(told, sum(each.size for each in files))
    for each in files:
        path = _place(made, str(each.name))
        repository.remote(each).download("", path, tally.add, MOST_BYTES)
        if each.sha256 and sha256_of(path) != each.sha256:
            raise ModelLoadError(
                f"{origin.shown}/{each.path} is not what the repository says: fetch it again"
            )


def _check_bounds(origin: Origin, files: int, size: int) -> None:
    if files > MOST_FILES or size > MOST_BYTES:
        raise ModelLoadError(
            f"{origin.shown} holds more than {MOST_FILES} files or {MOST_BYTES >> 30} GiB: name "
            "the folder of one model"
        )


def _place(made: Path, name: str) -> Path:
    path = made / inside(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    return path


def _check_sha256(origin: Origin, wanted: str | None, found: str) -> None:
    if wanted not in (None, found):
        raise ModelLoadError(
            f"{origin.shown} has the checksum {found} and not {wanted}: it is another file, or "
            "was damaged; correct one of the two"
        )


def _check_is_model(origin: Origin, made: Path) -> None:
    if not any(runtime.find_in(made) for runtime in RUNTIMES.values()):
        there = ", ".join(sorted(each.name for each in made.iterdir())[:10])
        raise ModelLoadError(
            f"{origin.shown} holds no model, but {there}: it must hold {folder_files()}"
        )


def _put(origin: Origin, made: Path, folder: Path, sha256: str) -> FetchedFolder:
    checksums = _checksums(made)
    for name in checksums:
        _flush(made / name)
    size = _size(made, checksums)
    record = made.with_name(_record(folder).name)
    listed = "".join(f"{each}  {folder.name}/{name}\n" for name, each in checksums.items())
    record.write_text(f"# {origin.shown}\n# sha256 {sha256}\n{listed}", encoding="utf-8")
    os.replace(record, _record(folder))
    try:
        made.rename(folder)
    except OSError:
        if not folder.is_dir():
            raise
        return _kept(origin, folder, sha256)  # Another process was as far.
    return FetchedFolder(folder, sha256, len(checksums), size, is_new=True)


def _flush(path: Path) -> None:
    with path.open("rb") as file:
        os.fsync(file.fileno())


def _kept(origin: Origin, folder: Path, wanted: str | None) -> FetchedFolder:
    """Check a folder that is there against its record. Raises ModelLoadError."""
    record = _record(folder)
    anew = f"fetch into another folder, or remove {folder} and {record.name} to fetch it anew"
    if not record.is_file():
        raise ModelLoadError(f"{folder} was not fetched, {record.name} is not beside it: {anew}")
    source, sha256, checksums = _read_record(record.read_text(encoding="utf-8"), folder)
    if (wanted or sha256) != sha256 or (wanted is None and source != origin.shown):
        raise ModelLoadError(f"{folder} was fetched from {source}, sha256 {sha256}: {anew}")
    for name, recorded in checksums.items():
        path = folder / name
        if not path.is_file() or sha256_of(path) != recorded:
            raise ModelLoadError(f"{path} is not what was fetched: {anew}")
    if not checksums:
        raise ModelLoadError(f"{record} lists no files: {anew}")
    return FetchedFolder(folder, sha256, len(checksums), _size(folder, checksums), is_new=False)


def _record(folder: Path) -> Path:
    return folder.with_name(f"{folder.name}.sha256")


def _read_record(text: str, folder: Path) -> tuple[str, str, dict[str, str]]:
    """Return the source, the checksum of what came, and those of the files."""
    comments = [line[2:] for line in text.splitlines() if line.startswith("# ")]
    source, sha256 = (*comments, "", "")[:2]
    rows = [line.split("  ", 1) for line in text.splitlines() if not line.startswith("#")]
    start = f"{folder.name}/"
    checksums = {
        row[1].removeprefix(start): row[0]
        for row in rows
        if len(row) == 2 and row[1].startswith(start)
    }
    return source, sha256.removeprefix("sha256 "), checksums


def _checksums(made: Path) -> dict[str, str]:
    files = sorted(path for path in made.rglob("*") if path.is_file())
    return {path.relative_to(made).as_posix(): sha256_of(path) for path in files}


def _folder_sha256(checksums: Mapping[str, str]) -> str:
    lines = "".join(f"{each}  {name}\n" for name, each in checksums.items())
    return hashlib.sha256(lines.encode()).hexdigest()


def _size(folder: Path, checksums: Mapping[str, str]) -> int:
    return sum((folder / name).stat().st_size for name in checksums)
