"""Networks of keras.applications, against plain Keras code that imports nothing of imageserve."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import imageserve
from imageserve.errors import ModelLoadError, ModelOutOfMemory
from imageserve.models import Engine, load_model
from imageserve.models.files import IMAGENET_LABELS
from imageserve.models.folder import ModelFacts
from imageserve.models.keras_backends import compiled_call
from imageserve.models.keras_model import RANDOM_SEED, KerasModel
from imageserve.predictions import Prediction

keras = pytest.importorskip("keras")

# Keras converts its variables in a way that NumPy 2 warns about, in saving; serving does not.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SOURCE = Path(imageserve.__file__).parents[1]
NETWORKS = ["resnet50", "mobilenet_v2"]

# As a user of Keras would write it: one picture at a time, Keras's own scaling and labels.
PLAIN_KERAS = """
import json, sys
import keras, numpy
from keras.applications import ResNet50, MobileNetV2, mobilenet_v2, resnet50

folder, seed = sys.argv[1], int(sys.argv[2])
images = numpy.load(folder + "/images.npy")
networks = {"resnet50": (ResNet50, resnet50), "mobilenet_v2": (MobileNetV2, mobilenet_v2)}
answers = {}
for name, (build, module) in networks.items():
    for weights in ("random", folder + "/" + name + ".weights.h5"):
        keras.utils.set_random_seed(seed)
        network = build(weights=None if weights == "random" else weights)
        scores = []
        for image in images:
            picture = numpy.expand_dims(image.astype("float32"), 0)
            scores.append(network(module.preprocess_input(picture), training=False).numpy()[0])
        top = module.decode_predictions(numpy.stack(scores), top=5)
        answers[name + " random" if weights == "random" else name] = {
            "top": [[(label, float(p)) for _, label, p in row] for row in top],
            "scores": numpy.stack(scores).tolist(),
        }
json.dump(answers, open(folder + "/answers.json", "w"))
"""

DOWNLOAD = """
from imageserve.errors import ModelLoadError
from imageserve.models import Engine, load_model
try:
    load_model("mobilenet_v2", weights="imagenet", labels_file=None)
except ModelLoadError as error:
    print("refused:", error)
"""


def pictures(n: int, seed: int = 7) -> NDArray[np.uint8]:
    rng = np.random.default_rng(seed)
    squares = np.kron(rng.integers(0, 256, (n, 7, 7, 3)), np.ones((1, 32, 32, 1)))
    noisy = squares + rng.integers(-40, 40, (n, 224, 224, 3))
    clipped: NDArray[np.uint8] = np.clip(noisy, 0, 255).astype(np.uint8)
    return clipped


def write_weights(name: str, path: Path) -> None:
    """Save weights that give different pictures clearly different answers.

    Random weights do not: those of MobileNetV2 give every class of every picture 1/1000.
    """
    build, module = {
        "resnet50": (keras.applications.ResNet50, keras.applications.resnet50),
        "mobilenet_v2": (keras.applications.MobileNetV2, keras.applications.mobilenet_v2),
    }[name]
    keras.utils.set_random_seed(1)
    network = build(weights=None)
    learnt, served = (
        module.preprocess_input(images.astype(np.float32))
        for images in (pictures(4, seed=1), pictures(8))
    )
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.0
    network(learnt, training=True)
    logits = np.log(network(served, training=False).numpy())
    head = network.layers[-1]
    kernel, _ = head.get_weights()
    # A larger factor would magnify the rounding, which differs with the batch size, beyond 1e-5.
    factor = 1 / (logits - logits.mean(axis=0)).std()
    head.set_weights([kernel * factor, -logits.mean(axis=0) * factor])
    network.save_weights(path)


def run_keras(code: str, *args: str, home: Path, **environ: str) -> str:
    """Run Python with another KERAS_HOME than the user's."""
    ended = subprocess.run(
        [sys.executable, "-c", code, *args],
        env={**os.environ, "KERAS_HOME": str(home), "PYTHONPATH": str(SOURCE), **environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Write the pictures and the weights files that both sides read."""
    path = tmp_path_factory.mktemp("plain")
    np.save(path / "images.npy", pictures(4))
    for name in NETWORKS:
        write_weights(name, path / f"{name}.weights.h5")
    return path


@pytest.fixture(scope="module")
def plain(folder: Path) -> dict[str, Any]:
    """Compute the answers of plain Keras to the same pictures with the same weights."""
    labels = folder / "home" / "models" / "imagenet_class_index.json"
    labels.parent.mkdir(parents=True)
    labels.write_bytes(IMAGENET_LABELS.read_bytes())
    run_keras(PLAIN_KERAS, str(folder), str(RANDOM_SEED), home=folder / "home")
    answers: dict[str, Any] = json.loads((folder / "answers.json").read_text())
    return answers


@pytest.fixture(scope="module", params=NETWORKS)
def model(request: pytest.FixtureRequest, folder: Path) -> KerasModel:
    name: str = request.param
    return load(name, str(folder / f"{name}.weights.h5"))


def load(
    name: str,
    weights: str,
    labels_file: str | None = None,
    input_size: tuple[int, int] | None = None,
) -> KerasModel:
    model = load_model(name, weights=weights, labels_file=labels_file, given=ModelFacts(input_size))
    assert isinstance(model, KerasModel)
    return model


def assert_same(answers: list[tuple[Prediction, ...]], expected: Any) -> None:
    for answer, row in zip(answers, expected, strict=True):
        assert [p.label for p in answer] == [label for label, _ in row]
        assert [p.probability for p in answer] == pytest.approx([p for _, p in row], abs=1e-5)


def test_the_five_best_are_those_of_plain_keras(model: KerasModel, plain: dict[str, Any]) -> None:
    answers = model.predict(pictures(4), top=5)

    assert_same(answers, plain[model.name]["top"])
    assert len({answer[0].label for answer in answers}) >= 3, "the pictures must differ"


@pytest.mark.parametrize("name", NETWORKS)
def test_random_weights_are_the_same_each_time_and_score_as_in_plain_keras(
    name: str, plain: dict[str, Any]
) -> None:
    scores = load(name, "random").scores(pictures(4))

    np.testing.assert_allclose(scores, plain[f"{name} random"]["scores"], rtol=0, atol=1e-5)


def test_a_picture_gets_the_same_answer_alone_and_in_a_batch(model: KerasModel) -> None:
    images = pictures(32)
    alone = np.concatenate([model.scores(images[i : i + 1]) for i in range(32)])

    for n in (1, 3, 32):
        np.testing.assert_allclose(model.scores(images[:n]), alone[:n], rtol=0, atol=1e-5)


def test_a_network_knows_its_size_and_its_labels(model: KerasModel) -> None:
    assert (model.preparation.size, model.classes) == ((224, 224), 1000)


def test_pictures_of_another_size_fail_instead_of_being_answered(model: KerasModel) -> None:
    with pytest.raises(TypeError):
        model.predict(np.zeros((1, 96, 96, 3), np.uint8), top=1)


@pytest.fixture(scope="module")
def three_classes() -> Any:
    """A MobileNetV2 of three classes."""
    keras.utils.set_random_seed(3)
    return keras.applications.MobileNetV2(weights=None, classes=3)


@pytest.mark.parametrize("ending", [".weights.h5", ".h5", ".keras"])
def test_weights_come_back_from_every_kind_of_file(
    tmp_path: Path, three_classes: Any, ending: str
) -> None:
    labels = tmp_path / "labels.txt"
    labels.write_text("circle\nsquare\ncross\n")
    path = tmp_path / f"mobile{ending}"
    save_weights(three_classes, path)
    images = pictures(2)
    scaled = keras.applications.mobilenet_v2.preprocess_input(images.astype(np.float32))

    model = load("mobilenet_v2", str(path), labels_file=str(labels))

    assert model.labels == ("circle", "square", "cross")
    expected = three_classes(scaled, training=False)
    np.testing.assert_allclose(model.scores(images), expected, rtol=0, atol=1e-5)


def save_weights(network: Any, path: Path) -> None:
    if path.name.endswith(".weights.h5"):
        network.save_weights(path)
    else:
        network.save(path)


def write_garbage(path: Path) -> None:
    path.write_bytes(b"no weights at all")


def write_half(path: Path) -> None:
    keras.applications.MobileNetV2(weights=None).save_weights(path)
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def write_another_network(path: Path) -> None:
    network = keras.Sequential([keras.Input((4,)), keras.layers.Dense(1000)])
    network.save_weights(path)


def write_three_classes(path: Path) -> None:
    keras.applications.MobileNetV2(weights=None, classes=3).save_weights(path)


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(write_garbage, id="garbage"),
        pytest.param(write_half, id="cut short"),
        pytest.param(write_another_network, id="another network"),
        pytest.param(write_three_classes, id="another number of classes"),
    ],
)
def test_a_weights_file_that_does_not_fit_is_named(tmp_path: Path, write: Any) -> None:
    path = tmp_path / "mine.weights.h5"
    write(path)

    with pytest.raises(ModelLoadError, match=r"mine\.weights\.h5 does not hold the weights of mob"):
        load("mobilenet_v2", str(path))


@pytest.mark.parametrize(
    ("weights", "input_size", "message"),
    [
        pytest.param("/no/mine.h5", None, r"/no/mine\.h5 does not exist", id="missing file"),
        pytest.param("imagnet", None, "must be imagenet, random or the path", id="unknown word"),
        pytest.param(
            "random", (96, 96), "set the input size to 224x224", id="size of the settings"
        ),
    ],
)
def test_a_setting_that_does_not_fit_is_named_with_what_to_do(
    weights: str, input_size: tuple[int, int] | None, message: str
) -> None:
    with pytest.raises(ModelLoadError, match=message):
        load("mobilenet_v2", weights, input_size=input_size)


def test_weights_that_cannot_be_downloaded_are_answered_with_what_to_do(tmp_path: Path) -> None:
    nowhere = "http://127.0.0.1:9"

    printed = run_keras(
        DOWNLOAD, home=tmp_path, https_proxy=nowhere, http_proxy=nowhere, no_proxy=""
    )

    assert "refused: the ImageNet weights of mobilenet_v2 could not be downloaded" in printed
    assert "set the weights to the path of a weights file" in printed


def test_a_batch_too_large_for_the_device_raises_out_of_memory() -> None:
    # A batch that really is too large takes 10 s to fail: TensorFlow waits for memory first.
    import tensorflow as tf

    def network(images: Any, training: bool) -> Any:
        raise tf.errors.ResourceExhaustedError(None, None, "OOM when allocating tensor\nhint")

    call = compiled_call(network, (None, 4, 4, 3), Engine())

    with pytest.raises(ModelOutOfMemory, match=r"for a batch of 2: OOM when allocating tensor$"):
        call(np.zeros((2, 4, 4, 3), np.uint8))
