"""A user's own classifiers, from `.keras` files: what is served and what is refused."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imageserve.errors import ModelLoadError
from imageserve.models import load_model
from imageserve.models.catalog import KNOWN
from imageserve.models.files import read_labels
from imageserve.models.folder import ModelFacts
from imageserve.models.keras_model import KerasModel

keras = pytest.importorskip("keras")

# Keras converts its variables in a way that NumPy 2 warns about, in saving; serving does not.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

LABELS = ["circle", "square", "cross"]


def sequential(*layers: Any, shape: tuple[int | None, ...] = (8, 8, 3)) -> Any:
    return keras.Sequential([keras.Input(shape), *layers])


def classifier(
    shape: tuple[int | None, ...] = (8, 8, 3), activation: str | None = "softmax"
) -> Any:
    layers = keras.layers
    keras.utils.set_random_seed(2)
    return sequential(
        layers.Rescaling(1 / 127.5, -1),
        layers.Conv2D(4, 3),
        layers.GlobalMaxPooling2D(),
        layers.Dense(len(LABELS), activation=activation),
        shape=shape,
    )


def pictures(n: int, height: int = 8, width: int = 8) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, height, width, 3), dtype=np.uint8)


def load(path: Path, labels: list[str], input_size: tuple[int, int] | None = None) -> KerasModel:
    labels_file = path.with_name("labels.txt")
    labels_file.write_text("\n".join(labels))
    model = load_model(
        str(path), weights="imagenet", labels_file=str(labels_file), given=ModelFacts(input_size)
    )
    assert isinstance(model, KerasModel)
    return model


def test_a_classifier_gets_rgb_0_to_255_and_answers_with_its_own_labels(tmp_path: Path) -> None:
    network = classifier()
    network.save(tmp_path / "forms.keras")
    images = pictures(3)

    model = load(tmp_path / "forms.keras", LABELS)

    assert (model.name, model.preparation.size, model.classes) == ("forms", (8, 8), 3)
    expected = network.predict_on_batch(images.astype(np.float32))
    np.testing.assert_allclose(model.scores(images), expected, rtol=0, atol=1e-5)
    best = [LABELS[i] for i in expected.argmax(axis=1)]
    assert [answer[0].label for answer in model.predict(images, top=5)] == best
    assert [len(answer) for answer in model.predict(images, top=5)] == [3, 3, 3]


def test_labels_may_be_json_in_the_style_of_imagenet(tmp_path: Path) -> None:
    classifier().save(tmp_path / "forms.keras")
    labels = tmp_path / "labels.json"
    labels.write_text('{"0": ["n0", "circle"], "1": ["n1", "square"], "2": ["n2", "cross"]}')

    model = load_model(str(tmp_path / "forms.keras"), weights="", labels_file=str(labels))

    assert isinstance(model, KerasModel)
    assert model.labels == tuple(LABELS)


def test_the_settings_decide_the_size_where_the_file_leaves_it_open(tmp_path: Path) -> None:
    classifier(shape=(None, None, 3)).save(tmp_path / "open.keras")

    model = load(tmp_path / "open.keras", LABELS, input_size=(8, 12))

    assert model.preparation.size == (8, 12)
    assert len(model.predict(pictures(2, 8, 12), top=1)) == 2


def two_inputs() -> Any:
    a, b = keras.Input((8, 8, 3)), keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalMaxPooling2D()(keras.layers.Add()([a, b]))
    return keras.Model([a, b], keras.layers.Softmax()(pooled))


def two_outputs() -> Any:
    a = keras.Input((8, 8, 3))
    pooled = keras.layers.GlobalMaxPooling2D()(a)
    return keras.Model(a, [keras.layers.Softmax()(pooled), pooled])


def with_nan_weights() -> Any:
    network = classifier()
    head = network.layers[-1]
    kernel, bias = head.get_weights()
    head.set_weights([kernel * np.nan, bias])
    return network


def with_negative_answers() -> Any:
    network = classifier(activation=None)
    kernel, _ = network.layers[-1].get_weights()
    network.layers[-1].set_weights([kernel * 0, np.array([2.0, -1.0, 0.0])])
    return network


def without_pooling() -> Any:
    return sequential(keras.layers.Conv2D(3, 3, activation="softmax"))


def of_numbers() -> Any:
    return sequential(keras.layers.Dense(3, activation="softmax"), shape=(10,))


def failing() -> Any:
    # Pixel values up to 255 are looked up in a table of 4 rows.
    layers = keras.layers
    return sequential(
        layers.Flatten(), layers.Embedding(4, 3), layers.GlobalMaxPooling1D(), layers.Softmax()
    )


@pytest.mark.parametrize(
    ("build", "input_size", "message"),
    [
        pytest.param(of_numbers, None, r"shape \(None, 10\): it must be", id="input rank 2"),
        pytest.param(two_inputs, None, "declares 2 inputs", id="two inputs"),
        pytest.param(two_outputs, None, "declares 2 outputs", id="two outputs"),
        pytest.param(without_pooling, None, r"output of shape \(None, 6, 6, 3\)", id="a map"),
        pytest.param(classifier, (8, 9), "set the input size to 8x8", id="another size"),
        pytest.param(
            lambda: classifier((None, None, 3)), None, "any size: set the input size", id="open"
        ),
        pytest.param(
            lambda: classifier((None, None, 3)), (2, 2), "cannot take pictures of 2x2", id="small"
        ),
        pytest.param(
            lambda: classifier(activation=None),
            None,
            "add 'activation: softmax'",
            id="logits",
        ),
        pytest.param(
            with_negative_answers, None, "add 'activation: softmax'", id="sums to 1, but negative"
        ),
        pytest.param(with_nan_weights, None, "NaN or infinite numbers", id="broken weights"),
        pytest.param(failing, None, "fails on two plain pictures of 8x8", id="fails on pictures"),
    ],
)
def test_a_classifier_that_cannot_serve_is_refused_with_what_to_do(
    tmp_path: Path,
    build: Callable[[], Any],
    input_size: tuple[int, int] | None,
    message: str,
) -> None:
    build().save(tmp_path / "mine.keras")

    with pytest.raises(ModelLoadError, match=message):
        load(tmp_path / "mine.keras", LABELS, input_size)


def test_the_bundled_classifier_is_ready_to_serve() -> None:
    facts = KNOWN["shapes"]

    model = load_model("shapes", weights="imagenet", labels_file=None)

    assert isinstance(model, KerasModel)
    assert (model.name, model.preparation.size) == ("shapes", facts.input_size)
    assert model.labels == read_labels(facts.labels_file)
    assert len(model.predict(pictures(2, 96, 96), top=5)) == 2


@pytest.mark.parametrize("labels", [LABELS[:2], [*LABELS, "star"]], ids=["too few", "too many"])
def test_labels_that_do_not_match_the_classes_are_refused(
    tmp_path: Path, labels: list[str]
) -> None:
    classifier().save(tmp_path / "mine.keras")

    with pytest.raises(ModelLoadError, match=f"has 3 classes and its labels file {len(labels)}"):
        load(tmp_path / "mine.keras", labels)


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(ModelLoadError, match=r"mine\.keras does not exist"):
        load(tmp_path / "mine.keras", LABELS)


@pytest.mark.parametrize("kept", [0, 100, 0.5], ids=["empty", "the first bytes", "half"])
def test_a_file_cut_short_is_refused(tmp_path: Path, kept: float) -> None:
    path = tmp_path / "mine.keras"
    classifier().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: int(kept if kept >= 1 else kept * len(whole))])

    with pytest.raises(ModelLoadError, match=r"mine\.keras is no \.keras file, or cut short"):
        load(path, LABELS)


def test_a_file_damaged_inside_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "mine.keras"
    classifier().save(path)
    damaged = bytearray(path.read_bytes())
    damaged[60:400] = bytes(340)
    path.write_bytes(damaged)

    with pytest.raises(ModelLoadError, match=r"Keras [\d.]+ cannot load .*mine\.keras"):
        load(path, LABELS)


def test_code_hidden_in_a_file_is_not_run(tmp_path: Path) -> None:
    network = sequential(keras.layers.Lambda(lambda x: x / 255), keras.layers.GlobalMaxPooling2D())
    network.save(tmp_path / "mine.keras")

    with pytest.raises(ModelLoadError, match="code that is not part of Keras, of Lambda; use"):
        load(tmp_path / "mine.keras", LABELS)
