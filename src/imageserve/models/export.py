"""Exports a Keras model as a model folder for another runtime.

The only door to tf2onnx. Exporting needs TensorFlow, which traces the graph; what is written is
served without it.
"""

import logging
import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

from imageserve.errors import ModelLoadError
from imageserve.models import Engine, load_model
from imageserve.models.comparison import Agreement, agreement, drawn_pictures, scores_of
from imageserve.models.files import file_errors
from imageserve.models.folder import FACTS_FILE, LABELS_FILES, new_files, write_beside
from imageserve.models.foreign import first_line
from imageserve.models.model import ScoringModel
from imageserve.models.onnx_file import USUAL_OPSET, VERSION_KEY
from imageserve.models.runtimes import SOURCE_RUNTIME, Runtime

TOLERANCE = 1e-4
"""How far a probability of the exported model may be from that of its source."""

SOURCE_BACKEND = "tensorflow"
"""The backend of Keras whose models can be exported."""


def export(
    model: ScoringModel,
    runtime: Runtime,
    folder: Path,
    *,
    only_model: bool = False,
) -> Agreement:
    """Write a model for another runtime into a folder, if it answers as its source does.

    Args:
        model: loaded by `SOURCE_RUNTIME`, on `SOURCE_BACKEND`, in float32.
        runtime: one with ``write``.
        folder: created if it is missing.
        only_model: leave labels and facts out, because the folder already has its own.

    Raises:
        ModelLoadError: it cannot be written, or does not answer as its source does.
    """
    but = (LABELS_FILES[0], FACTS_FILE) if only_model else ()
    with new_files(folder, without=but) as made:
        _write(model, runtime, made)
        return _verified(model, runtime, made)


def holds_source(folder: Path, model: str) -> bool:
    """Whether ``folder`` is the model folder that is exported.

    Raises ModelLoadError where it holds another model, or cannot be read.
    """
    with file_errors(folder):
        if folder.is_dir() and Path(model).is_dir() and folder.samefile(model):
            return True
        if any((folder / name).exists() for name in SOURCE_RUNTIME.folder_files):
            raise ModelLoadError(f"{folder} holds another model: name an empty or a new folder")
    return False


def load_exported(folder: Path, runtime: Runtime, engine: Engine) -> ScoringModel:
    """Load what `export` wrote, as a worker does."""
    engine = replace(engine, runtime=runtime.name)
    model = load_model(f"{folder}/", weights="", labels_file=None, engine=engine)
    return cast(ScoringModel, model)


def check_labels(written: ScoringModel, labels: Sequence[str]) -> None:
    """Raise ModelLoadError where labels are read otherwise than they were written."""
    if written.labels != tuple(labels):
        raise ModelLoadError(
            "a label is empty, or has a line break or spaces at its ends: correct it"
        )


def _write(model: ScoringModel, runtime: Runtime, folder: Path) -> None:
    assert runtime.write is not None
    runtime.write(model, folder / runtime.folder_files[0])
    others = {"version": model.version}
    # The file ends in the same numbers as its source.
    ends = {"activation": model.activation, "embedding": model.embedding}
    others |= {key: value for key, value in ends.items() if value}
    write_beside(folder, model.labels, model.preparation, **others)


def _verified(model: ScoringModel, runtime: Runtime, folder: Path) -> Agreement:
    """Load what was written and compare it with its source.

    Raises ModelLoadError where the two differ.
    """
    written = load_exported(folder, runtime, Engine())
    check_labels(written, model.labels)
    pictures = drawn_pictures(model.preparation.shape)
    expected = scores_of(model.scores, pictures)
    found = agreement(scores_of(written.scores, pictures), expected)
    if not found.largest_difference <= TOLERANCE:
        raise ModelLoadError(
            f"the exported {model.name} is wrong: a probability differs from that of "
            f"{SOURCE_RUNTIME.title} by {found.largest_difference:.2g}, more than {TOLERANCE:g}; "
            f"serve it with MODEL_RUNTIME={SOURCE_RUNTIME.name}"
        )
    return found


def write_onnx(model: ScoringModel, path: Path) -> None:
    """Write a Keras model as ONNX: uint8 pictures (n, height, width, 3) to probabilities.

    Raises ModelLoadError where tf2onnx is not installed, ONNX lacks an operation of the graph, or
    the graph is too large.
    """
    # tf2onnx reads this when it is imported. With any value, it does not copy the whole graph
    # before each of its optimizations, which takes 1.5 GB for ResNet-50.
    os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")
    try:
        import onnx
        import tf2onnx
    except ImportError as error:
        raise ModelLoadError(
            f"nothing can be exported here ({first_line(error)}): pip install tensorflow "
            "tf2onnx onnx"
        ) from error
    try:
        graph = _onnx_graph(model, tf2onnx)
        # tf2onnx keeps an operation that it cannot translate, and only logs it.
        onnx.checker.check_model(graph)
        onnx.helper.set_model_props(graph, {VERSION_KEY: model.weights_version})
        onnx.save(graph, path)
    except Exception as error:  # tf2onnx can raise anything for a layer it does not know
        raise ModelLoadError(
            f"{model.name} cannot be written as ONNX ({first_line(error)}): serve it with "
            f"MODEL_RUNTIME={SOURCE_RUNTIME.name}"
        ) from error


def _onnx_graph(model: ScoringModel, tf2onnx: Any) -> Any:
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    frozen = _frozen(model)
    images, outputs = frozen.inputs[0].name, [each.name for each in frozen.outputs]
    # The layer's name is that of the tensor: the facts then name the same thing for both.
    names = ["probabilities", *([model.embedding] if model.embedding else [])]
    graph, _ = tf2onnx.convert.from_graph_def(
        frozen.graph.as_graph_def(add_shapes=True),
        input_names=[images],
        output_names=outputs,
        tensors_to_rename={images: "images", **dict(zip(outputs, names, strict=True))},
        opset=USUAL_OPSET,
    )
    return graph


def _frozen(model: ScoringModel) -> Any:
    """Trace a Keras model for any batch size, with its weights and other tensors as constants.

    tf2onnx freezes variables by itself, but makes inputs of other tensors, such as the mean that a
    Normalization layer subtracts.
    """
    import tensorflow as tf
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    from imageserve.models.keras_model import KerasModel

    assert isinstance(model, KerasModel), "only Keras has a graph to trace"
    batch = model.takes.batch if model.takes else None
    call = tf.function(
        lambda images: model.network(images, training=False),
        input_signature=[tf.TensorSpec((batch, *model.preparation.shape), tf.uint8, name="images")],
        autograph=False,
    )
    return convert_variables_to_constants_v2(call.get_concrete_function())
