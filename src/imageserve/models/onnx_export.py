"""Writes a Keras model as ONNX: the same graph, scaling and all. The only door to tf2onnx and onnx.

It needs TensorFlow, which traces the graph; what it writes needs ONNX Runtime alone.
"""

import logging
import os
from pathlib import Path
from typing import Any

from imageserve.errors import ModelLoadError
from imageserve.models.base import ScoringModel
from imageserve.models.classifier_checks import first_line
from imageserve.models.keras_model import KerasModel
from imageserve.models.onnx_model import VERSION_KEY

# tf2onnx reads this once, when it is imported. Set to anything, it does not copy the whole graph
# before each of its optimizations, which for ResNet-50 takes 1.5 GB.
os.environ.setdefault("TF2ONNX_CATCH_ERRORS", "FALSE")

import onnx
import tensorflow as tf
import tf2onnx
from tensorflow.python.framework.convert_to_constants import convert_variables_to_constants_v2

_OPSET = 17
"""Of 2022: the first with LayerNormalization, which ConvNeXt uses."""


def write_onnx(model: ScoringModel, path: Path) -> None:
    """Write a Keras model as ONNX: uint8 pictures (n, height, width, 3) to probabilities.

    Raises:
        ModelLoadError: the graph has an operation that ONNX lacks, or is too large.
    """
    assert isinstance(model, KerasModel), "only Keras has a graph to write"
    logging.getLogger("tf2onnx").setLevel(logging.CRITICAL)
    try:
        frozen = _frozen(model)
        graph, _ = tf2onnx.convert.from_graph_def(
            frozen.graph.as_graph_def(add_shapes=True),
            input_names=[frozen.inputs[0].name],
            output_names=[frozen.outputs[0].name],
            tensors_to_rename={
                frozen.inputs[0].name: "images",
                frozen.outputs[0].name: "probabilities",
            },
            opset=_OPSET,
        )
        # What tf2onnx has no translation for it passes on as it is, and says so to its log only.
        onnx.checker.check_model(graph)
        onnx.helper.set_model_props(graph, {VERSION_KEY: model.version})
        onnx.save(graph, path)
    except Exception as error:  # what it raises depends on the layer at which it stumbles
        raise ModelLoadError(
            f"{model.name} cannot be written as ONNX ({first_line(error)}): serve it with "
            "MODEL_RUNTIME=keras"
        ) from error


def _frozen(model: KerasModel) -> Any:
    """Trace the model for any batch size, its weights and other tensors as constants.

    tf2onnx freezes variables by itself, but makes inputs of other tensors, such as the mean that a
    Normalization layer subtracts.
    """
    network = model.network
    call = tf.function(
        lambda images: network(images, training=False),
        input_signature=[tf.TensorSpec((None, *model.input_size, 3), tf.uint8, name="images")],
        autograph=False,
    )
    return convert_variables_to_constants_v2(call.get_concrete_function())
