"""Keras classifiers of every kind of input: layout, number and order of colours, fixed batch."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tests.warned import warnings_in

from imageserve.cli.models import main
from imageserve.errors import ModelLoadError
from imageserve.models import Engine, load_model
from imageserve.models.keras_model import KerasModel
from imageserve.models.model import ScoringModel

keras = pytest.importorskip("keras")
layers = keras.layers

# Keras converts its variables in a way that NumPy 2 warns about, in saving; serving does not.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

SIZE = (8, 12)
LABELS = ["circle", "square", "cross"]


def classifier(colours: int, *, first: bool = False, batch: int | None = None) -> Any:
    keras.utils.set_random_seed(2)
    kind = {"data_format": "channels_first" if first else "channels_last"}
    shape = (colours, *SIZE) if first else (*SIZE, colours)
    return keras.Sequential(
        [
            keras.Input(shape, batch_size=batch),
            layers.Conv2D(4, 3, activation="tanh", **kind),
            layers.AveragePooling2D(2, **kind),
            layers.GlobalAveragePooling2D(**kind),
            layers.Dense(len(LABELS), activation="softmax"),
        ]
    )


def pictures(n: int, colours: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, *SIZE, colours), dtype=np.uint8)


def load(folder: Path, network: Any, kind: str = "keras", **facts: Any) -> KerasModel:
    if kind == "keras":
        network.save(folder / "model.keras")
    else:
        network.export(folder / "saved_model", format="tf_saved_model", verbose=False)
    (folder / "labels.txt").write_text("\n".join(LABELS))
    (folder / "imageserve.yaml").write_text(json.dumps(facts))
    model = load_model(str(folder), weights="", labels_file=None)
    assert isinstance(model, KerasModel)
    return model


@pytest.mark.parametrize(
    ("inside", "scaling", "said"),
    [
        pytest.param([], None, "does not begin with a scaling", id="none"),
        pytest.param([], "none", "", id="none, as said"),
        pytest.param([layers.Rescaling(1 / 255)], None, "", id="in the file"),
        pytest.param(
            [layers.RandomFlip(), layers.ZeroPadding2D(), layers.Rescaling(1 / 255)],
            "0..1",
            "scaled already",
            id="both, behind others",
        ),
    ],
)
def test_pixels_that_nothing_or_both_scale_are_a_warning(
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    inside: list[Any],
    scaling: str | None,
    said: str,
) -> None:
    last = [layers.GlobalAveragePooling2D(), layers.Dense(len(LABELS), activation="softmax")]
    network = keras.Sequential([keras.Input((*SIZE, 3)), *inside, *last])

    load(tmp_path, network, **({} if scaling is None else {"scaling": scaling}))

    assert [said in each for each in warnings_in(caplog)] == [True] * bool(said)


KINDS = pytest.mark.parametrize("kind", ["keras", "SavedModel"])


@KINDS
@pytest.mark.parametrize("colours", [1, 3, 4])
@pytest.mark.parametrize("first", [False, True], ids=["channels_last", "channels_first"])
def test_every_layout_and_number_of_colours_is_served(
    tmp_path: Path, colours: int, first: bool, kind: str
) -> None:
    network = classifier(colours, first=first)
    images = pictures(3, colours)
    numbers = np.moveaxis(images, 3, 1) if first else images

    model = load(tmp_path, network, kind, scaling="0..1")

    assert model.preparation.shape == (*SIZE, colours)
    expected = network.predict_on_batch(numbers.astype(np.float32) / 255)
    np.testing.assert_allclose(model.scores(images), expected, rtol=0, atol=1e-5)


@KINDS
def test_mean_and_std_and_the_order_of_colours_are_put_in_front(tmp_path: Path, kind: str) -> None:
    network = classifier(3)
    images = pictures(3)
    scaling = {"divide": 255, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}

    model = load(tmp_path, network, kind, colour="bgr", scaling=scaling)

    numbers = (images[..., ::-1] / 255 - np.array([0.4, 0.5, 0.6])) / np.array([0.2, 0.3, 0.4])
    expected = network.predict_on_batch(numbers.astype(np.float32))
    np.testing.assert_allclose(model.scores(images), expected, rtol=0, atol=1e-5)
    assert model.preparation.colour == "rgb"


@KINDS
def test_a_fixed_batch_is_run_piece_by_piece(tmp_path: Path, kind: str) -> None:
    network = classifier(3, batch=2)

    model = load(tmp_path, network, kind)

    images = pictures(5)
    expected = classifier(3).predict_on_batch(images.astype(np.float32))
    np.testing.assert_allclose(model.scores(images), expected, rtol=0, atol=1e-5)


def test_an_export_contains_layout_scaling_and_order_of_colours(tmp_path: Path) -> None:
    scaling = {"divide": 255, "mean": [0.4, 0.5, 0.6], "std": [0.2, 0.3, 0.4]}
    facts: dict[str, Any] = {
        "layout": "nchw",
        "colour": "bgr",
        "scaling": scaling,
        "resize": "crop",
    }
    model = load(tmp_path, classifier(3, first=True), **facts)

    for folder in (tmp_path, tmp_path / "new"):  # beside its source, and alone
        assert main(["export", str(tmp_path), "--to", str(folder)], {}) == 0
        exported = load_model(
            str(folder), weights="", labels_file=None, engine=Engine(runtime="onnx")
        )
        assert isinstance(exported, ScoringModel)
        assert exported.preparation == model.preparation
        np.testing.assert_allclose(
            exported.scores(pictures(5)), model.scores(pictures(5)), rtol=0, atol=1e-5
        )


def test_a_layout_that_is_not_the_models_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match="set layout: nhwc, or leave it out"):
        load(tmp_path, classifier(3), layout="nchw")
