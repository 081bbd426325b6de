"""The table of networks and their scaling, compared with the installed Keras."""

import inspect
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from imageserve.models import load_model
from imageserve.models.catalog import KNOWN, NETWORKS, SCALINGS, Network
from imageserve.models.fetch.weights import fetch_weights
from imageserve.models.keras_model import RANDOM_SEED, KerasModel, _layers_in, _scaled

keras = pytest.importorskip("keras")

# Keras converts its variables in a way that NumPy 2 warns about, in saving; serving does not.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

CONSTRUCTORS = {
    name: one
    for name, one in vars(keras.applications).items()
    if inspect.isfunction(one) and name[0].isupper()
}
EVERY = pytest.mark.parametrize("network", NETWORKS.values(), ids=NETWORKS)
SMALL = ["mobilenet", "mobilenet_v3_small"]


def module_of(network: Network) -> Any:
    return sys.modules[CONSTRUCTORS[network.constructor].__module__]


def pictures(n: int, size: int) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, size, size, 3), dtype=np.uint8)


def test_every_classifier_of_keras_applications_is_known_and_no_other() -> None:
    assert sorted(network.constructor for network in NETWORKS.values()) == sorted(CONSTRUCTORS)


class Asked(Exception):
    """Ends a constructor of Keras early, with the default size that it has asked for."""


@EVERY
def test_the_size_is_the_one_that_keras_gives_by_default(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(*args: Any, default_size: int, **options: Any) -> None:
        raise Asked(default_size)

    if network.constructor.startswith("MobileNetV3"):
        # Takes any size; its weights are named for the one it was trained on.
        assert f"_{network.size}_" in network.cached
        return
    imagenet_utils = sys.modules["keras.src.applications.imagenet_utils"]
    monkeypatch.setattr(imagenet_utils, "obtain_input_shape", ask)
    with pytest.raises(Asked, match=f"^{network.size}$"):
        CONSTRUCTORS[network.constructor](weights=None)


@EVERY
def test_the_scaling_is_keras_own(network: Network) -> None:
    images = pictures(2, 16)
    expected = module_of(network).preprocess_input(images.astype(np.float32))

    pixels = keras.Input((16, 16, 3), dtype="uint8")
    front = keras.Model(pixels, _scaled(pixels, SCALINGS[network.scaling]))

    np.testing.assert_allclose(front(images), expected, rtol=1e-6, atol=2e-5)


@pytest.mark.parametrize("name", SMALL)
def test_a_small_network_answers_as_plain_keras_does(name: str) -> None:
    images = pictures(2, 224)
    model = load_model(name, weights="random", labels_file=None)
    keras.utils.set_random_seed(RANDOM_SEED)
    network = CONSTRUCTORS[NETWORKS[name].constructor](weights=None)
    scaled = module_of(NETWORKS[name]).preprocess_input(images.astype(np.float32))

    assert isinstance(model, KerasModel)
    assert (model.name, model.version, model.classes) == (name, "random", 1000)
    assert network.count_params() == NETWORKS[name].parameters
    expected = network(scaled, training=False)
    np.testing.assert_allclose(model.scores(images), expected, rtol=1e-3, atol=1e-7)
    assert [len(answer) for answer in model.predict(images, top=5)] == [5, 5]


@pytest.fixture
def downloaded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """Give Keras a file in place of its download, with weights that tell pictures apart."""
    keras.utils.set_random_seed(3)
    network = keras.applications.EfficientNetB0(weights=None)
    (layer,) = (one for one in network.layers if isinstance(one, keras.layers.Normalization))
    mean, variance = np.array([[0.5, 0.4, 0.3], [0.2, 0.3, 0.4]], np.float32)
    layer.set_weights([mean, variance, np.int64(0)])
    path = tmp_path / "downloaded.weights.h5"
    network.save_weights(path)
    asked = []

    def get_file(name: str, *args: Any, **options: Any) -> str:
        asked.append(name)
        return str(path)

    monkeypatch.setattr("keras.src.utils.file_utils.get_file", get_file)
    yield str(path)
    assert set(asked) == {NETWORKS["efficientnet_b0"].cached}


def test_an_efficientnet_answers_from_a_file_as_it_does_with_imagenet(
    tmp_path: Path, downloaded: str
) -> None:
    imagenet = keras.applications.EfficientNetB0(weights="imagenet")

    def save(name: str, path: Path) -> None:
        imagenet.save_weights(path)

    fetched = fetch_weights("efficientnet_b0", tmp_path / "fetched", save)
    model = load_model("efficientnet_b0", weights=str(fetched.path), labels_file=None)

    assert isinstance(model, KerasModel)
    images = pictures(2, 224)
    numbers = images.astype(np.float32)
    inner = model.network.get_layer("efficientnetb0")
    expected = scaled_stem(imagenet)(numbers)
    np.testing.assert_allclose(scaled_stem(inner)(numbers), expected, rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(
        model.scores(images), imagenet(numbers, training=False), rtol=1e-3, atol=1e-7
    )
    # Keras would have left the second scaling out; a file without it is served without it.
    plain = keras.applications.EfficientNetB0(weights=fetched.path)
    assert np.abs(scaled_stem(plain)(numbers) - expected).max() > 1
    assert "rescaling_1" in _layers_in(fetched.path)
    assert "rescaling_1" not in _layers_in(Path(downloaded))


def scaled_stem(network: Any) -> Any:
    """Cut an EfficientNet off where its input is scaled."""
    return keras.Model(network.inputs[0], network.get_layer("stem_conv_pad").output)


def test_the_bundled_classifier_has_the_parameters_that_are_listed() -> None:
    facts = KNOWN["shapes"]

    assert keras.saving.load_model(facts.model_file).count_params() == facts.parameters
