"""A model whose files are still being written is not loaded (decision 14)."""

from pathlib import Path

from imageserve.models.entries import ModelEntry
from imageserve.models.stand_in import StandIn
from imageserve.preparation import Preparation
from imageserve.worker.reload import Reloader
from imageserve.worker.runner import Runner
from imageserve.worker.versions import Candidate, Versions

SIZE = (8, 8)


class IdleWorker:
    """A worker that takes each model at once."""

    batch_size = 1

    def change_to(self, runner: Runner) -> bool:
        del runner
        return True

    def publish(self) -> None:
        """Publish nothing."""


class Disk:
    """A model file on a disk, and what a worker has loaded of it."""

    def __init__(self, folder: Path) -> None:
        self.loaded: list[str] = []
        self._file = folder / "model.keras"
        self.write("complete")
        entry = ModelEntry("shapes", "image_queue", Preparation(SIZE), network=str(folder))
        self._reloader = Reloader(Versions(entry, None), self._load)
        self._worker = IdleWorker()
        self._reloader.first("")

    def write(self, text: str) -> None:
        self._file.write_text(text)

    def check(self) -> list[str]:
        """Have the worker check the file once; return what it has loaded so far."""
        self._reloader.check(self._worker)
        return self.loaded

    def _load(self, candidate: Candidate, beside: bool) -> Runner:
        self.loaded.append(self._file.read_text())
        return Runner(StandIn(Preparation(SIZE), batch_ms=0, image_ms=0), 1)


def test_a_file_is_loaded_when_two_checks_find_it_unchanged(tmp_path: Path) -> None:
    disk = Disk(tmp_path)
    assert disk.check() == ["complete"]
    for text in ("n", "ne", "new"):
        disk.write(text)
        assert disk.check() == ["complete"]
    assert disk.check() == ["complete", "new"]
    assert disk.check() == ["complete", "new"]
