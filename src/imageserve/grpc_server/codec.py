"""Between the messages of gRPC and what they ask for: contents, parameters, tensors."""

from collections.abc import Mapping, Sequence
from typing import Any

from imageserve.errors import BadParameter, told
from imageserve.grpc_server.messages import Fields, response
from imageserve.inference.answer import OutputTensor
from imageserve.inference.contract import BYTES, UINT8
from imageserve.inference.request import (
    MOST_SIDES,
    AskedOutput,
    InferRequest,
    InputTensor,
    check_tensor,
    check_tensors,
    check_values,
    checked_classes,
    from_raw,
    infer_request,
    octets,
)


def read_request(message: Fields, most_pictures: int) -> InferRequest:
    """Return what a ModelInferRequest asks for. Raises a RequestError."""
    check_tensors("inputs", len(message.inputs))
    check_tensors("outputs", len(message.outputs))
    inputs, outputs = _inputs(message), [_output(each) for each in message.outputs]
    return infer_request(
        message.id, inputs, outputs, _parameters(message.parameters), most_pictures
    )


def _parameters(fields: Mapping[str, Fields]) -> dict[str, Any]:
    chosen = {name: each.WhichOneof("parameter_choice") for name, each in fields.items()}
    return {name: getattr(fields[name], kind) for name, kind in chosen.items() if kind}


def _output(fields: Fields) -> AskedOutput:
    parameters = _parameters(fields.parameters)
    check_tensor(fields.name, parameters)
    return AskedOutput(fields.name, checked_classes(parameters.get("classification")))


def _inputs(message: Fields) -> list[InputTensor]:
    raw: Sequence[bytes] = message.raw_input_contents
    if raw and len(raw) != len(message.inputs):
        raise BadParameter(
            f"raw_input_contents has {len(raw)} entries for {len(message.inputs)} inputs"
        )
    return [_input(each, raw[i] if raw else None) for i, each in enumerate(message.inputs)]


def _input(fields: Fields, raw: bytes | None) -> InputTensor:
    name, datatype = fields.name, fields.datatype
    shape = tuple(fields.shape[: MOST_SIDES + 1])  # More is none, and there may be millions.
    check_tensor(name, _parameters(fields.parameters))
    if raw is not None:
        if fields.HasField("contents"):
            raise BadParameter(f"{told(name, 40)} has both contents and raw_input_contents")
        return from_raw(name, datatype, shape, raw)
    if datatype == BYTES:
        return InputTensor(name, datatype, shape, fields.contents.bytes_contents)
    if datatype != UINT8:
        return InputTensor(name, datatype, shape)  # It will be refused.
    check_values(len(fields.contents.uint_contents))
    return InputTensor(name, datatype, shape, data=octets(name, fields.contents.uint_contents))


def write_response(
    message: Fields, model: str, version: str, tensors: Sequence[OutputTensor]
) -> Fields:
    """Return the ModelInferResponse to a request; its contents are raw where the request's are."""
    is_raw = bool(message.raw_input_contents)
    written = response("ModelInfer", model_name=model, model_version=version, id=message.id)
    for tensor in tensors:
        fields = written.outputs.add(name=tensor.name, datatype=tensor.datatype, shape=tensor.shape)
        if is_raw:
            written.raw_output_contents.append(tensor.raw())
        elif tensor.datatype == BYTES:
            fields.contents.bytes_contents.extend(tensor.elements)
        else:
            fields.contents.fp32_contents.extend(tensor.numbers)
    return written
