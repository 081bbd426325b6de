"""Inference by the Open Inference Protocol over HTTP: JSON, with tensors in it or after it.

The header ``Inference-Header-Content-Length`` says where the JSON ends and the bytes begin. With 0
the whole body is one picture.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from typing import Any

from imageserve.errors import BadParameter, BadRequest, NotFound, RequestError, told
from imageserve.inference.answer import OutputTensor, Pause, error_of, output_tensors
from imageserve.inference.contract import BYTES, IMAGE, version_name
from imageserve.inference.request import (
    AskedOutput,
    InferRequest,
    InputTensor,
    check_tensor,
    check_tensors,
    checked_classes,
    from_raw,
    from_values,
    infer_request,
)
from imageserve.predictions import PIECE
from imageserve.queue.fields import is_text
from imageserve.web import calls
from imageserve.web.answers import MOST_IN_JSON
from imageserve.web.calls import Reply, reply_of
from imageserve.web.classify import Answers, Environ, Order
from imageserve.web.edge import infer_path
from imageserve.web.greenlets import Turn
from imageserve.web.json_body import JsonBody
from imageserve.web.options import ClassifyOptions
from imageserve.web.outcomes import Answer
from imageserve.web.parameters import INFERENCE_HEADER as LENGTH
from imageserve.web.parameters import infer_options
from imageserve.web.upload import UploadAccount, UploadLimits, UploadReader, checked

_ENVIRON = "HTTP_INFERENCE_HEADER_CONTENT_LENGTH"


class InferDoor:
    """See `Door`."""

    name = "infer"

    def __init__(self, limits: UploadLimits) -> None:
        self._limits = limits
        self._reader = UploadReader(limits)

    def options(self, environ: Environ, head: ClassifyOptions) -> ClassifyOptions:
        """Read model and version from the address."""
        found = infer_path(environ["PATH_INFO"])
        if found is None:
            raise NotFound("there is nothing at this address")
        model, version = found
        return replace(head, model=model, version=version)

    def read(self, environ: Environ, account: UploadAccount, options: ClassifyOptions) -> Order:
        """Read JSON and tensors."""
        body = self._reader.read_whole(environ, account)
        size = len(body)
        told_length = environ.get(_ENVIRON)
        # JSON is there as bytes, as a text, and as its values, until its files are decoded.
        with account.more(2 * _length(told_length, size)):
            request, as_bytes = read_request(body, told_length, self._limits, Turn().give)
        del body  # The pictures are copies of its parts.
        files = [
            _taken(each, self._limits) if isinstance(each, bytes) else each
            for each in request.pictures
        ]
        reply = partial(_reply, request=request, as_bytes=as_bytes, model=options.model or "")
        return Order(files, size, infer_options(request, options), reply)


def _taken(file: bytes, limits: UploadLimits) -> bytes:
    picture = checked(file, limits)
    if isinstance(picture, RequestError):
        raise picture
    return picture


# -- requests -------------------------------------------------------------------------------------


def read_request(
    body: bytes, header_length: str | None, limits: UploadLimits, pause: Pause
) -> tuple[InferRequest, frozenset[str]]:
    """Read the body of a request; ``pause`` is called every few milliseconds.

    Returns it, and the names of the outputs that are to come as bytes after the JSON. Raises a
    RequestError that says what is wrong with it.
    """
    length = _length(header_length, len(body))
    if length == 0 and header_length is not None:
        tensor = from_raw(IMAGE, BYTES, (1, 1), body)
        return infer_request("", [tensor], [], {}, limits.max_images), frozenset()
    try:
        read = JsonBody(body if length == len(body) else body[:length], pause)
    except ValueError as error:
        raise BadRequest(
            f"the body is no JSON object of the inference protocol ({error}); pictures as bytes "
            f"come after the JSON, whose length the header {LENGTH} says, or alone, with 0"
        ) from error
    fields = read.fields
    its_id, parameters = _text(fields, "id", ""), _parameters(fields, "the request")
    outputs = _objects(fields, "outputs", optional=True)
    request = infer_request(
        its_id,
        _inputs(_objects(fields, "inputs"), body, length, read),
        [_asked(each) for each in outputs],
        parameters,
        limits.max_images,
    )
    return request, _binary(request, outputs, parameters)


def _length(told_length: str | None, body: int) -> int:
    """Return how many bytes of the body are JSON."""
    if told_length is None:
        return body
    # The length first: Python refuses to read numbers of thousands of digits.
    is_number = len(told_length) < 20 and told_length.isascii() and told_length.isdigit()
    if not is_number or int(told_length) > body:
        raise BadParameter(
            f"{LENGTH} must be the number of bytes that are JSON, at most the {body} of the body, "
            f"not {told(told_length, 40)}"
        )
    return int(told_length)


def _inputs(
    inputs: Sequence[Mapping[str, Any]], body: bytes, start: int, read: JsonBody
) -> list[InputTensor]:
    tensors = []
    for each in inputs:
        name, datatype = _text(each, "name"), _text(each, "datatype")
        shape, parameters = _shape(each, name), _parameters(each, name)
        check_tensor(name, parameters)
        size = parameters.get("binary_data_size")
        if size is None:
            if "data" not in each:
                raise BadParameter(
                    f"the input {told(name, 40)} needs 'data', or the parameter binary_data_size "
                    "and its bytes after the JSON"
                )
            tensors.append(from_values(name, datatype, shape, each["data"], read.file))
            continue
        if each.get("data") is not None:
            raise BadParameter(
                f"the input {told(name, 40)} has both 'data' and the parameter binary_data_size: "
                "send one of them"
            )
        if type(size) is not int or not 0 <= size <= len(body) - start:
            raise BadParameter(
                f"binary_data_size of {told(name, 40)} must be the number of its bytes, at most "
                f"the {len(body) - start} that come after the JSON"
            )
        tensors.append(from_raw(name, datatype, shape, body[start : start + size]))
        start += size
    if start != len(body):
        raise BadParameter(f"{len(body) - start} bytes after the JSON belong to no input")
    return tensors


def _asked(output: Mapping[str, Any]) -> AskedOutput:
    name = _text(output, "name")
    parameters = _parameters(output, name)
    check_tensor(name, parameters)
    return AskedOutput(name, checked_classes(parameters.get("classification")))


def _binary(
    request: InferRequest, outputs: Sequence[Mapping[str, Any]], parameters: Mapping[str, Any]
) -> frozenset[str]:
    """Return the outputs that are asked for as bytes: each for itself, or all."""
    usual = parameters.get("binary_data_output") is True
    chosen = {each["name"]: _parameters(each, "").get("binary_data") for each in outputs}
    return frozenset(
        each.name
        for each in request.outputs
        if chosen.get(each.name) is True or (usual and chosen.get(each.name) is None)
    )


def _text(fields: Mapping[str, Any], name: str, default: str | None = None) -> str:
    value = fields.get(name, default)
    if not is_text(value):
        raise BadParameter(f"{name!r} must be a text")
    return str(value)


def _shape(tensor: Mapping[str, Any], name: str) -> tuple[int, ...]:
    shape = tensor.get("shape")
    if not isinstance(shape, list) or not all(type(each) is int for each in shape):
        raise BadParameter(f"'shape' of {told(name, 40)} must be a list of whole numbers")
    return tuple(shape)


def _parameters(fields: Mapping[str, Any], of: str) -> Mapping[str, Any]:
    value = fields.get("parameters", {})
    if not isinstance(value, dict):
        raise BadParameter(f"'parameters' of {told(of, 40)} must be an object")
    return value


def _objects(
    fields: Mapping[str, Any], name: str, *, optional: bool = False
) -> list[Mapping[str, Any]]:
    value = fields.get(name, [] if optional else None)
    if isinstance(value, list):
        check_tensors(name, len(value))
    if not isinstance(value, list) or not all(isinstance(each, dict) for each in value):
        raise BadParameter(f"{name!r} must be a list of objects")
    return value


# -- answers --------------------------------------------------------------------------------------


def _reply(answers: Answers, request: InferRequest, as_bytes: frozenset[str], model: str) -> Reply:
    if error := error_of(answers):
        raise error
    good = [answer for answer in answers if isinstance(answer, Answer)]
    pause = Turn().give
    tensors = output_tensors(request, good, pause)
    versions = dict.fromkeys(version_name(answer.version) for answer in good)
    head = {"model_name": model, "model_version": ", ".join(versions)}
    if request.id:
        head["id"] = request.id
    parts, raws = [f'{json.dumps(head)[:-1]}, "outputs": ['.encode()], []
    for number, tensor in enumerate(tensors):
        told_of: dict[str, Any] = {
            "name": tensor.name,
            "datatype": tensor.datatype,
            "shape": tensor.shape,
        }
        parts.append(b", " if number else b"")
        if tensor.name in as_bytes:
            raws.append(tensor.raw(pause))
            told_of["parameters"] = {"binary_data_size": len(raws[-1])}
            parts.append(json.dumps(told_of).encode())
        else:
            parts.append(f'{json.dumps(told_of)[:-1]}, "data": ['.encode())
            parts += [*_pieces(tensor, pause), b"]}"]
    parts.append(b"]}")
    if not raws:
        return reply_of(b"".join([*parts, b"\n"]), calls.JSON)
    reply = reply_of(b"".join([*parts, *raws]), calls.BYTES)
    reply.headers.append((LENGTH, str(sum(map(len, parts)))))
    return reply


def _pieces(tensor: OutputTensor, pause: Pause) -> Iterator[bytes]:
    """Yield the values of a tensor as JSON, a few milliseconds of them at a time."""
    values: Sequence[Any] = tensor.elements if tensor.datatype == BYTES else tensor.numbers
    if len(values) > MOST_IN_JSON:
        raise BadParameter(
            f"{len(values)} numbers are more than the {MOST_IN_JSON} that JSON may have: ask for "
            "bytes, by the parameter binary_data, or send fewer pictures at once"
        )
    for start in range(0, len(values), PIECE):
        piece = values[start : start + PIECE]
        shown = [each.decode() for each in piece] if tensor.datatype == BYTES else list(piece)
        yield f"{', ' if start else ''}{json.dumps(shown)[1:-1]}".encode()
        pause()
