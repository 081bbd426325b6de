"""An exported classifier as a Model, in ONNX Runtime, without Keras or TensorFlow.

The scaling of pixels belongs inside the file, as ``imageserve models export`` writes it.
"""

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imageserve.errors import ModelLoadError
from imageserve.models.base import best
from imageserve.models.classifier_checks import (
    check_output,
    check_probabilities,
    checked_input_size,
)
from imageserve.models.engine import Engine
from imageserve.models.labels import read_labels
from imageserve.models.onnx_session import OnnxSession, Tensor
from imageserve.models.processors import usable_processors
from imageserve.models.reading import check_file
from imageserve.models.source import Source
from imageserve.models.version import content_version, is_version
from imageserve.predictions import Prediction

VERSION_KEY = "imageserve.version"
"""Where an exported file keeps the version of what it was exported from."""

_INPUT_TYPES: Mapping[str, Callable[[NDArray[np.uint8]], NDArray[Any]]] = {
    "tensor(uint8)": lambda images: images,
    "tensor(float)": lambda images: images.astype(np.float32),
}


class OnnxModel:
    """A classifier in ONNX Runtime behind one call per batch; see ``Model``.

    Make one with `load`, which checks what is checked nowhere else.
    """

    runtime = "onnx"

    def __init__(
        self,
        name: str,
        session: OnnxSession,
        labels: Sequence[str],
        input_size: tuple[int, int],
        version: str,
    ) -> None:
        self.name = name
        self.version = version
        self.input_size = input_size
        self.labels = tuple(labels)
        self.classes = len(self.labels)
        self._session = session
        self._as_input = _INPUT_TYPES[session.inputs[0].type]

    def predict(self, images: NDArray[np.uint8], top: int) -> list[tuple[Prediction, ...]]:
        """Classify pictures of shape (n, height, width, 3); see ``Model.predict``."""
        return best(self.scores(images), self.labels, top)

    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the session: pictures (n, height, width, 3) to probabilities (n, classes).

        Raises:
            ModelOutOfMemory: the device has too little memory for this batch.
        """
        return np.asarray(self._session.run(self._as_input(images)), np.float32)


def load(source: Source, engine: Engine) -> OnnxModel:
    """Load an ``.onnx`` classifier and check that it can serve.

    It gets RGB 0..255 of shape (n, height, width, 3), uint8 or float32, and answers with
    probabilities of shape (n, classes), for any n.

    Raises:
        ModelLoadError: the file, the labels or the settings do not fit.
    """
    assert source.path is not None
    engine.check_onnx()
    labels = read_labels(source.labels)
    check_file("the model file", source.path)
    session = OnnxSession(source.path, engine.threads or usable_processors(), engine.precision)
    _check_layout(source, session.inputs)
    size = checked_input_size(source.name, session.inputs, source.input_size)
    check_output(source.name, session.outputs, labels)
    version = source.version or _version(session.properties, source.path)
    model = OnnxModel(source.name, session, labels, size, version)
    check_probabilities(source.name, model.scores, size, len(labels))
    return model


def _check_layout(source: Source, inputs: Sequence[Tensor]) -> None:
    """Raise ModelLoadError where pictures cannot be given to it as they are."""
    name, only = source.name, inputs[0]
    if only.type not in _INPUT_TYPES:
        raise ModelLoadError(f"{name} takes input of {only.type}: export it with uint8 or float32")
    if only.type != "tensor(uint8)" and source.scaling != "none":
        raise ModelLoadError(
            f"{name} takes float32 and its folder asks for the scaling {source.scaling!r}, which "
            "must be inside an .onnx file: export it with 'imageserve models export', or put the "
            "scaling into the graph and set it to none"
        )
    if len(only.shape) == 4 and only.shape[1] == 3 != only.shape[3]:
        raise ModelLoadError(
            f"{name} takes the colours first, {only.shape}: export it with input of shape "
            "(None, height, width, 3), a transpose in front of the network"
        )
    if only.shape and only.shape[0] is not None:
        raise ModelLoadError(
            f"{name} takes batches of {only.shape[0]} only: export it with the first side of its "
            "input left open (dynamic)"
        )


def _version(properties: Mapping[str, str], path: Path) -> str:
    kept = properties.get(VERSION_KEY, "")
    return kept if is_version(kept) else content_version(path)
