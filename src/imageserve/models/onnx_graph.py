"""Adds to the graph of an ONNX classifier what is done to pictures before it, and an output.

The only door to the package onnx. What is added runs where the graph runs, so pictures reach it as
one byte a colour. The weights are left where they are: those beside a file stay there.
"""

from collections.abc import Iterator
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
    nodes = list(_nodes(taken, old.name, old.type.tensor_type.elem_type))
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


def _nodes(taken: Input, last: str, type_: int) -> Iterator[Any]:
    """Yield the nodes from `PIXELS` to the tensor ``last`` of this type.

    Bytes are moved before they become numbers of four bytes each.
    """
    steps = list(_steps(taken, type_))
    tensors = [PIXELS, *(f"{PIXELS}.{i}" for i in range(1, len(steps))), last]
    for i, (kind, constant, attributes) in enumerate(steps):
        inputs = [tensors[i]]
        if constant is not None:
            inputs.append(f"{PIXELS}.{kind.lower()}")
            value = numpy_helper.from_array(constant)
            yield helper.make_node("Constant", [], [inputs[1]], value=value)
        yield helper.make_node(kind, inputs, [tensors[i + 1]], **attributes)


def _steps(taken: Input, type_: int) -> Iterator[tuple[str, Any, dict[str, Any]]]:
    """Yield operation, constant and attributes of each step."""
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
