"""The only door to Keras and TensorFlow: a network or a saved classifier as a Model.

Everything a wrong file or setting can break is checked at loading, once, with the mend in the
message. It knows nothing of queues, and of batches only that one is one call.
"""

import logging
import os
import zipfile
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imageserve.errors import ModelLoadError, ModelOutOfMemory
from imageserve.models.base import best
from imageserve.models.classifier_checks import (
    Scores,
    check_output,
    check_probabilities,
    checked_input_size,
    first_line,
)
from imageserve.predictions import Prediction

# TensorFlow reads this once, when it is imported; without it, it narrates its start on stderr.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import keras

_logger = logging.getLogger(__name__)

RANDOM_SEED = 20180206
"""What ``weights="random"`` starts from."""

_WEIGHTS_FILES = (".h5", ".keras")

_NETWORKS = {
    "resnet50": (
        keras.applications.ResNet50,
        keras.applications.resnet50.preprocess_input,
    ),
    "mobilenet_v2": (
        keras.applications.MobileNetV2,
        keras.applications.mobilenet_v2.preprocess_input,
    ),
}


class KerasModel:
    """A Keras classifier behind one call per batch; see ``Model``.

    ``network`` maps uint8 RGB pictures to probabilities. Make one with `load_network` or
    `load_classifier`, which check what is checked nowhere else.
    """

    def __init__(
        self, name: str, network: Any, labels: Sequence[str], input_size: tuple[int, int]
    ) -> None:
        self.name = name
        self.input_size = input_size
        self.labels = tuple(labels)
        self.classes = len(self.labels)
        self._scores = _one_call(network, input_size)

    def predict(self, images: NDArray[np.uint8], top: int) -> list[tuple[Prediction, ...]]:
        """Classify pictures of shape (n, height, width, 3); see ``Model.predict``."""
        return best(self.scores(images), self.labels, top)

    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Call the network once: pictures (n, height, width, 3) to probabilities (n, classes).

        Raises:
            ModelOutOfMemory: the device has too little memory for this batch.
        """
        return self._scores(images)


def load_network(
    name: str, *, weights: str, labels: Sequence[str], input_size: tuple[int, int] | None
) -> KerasModel:
    """Load a network of keras.applications with the scaling it was trained with.

    ``weights`` is ``imagenet`` (downloaded once, kept in Keras's cache), ``random`` (the same
    each time, for tests) or the path of a weights file for ``len(labels)`` classes.

    Raises:
        ModelLoadError: the weights, the labels or the input size do not fit.
    """
    _share_gpus()
    _, scale = _NETWORKS[name]
    network = _weighted(name, weights, len(labels))
    return _checked_model(name, network, scale, labels, input_size)


def load_classifier(
    path: Path, *, labels: Sequence[str], input_size: tuple[int, int] | None
) -> KerasModel:
    """Load a classifier saved by Keras; its name is that of the file, without the ending.

    It gets float32 RGB 0..255 of shape (n, height, width, 3), scales it itself, and answers with
    probabilities of shape (n, classes). ``input_size`` decides where the file leaves it open.

    Raises:
        ModelLoadError: the file, the labels or the input size do not fit.
    """
    _share_gpus()
    network = _from_file(path)
    return _checked_model(path.stem, network, lambda pixels: pixels, labels, input_size)


def save_imagenet_weights(name: str, path: Path) -> None:
    """Save the ImageNet weights of a network, downloaded by Keras, as `load_network` reads them.

    Raises:
        ModelLoadError: they cannot be downloaded.
    """
    _with_imagenet_weights(name).save_weights(path)


def _share_gpus() -> None:
    if keras.backend.backend() != "tensorflow":
        return
    import tensorflow as tf

    for gpu in tf.config.list_physical_devices("GPU"):
        # By default TensorFlow takes the whole GPU, and a second worker on it cannot start.
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except (RuntimeError, ValueError) as error:
            # Whoever used TensorFlow first in this process has settled it; serving still works.
            _logger.warning("cannot share %s with other workers: %s", gpu.name, error)


def _weighted(name: str, weights: str, classes: int) -> Any:
    build, _ = _NETWORKS[name]
    if weights == "random":
        keras.utils.set_random_seed(RANDOM_SEED)
        return build(weights=None, classes=classes)
    if weights == "imagenet":
        return _with_imagenet_weights(name)
    return _with_weights_file(name, weights, classes)


def _with_imagenet_weights(name: str) -> Any:
    build, _ = _NETWORKS[name]
    try:
        return build(weights="imagenet")
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise ModelLoadError(
            f"the ImageNet weights of {name} could not be downloaded ({first_line(error)}): "
            "set the weights to the path of a weights file, or put Keras's own file into the "
            "folder models under KERAS_HOME"
        ) from error


def _with_weights_file(name: str, weights: str, classes: int) -> Any:
    build, _ = _NETWORKS[name]
    if not weights.endswith(_WEIGHTS_FILES):
        raise ModelLoadError(
            f"the weights of {name} are {weights!r}: they must be imagenet, random or the path "
            "of a .weights.h5, .h5 or .keras file"
        )
    if not Path(weights).is_file():
        raise ModelLoadError(f"the weights file {weights} does not exist: correct its path")
    try:
        return build(weights=weights, classes=classes)
    except Exception as error:  # what it raises depends on where in the file Keras stumbles
        raise ModelLoadError(
            f"{weights} does not hold the weights of {name} for {classes} labels "
            f"({first_line(error)}): save them anew with save_weights(), or name the network "
            "and the labels file that belong to it"
        ) from error


def _from_file(path: Path) -> Any:
    if not path.is_file():
        raise ModelLoadError(f"the model file {path} does not exist: correct its path")
    # Keras calls a broken file a missing one.
    if not zipfile.is_zipfile(path):
        raise ModelLoadError(f"{path} is no .keras file, or cut short: copy or save it anew")
    try:
        return keras.saving.load_model(path, compile=False)
    except Exception as error:  # what it raises depends on where in the file Keras stumbles
        raise ModelLoadError(
            f"Keras cannot load {path} ({first_line(error)}): save it anew with "
            "model.save(), with layers that Keras itself has"
        ) from error


def _checked_model(
    name: str,
    network: Any,
    scale: Callable[[Any], Any],
    labels: Sequence[str],
    input_size: tuple[int, int] | None,
) -> KerasModel:
    size = checked_input_size(name, network.inputs, input_size)
    check_output(name, network.outputs, labels)
    model = KerasModel(name, _on_pixels(name, network, scale, size), labels, size)
    check_probabilities(name, model.scores, size)
    return model


def _on_pixels(name: str, network: Any, scale: Callable[[Any], Any], size: tuple[int, int]) -> Any:
    """Put the scaling in front of the network: pictures cross to the device as uint8."""
    pixels = keras.Input((*size, 3), dtype="uint8")
    try:
        return keras.Model(pixels, network(scale(keras.ops.cast(pixels, "float32"))))
    except ValueError as error:
        raise ModelLoadError(
            f"{name} cannot take pictures of {size[0]}x{size[1]} ({first_line(error)}): "
            "set an input size that it can"
        ) from error


def _one_call(network: Any, input_size: tuple[int, int]) -> Scores:
    """Compile the network for any batch size, without a trace anew for each."""
    if keras.backend.backend() != "tensorflow":
        return lambda images: np.asarray(network.predict_on_batch(images), np.float32)
    import tensorflow as tf

    # Without XLA: measured on a CPU, MobileNetV2 then takes 5 to 15 times as long and ResNet-50
    # no less, and each new batch size compiles for seconds.
    call = tf.function(
        lambda images: network(images, training=False),
        input_signature=[tf.TensorSpec((None, *input_size, 3), tf.uint8)],
        autograph=False,
    )

    def scores(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            return np.asarray(call(images).numpy(), np.float32)
        except tf.errors.ResourceExhaustedError as error:
            raise ModelOutOfMemory(
                f"too little device memory for a batch of {len(images)}: {first_line(error)}"
            ) from error

    return scores
