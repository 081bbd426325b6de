"""Adds to the graph of an ONNX classifier what is done before and behind it, and an output.

Beside `export` the only door to the package onnx. What is added runs where the graph runs, so
pictures reach it as one byte a colour.
"""

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from imageserve.errors import ModelLoadError
from imageserve.models.foreign import first_line, foreign
from imageserve.models.inputs import NCHW, Input

PIXELS = "imageserve.pixels"
"""The new input: uint8 of shape (n, height, width, colours)."""

PROBABILITIES = "imageserve.probabilities"
"""The new output: float32 of shape (n, classes)."""

MOST_INSIDE = 2**31 - 2**24
"""Bytes of weights that one file can hold; of more, ONNX wants a second file."""

_ACTIVATIONS: Mapping[str, tuple[str, dict[str, int]]] = {
    "softmax": ("Softmax", {"axis": 1}),
    "sigmoid": ("Sigmoid", {}),
}

LEAST_OPSET = 7
"""From this one on (2018), operations widen their smaller input."""

_OPSET_WITHOUT_ANY = 13
"""Of ONNX's own operators, for a file that uses none of them."""


def composed(path: Path, taken: Input, embedding: str | None) -> tuple[bytes, str | None]:
    """Return a file that takes bytes, without the weights that lie beside the original.

    With it comes the name of the output that gives the ``embedding``, a tensor or node.

    Raises ModelLoadError where nothing can be added to it.
    """
    try:
        model = onnx.load(path, load_external_data=False)
        if not taken.takes_bytes:
            put_in_front(model, taken)
        inner = None if embedding is None else with_output(path, model, embedding)
        return bytes(model.SerializeToString()), inner
    except ModelLoadError:
        raise
    except Exception as error:  # protobuf and onnx have no errors in common
        raise ModelLoadError(
            f"scaling, layout or embedding of {path} cannot be put into its graph "
            f"({first_line(error)}): export it with uint8 input of shape (None, height, width, "
            "colours), and all of that inside"
        ) from error


def read(path: Path, output: str | None = None) -> Any:
    """Read a file with all its weights, as an ``onnx.ModelProto``.

    With the name of one of its outputs, the others are dropped. Raises ModelLoadError.
    """
    try:
        model = onnx.load(path)
    except Exception as error:  # protobuf and onnx have no errors in common
        raise ModelLoadError(
            f"{path} cannot be read as ONNX ({first_line(error)}): copy it anew, with the files "
            "beside it that hold its weights"
        ) from error
    if output is not None:
        kept = [each for each in model.graph.output if each.name == output]
        del model.graph.output[:]
        model.graph.output.extend(kept)
    return model


def has_16_bits(model: Any) -> bool:
    """Whether a model computes with numbers of 16 bits."""
    inputs = [each.type.tensor_type.elem_type for each in model.graph.input]
    weights = [tensor.data_type for tensor in model.graph.initializer]
    return bool({TensorProto.FLOAT16, TensorProto.BFLOAT16}.intersection([*inputs, *weights]))


def write(model: Any, path: Path, properties: Mapping[str, str]) -> None:
    """Write a model with these properties; many weights go into a second file, ``path``.data.

    Raises ModelLoadError where it is no valid ONNX, and OSError.
    """
    known = {each.key: each.value for each in model.metadata_props}
    helper.set_model_props(model, {**known, **properties})
    weights = sum(len(tensor.raw_data) for tensor in model.graph.initializer)
    beside = f"{path.name}.data"
    try:
        onnx.save(model, path, save_as_external_data=weights > MOST_INSIDE, location=beside)
    except OSError:
        raise
    except Exception as error:  # protobuf and onnx have no errors in common
        raise ModelLoadError(
            f"the graph cannot be written ({first_line(error)}): export the original anew with "
            "opset 17"
        ) from error


def put_behind(model: Any, activation: str) -> None:
    """Let a model of one output end in ``activation``: float32 of shape (n, classes)."""
    old = model.graph.output[0]
    tensor = old.type.tensor_type
    steps: list[tuple[str, Any, dict[str, Any]]] = []
    if tensor.elem_type != TensorProto.FLOAT:
        steps.append(("Cast", None, {"to": TensorProto.FLOAT}))
    sides = len(tensor.shape.dim)
    if sides != 2:
        steps.append(("Flatten", None, {"axis": 1}))
    kind, attributes = _ACTIVATIONS[activation]
    steps.append((kind, None, attributes))
    model.graph.node.extend(_chain(steps, old.name, PROBABILITIES, PROBABILITIES))
    new = helper.make_tensor_value_info(PROBABILITIES, TensorProto.FLOAT, [None, None])
    for i in range(2 if sides == 2 else min(sides, 1)):
        new.type.tensor_type.shape.dim[i].CopyFrom(tensor.shape.dim[i])
    old.CopyFrom(new)


def put_in_front(model: Any, taken: Input) -> None:
    """Let a model take uint8 pictures (n, height, width, colours), by nodes in front of its graph.

    Args:
        model: an ``onnx.ModelProto``; it is changed.
        taken: what its input takes now.

    Raises ModelLoadError where its opset is too old.
    """
    _check_opset(model)
    graph = model.graph
    weights = {tensor.name for tensor in graph.initializer}
    (place,) = (i for i, each in enumerate(graph.input) if each.name not in weights)
    old = graph.input[place]
    steps = list(_steps(taken, old.type.tensor_type.elem_type))
    nodes = list(_chain(steps, PIXELS, old.name, PIXELS))
    pixels = helper.make_tensor_value_info(
        PIXELS, TensorProto.UINT8, [None, *taken.preparation.shape]
    )
    batch = old.type.tensor_type.shape.dim[0]
    pixels.type.tensor_type.shape.dim[0].CopyFrom(batch)
    graph.input[place].CopyFrom(pixels)
    behind = list(graph.node)
    del graph.node[:]
    graph.node.extend([*nodes, *behind])


def with_output(path: Path, model: Any, name: str) -> str:
    """Make an output of the tensor of this name, or of the first one that a node of it makes.

    Returns the tensor's name. Raises ModelLoadError where there is neither.
    """
    graph = model.graph
    tensors = {made: made for node in graph.node for made in node.output}
    nodes = {node.name: node.output[0] for node in graph.node if node.name and node.output}
    found: str | None = tensors.get(name) or nodes.get(name)
    if found is None:
        near = ", ".join([*tensors][:-6:-1])
        raise ModelLoadError(
            f"{path} has no tensor or node {foreign(name, 80)}: set embedding in imageserve.yaml "
            f"to one of its graph, such as {foreign(near, 200)}"
        )
    if found not in {each.name for each in graph.output}:
        graph.output.append(onnx.ValueInfoProto(name=found))
    return found


def _check_opset(model: Any) -> None:
    versions = [each.version for each in model.opset_import if each.domain in ("", "ai.onnx")]
    if not versions:
        model.opset_import.append(helper.make_opsetid("", _OPSET_WITHOUT_ANY))
    elif max(versions) < LEAST_OPSET:
        raise ModelLoadError(
            f"the file has opset {max(versions)}, too old to put scaling and layout in front: "
            "export it anew with opset 17, or onnx.version_converter.convert_version(model, 17)"
        )


def _chain(
    steps: Sequence[tuple[str, Any, dict[str, Any]]], first: str, last: str, prefix: str
) -> Iterator[Any]:
    """Yield the nodes of these steps, from one tensor to another; new names begin with ``prefix``.

    A step is an operation, the constant that it takes as well, and its attributes.
    """
    tensors = [first, *(f"{prefix}.{i}" for i in range(1, len(steps))), last]
    for i, (kind, constant, attributes) in enumerate(steps):
        inputs = [tensors[i]]
        if constant is not None:
            inputs.append(f"{prefix}.{kind.lower()}")
            value = numpy_helper.from_array(constant)
            yield helper.make_node("Constant", [], [inputs[1]], value=value)
        yield helper.make_node(kind, inputs, [tensors[i + 1]], **attributes)


def _steps(taken: Input, type_: int) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield what is done to bytes; they are moved before they become numbers of four bytes."""
    is_first = taken.layout == NCHW
    type_now = TensorProto.UINT8
    if is_first:
        yield "Transpose", None, {"perm": [0, 3, 1, 2]}
    if taken.scaling.is_bgr:
        yield "Gather", np.asarray([2, 1, 0]), {"axis": 1 if is_first else 3}
    if taken.is_scaled:
        type_now = TensorProto.FLOAT
        yield "Cast", None, {"to": type_now}
        for kind, numbers, without in (
            ("Mul", taken.scaling.factor, 1.0),
            ("Add", taken.scaling.offset, 0.0),
        ):
            if {*numbers} != {without}:
                yield kind, _constant(numbers, is_first=is_first), {}
    if type_ != type_now:
        yield "Cast", None, {"to": type_}


def _constant(numbers: tuple[float, ...], *, is_first: bool) -> Any:
    """Return one number where all colours share it: ONNX Runtime widens several slowly."""
    if len({*numbers}) == 1:
        return np.asarray(numbers[0], np.float32)
    return np.asarray(numbers, np.float32).reshape((-1, 1, 1) if is_first else (-1,))
