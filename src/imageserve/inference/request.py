"""What a request asks for: pictures, outputs, time and priority. Pure.

A wire gives tensors, with its own way to write their contents; all that is checked of them is
checked here. Every function raises a RequestError whose sentence says what is allowed.
"""

import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain, islice
from typing import Any

from imageserve.errors import BadParameter, NoImage, TooManyImages, told
from imageserve.inference.contract import (
    BYTES,
    IMAGE,
    INPUTS,
    OUTPUTS,
    PIXELS,
    PROBABILITIES,
    UINT8,
)
from imageserve.predictions import EMBEDDING, LABELS, SCORES
from imageserve.preparation import Pixels

LENGTH_BYTES = 4
"""Before each element of a BYTES tensor stands its length: a whole number, little-endian."""

MOST_SIDES = 4
"""Of a tensor: what is nested more deeply is none."""

MOST_SIDE = 2**63
"""Sides of a tensor are shorter: they have 63 bits in gRPC. Of longer ones Python would refuse to
print the product."""

MOST_TENSORS = 16
"""Inputs, and outputs, of a request: more than there are, so that its answer names these."""

MOST_VALUES = 2**19
"""Most numbers of a request that come one by one, in JSON say: to read them takes a tenth of a
second of processor. Bytes have no such limit."""

MOST_ID = 1024
"""Characters of a request's own id, which its answer repeats."""

MOST_CLASSES = 100_000
"""What ``classification`` may ask for; no model has as many labels."""

Parameters = Mapping[str, Any]

_DATATYPES = {IMAGE: BYTES, PIXELS: UINT8}


@dataclass(frozen=True, slots=True)
class InputTensor:
    """One input of a request, decoded from its wire."""

    name: str
    datatype: str
    shape: tuple[int, ...]
    elements: Iterable[bytes] = ()
    """Of a BYTES tensor. They are taken one by one, and no more than its shape says: there may be
    millions of empty ones."""
    data: bytes = b""
    """Of any other one: its numbers, little-endian, row by row."""


@dataclass(frozen=True, slots=True)
class AskedOutput:
    """One output that a request asks for."""

    name: str
    classes: int = 0
    """By the extension "classification": so many of the likeliest labels. 0: the numbers."""


@dataclass(frozen=True, slots=True)
class InferRequest:
    """What one request asks for, checked."""

    id: str
    """Of the client's own; "" where it has none."""
    pictures: tuple[bytes, ...] | tuple[Pixels, ...]
    outputs: tuple[AskedOutput, ...]
    timeout_s: float | None = None
    """The answer must be there within this time; None where the request does not say it."""
    is_background: bool = False
    """Whether others go first."""

    @property
    def want(self) -> str:
        """What its jobs are asked for: `LABELS`, or one of `VECTORS`."""
        vectors = [OUTPUTS[each.name] for each in self.outputs if not each.classes]
        return vectors[0] if vectors else LABELS

    @property
    def classes(self) -> int:
        """So many labels with the numbers of their classes are asked for; 0: none."""
        return max(each.classes for each in self.outputs)


def infer_request(
    its_id: str,
    inputs: Sequence[InputTensor],
    outputs: Sequence[AskedOutput],
    parameters: Parameters,
    most_pictures: int,
) -> InferRequest:
    """Return the request of these tensors and parameters."""
    if len(its_id) > MOST_ID:
        raise BadParameter(f"the id of a request may have at most {MOST_ID} characters")
    _check_stateless(parameters)
    pictures = _pictures(inputs, most_pictures)
    timeout_s, is_background = _timeout_s(parameters), _is_background(parameters)
    return InferRequest(its_id, pictures, _checked(outputs), timeout_s, is_background)


def check_tensors(what: str, count: int) -> None:
    """Refuse more inputs or outputs than can make sense, before any of them is looked at."""
    if count > MOST_TENSORS:
        raise BadParameter(f"a request may have at most {MOST_TENSORS} {what}")


def check_values(count: int) -> None:
    """Refuse more single numbers than can be read in a moment."""
    if count > MOST_VALUES:
        raise BadParameter(
            f"at most {MOST_VALUES} numbers may come one by one: send tensors as bytes"
        )


def check_tensor(name: str, parameters: Parameters) -> None:
    """Refuse what a client asks to be done with the memory of this machine."""
    if any(key.startswith("shared_memory") for key in parameters):
        raise BadParameter(
            f"shared memory is not served: send the contents of {told(name, 40)} in the request"
        )


# -- contents -------------------------------------------------------------------------------------


def from_raw(name: str, datatype: str, shape: tuple[int, ...], raw: bytes) -> InputTensor:
    """Return a tensor from its contents as bytes.

    A single file may come without its length before it: none begins with the number of its own
    bytes.
    """
    if datatype != BYTES:
        return InputTensor(name, datatype, shape, data=raw)
    if shape in ((1,), (1, 1)) and not _is_prefixed(raw):
        return InputTensor(name, datatype, shape, (raw,))
    return InputTensor(name, datatype, shape, _elements(name, raw))


def _is_prefixed(raw: bytes) -> bool:
    return raw[:LENGTH_BYTES] == struct.pack("<I", max(0, len(raw) - LENGTH_BYTES))


def _elements(name: str, raw: bytes) -> Iterator[bytes]:
    start = 0
    while start < len(raw):
        begin = start + LENGTH_BYTES
        end = begin + int.from_bytes(raw[start:begin], "little")
        if begin > len(raw) or end > len(raw):
            raise BadParameter(
                f"the contents of {told(name, 40)} end within an element: before each must stand "
                f"its length, {LENGTH_BYTES} bytes, little-endian"
            )
        yield raw[begin:end]
        start = end


def from_values(
    name: str, datatype: str, shape: tuple[int, ...], values: Any, read: Callable[[Any], bytes]
) -> InputTensor:
    """Return a tensor from its contents as JSON has them, flat or nested.

    ``read`` returns the file that a value is the base64 of; it may raise ValueError and TypeError.
    """
    flat = _flat(values)
    if datatype == BYTES:
        return InputTensor(name, datatype, shape, (_file(each, read) for each in flat))
    if datatype != UINT8:
        return InputTensor(name, datatype, shape)  # It will be refused.
    return InputTensor(name, datatype, shape, data=octets(name, flat))


def octets(name: str, numbers: Iterable[Any]) -> bytes:
    """Return the contents of a UINT8 tensor from its numbers."""
    try:
        return bytes(numbers)
    except (TypeError, ValueError) as error:
        message = f"the values of {told(name, 40)} must be whole numbers from 0 to 255"
        raise BadParameter(message) from error


def _flat(values: Any) -> list[Any]:
    flat: list[Any] = values if isinstance(values, list) else [values]
    for _ in range(MOST_SIDES):
        if not any(isinstance(each, list) for each in flat):
            break
        flat = list(chain.from_iterable(x if isinstance(x, list) else [x] for x in flat))
    return flat


def _file(value: Any, read: Callable[[Any], bytes]) -> bytes:
    try:
        return read(value)
    except (TypeError, ValueError) as error:
        raise BadParameter(
            "in JSON a picture is the base64 of its file; or send its bytes after the JSON, with "
            "the parameter binary_data_size and the header Inference-Header-Content-Length"
        ) from error


# -- checks ---------------------------------------------------------------------------------------


def _pictures(inputs: Sequence[InputTensor], most: int) -> tuple[bytes, ...] | tuple[Pixels, ...]:
    for each in inputs:
        if each.name not in INPUTS:
            known = ", ".join(INPUTS)
            raise BadParameter(f"there is no input {told(each.name, 40)}; the inputs are {known}")
    if len(inputs) != 1:
        raise BadParameter(f"a request has one input, which is {' or '.join(INPUTS)}")
    tensor = inputs[0]
    if tensor.datatype != _DATATYPES[tensor.name]:
        raise BadParameter(
            f"the datatype of {tensor.name} is {_DATATYPES[tensor.name]}, "
            f"not {told(tensor.datatype, 20)}"
        )
    is_shape = 1 <= len(tensor.shape) <= MOST_SIDES
    if not is_shape or not all(0 <= side < MOST_SIDE for side in tensor.shape):
        raise _wrong_shape(tensor)
    count = tensor.shape[0]
    if count > most:
        raise TooManyImages(f"at most {most} pictures may be sent at once")
    if count == 0:
        raise NoImage(f"the shape of {tensor.name} says that there is no picture")
    return _contents(tensor, count)


def _contents(tensor: InputTensor, count: int) -> tuple[bytes, ...] | tuple[Pixels, ...]:
    if tensor.name == IMAGE:
        if tensor.shape not in ((count,), (count, 1)):
            raise _wrong_shape(tensor)
        files = tuple(islice(tensor.elements, count + 1))
        if len(files) != count:
            found = "more" if len(files) > count else len(files)
            raise _wrong_count(tensor, count, found, "files")
        return files
    if len(tensor.shape) != 4:
        raise _wrong_shape(tensor)
    _, height, width, colours = tensor.shape
    each = height * width * colours
    if len(tensor.data) != count * each:
        raise _wrong_count(tensor, count * each, len(tensor.data), "bytes")
    sides, data = (height, width, colours), tensor.data
    return tuple(Pixels(sides, data[i * each : (i + 1) * each]) for i in range(count))


def _wrong_shape(tensor: InputTensor) -> BadParameter:
    right = "[n, 1]" if tensor.name == IMAGE else "[n, height, width, colours]"
    shape = told(str(list(tensor.shape[: MOST_SIDES + 1])), 60)
    return BadParameter(f"the shape of {tensor.name} is {right} for n pictures, not {shape}")


def _wrong_count(tensor: InputTensor, expected: int, found: int | str, what: str) -> BadParameter:
    return BadParameter(
        f"the shape of {tensor.name} says {expected} {what}, and its contents have {found}"
    )


def _checked(outputs: Sequence[AskedOutput]) -> tuple[AskedOutput, ...]:
    names = [each.name for each in outputs]
    for each in outputs:
        if each.name not in OUTPUTS:
            known = ", ".join(OUTPUTS)
            raise BadParameter(f"there is no output {told(each.name, 40)}; the outputs are {known}")
        if each.classes and each.name == EMBEDDING:
            raise BadParameter(f"classification is for {PROBABILITIES}: an embedding has no labels")
    if len(set(names)) < len(names):
        raise BadParameter("an output is asked for twice")
    vectors = {OUTPUTS[each.name] for each in outputs if not each.classes}
    if {SCORES, EMBEDDING} <= vectors:
        raise BadParameter(
            f"{PROBABILITIES} and {EMBEDDING} come in two requests, or {PROBABILITIES} with the "
            "parameter classification"
        )
    return tuple(outputs) or (AskedOutput(PROBABILITIES),)


# -- parameters -----------------------------------------------------------------------------------


def checked_classes(value: Any) -> int:
    """Read the parameter ``classification`` of an output; None: it has none."""
    if value is None:
        return 0
    if type(value) is not int or not 0 <= value <= MOST_CLASSES:
        raise BadParameter(
            f"classification is the number of labels, from 0 to {MOST_CLASSES}; "
            "0 asks for the numbers"
        )
    return value


def _check_stateless(parameters: Parameters) -> None:
    for name in ("sequence_id", "sequence_start", "sequence_end"):
        if parameters.get(name):
            raise BadParameter(f"{name}: there are no sequences, each request stands alone")


def _timeout_s(parameters: Parameters) -> float | None:
    """Read the microseconds of ``timeout``; 0 stands for none."""
    value = parameters.get("timeout", 0)
    if type(value) is not int or value < 0:
        raise BadParameter("timeout must be a whole number of microseconds, 0 for none")
    return min(value, 2**53) / 1e6 if value else None


def _is_background(parameters: Parameters) -> bool:
    """Read ``priority``: 1 is the highest, and 0 the usual one, which is the same here."""
    value = parameters.get("priority", 0)
    if type(value) is not int or value < 0:
        raise BadParameter(
            "priority must be a whole number: 0 or 1 for interactive, 2 and more for background"
        )
    return value > 1
