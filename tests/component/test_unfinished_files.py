"""A model whose files are still being written is not loaded (decision 14)."""

from pathlib import Path

from imageserve.models.entries import ModelEntry
from imageserve.models.stand_in import StandIn
from imageserve.worker.runner import Runner
from imageserve.worker.swap import Reins, Swapper
from imageserve.worker.versions import Candidate, Versions

SIZE = (8, 8)


class Disk:
    """A model file on a disk, and what a worker has loaded of it."""

    def __init__(self, folder: Path) -> None:
        self.loaded: list[str] = []
        self._file = folder / "model.keras"
        self.write("complete")
        entry = ModelEntry("shapes", "image_queue", SIZE, network=str(folder))
        self._swapper = Swapper(Versions(entry, None), self._load)
        self._worker = Reins(lambda: 1, lambda runner: True, lambda: None)
        self._swapper.first("")

    def write(self, text: str) -> None:
        self._file.write_text(text)

    def look(self) -> list[str]:
        """Have the worker look at the file once; give what it has loaded so far."""
        self._swapper.look(self._worker)
        return self.loaded

    def _load(self, candidate: Candidate, beside: bool) -> Runner:
        self.loaded.append(self._file.read_text())
        return Runner(StandIn(SIZE, batch_ms=0, image_ms=0), 1)


def test_a_file_is_loaded_once_it_has_looked_the_same_twice(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    assert disk.look() == ["complete"]
    for text in ("n", "ne", "new"):
        disk.write(text)
        assert disk.look() == ["complete"]
    assert disk.look() == ["complete", "new"]
    assert disk.look() == ["complete", "new"]
