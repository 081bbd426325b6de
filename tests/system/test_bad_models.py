"""A worker with a bad model: it keeps running, says why, and serves a repaired model."""

import signal
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
from tests.onnx_files import LABELS, write_labels, write_onnx
from tests.redis_server import eventually, free_port
from tests.system.client import Client
from tests.system.stack import START_S, Program

import imageserve

SHAPES = Path(imageserve.__file__).with_name("models") / "shapes"


@dataclass(frozen=True)
class Bad:
    """A model folder with a fault, and the expected message."""

    name: str
    write: Callable[[Path], object]
    said: str


def cut_short(folder: Path) -> None:
    whole = (SHAPES / "shapes.keras").read_bytes()
    (folder / "model.keras").write_bytes(whole[: len(whole) // 2])


def weights_of_another(folder: Path) -> None:
    damaged = bytearray((SHAPES / "shapes.keras").read_bytes())
    damaged[60:400] = bytes(340)
    (folder / "model.keras").write_bytes(damaged)


def broken_yaml(folder: Path) -> None:
    write_onnx(folder / "model.onnx")
    (folder / "imageserve.yaml").write_text("size: 8")


BAD = [
    Bad(
        "missing",
        lambda folder: None,
        "holds no model: put model.keras, saved_model/, model.onnx or",
    ),
    Bad("cut-short", cut_short, "is no .keras file, or cut short: copy or save it anew"),
    Bad("damaged", weights_of_another, "save it anew with model.save()"),
    Bad("yaml", broken_yaml, "size: is unknown; known are input_size, interpolation, scaling"),
    Bad(
        "labels",
        lambda folder: write_onnx(folder / "model.onnx", classes=4),
        "name a labels file with one label for each class, in class order",
    ),
    Bad(
        "rank",
        lambda folder: write_onnx(folder / "model.onnx", shape=("n", 8, 3)),
        "it must be (None, height, width, colours) or (None, colours, height, width)",
    ),
    Bad(
        "no-softmax",
        lambda folder: write_onnx(folder / "model.onnx", softmax=False),
        "add 'activation: softmax' to imageserve.yaml",
    ),
    Bad(
        "nan",
        lambda folder: write_onnx(folder / "model.onnx", weight=np.nan),
        "its weights are broken, train or export it anew",
    ),
]


def worker(folder: Path, log: Path, **env: str) -> Program:
    settings = {
        # No Redis listens there: the model is loaded first.
        "REDIS_URL": f"redis://127.0.0.1:{free_port()}",
        "MODEL": f"{folder}/",
        "INPUT_SIZE": "8",
        "BATCH_SIZE": "1",
        "METRICS_PORT": str(free_port()),
        "LOG_FORMAT": "json",
        **env,
    }
    return Program(folder.name, ["worker"], settings, log)


@pytest.fixture(scope="module")
def workers(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Program]]:
    """Start one worker for each bad model, all at once."""
    root = tmp_path_factory.mktemp("bad")
    started = {}
    for bad in BAD:
        folder = root / bad.name
        folder.mkdir()
        write_labels(folder / "labels.txt")
        bad.write(folder)
        started[bad.name] = worker(folder, root / f"{bad.name}.log")
    yield started
    for program in started.values():
        program.end()


def wait_refused(program: Program) -> str:
    """Wait until a worker has reported what is wrong with its model; return the message."""

    def refused() -> bool:
        assert program.alive, program.output()
        return bool(program.lines("the model cannot be served"))

    eventually(refused, f"{program.name} refuses its model", 2 * START_S)
    return str(program.lines("the model cannot be served")[0]["message"])


@pytest.mark.parametrize("bad", BAD, ids=lambda bad: str(bad.name))
def test_a_worker_with_a_bad_model_keeps_running_and_says_how_to_repair_it(
    workers: dict[str, Program], bad: Bad
) -> None:
    program = workers[bad.name]
    said = wait_refused(program)
    probes = Client(program.metrics_port)

    assert bad.said in said
    assert "Traceback" not in program.output()
    # Started, alive, not ready: nothing restarts it.
    eventually(lambda: probes.status_of("/startupz") == 200, "it counts as started", 10)
    assert probes.status_of("/healthz") == 200
    reply = probes.get("/readyz")
    assert reply.status == 503
    assert bad.said in reply.text
    program.send(signal.SIGTERM)
    assert program.wait() == 0


def test_a_repaired_model_is_served_without_a_restart(tmp_path: Path) -> None:
    folder = tmp_path / "forms"
    folder.mkdir()
    write_onnx(folder / "model.onnx", classes=4)
    write_labels(folder / "labels.txt")
    program = worker(folder, tmp_path / "log")
    try:
        wait_refused(program)
        write_labels(folder / "labels.txt", [*LABELS, "star"])
        eventually(lambda: bool(program.lines("warm")), "it serves", START_S)
        assert Client(program.metrics_port).status_of("/startupz") == 200
        assert len(program.lines("the model cannot be served")) == 1, "said once"
    finally:
        program.end()


def test_a_worker_without_a_metrics_port_exits_and_says_how_to_repair_the_model(
    tmp_path: Path,
) -> None:
    folder = tmp_path / "forms"
    folder.mkdir()
    write_onnx(folder / "model.onnx", softmax=False)
    write_labels(folder / "labels.txt")
    program = worker(folder, tmp_path / "log", METRICS_PORT="0")
    try:
        assert program.wait() == 1
        last = program.lines()[-1]["message"]
        assert last.startswith("imageserve worker: forms does not answer with probabilities")
    finally:
        program.end()
