"""The runtime Keras: a network or a saved classifier as a Model. The only door to Keras.

Loading checks everything that a wrong file or setting can break; the message says what to change.
"""

import io
import logging
import os
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imageserve.errors import ModelLoadError
from imageserve.models.answers import check_output, in_probabilities
from imageserve.models.catalog import NETWORKS, Channels, Scaling
from imageserve.models.files import check_file, content_version, read_labels
from imageserve.models.foreign import first_line, foreign
from imageserve.models.heads import LOGITS, OTHER, SIGMOID, SOFTMAX, Head
from imageserve.models.inputs import NCHW, Input, scaling_doubt, understood
from imageserve.models.keras_backends import compiled_call, prepare_backend
from imageserve.models.keras_file import no_keras_file, read_keras, remedy_for
from imageserve.models.model import (
    Pictures,
    Probabilities,
    Scores,
    ScoringModel,
    in_pieces,
)
from imageserve.models.runtimes import KERAS, Engine
from imageserve.models.source import Source, model_version

# TensorFlow reads this when it is imported; otherwise it logs its start to stderr.
os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "2")

import h5py
import keras

_PASSING_ON = ("identity", "flatten", "reshape", "dropout", "squeeze", "cast")
_HEADS = {
    "softmax": SOFTMAX,
    "sigmoid": SIGMOID,
    "hard_sigmoid": SIGMOID,
    "log_softmax": LOGITS,
    "linear": LOGITS,
    "globalaveragepooling2d": LOGITS,
    "globalmaxpooling2d": LOGITS,
}

_ARITHMETIC = ("rescaling", "normalization", "truedivide", "divide", "multiply", "subtract", "add")

_logger = logging.getLogger(__name__)

RANDOM_SEED = 20180206
"""The seed of ``weights="random"``."""

_WEIGHTS_FILES = (".h5", ".keras")
_ONE_OUTPUT = (
    "save keras.Model(model.inputs, [the output with the probabilities]), or a Sequential or "
    "functional model with one output"
)


@dataclass(eq=False)
class KerasModel(ScoringModel):
    """A classifier that Keras runs."""

    network: Any
    """Maps uint8 RGB pictures to the numbers that the file ends in, and to the embedding if any."""


def precisions() -> Sequence[str]:
    """Return the precisions that Keras can compute in, on any machine."""
    return KERAS.precisions


def load(source: Source, engine: Engine) -> KerasModel:
    """Load a model, with its scaling in front; see ``RuntimeModule.load``.

    A network of keras.applications gets the weights of the source: ``imagenet`` (downloaded once,
    kept in Keras's cache), ``random`` (the same each time, for tests) or the path of a weights file
    with as many classes as there are labels. A saved classifier has its own weights. It gets
    pictures in the type and layout that it declares, 0..255 unless its folder sets a scaling, and
    answers with numbers of shape (n, classes), of which `in_probabilities` makes probabilities.
    """
    _check_backend(engine)
    prepare_backend(engine)
    labels = read_labels(source.labels)
    network = _unscaled(source, len(labels), engine)
    taken = understood(source.name, network.inputs, source.facts, source.scaling)
    is_file = source.path is not None and source.path.is_file()
    if is_file and (doubt := scaling_doubt(taken, source.facts, scales=_scales(network))):
        _logger.warning("%s %s", source.name, doubt)
    kind, last = head_of(network)
    head = Head(source.name, kind, source.facts.activation)
    check_output(head, network.outputs, labels, _ONE_OUTPUT)
    _lower_precision(network, engine.precision)
    _raise_precision(last)
    whole = _on_pixels(source.name, _with_embedding(source, network), taken)
    shape = taken.preparation.shape
    *_, length = whole.outputs[1].shape if len(whole.outputs) > 1 else (0,)
    weights = _version(source)
    model = KerasModel(
        source.name,
        model_version(source, weights, labels),
        KERAS.name,
        taken.preparation,
        labels,
        _any_batch(compiled_call(_in_one_row(whole), (taken.batch, *shape), engine), taken.batch),
        whole,
        takes=taken,
        activation=source.facts.activation,
        embedding=source.facts.embedding,
        weights_version=source.facts.version or weights,
    )
    return in_probabilities(model, kind, length)


def save_imagenet_weights(name: str, path: Path) -> None:
    """Let Keras download the ImageNet weights of a network, and save them in a form `load` reads.

    Raises ModelLoadError where they cannot be downloaded.
    """
    _with_imagenet_weights(name).save_weights(path)


def _check_backend(engine: Engine) -> None:
    if engine.xla and engine.backend == "torch":
        raise ModelLoadError("XLA: the torch backend has none; leave it out")
    running = keras.backend.backend()
    if running != engine.backend:
        raise ModelLoadError(
            f"KERAS_BACKEND={engine.backend}: this process runs Keras on {running} already; "
            "start another one"
        )


def _unscaled(source: Source, classes: int, engine: Engine) -> Any:
    """Return the network without its scaling in front."""
    if source.path is None:
        return _with_weights(source.name, source.weights, classes)
    if source.path.is_dir():
        return _from_saved_model(source, engine)
    return _from_file(source.path)


def _version(source: Source) -> str:
    if source.path is not None:
        return content_version(source.path)
    weights = source.weights
    return weights if weights in {"imagenet", "random"} else content_version(Path(weights))


def _build(name: str, **options: Any) -> Any:
    return getattr(keras.applications, NETWORKS[name].constructor)(**options)


def _with_weights(name: str, weights: str, classes: int) -> Any:
    if weights == "random":
        keras.utils.set_random_seed(RANDOM_SEED)
        return _build(name, weights=None, classes=classes)
    if weights == "imagenet":
        return _with_imagenet_weights(name)
    return _with_weights_file(name, weights, classes)


def _with_imagenet_weights(name: str) -> Any:
    try:
        return _build(name, weights="imagenet")
    except Exception as error:  # Keras raises a bare Exception when a download fails
        raise ModelLoadError(
            f"the ImageNet weights of {name} could not be downloaded ({first_line(error)}): "
            "set the weights to the path of a weights file, or put Keras's own file, "
            f"{NETWORKS[name].cached}, into the folder models under KERAS_HOME"
        ) from error


def _with_weights_file(name: str, weights: str, classes: int) -> Any:
    if not weights.endswith(_WEIGHTS_FILES):
        raise ModelLoadError(
            f"the weights of {name} are {weights!r}: they must be imagenet, random or the path "
            "of a .weights.h5, .h5 or .keras file"
        )
    path = Path(weights)
    check_file("the weights file", path)
    try:
        network = _build(name, weights=weights, classes=classes)
        if name.startswith("efficientnet_b") and "rescaling_1" in _layers_in(path):
            _fold_second_rescaling(network)
    except Exception as error:  # Keras can raise anything for a file it does not understand
        raise ModelLoadError(
            f"{weights} does not hold the weights of {name} for {classes} labels "
            f"({first_line(error)}): save them anew with save_weights(), or name the network "
            "and the labels file that belong to it"
        ) from error
    return network


def _layers_in(path: Path) -> set[str]:
    """Return the names of the layers that a weights file has weights for."""
    if zipfile.is_zipfile(path):
        with zipfile.ZipFile(path) as archive:
            content: Any = io.BytesIO(archive.read("model.weights.h5"))
    else:
        content = path
    with h5py.File(content) as file:
        names = file.attrs.get("layer_names", ())  # in old .h5 files; new ones have groups
        old = {name.decode() if isinstance(name, bytes) else str(name) for name in names}
        return old | set(file.get("layers", ()))


def _fold_second_rescaling(network: Any) -> None:
    """Add the second scaling of EfficientNetB0 to B7, which Keras builds for ``imagenet`` only.

    With ``weights="imagenet"`` Keras divides once more by the square root of the standard
    deviation, in a layer of its own, ``rescaling_1``. With a weights file it leaves this layer out,
    even where the file was saved from a network that had it.
    """
    (layer,) = (one for one in network.layers if isinstance(one, keras.layers.Normalization))
    mean, variance, count = layer.get_weights()
    layer.set_weights([mean, variance * np.asarray((0.229, 0.224, 0.225), np.float32), count])
    layer.finalize_state()


def _from_file(path: Path) -> Any:
    check_file("the model file", path)
    # Keras reports a broken file as missing.
    if not zipfile.is_zipfile(path):
        raise ModelLoadError(no_keras_file(path))
    try:
        network = keras.saving.load_model(path, compile=False)
    except Exception as error:  # Keras can raise anything for a file it does not understand
        raise ModelLoadError(
            f"Keras {keras.__version__} cannot load {path}"
            f"{remedy_for(read_keras(path), keras.__version__, first_line(error))}"
        ) from error
    if not getattr(network, "built", True):
        raise ModelLoadError(
            f"{path} was saved before its layers had weights: put keras.Input((HEIGHT, WIDTH, 3)) "
            "in front of them, train it, and save it anew"
        )
    return network


def _from_saved_model(source: Source, engine: Engine) -> Any:
    if engine.backend != "tensorflow":
        raise ModelLoadError(
            f"{source.path} is a SavedModel, which only TensorFlow can run: set "
            "KERAS_BACKEND=tensorflow, or save the model as .keras"
        )
    if engine.precision != "float32":
        raise ModelLoadError(
            f"{source.path} is a SavedModel, a finished graph: set PRECISION=float32, or save the "
            "model as .keras"
        )
    try:
        layer = keras.layers.TFSMLayer(str(source.path), call_endpoint="serving_default")
        _, inputs = layer.call_endpoint_fn.structured_input_signature
        (spec,) = inputs.values()  # Shape and dtype of its one input.
    except Exception as error:  # Keras can raise anything for a file it does not understand
        raise ModelLoadError(
            f"Keras cannot load the SavedModel {source.path} ({first_line(error)}): save it anew "
            "with model.export(), or tf.saved_model.save() with a signature serving_default of "
            "one input"
        ) from error
    return _as_network(layer, spec)


def _as_network(layer: Any, spec: Any) -> Any:
    pixels = keras.Input(batch_shape=tuple(spec.shape), dtype=spec.dtype.name)
    answers = layer(pixels)
    # A signature answers with a dictionary, even where there is only one output.
    outputs = list(answers.values()) if isinstance(answers, dict) else [answers]
    return keras.Model(pixels, outputs[0] if len(outputs) == 1 else outputs)


def _lower_precision(network: Any, precision: str) -> None:
    """Let all layers but the last compute in fewer bits; weights and answers stay float32.

    The last layer gives probabilities, which in bfloat16 would have only two digits.
    """
    if precision == "float32":
        return
    *most, _ = _layers(network)
    for layer in most:
        if layer.dtype_policy.name == "float32":
            layer.dtype_policy = f"mixed_{precision}"


def _raise_precision(last: Sequence[Any]) -> None:
    """Let the layers that make the answers compute in float32.

    In 16 bits, probabilities have two or three digits, and do not add up to 1.
    """
    for layer in last:
        if getattr(layer, "compute_dtype", None) in ("bfloat16", "float16"):
            layer.dtype_policy = "float32"


def head_of(network: Any) -> tuple[str, list[Any]]:
    """Return what makes the numbers of the first output, and the layers from there on.

    The first is one of `heads`.
    """
    tensor, last = network.outputs[0], []
    while True:
        operation, node, index = tensor._keras_history
        if getattr(operation, "outputs", None) and hasattr(operation, "layers"):
            tensor = operation.outputs[index]  # a model inside the model
            continue
        last.append(operation)
        kind = _activation_of(operation)
        inputs = operation._inbound_nodes[node].input_tensors
        if kind not in _PASSING_ON or not inputs:
            return _HEADS.get(kind, OTHER), last
        tensor = inputs[0]


def _activation_of(operation: Any) -> str:
    """Return the name of what a layer does to its numbers last; a class's in small letters."""
    kind = type(operation).__name__.lower()
    activation = getattr(operation, "activation", None)
    name = getattr(activation, "__name__", "") or type(activation).__name__
    if kind == "activation":
        return "identity" if name == "linear" else str(name)
    return str(kind if activation is None else name)


def _scales(network: Any) -> bool:
    """Whether arithmetic on the pixels comes before the first layer that has learned something."""
    for layer in _layers(network):
        kind = type(layer).__name__.lower()
        if kind in _ARITHMETIC or layer.weights:
            return kind in _ARITHMETIC
    return False


def _layers(network: Any) -> Iterator[Any]:
    """Yield the layers in the order of the data, including layers inside other layers."""
    for layer in network.layers:
        inner = layer._flatten_layers(include_self=False)
        yield from _layers(layer) if hasattr(layer, "layers") else (*inner, layer)


def _on_pixels(name: str, network: Any, taken: Input) -> Any:
    """Put scaling and layout in front of the network: pictures reach the device as uint8."""
    pixels = keras.Input(taken.preparation.shape, batch_size=taken.batch, dtype="uint8")
    try:
        numbers = keras.ops.cast(_scaled(pixels, taken.scaling), taken.type)
        if taken.layout == NCHW:
            numbers = keras.ops.transpose(numbers, (0, 3, 1, 2))
        # A model may give its one output in a dictionary or a list.
        outputs = keras.tree.flatten(network(numbers))
        return keras.Model(pixels, outputs if len(outputs) > 1 else outputs[0])
    except ValueError as error:
        height, width = taken.preparation.size
        raise ModelLoadError(
            f"{name} cannot take pictures of {height}x{width} ({first_line(error)}): "
            "set an input size that it can"
        ) from error


def _with_embedding(source: Source, network: Any) -> Any:
    """Return the network with the layer that the facts name as a second output, as one row.

    Raises ModelLoadError where there is no such layer, or it gives no row.
    """
    name = source.facts.embedding
    if name is None:
        return network
    if source.path is not None and source.path.is_dir():
        raise ModelLoadError(
            f"{source.name} is a SavedModel, whose inner layers cannot be reached: save it as "
            ".keras, or leave embedding out of imageserve.yaml"
        )
    graph = getattr(network, "_functional", None) or network  # That of a Sequential is inside it.
    by_depth = sorted(graph._nodes_by_depth.items(), reverse=True)  # In the order of the data.
    layers = {node.operation.name: node.outputs[0] for _, nodes in by_depth for node in nodes}
    rows = {each: tensor for each, tensor in layers.items() if _is_row(tensor)}
    if name not in rows:
        what = "no layer" if name not in layers else "no vector in the layer"
        last = foreign(", ".join([*rows][:-6:-1]), 200)
        raise ModelLoadError(
            f"{source.name} has {what} {foreign(name, 80)}: set embedding in imageserve.yaml to "
            f"one that gives one vector a picture, such as {last}"
        )
    return keras.Model(network.inputs[0], [network.outputs[0], _as_row(rows[name])])


def _is_row(tensor: Any) -> bool:
    sides = [side for side in tensor.shape[1:] if side != 1]
    return len(sides) == 1 and sides[0] is not None


def _in_one_row(network: Any) -> Any:
    """Put the embedding, if there is one, behind the other numbers: all calls give one array."""
    if len(network.outputs) == 1:
        return network
    numbers, embedding = network.outputs
    in_one_row = keras.ops.concatenate([_as_row(numbers), embedding], axis=1)
    return keras.Model(network.inputs[0], in_one_row)


def _as_row(tensor: Any) -> Any:
    return keras.ops.cast(keras.ops.reshape(tensor, (-1, max(tensor.shape[1:]))), "float32")


def _any_batch(call: Scores, batch: int | None) -> Scores:
    """Let a call that takes exactly ``batch`` pictures take any number of them."""
    if batch is None:
        return call

    def scores(images: Pictures) -> Probabilities:
        answers = [call(piece) for piece in in_pieces(images, batch)]
        return np.concatenate(answers)[: len(images)]

    return scores


def _scaled(pixels: Any, scaling: Scaling) -> Any:
    """Build the scaling of pixels (n, height, width, colours)."""
    numbers = keras.ops.cast(pixels, "float32")
    if scaling.is_bgr:
        numbers = numbers[..., ::-1]
    if {*scaling.factor} != {1.0}:
        numbers = numbers * _constant(scaling.factor)
    if {*scaling.offset} != {0.0}:
        numbers = numbers + _constant(scaling.offset)
    return numbers


def _constant(channels: Channels) -> float | NDArray[np.float32]:
    """Return one number where all colours share it: ONNX Runtime broadcasts three slowly."""
    return channels[0] if len(set(channels)) == 1 else np.asarray(channels, np.float32)
