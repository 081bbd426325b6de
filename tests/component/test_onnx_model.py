"""ONNX Runtime: what it serves, what it refuses, and that it needs neither Keras nor TensorFlow."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto
from tests.onnx_files import LABELS, softmax_of_means, write_labels, write_onnx, write_too_deep

import imageserve
from imageserve.errors import ModelLoadError, ModelOutOfMemory
from imageserve.models import Engine, load_model
from imageserve.models.folder import ModelFacts
from imageserve.models.model import ScoringModel
from imageserve.models.onnx_model import PIECE, piece_size

OPENVINO = "OpenVINOExecutionProvider"

SOURCE = Path(imageserve.__file__).parents[1]
Write = Callable[[Path], Path]

# A worker without Keras and TensorFlow: importing them fails.
WITHOUT_KERAS = """
import json, sys
import numpy
class Blocked:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in ("keras", "tensorflow", "jax", "torch", "onnx", "tf2onnx"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
sys.meta_path.insert(0, Blocked())
from imageserve.errors import ModelLoadError
from imageserve.models.entries import engine_of, load_entry, worker_entry
from imageserve.config.settings import Settings
settings = Settings.from_env({"MODEL": sys.argv[1], "MODEL_RUNTIME": "onnx"})
model = load_entry(worker_entry(settings), engine_of(settings))
images = numpy.random.default_rng(5).integers(0, 256, (3, 8, 8, 3), dtype=numpy.uint8)
answers = [[p.label, p.probability] for row in model.predict(images, 1) for p in row]
try:
    load_entry(worker_entry(Settings.from_env({})), engine_of(Settings.from_env({})))
    refused = ""
except ModelLoadError as error:
    refused = str(error)
print(json.dumps({"name": model.name, "answers": answers, "refused": refused}))
"""

OUT_OF_MEMORY = """
import resource, sys
import numpy
from imageserve.errors import ModelOutOfMemory
from imageserve.models import load_model, Engine
model = load_model(
    sys.argv[1], weights="", labels_file=sys.argv[2], engine=Engine(threads=4)
)
images = numpy.zeros((int(sys.argv[3]), 2000, 2000, 3), numpy.uint8)
print(len(model.predict(images[:1], 1)))
used = int(open("/proc/self/statm").read().split()[0]) * resource.getpagesize()
resource.setrlimit(resource.RLIMIT_AS, (used + 2**20, used + 2**20))
try:
    model.predict(images, 1)
except ModelOutOfMemory as error:
    print(error)
"""

IDLE = """
import sys, time
import numpy, onnxruntime
from imageserve.models import load_model, Engine
onnxruntime.get_available_providers = lambda: ["CPUExecutionProvider"]  # Its threads may spin.
model = load_model(
    sys.argv[1], weights="", labels_file=sys.argv[2], engine=Engine(threads=4)
)
idle_s = 0.0
for _ in range(20):
    model.predict(numpy.zeros((1, 512, 512, 3), numpy.uint8), 1)
    before = time.process_time()
    time.sleep(0.05)
    idle_s += time.process_time() - before
print(idle_s)
"""


def installed() -> tuple[str, ...]:
    return tuple(onnxruntime.get_available_providers())


def pictures(n: int) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def load(path: Path, labels: list[str] | None = None, **options: Any) -> ScoringModel:
    labels_file = write_labels(path.parent / "names.txt", labels)
    options = {"weights": "", "labels_file": labels_file, **options}
    model = load_model(str(path), **options)
    assert isinstance(model, ScoringModel)
    assert model.runtime == "onnx"
    return model


@pytest.mark.parametrize("type_", [TensorProto.UINT8, TensorProto.FLOAT], ids=["uint8", "float32"])
def test_a_file_gets_rgb_0_to_255_and_answers_with_its_labels(tmp_path: Path, type_: int) -> None:
    model = load(write_onnx(tmp_path / "forms.onnx", type_=type_))
    images = pictures(5)

    assert (model.name, model.preparation.size, model.classes) == ("forms", (8, 8), 3)
    expected = softmax_of_means(images)
    np.testing.assert_allclose(model.scores(images), expected, rtol=0, atol=1e-5)
    best = [LABELS[i] for i in expected.argmax(axis=1)]
    assert [answer[0].label for answer in model.predict(images, top=2)] == best
    np.testing.assert_allclose(model.scores(images[2:3])[0], model.scores(images)[2], atol=1e-6)


def test_the_version_is_that_of_the_content(tmp_path: Path) -> None:
    one, other = (write_onnx(tmp_path / f"{w}.onnx", weight=w) for w in (0.05, 0.06))
    shutil.copy(one, tmp_path / "copy.onnx")

    versions = [load(path).version for path in (one, other, tmp_path / "copy.onnx")]

    assert versions[0] == versions[2] != versions[1]


def test_a_folder_says_the_rest(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx", shape=("n", "height", "width", 3))
    write_labels(tmp_path / "labels.txt")
    (tmp_path / "imageserve.yaml").write_text("input_size: 8\nversion: spring")

    model = load_model(f"{tmp_path}/", weights="", labels_file=None)

    assert (model.version, model.preparation.size) == ("spring", (8, 8))
    assert len(model.predict(pictures(2), top=1)) == 2


def cut_short(path: Path) -> Path:
    write_onnx(path).write_bytes(path.read_bytes()[:100])
    return path


def garbage(path: Path) -> Path:
    path.write_bytes(b"no graph at all")
    return path


def only_a_folder(path: Path) -> Path:
    path.mkdir()
    return path


@pytest.mark.parametrize(
    ("write", "message"),
    [
        pytest.param(lambda path: path, r"mine\.onnx does not exist: correct its path", id="none"),
        pytest.param(cut_short, "cannot load .* cut short: copy it anew, or", id="cut short"),
        pytest.param(garbage, "cannot load .* no ONNX file .* copy it anew", id="garbage"),
        pytest.param(only_a_folder, r"mine\.onnx holds no model: put", id="a folder in its place"),
        pytest.param(
            lambda path: write_onnx(path, softmax=False),
            "with logits, numbers from .*: add 'activation: softmax' to imageserve.yaml",
            id="no softmax",
        ),
        pytest.param(
            lambda path: write_onnx(path, weight=np.nan), "NaN or infinite", id="broken weights"
        ),
        pytest.param(
            lambda path: write_onnx(path, classes=4), "has 4 classes and its labels", id="classes"
        ),
        pytest.param(
            lambda path: write_onnx(path, shape=("n", 8, 3)), "must be .None, height", id="rank"
        ),
        pytest.param(
            lambda path: write_onnx(path, type_=TensorProto.INT64),
            "input of type int64: it must be one of float32",
            id="another type",
        ),
        pytest.param(
            lambda path: write_onnx(path, shape=("n", "h", "w", 3)), "set the input size", id="open"
        ),
        pytest.param(lambda path: write_onnx(path, twice=True), "2 outputs", id="two outputs"),
        pytest.param(write_too_deep, "must be .None, classes", id="rank of the answer"),
    ],
)
def test_a_file_that_cannot_serve_is_refused_with_what_to_do(
    tmp_path: Path, write: Write, message: str
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load(write(tmp_path / "mine.onnx"))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"labels_file": None}, "has no labels", id="no labels"),
        pytest.param({"labels_file": "nowhere.txt"}, "does not exist", id="missing labels"),
        pytest.param({"given": ModelFacts((9, 9))}, "set the input size to 8x8", id="another size"),
        pytest.param({"engine": Engine(precision="float16")}, "PRECISION", id="precision"),
        pytest.param({"engine": Engine(xla=True)}, "XLA is for Keras", id="XLA"),
        pytest.param({"engine": Engine(runtime="keras")}, "leave MODEL_RUNTIME out", id="Keras"),
    ],
)
def test_settings_that_do_not_fit_are_refused_with_what_to_do(
    tmp_path: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load(write_onnx(tmp_path / "mine.onnx"), **options)


def test_it_serves_where_keras_and_tensorflow_cannot_be_imported(tmp_path: Path) -> None:
    folder = tmp_path / "forms"
    folder.mkdir()
    write_onnx(folder / "model.onnx")
    write_labels(folder / "labels.txt")
    (folder / "imageserve.yaml").write_text("input_size: 8")

    found = json.loads(run(WITHOUT_KERAS, str(folder)))

    expected = softmax_of_means(pictures_of_the_program())
    assert found["name"] == "forms"
    assert [label for label, _ in found["answers"]] == [LABELS[i] for i in expected.argmax(axis=1)]
    assert [p for _, p in found["answers"]] == pytest.approx(expected.max(axis=1), abs=1e-5)
    assert "install keras and tensorflow, or set KERAS_BACKEND or MODEL_RUNTIME" in found["refused"]


def pictures_of_the_program() -> NDArray[np.uint8]:
    return np.random.default_rng(5).integers(0, 256, (3, 8, 8, 3), dtype=np.uint8)


@pytest.mark.parametrize("n", [7, 16], ids=["together", "apart"])
def test_a_batch_too_large_for_the_memory_raises_out_of_memory(tmp_path: Path, n: int) -> None:
    path = write_onnx(tmp_path / "forms.onnx", shape=("n", 2000, 2000, 3))

    labels = write_labels(tmp_path / "labels.txt")
    printed = run(OUT_OF_MEMORY, str(path), labels, str(n)).splitlines()

    assert printed[0] == "1"
    assert printed[1].startswith(f"too little device memory for a batch of {n}: ")


@pytest.mark.parametrize("providers", [installed(), ("CPUExecutionProvider",)], ids=",".join)
@pytest.mark.parametrize("threads", [1, 2, 3])
@pytest.mark.parametrize("n", [1, 2, 3, 5, 8, 2 * PIECE, 4 * PIECE + 3])
def test_a_batch_is_computed_in_pieces_and_answered_in_order(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    n: int,
    threads: int,
    providers: Sequence[str],
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: providers)
    model = load(write_onnx(tmp_path / "forms.onnx"), engine=Engine(threads=threads))
    images = pictures(n)

    alone = np.concatenate([model.scores(image[np.newaxis]) for image in images])

    assert len(alone) == 1 or np.ptp(alone[:, 0]) > 1e-4, "equal scores would hide a wrong order"
    np.testing.assert_allclose(model.scores(images), alone, atol=1e-6)


@pytest.mark.parametrize(
    ("n", "threads", "size"),
    [(32, 2, 2), (32, 1, 2), (8, 2, 2), (4, 2, 2), (5, 2, 1), (32, 12, 1), (32, 8, 2), (64, 16, 2)],
)
def test_pieces_keep_all_threads_busy(n: int, threads: int, size: int) -> None:
    assert piece_size(n, threads) == size


def test_without_openvino_bfloat16_is_refused_with_what_to_do(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: ["CPUExecutionProvider"])
    path = write_onnx(tmp_path / "forms.onnx")

    with pytest.raises(ModelLoadError, match=r"PRECISION=bfloat16: .*install onnxruntime-openvino"):
        load(path, engine=Engine(precision="bfloat16"))


@pytest.mark.skipif(OPENVINO not in installed(), reason="ONNX Runtime without OpenVINO")
def test_with_openvino_bfloat16_stays_near(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "forms.onnx")
    images = pictures(8)

    scores = load(path, engine=Engine(precision="bfloat16")).scores(images)

    np.testing.assert_allclose(scores, load(path).scores(images), atol=0.05)


def test_idle_threads_take_no_processor(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "forms.onnx", shape=("n", 512, 512, 3))

    used_s = float(run(IDLE, str(path), write_labels(tmp_path / "labels.txt")))

    assert used_s < 0.1


def test_other_failures_of_the_session_are_passed_on(tmp_path: Path) -> None:
    model = load(write_onnx(tmp_path / "forms.onnx"))

    with pytest.raises(Exception, match="invalid dimensions") as caught:
        model.predict(np.zeros((1, 9, 9, 3), np.uint8), top=1)
    assert not isinstance(caught.value, ModelOutOfMemory)


def run(code: str, *args: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", code, *args],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
