"""Small ONNX classifiers, written by hand: good ones, and ones with a fault."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

LABELS = ["circle", "square", "cross"]


def write_onnx(
    path: Path,
    *,
    shape: tuple[int | str, ...] = ("n", 8, 8, 3),
    type_: int = TensorProto.UINT8,
    classes: int = 3,
    softmax: bool = True,
    weight: float = 0.05,
    twice: bool = False,
    head: str | None = None,
    answer: int = TensorProto.FLOAT,
    opset: int = 17,
    ir_version: int = 9,
    beside: str | None = None,
    weights_are_inputs: bool = False,
    apart: bool = False,
) -> Path:
    """Write a classifier that averages each colour and tells them apart by a seeded matrix.

    ``head`` is its last operation, ``answer`` the type of its numbers, and ``beside`` the file that
    holds its weights; ``apart`` leaves rows and columns of length 1 behind the classes. With a
    number as the first side it really takes only that many pictures.
    """
    colours_first = len(shape) == 4 and shape[1] in (1, 3, 4) and shape[3] not in (1, 3, 4)
    colours = int(shape[1] if colours_first else shape[-1])
    kernel = kernel_of(colours, classes, weight)
    rows = shape[0] if isinstance(shape[0], int) else -1
    weights = [helper.make_tensor_value_info("kernel", TensorProto.FLOAT, kernel.shape)]
    nodes = [
        helper.make_node("Cast", ["images"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node(
            "ReduceMean",
            ["numbers"],
            ["mean"],
            axes=[2, 3] if colours_first else [1, 2],
            keepdims=0,
        ),
        helper.make_node("Constant", [], ["rows"], value_ints=[rows, colours]),
        helper.make_node("Reshape", ["mean", "rows"], ["means"]),
        helper.make_node("MatMul", ["means", "kernel"], ["logits"]),
        helper.make_node(head or ("Softmax" if softmax else "Identity"), ["logits"], ["scores"]),
        helper.make_node("Cast", ["scores"], ["probabilities"], to=answer),
    ]
    if apart:
        nodes[-1].input[0] = "columns"
        nodes.insert(-1, helper.make_node("Unsqueeze", ["scores", "sides"], ["columns"]))
    outputs = ["probabilities", "logits"] if twice else ["probabilities"]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [
            *(weights if weights_are_inputs else []),
            helper.make_tensor_value_info("images", type_, shape),
        ],
        [
            helper.make_tensor_value_info(
                name,
                TensorProto.FLOAT if name == "logits" else answer,
                [shape[0], classes, 1, 1] if apart else [shape[0], classes],
            )
            for name in outputs
        ],
        [
            numpy_helper.from_array(kernel, "kernel"),
            *([numpy_helper.from_array(np.array([2, 3]), "sides")] if apart else []),
        ],
    )
    return save(path, graph, opset, ir_version, beside)


def kernel_of(colours: int = 3, classes: int = 3, weight: float = 0.05) -> Any:
    normal = np.random.default_rng(4).normal(0, weight, (colours, classes))
    return normal.astype(np.float32)


def softmax_of_means(numbers: Any, weight: float = 0.05, classes: int = 3) -> Any:
    """Return what `write_onnx` answers to numbers of shape (n, height, width, colours)."""
    means = np.asarray(numbers, np.float64).mean(axis=(1, 2))
    raised = np.exp(means @ kernel_of(means.shape[1], classes, weight))
    return raised / raised.sum(axis=1, keepdims=True)


def write_too_deep(path: Path) -> Path:
    """Write one that keeps the rows and columns of the picture in its answer."""
    graph = helper.make_graph(
        [helper.make_node("Cast", ["images"], ["answers"], to=TensorProto.FLOAT)],
        "deep",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, ["n", 8, 8, 3])],
        [helper.make_tensor_value_info("answers", TensorProto.FLOAT, ["n", 8, 8, 3])],
    )
    return save(path, graph)


def save(
    path: Path, graph: Any, opset: int = 17, ir_version: int = 9, beside: str | None = None
) -> Path:
    imports = [helper.make_opsetid("", opset)]
    model = helper.make_model(graph, opset_imports=imports, ir_version=ir_version)
    if beside is None:
        onnx.save(model, path)
        return path
    for tensor in model.graph.initializer:
        content = tensor.raw_data
        onnx.external_data_helper.set_external_data(tensor, beside, 0, len(content))
        tensor.ClearField("raw_data")
        (path.parent / beside).write_bytes(content)
    path.write_bytes(model.SerializeToString())
    return path


def write_labels(path: Path, labels: list[str] | None = None) -> str:
    path.write_text("\n".join(LABELS if labels is None else labels))
    return str(path)
