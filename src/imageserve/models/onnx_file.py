"""What an ``.onnx`` file says about itself: versions, input, head, and files beside it.

Read without ONNX Runtime, so a web process can ask too, and so can a message about a file that
ONNX Runtime cannot load.
"""

import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imageserve.errors import ModelLoadError
from imageserve.models.files import file_errors
from imageserve.models.foreign import foreign
from imageserve.models.heads import LOGITS, OTHER, SIGMOID, SOFTMAX
from imageserve.models.protobuf import BadMessage, Message

Shape = tuple[int | None, ...]

VERSION_KEY = "imageserve.version"
"""The property of a file that imageserve wrote: the version of its source."""

_RIGHT_POOLS = 19
"""The first opset whose AveragePool with ``ceil_mode`` ONNX Runtime computes as it is meant."""

USUAL_OPSET, USUAL_IR = 17, 8
"""Of 2022: the first opset with LayerNormalization, which ConvNeXt uses."""

# Numbers of fields in onnx.proto.
_MODEL_IR, _MODEL_PRODUCER, _MODEL_GRAPH, _MODEL_OPSET, _MODEL_FUNCTION = 1, 2, 7, 8, 25
_MODEL_PROPERTY = 14
_GRAPH_NODE, _GRAPH_TENSOR, _GRAPH_INPUT, _GRAPH_OUTPUT, _GRAPH_SPARSE = 1, 5, 11, 12, 15
_NODE_INPUT, _NODE_OUTPUT, _NODE_TYPE, _NODE_ATTRIBUTE, _FUNCTION_NODE = 1, 2, 4, 5, 7
_ATTRIBUTE_NUMBER, _ATTRIBUTE_NUMBERS = 3, 8
_ATTRIBUTE_TENSORS, _ATTRIBUTE_GRAPHS, _ATTRIBUTE_SPARSE = (5, 10), (6, 11), (22, 23)
_TENSOR_NAME, _TENSOR_EXTERNAL = 8, 13
_NODE_DOMAIN, _FUNCTION_DOMAIN = 7, 10
_DOMAINS = frozenset(("", "ai.onnx", "ai.onnx.ml", "com.microsoft", "com.microsoft.nchwc"))

_PASSING_ON = ("Identity", "Cast", "Flatten", "Reshape", "Squeeze")
_MOVING = ("Identity", "Cast", "Transpose", "Pad", "Resize", "QuantizeLinear", "DequantizeLinear")
"""What leaves the values of pixels as they are, or only stores them otherwise."""
_ARITHMETIC = ("Mul", "Div", "Sub", "Add")
_HEADS = {
    "Softmax": SOFTMAX,
    "Sigmoid": SIGMOID,
    "HardSigmoid": SIGMOID,
    **dict.fromkeys(("MatMul", "Gemm", "Add", "Conv", "LogSoftmax", "GlobalAveragePool"), LOGITS),
}


_TYPES = {
    **{1: "float32", 10: "float16", 11: "float64", 16: "bfloat16"},
    **{2: "uint8", 3: "int8", 4: "uint16", 5: "int16", 6: "int32", 7: "int64"},
    **{8: "string", 9: "bool"},
}
"""How a file says what a tensor holds -> the name that NumPy has for it."""


@dataclass(frozen=True, slots=True)
class OnnxInput:
    """An input as a file declares it."""

    name: str
    shape: Shape
    """None for sides that are open."""
    dtype: str
    """By its name in NumPy, where it has one."""


@dataclass(frozen=True, slots=True)
class External:
    """A part of the weights that lies in another file."""

    path: Path
    end: int
    """The bytes that the file must have at least; 0 where the model leaves it open."""


@dataclass(frozen=True, slots=True)
class OnnxFile:
    """An ``.onnx`` file without its weights."""

    ir_version: int
    opset: int
    """The version of ONNX's own operators."""
    producer: str
    version: str
    """What `VERSION_KEY` says; "" in a file that imageserve did not write."""
    inputs: tuple[OnnxInput, ...]
    """Without those that have a value in the file."""
    outputs: tuple[str, ...]
    heads: tuple[str, ...]
    """What makes each output, one of `heads`."""
    scales: bool
    """Whether the graph begins with arithmetic on its pixels."""
    widest_pool: int
    """The widest average that may reach over the edge, which before opset 19 ONNX Runtime divides
    by all of its width; 0 where there is none."""
    external: tuple[External, ...]
    custom: tuple[str, ...]
    """The operations that neither ONNX nor ONNX Runtime defines, nor the file itself."""

    @property
    def head(self) -> str:
        """What makes the first output, one of `heads`."""
        return self.heads[0] if self.heads else OTHER


def read_onnx(path: Path) -> OnnxFile | None:
    """Read a file; None where it is no ONNX. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        return _read(Message.of_file(descriptor), path.parent)
    except (BadMessage, RecursionError):
        return None
    finally:
        os.close(descriptor)


def check_beside(path: Path, file: OnnxFile | None) -> None:
    """Raise ModelLoadError unless the files beside a model are there and long enough."""
    for part in file.external if file else ():
        name = foreign(part.path.name, 100)
        with file_errors(part.path):
            length = part.path.stat().st_size if part.path.exists() else None
        if length is None:
            raise ModelLoadError(
                f"{path} has weights in {name}, which is not beside it: copy that file there too"
            )
        if length < part.end:
            raise ModelLoadError(
                f"{part.path.with_name(name)} is cut short: {path.name} needs {part.end} bytes of "
                f"it, and there are {length}; copy it anew"
            )


def weights_elsewhere(path: Path, file: OnnxFile) -> str | None:
    """Say what to do about weights outside the model's folder, where ONNX Runtime does not look."""
    folder = path.parent.resolve()
    for part in file.external:
        if part.path.resolve().is_relative_to(folder):
            continue
        name = foreign(os.path.relpath(part.path, path.parent), 100)
        if part.path.is_symlink() and part.path.parent == path.parent:
            return f"{name} beside it is a link out of its folder; copy the file itself (cp -L)"
        return f"its weights are outside its folder, in {name}; export it anew, with them beside it"
    return None


def external_files(path: Path) -> list[Path]:
    """Return the files beside a model that hold weights; none where it is no ONNX.

    Raises OSError.
    """
    found = read_onnx(path)
    return list(dict.fromkeys(part.path for part in found.external)) if found else []


def _read(model: Message, folder: Path) -> OnnxFile:
    graph = next(model.parts(_MODEL_GRAPH), None)
    if graph is None:
        raise BadMessage("no graph")
    # Before IR version 4 the weights were inputs as well.
    weights = {tensor.text(_TENSOR_NAME) for tensor in graph.parts(_GRAPH_TENSOR)}
    inputs = [each for each in graph.parts(_GRAPH_INPUT) if each.text(1) not in weights]
    outputs = tuple(each.text(1) for each in graph.parts(_GRAPH_OUTPUT))
    opsets = {each.text(1): each.number(2) for each in model.parts(_MODEL_OPSET)}
    opset = opsets.get("", 0) or opsets.get("ai.onnx", 0)
    tensors = _tensors(graph, _GRAPH_NODE)
    for function in model.parts(_MODEL_FUNCTION):
        tensors = _chain(tensors, _tensors(function, _FUNCTION_NODE))
    return OnnxFile(
        ir_version=model.number(_MODEL_IR),
        opset=opset,
        producer=model.text(_MODEL_PRODUCER),
        version=_properties(model).get(VERSION_KEY, ""),
        inputs=tuple(_input(each) for each in inputs),
        outputs=outputs,
        heads=tuple(_head(graph, output) for output in outputs),
        scales=any(_scales(graph, each.text(1)) for each in inputs),
        widest_pool=_widest_pool(graph) if opset < _RIGHT_POOLS else 0,
        external=tuple(_external(tensors, folder)),
        custom=_custom(model, graph),
    )


def _custom(model: Message, graph: Message) -> tuple[str, ...]:
    known = {each.text(_FUNCTION_DOMAIN) for each in model.parts(_MODEL_FUNCTION)} | _DOMAINS
    nodes = ((each.text(_NODE_DOMAIN), each.text(_NODE_TYPE)) for each in graph.parts(_GRAPH_NODE))
    return tuple(dict.fromkeys(f"{domain}.{kind}" for domain, kind in nodes if domain not in known))


def _chain(*parts: Iterator[Message]) -> Iterator[Message]:
    for part in parts:
        yield from part


def _properties(model: Message) -> dict[str, str]:
    return {each.text(1): each.text(2) for each in model.parts(_MODEL_PROPERTY)}


def _input(value: Message) -> OnnxInput:
    name = value.text(1)
    for type_ in value.parts(2):
        for tensor in type_.parts(1):
            number = tensor.number(1)
            dtype = _TYPES.get(number, f"{number} of ONNX")
            for shape in tensor.parts(2):
                sides = tuple(side.number(1) for side in shape.parts(1))
                return OnnxInput(name, tuple(n if 0 < n < 2**31 else None for n in sides), dtype)
            return OnnxInput(name, (), dtype)
    return OnnxInput(name, (), "no tensor")


def _head(graph: Message, output: str) -> str:
    """Follow an output back to the operation that makes its numbers."""
    makers = {}
    for node in graph.parts(_GRAPH_NODE):
        for made in node.parts(_NODE_OUTPUT):
            makers[made.content()] = node
    for _ in range(len(makers)):
        if output not in makers:
            break
        kind = makers[output].text(_NODE_TYPE)
        if kind not in _PASSING_ON:
            return _HEADS.get(kind, OTHER)
        output = next((each.content() for each in makers[output].parts(_NODE_INPUT)), "")
    return OTHER


def _scales(graph: Message, tensor: str) -> bool:
    """Follow an input to the first operation that changes its values."""
    takers: dict[str, Message] = {}
    for node in graph.parts(_GRAPH_NODE):
        for taken in node.parts(_NODE_INPUT):
            takers.setdefault(taken.content(), node)
    for _ in range(len(takers)):
        if tensor not in takers or takers[tensor].text(_NODE_TYPE) not in _MOVING:
            break
        tensor = next((each.content() for each in takers[tensor].parts(_NODE_OUTPUT)), "")
    return tensor in takers and takers[tensor].text(_NODE_TYPE) in _ARITHMETIC


def _widest_pool(graph: Message) -> int:
    widest = 0
    for node in graph.parts(_GRAPH_NODE):
        if node.text(_NODE_TYPE) == "AveragePool":
            said = {each.text(1): each for each in node.parts(_NODE_ATTRIBUTE)}
            if "ceil_mode" in said and said["ceil_mode"].number(_ATTRIBUTE_NUMBER):
                widest = max(widest, said["kernel_shape"].number(_ATTRIBUTE_NUMBERS))
    return widest


def _tensors(holder: Message, nodes: int) -> Iterator[Message]:
    """Yield all tensors of a graph or function, those of its branches and loops included."""
    if nodes == _GRAPH_NODE:
        yield from holder.parts(_GRAPH_TENSOR)
        yield from _dense(holder, (_GRAPH_SPARSE,))
    for node in holder.parts(nodes):
        for attribute in node.parts(_NODE_ATTRIBUTE):
            for number in _ATTRIBUTE_TENSORS:
                yield from attribute.parts(number)
            yield from _dense(attribute, _ATTRIBUTE_SPARSE)
            for number in _ATTRIBUTE_GRAPHS:
                for graph in attribute.parts(number):
                    yield from _tensors(graph, _GRAPH_NODE)


def _dense(holder: Message, numbers: tuple[int, ...]) -> Iterator[Message]:
    """Yield the two tensors of each sparse one: its values and where they belong."""
    for number in numbers:
        for sparse in holder.parts(number):
            yield from sparse.parts(1)
            yield from sparse.parts(2)


def _external(tensors: Iterator[Message], folder: Path) -> Iterator[External]:
    for tensor in tensors:
        said = {pair.text(1): pair.text(2) for pair in tensor.parts(_TENSOR_EXTERNAL)}
        if (location := said.get("location", "")) and "\0" not in location:
            end = sum(
                int(n) for key in ("offset", "length") if (n := said.get(key, "")).isdecimal()
            )
            yield External(folder / location, end)
