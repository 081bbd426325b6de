"""The messages of the protocol; the door to protobuf."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from imageserve.errors import BadRequest, ImageserveError

SERVICE = "inference.GRPCInferenceService"
COMPILED = Path(__file__).with_name("open_inference_grpc.binpb")

Fields = Any
"""A message whose class is made at run time: no type checker knows its fields."""


class Method(NamedTuple):
    """The messages of one method of the service."""

    request: type[Message]
    response: type[Message]


@cache
def methods() -> dict[str, Method]:
    """Return the methods of the service by name.

    Raises ImageserveError where imageserve was not built, but only its sources are there.
    """
    try:
        compiled = COMPILED.read_bytes()
    except FileNotFoundError as error:
        message = (
            f"{COMPILED.name} is missing: install imageserve anew, which compiles the protocol"
        )
        raise ImageserveError(message) from error
    # A pool of its own: a client in the same process may have the same names in the common one.
    pool = DescriptorPool()
    for file in FileDescriptorSet.FromString(compiled).file:
        pool.Add(file)
    return {
        each.name: Method(GetMessageClass(each.input_type), GetMessageClass(each.output_type))
        for each in pool.FindServiceByName(SERVICE).methods
    }


def decoded(method: str, data: bytes) -> Fields:
    """Return the request of a method. Raises BadRequest where the bytes are none."""
    try:
        return methods()[method].request.FromString(data)
    except DecodeError as error:
        raise BadRequest(f"the message is no request of {method}") from error


def response(method: str, **fields: Any) -> Fields:
    """Return a new response of a method."""
    return methods()[method].response(**fields)
