"""Where the versions of a model are on disk, and whether the files of one have changed.

``MODELS_DIR/NAME/VERSION`` is a model folder. Nothing is loaded here. Looking at files is cheap
enough to be done every few seconds, on a network disk too.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from itertools import islice
from pathlib import Path

from imageserve.errors import ModelLoadError
from imageserve.models.catalog import is_model_path
from imageserve.models.entries import ModelEntry
from imageserve.models.files import file_errors
from imageserve.models.folder import FACTS_FILE
from imageserve.models.onnx_file import external_files
from imageserve.queue.desired import DesiredVersion

MOST_FILES = 1000
"""Most files of a folder that are looked at; a model has a handful."""

FileState = tuple[str, int, int, int, int]
"""Changes when the file is replaced: path, device, inode, bytes, mtime in ns."""
Fingerprint = tuple[FileState, ...]

_NAMED = (".keras", ".onnx", ".txt", ".json", ".yaml")


@dataclass(frozen=True, slots=True)
class Candidate:
    """A model that can be loaded, with the state of its files at one moment."""

    entry: ModelEntry
    version: str | None
    """The version that was asked for; None: the model itself says."""
    asked_at: int
    """When it was asked for, Redis time in ms; 0 for the model of the worker's own settings."""
    fingerprint: Fingerprint

    def is_same_model(self, other: "Candidate") -> bool:
        """Whether loading the other would give the same model, whenever it was asked for."""
        return replace(self, asked_at=0) == replace(other, asked_at=0)

    def is_announced(self, other: "Candidate") -> bool:
        """Whether the change from ``other`` came with its ``imageserve.yaml``, or there is none.

        That file is written last, so while it is the same, the rest may be on its way.
        """
        facts = str(Path(self.entry.network, FACTS_FILE))
        own, others = (
            [file for file in each.fingerprint if file[0] == facts] for each in (self, other)
        )
        return not own or own != others

    @property
    def shown(self) -> str:
        return self.version or self.entry.network


class Versions:
    """Finds what a worker should serve: the desired version, or the model of its settings."""

    def __init__(self, entry: ModelEntry, models_dir: str | None) -> None:
        self.entry = entry
        self._models_dir = models_dir

    def find(self, desired: DesiredVersion | None) -> Candidate:
        """Return the desired version, or with None the model of the worker's settings.

        Raises:
            ModelLoadError: it is not there, or may not be read.
        """
        if desired is None:
            with file_errors(self.entry.network):
                return Candidate(self.entry, None, 0, fingerprint_of(_paths(self.entry)))
        with file_errors(f"{desired.text} in {self._models_dir}"):
            return self._desired(desired)

    def _desired(self, desired: DesiredVersion) -> Candidate:
        folder = self._folder(desired)
        entry = replace(self.entry, network=str(folder), labels=None)
        is_own = desired.name == self.entry.name
        version = desired.version if is_own else desired.text
        return Candidate(entry, version, desired.at, fingerprint_of([folder]))

    def _folder(self, desired: DesiredVersion) -> Path:
        if self._models_dir is None:
            raise ModelLoadError(
                f"{desired.text} cannot be looked for: set MODELS_DIR on the workers to the folder "
                "that holds NAME/VERSION"
            )
        name = Path(self._models_dir, desired.name)
        folder = name / desired.version
        if not folder.is_dir():
            there = ", ".join(_folders(name)) or "none"
            raise ModelLoadError(
                f"there is no folder {folder}: put the version there, or choose one of: {there}"
            )
        return folder


def _folders(parent: Path) -> list[str]:
    if not parent.is_dir():
        return []
    return sorted(each.name for each in islice(parent.iterdir(), MOST_FILES) if each.is_dir())


def _paths(entry: ModelEntry) -> list[Path]:
    """Return the files that an entry names; a network known by name never changes."""
    network = [entry.network] if is_model_path(entry.network) else []
    weights = [] if entry.weights in ("imagenet", "random") else [entry.weights]
    return [Path(each) for each in (*network, *weights, *([entry.labels] if entry.labels else []))]


def fingerprint_of(paths: list[Path]) -> Fingerprint:
    """Return the state of files and folders.

    Weights that an ``.onnx`` file has in other files count, wherever those are. Links are followed:
    one that gets another target counts as a change.
    """
    files = [file for path in paths for file in _files(path)]
    beside = [part for file in files if file.suffix == ".onnx" for part in _beside(_stat(file))]
    return tuple(_stat(file) for file in dict.fromkeys([*files, *beside]))


def _beside(onnx: FileState) -> list[Path]:
    """Return the files with weights of an ``.onnx`` file; none while it cannot be read."""
    try:
        return _named_by(onnx)
    except OSError:  # Not kept: the next look may succeed.
        return []


# Room for the folder that is served and the one that is to be.
@lru_cache(maxsize=2 * MOST_FILES)
def _named_by(onnx: FileState) -> list[Path]:
    """Read an ``.onnx`` file once for each state of it. Raises OSError."""
    return external_files(Path(onnx[0]))


def _files(path: Path) -> Iterator[Path]:
    if not path.is_dir():
        yield path
    else:
        yield from islice(_walk(path), MOST_FILES)


def _walk(folder: Path) -> Iterator[Path]:
    for parent, folders, files in os.walk(folder):
        # Kubernetes keeps the files of a ConfigMap in hidden folders, and shows links to them.
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        shown = (name for name in files if not name.startswith("."))
        yield from (Path(parent, name) for name in sorted(shown, key=_rank))


def _rank(name: str) -> tuple[bool, str]:
    """Put what a model folder names before parts of weights, of which there may be too many."""
    return Path(name).suffix not in _NAMED, name


def _stat(file: Path) -> FileState:
    try:
        found = file.stat()
    except OSError:
        return str(file), 0, 0, -1, 0
    return str(file), found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns
