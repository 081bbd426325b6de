"""Models by name. Only what is asked for is imported: a stand-in needs no Keras and no numpy."""

import os
from types import ModuleType
from typing import TYPE_CHECKING

from imageserve.errors import ModelLoadError
from imageserve.models.engine import Engine
from imageserve.models.source import find_source
from imageserve.models.stand_in import is_stand_in, parse_stand_in

if TYPE_CHECKING:
    from imageserve.models.base import Model

__all__ = ["Engine", "load_model"]

_DEFAULT = Engine()


def load_model(
    name: str,
    *,
    weights: str,
    labels_file: str | None,
    input_size: tuple[int, int] | None,
    engine: Engine = _DEFAULT,
) -> "Model":
    """Load a model, ready to predict; this can take seconds, and minutes with a download.

    It may run in a thread beside a model that is serving.

    Args:
        name: one of the catalog's names, ``stand-in`` with or without options, or the path of a
            ``.keras`` or ``.onnx`` classifier or of a model folder.
        weights: for a network of keras.applications ``imagenet``, ``random`` or the path of a
            weights file; other models bring their own and ignore it.
        labels_file: one label a line, or ImageNet-style JSON; None for the model's own labels.
        input_size: the (height, width) that the model must have; None accepts what it has.
        engine: what runs it.

    Raises:
        ModelLoadError: the model cannot be used; the message says what to change.
    """
    if is_stand_in(name):
        return parse_stand_in(name, input_size)
    source = find_source(name, labels_file, input_size, engine.runtime)
    if source.runtime == "onnx":
        model: Model = _onnx_model().load(source, engine)
    else:
        model = keras_door(engine).load(source, weights, engine)
    return model


def keras_door(engine: Engine) -> ModuleType:
    """Import the module that uses Keras, on the backend of ``engine``.

    Raises:
        ModelLoadError: it is not installed.
    """
    # Keras reads it once, when it is first imported.
    os.environ["KERAS_BACKEND"] = engine.backend
    try:
        from imageserve.models import keras_model
    except ImportError as error:
        raise ModelLoadError(
            f"Keras on {engine.backend} cannot be used here ({error}): install keras and "
            f"{engine.backend}, or set KERAS_BACKEND or MODEL_RUNTIME to what is installed"
        ) from error
    return keras_model


def _onnx_model() -> ModuleType:
    try:
        from imageserve.models import onnx_model
    except ImportError as error:
        raise ModelLoadError(
            f"ONNX Runtime cannot be used here ({error}): install onnxruntime, or set "
            "MODEL_RUNTIME=keras"
        ) from error
    return onnx_model
