"""The messages of the protocol; the door to protobuf."""

from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

from google.protobuf.descriptor import Descriptor, FieldDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.protobuf.descriptor_pool import DescriptorPool
from google.protobuf.message import DecodeError, Message
from google.protobuf.message_factory import GetMessageClass

from imageserve.errors import BadParameter, BadRequest, ImageserveError

SERVICE = "inference.GRPCInferenceService"
COMPILED = Path(__file__).with_name("open_inference_grpc.binpb")

MOST_FIELDS = 2**14
MOST_PACKED_BYTES = 2**20
"""What a message may have, in all messages within it: fields, and bytes of numbers that are packed
into one. Decoded, an empty field takes up to 90 bytes of memory for each of its two."""

_VARINT, _FIXED64, _TEXT, _FIXED32 = 0, 1, 2, 5

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
    """Return the request of a method.

    Raises BadRequest where the bytes are none, and BadParameter where it has too many fields.
    """
    request = methods()[method].request
    try:
        _Fields(data).count(request.DESCRIPTOR, 0, len(data))
        return request.FromString(data)
    except (DecodeError, LookupError) as error:
        raise BadRequest(f"the message is no request of {method}") from error


class _Fields:
    """Counts what a message consists of, before it is decoded: that may take much memory."""

    def __init__(self, data: bytes) -> None:
        self._data = data
        self._at = 0
        self._fields = 0
        self._packed_bytes = 0

    def count(self, message: Descriptor, start: int, end: int) -> None:
        """Count the fields of a message.

        Raises LookupError where it breaks off or has groups, which no version of the protocol has,
        and BadParameter where it has too many.
        """
        self._at = start
        while self._at < end:
            self._fields += 1
            key = self._number()
            field = message.fields_by_number.get(key >> 3)
            if key & 7 == _TEXT:
                stop = self._number() + self._at
                if stop > end:
                    raise IndexError
                self._text(field, stop)
                self._at = stop
            elif key & 7 == _VARINT:
                self._number()
            else:
                self._at += {_FIXED64: 8, _FIXED32: 4}[key & 7]
            if self._fields > MOST_FIELDS or self._packed_bytes > MOST_PACKED_BYTES:
                raise BadParameter(
                    f"a message may have {MOST_FIELDS} fields and {MOST_PACKED_BYTES} bytes of "
                    "single numbers: send tensors as raw_input_contents"
                )

    def _text(self, field: FieldDescriptor | None, stop: int) -> None:
        if field is None:
            return
        if field.message_type is not None:
            self.count(field.message_type, self._at, stop)
        elif field.type not in (FieldDescriptor.TYPE_STRING, FieldDescriptor.TYPE_BYTES):
            self._packed_bytes += stop - self._at

    def _number(self) -> int:
        number = shift = 0
        while True:
            octet = self._data[self._at]
            self._at += 1
            number |= (octet & 127) << shift
            if octet < 128:
                return number
            shift += 7
            if shift > 63:
                raise IndexError


def response(method: str, **fields: Any) -> Fields:
    """Return a new response of a method."""
    return methods()[method].response(**fields)
