"""Model folders for Keras: a `.keras` file, a SavedModel, and the scaling a folder asks for."""

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imageserve.errors import ModelLoadError
from imageserve.models import Engine, load_model
from imageserve.models.catalog import SCALINGS
from imageserve.models.folder import ModelFacts
from imageserve.models.keras_model import KerasModel

keras = pytest.importorskip("keras")

# Keras converts its variables in a way that NumPy 2 warns about, in saving; serving does not.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

LABELS = ["circle", "square", "cross"]
MODES = {"-1..1": "tf", "torch": "torch", "caffe": "caffe"}


def classifier(dtype: str = "float32", *front: Any) -> Any:
    """Build a classifier whose answers change with any scaling of its input."""
    layers = keras.layers
    keras.utils.set_random_seed(2)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3), dtype=dtype),
            *front,
            layers.Conv2D(4, 3, activation="tanh"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(len(LABELS), activation="softmax"),
        ]
    )


def pictures(n: int) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def folder(path: Path, network: Any, facts: str = "", kind: str = "keras") -> Path:
    path.mkdir()
    if kind == "keras":
        network.save(path / "model.keras")
    else:
        network.export(path / "saved_model", format="tf_saved_model", verbose=False)
    (path / "labels.txt").write_text("\n".join(LABELS))
    (path / "imageserve.yaml").write_text(facts)
    return path


def load(path: Path, **engine: Any) -> KerasModel:
    model = load_model(str(path), weights="", labels_file=None, engine=Engine(**engine))
    assert isinstance(model, KerasModel)
    return model


@pytest.mark.parametrize("scaling", SCALINGS)
def test_a_folder_asks_for_the_scaling_its_model_was_trained_with(
    tmp_path: Path, scaling: str
) -> None:
    network = classifier()
    images = pictures(3)
    numbers: NDArray[np.float32] = images.astype(np.float32)
    if scaling in MODES:
        utils = keras.applications.imagenet_utils
        numbers = utils.preprocess_input(numbers, mode=MODES[scaling])
    elif scaling == "0..1":
        numbers = numbers / np.float32(255)

    model = load(folder(tmp_path / "forms", network, f"scaling: {scaling}\nversion: '7'"))

    assert (model.name, model.version, model.labels) == ("forms", "7", tuple(LABELS))
    expected = network.predict_on_batch(numbers)
    np.testing.assert_allclose(model.scores(images), expected, rtol=0, atol=1e-5)


def test_the_version_is_by_default_the_hash_of_the_content(tmp_path: Path) -> None:
    path = folder(tmp_path / "forms", classifier())
    shutil.copytree(path, tmp_path / "copy")

    first, copy = load(path).version, load(tmp_path / "copy").version
    classifier("float32", keras.layers.Rescaling(0.5)).save(path / "model.keras")

    assert first == copy != load(path).version


@pytest.mark.parametrize("dtype", ["float32", "uint8"])
def test_a_saved_model_is_served(tmp_path: Path, dtype: str) -> None:
    network = classifier(dtype, keras.layers.Rescaling(1 / 255))
    path = folder(tmp_path / "forms", network, kind="SavedModel")
    images = pictures(3)

    model = load(path)

    assert (model.preparation.size, model.classes) == ((8, 8), 3)
    expected = network.predict_on_batch(images.astype(dtype))
    np.testing.assert_allclose(model.scores(images), expected, rtol=0, atol=1e-5)
    itself = load_model(
        f"{path}/saved_model",
        weights="",
        labels_file=str(path / "labels.txt"),
        given=ModelFacts((8, 8)),
    )
    assert itself.predict(images, 1) == model.predict(images, 1)


def break_graph(path: Path) -> None:
    (path / "saved_model" / "saved_model.pb").write_bytes(b"no graph at all")


def lose_weights(path: Path) -> None:
    shutil.rmtree(path / "saved_model" / "variables")


def lose_graph(path: Path) -> None:
    (path / "saved_model" / "saved_model.pb").unlink()


@pytest.mark.parametrize("damage", [break_graph, lose_weights, lose_graph])
def test_a_broken_saved_model_is_refused_with_what_to_do(
    tmp_path: Path, damage: Callable[[Path], None]
) -> None:
    path = folder(tmp_path / "forms", classifier(), kind="SavedModel")
    damage(path)

    with pytest.raises(ModelLoadError, match=r"cannot load the SavedModel .*model\.export\(\)"):
        load(path)


@pytest.mark.parametrize(
    ("engine", "said"),
    [
        pytest.param({"precision": "bfloat16"}, "set PRECISION=float32, or save", id="precision"),
        pytest.param({"backend": "jax"}, "runs Keras on tensorflow already", id="backend"),
    ],
)
def test_a_saved_model_is_refused_where_it_cannot_be_run(
    tmp_path: Path, engine: dict[str, str], said: str
) -> None:
    path = folder(tmp_path / "forms", classifier(), kind="SavedModel")

    with pytest.raises(ModelLoadError, match=said):
        load(path, **engine)


def test_a_saved_model_on_another_backend_is_refused_with_what_to_do(tmp_path: Path) -> None:
    from imageserve.models.keras_model import _from_saved_model
    from imageserve.models.source import find_source

    path = folder(tmp_path / "forms", classifier(), kind="SavedModel")

    with pytest.raises(ModelLoadError, match="set KERAS_BACKEND=tensorflow, or save the model as"):
        _from_saved_model(find_source(str(path), None), Engine(backend="jax"))


def test_a_model_of_whole_numbers_is_served_unscaled_only(tmp_path: Path) -> None:
    network = classifier("uint8", keras.layers.Rescaling(1 / 255))
    images = pictures(2)

    model = load(folder(tmp_path / "plain", network))

    np.testing.assert_allclose(model.scores(images), network.predict_on_batch(images), atol=1e-5)
    with pytest.raises(ModelLoadError, match="set the scaling to none, or give the model a float"):
        load(folder(tmp_path / "scaled", network, "scaling: torch"))


def test_an_input_of_another_type_is_refused(tmp_path: Path) -> None:
    network = classifier("string", keras.layers.Rescaling(1 / 255))

    with pytest.raises(ModelLoadError, match="input of type string: it must be one of float32"):
        load(folder(tmp_path / "words", network))
