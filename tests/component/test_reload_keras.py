"""Changing between two real Keras models: nothing of the old one is left in memory."""

import gc
import time
from pathlib import Path

import pytest
from tests.memory_queue import MemoryQueue
from tests.redis_server import eventually

from imageserve.models import Engine
from imageserve.models.entries import ModelEntry, load_entry
from imageserve.preparation import Preparation
from imageserve.queue.consumer import Consumer, Lease
from imageserve.worker.loop import Worker, WorkerConfig
from imageserve.worker.reload import Reloader
from imageserve.worker.runner import Runner
from imageserve.worker.versions import Candidate, Versions

SIZE = 32
WIDTHS = {"v1": 17, "v2": 19}
"""Units of the hidden layer: they tell the weights of the two apart."""

pytestmark = pytest.mark.filterwarnings(  # Keras, when it saves
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    import keras

    for version, width in WIDTHS.items():
        layers = keras.layers
        network = keras.Sequential(
            [
                keras.Input((SIZE, SIZE, 3)),
                layers.Flatten(),
                layers.Dense(width),
                layers.Dense(2, activation="softmax"),
            ]
        )
        folder = tmp_path / "sizes" / version
        folder.mkdir(parents=True)
        network.save(folder / "model.keras")
        (folder / "labels.txt").write_text("small\nlarge\n")
    return tmp_path


def kernels() -> set[int]:
    """Return the widths of the hidden layers whose weights are in memory."""
    import keras

    gc.collect()
    variables = [each for each in gc.get_objects() if isinstance(each, keras.Variable)]
    shapes = {tuple(each.shape) for each in variables}
    return {width for width in WIDTHS.values() if (SIZE * SIZE * 3, width) in shapes}


def test_the_weights_of_the_old_model_leave_the_memory(models: Path) -> None:
    gc.collect()
    queue = MemoryQueue("image_queue", lambda: time.time_ns() // 1_000_000)
    entry = ModelEntry(
        "sizes", queue.name, Preparation((SIZE, SIZE)), network=str(models / "sizes" / "v1")
    )

    def prepare(candidate: Candidate, beside: bool) -> Runner:
        runner = Runner(load_entry(candidate.entry, Engine()), 2, version=candidate.version)
        runner.warm_up(beside=beside)
        return runner

    reloader = Reloader(Versions(entry, str(models)), prepare)
    consumer = Consumer(queue, "sizes", Lease())
    worker = Worker(consumer, reloader.first(""), "sizes", WorkerConfig("w-1", "here"), reloader)
    assert kernels() == {17}

    def change(runner: Runner) -> bool:
        worker._next_runner = runner
        worker._change_runner()
        return worker.runner is runner

    worker.change_to = change  # type: ignore[method-assign]
    reloader.set_desired("sizes@v2 1")
    reloader.check(worker)
    reloader.check(worker)

    assert worker.runner.version == "v2"
    eventually(lambda: kernels() == {19}, "only the new weights to be left")
