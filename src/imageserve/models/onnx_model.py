"""The only door to ONNX Runtime: an exported classifier as a Model, without Keras or TensorFlow.

The scaling of pixels belongs inside the file, as ``imageserve models export`` writes it.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from imageserve.errors import ModelLoadError, ModelOutOfMemory
from imageserve.models.base import best
from imageserve.models.classifier_checks import (
    check_output,
    check_probabilities,
    checked_input_size,
    first_line,
)
from imageserve.models.engine import Engine
from imageserve.models.labels import read_labels
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
_FASTEST_FIRST = ("CUDAExecutionProvider", "CPUExecutionProvider")
_MEMORY_SIGNS = ("Failed to allocate memory", "bad allocation", "bad_alloc", "out of memory")
_ERROR_ONLY = 3


@dataclass(frozen=True, slots=True)
class _Tensor:
    """What a session says of an input or output, with None for a side that is left open."""

    name: str
    type: str
    shape: tuple[int | None, ...]


class OnnxModel:
    """A classifier in ONNX Runtime behind one call per batch; see ``Model``.

    Make one with `load`, which checks what is checked nowhere else.
    """

    runtime = "onnx"

    def __init__(
        self,
        name: str,
        session: onnxruntime.InferenceSession,
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
        (self._input,) = _tensors(session.get_inputs())

    def predict(self, images: NDArray[np.uint8], top: int) -> list[tuple[Prediction, ...]]:
        """Classify pictures of shape (n, height, width, 3); see ``Model.predict``."""
        return best(self.scores(images), self.labels, top)

    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Run the session once: pictures (n, height, width, 3) to probabilities (n, classes).

        Raises:
            ModelOutOfMemory: the device has too little memory for this batch.
        """
        pixels = _INPUT_TYPES[self._input.type](images)
        try:
            (answers,) = self._session.run(None, {self._input.name: pixels})
        except Exception as error:  # ONNX Runtime's errors have no common class of their own
            if not any(sign in str(error) for sign in _MEMORY_SIGNS):
                raise
            raise ModelOutOfMemory(
                f"too little device memory for a batch of {len(images)}: {first_line(error)}"
            ) from error
        return np.asarray(answers, np.float32)


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
    session = _session(source.path, engine.threads or usable_processors())
    inputs, outputs = _tensors(session.get_inputs()), _tensors(session.get_outputs())
    _check_layout(source, inputs)
    size = checked_input_size(source.name, inputs, source.input_size)
    check_output(source.name, outputs, labels)
    version = source.version or _version(session, source.path)
    model = OnnxModel(source.name, session, labels, size, version)
    check_probabilities(source.name, model.scores, size, len(labels))
    return model


def _session(path: Path, threads: int) -> onnxruntime.InferenceSession:
    check_file("the model file", path)
    options = onnxruntime.SessionOptions()
    # Of itself ONNX Runtime starts a thread for each processor of the machine, however few of them
    # the container may use.
    options.intra_op_num_threads = threads
    # Nor shall idle threads spin for work: it uses up a container's CPU limit, and takes the
    # processors that web server and Redis need beside it.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = _ERROR_ONLY
    available = onnxruntime.get_available_providers()
    providers = [name for name in _FASTEST_FIRST if name in available]
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors have no common class of their own
        raise ModelLoadError(
            f"ONNX Runtime cannot load {path} ({first_line(error)}): copy it anew, or export it "
            "anew with 'imageserve models export'"
        ) from error


def _tensors(declared: Sequence[Any]) -> list[_Tensor]:
    return [
        _Tensor(one.name, one.type, tuple(n if isinstance(n, int) else None for n in one.shape))
        for one in declared
    ]


def _check_layout(source: Source, inputs: Sequence[_Tensor]) -> None:
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


def _version(session: onnxruntime.InferenceSession, path: Path) -> str:
    kept = str(session.get_modelmeta().custom_metadata_map.get(VERSION_KEY, ""))
    return kept if is_version(kept) else content_version(path)
