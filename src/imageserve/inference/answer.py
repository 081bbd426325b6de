"""What answers become: tensors. Pure."""

import struct
from array import array
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Protocol

from imageserve.errors import Busy, RequestError
from imageserve.inference.contract import BYTES, FP32
from imageserve.inference.request import AskedOutput, InferRequest
from imageserve.predictions import FLOAT_BYTES, PIECE, Prediction, floats

Pause = Callable[[], None]
"""Is called after each `PIECE` of what is long."""


class Answered(Protocol):
    """One picture's answer; see ``imageserve.web.predict.Answer``."""

    @property
    def predictions(self) -> tuple[Prediction, ...]: ...

    @property
    def vector(self) -> bytes: ...


def _no_pause() -> None:
    """Nobody waits meanwhile."""


@dataclass(frozen=True, slots=True)
class OutputTensor:
    """One output of an answer."""

    name: str
    datatype: str
    shape: tuple[int, int]
    elements: tuple[bytes, ...] = ()
    """Of a BYTES tensor."""
    data: bytes = b""
    """Of an FP32 tensor: its numbers, little-endian, row by row."""

    def raw(self, pause: Pause = _no_pause) -> bytes:
        """Return its contents as bytes."""
        if self.datatype != BYTES:
            return self.data
        parts: list[bytes] = []
        for start in range(0, len(self.elements), PIECE):
            piece = self.elements[start : start + PIECE]
            parts.append(b"".join(struct.pack("<I", len(each)) + each for each in piece))
            pause()
        return b"".join(parts)

    @property
    def numbers(self) -> "array[float]":
        """The numbers of an FP32 tensor."""
        return floats(self.data)


def output_tensors(
    request: InferRequest, answers: Sequence[Answered], pause: Pause = _no_pause
) -> list[OutputTensor]:
    """Return the outputs that a request asks for, a row for each picture.

    Raises Busy where the rows differ in length: two versions of the model have answered.
    """
    return [_output(asked, answers, pause) for asked in request.outputs]


def _output(asked: AskedOutput, answers: Sequence[Answered], pause: Pause) -> OutputTensor:
    if asked.classes:
        rows = [_classes(answer, asked.classes, pause) for answer in answers]
        _check_even([len(row) for row in rows])
        elements = tuple(chain.from_iterable(rows))
        return OutputTensor(asked.name, BYTES, (len(rows), len(rows[0])), elements)
    vectors = [answer.vector for answer in answers]
    _check_even([len(vector) for vector in vectors])
    shape = len(vectors), len(vectors[0]) // FLOAT_BYTES
    return OutputTensor(asked.name, FP32, shape, data=b"".join(vectors))


def _classes(answer: Answered, most: int, pause: Pause) -> list[bytes]:
    """Return ``value:index:label`` of the likeliest labels, best first."""
    asked, texts = answer.predictions[:most], []
    for start in range(0, len(asked), PIECE):
        piece = asked[start : start + PIECE]
        texts += [f"{each.probability}:{each.index}:{each.label}".encode() for each in piece]
        pause()
    return texts


def _check_even(lengths: Sequence[int]) -> None:
    if len(set(lengths)) > 1:
        raise Busy("the model is being changed; send the request again", retry_after_s=1)


def error_of(answers: Sequence[object]) -> RequestError | None:
    """Return the error of a request: the protocol knows none of single pictures.

    The server's own (5xx) goes first: then the request is worth sending again. Of several pictures
    the message says which one it is, counted from 0. None where all pictures have answers.
    """
    errors = [(i, each) for i, each in enumerate(answers) if isinstance(each, RequestError)]
    if not errors:
        return None
    index, error = next((each for each in errors if each[1].status >= 500), errors[0])
    if len(answers) > 1:
        error.message = f"picture {index}: {error.message}"
    return error
