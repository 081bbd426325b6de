"""Messages of gRPC as tensors and back, and the protocol as it was compiled."""

import struct
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.grpc_protocol import methods

from imageserve.config.settings import Settings
from imageserve.errors import BadParameter, BadRequest, ImageserveError, RequestError
from imageserve.grpc_server import messages, process
from imageserve.grpc_server.codec import read_request, write_response
from imageserve.grpc_server.messages import SERVICE, decoded
from imageserve.inference.answer import OutputTensor
from imageserve.preparation import Pixels

MOST = 4
INFER = methods()["ModelInfer"]


def asked(name: str, datatype: str, shape: list[int], raw: bytes | None = None) -> Any:
    message = INFER.request(model_name="m", id="one")
    message.inputs.add(name=name, datatype=datatype, shape=shape)
    if raw is not None:
        message.raw_input_contents.append(raw)
    return message


def prefixed(*files: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(each)) + each for each in files)


@given(st.lists(st.binary(max_size=40), min_size=1, max_size=MOST))
def test_files_come_as_they_were_sent_raw_or_typed(files: list[bytes]) -> None:
    raw = asked("image", "BYTES", [len(files), 1], prefixed(*files))
    typed = asked("image", "BYTES", [len(files), 1])
    typed.inputs[0].contents.bytes_contents.extend(files)

    for message in (raw, typed):
        again = decoded("ModelInfer", message.SerializeToString())
        request = read_request(again, MOST)
        assert request.pictures == tuple(files)
        assert request.id == "one"


@given(st.binary(min_size=12, max_size=12))
def test_pixels_come_as_they_were_sent_raw_or_typed(data: bytes) -> None:
    typed = asked("pixels", "UINT8", [1, 2, 2, 3])
    typed.inputs[0].contents.uint_contents.extend(data)

    for message in (asked("pixels", "UINT8", [1, 2, 2, 3], data), typed):
        assert read_request(message, MOST).pictures == (Pixels((2, 2, 3), data),)


def test_parameters_of_every_kind_are_read() -> None:
    message = asked("image", "BYTES", [1], prefixed(b"a"))
    message.parameters["timeout"].int64_param = 250_000
    message.parameters["priority"].uint64_param = 2  # As tritonclient sends it.
    message.parameters["of somebody else"].string_param = "x"
    message.parameters["empty"].Clear()
    output = message.outputs.add(name="probabilities")
    output.parameters["classification"].int64_param = 3

    request = read_request(message, MOST)

    assert (request.timeout_s, request.is_background) == (0.25, True)
    assert (request.outputs[0].name, request.outputs[0].classes) == ("probabilities", 3)


def both(message: Any) -> Any:
    message.inputs[0].contents.bytes_contents.append(b"a")
    return message


def shared(message: Any) -> Any:
    message.inputs[0].parameters["shared_memory_region"].string_param = "mine"
    return message


def too_large(message: Any) -> Any:
    message.inputs[0].contents.uint_contents.extend([256] * 12)
    return message


WRONG = [
    (both(asked("image", "BYTES", [1], prefixed(b"a"))), "has both contents"),
    (shared(asked("image", "BYTES", [1])), "shared memory is not served"),
    (too_large(asked("pixels", "UINT8", [1, 2, 2, 3])), "whole numbers from 0 to 255"),
    (asked("image", "FP32", [1], b"abcd"), "the datatype of image is BYTES"),
    (asked("image", "BYTES", [2], prefixed(b"a")), "says 2 files"),
    (asked("picture", "BYTES", [1], prefixed(b"a")), "there is no input picture"),
    (INFER.request(raw_input_contents=[b"a"]), "1 entries for 0 inputs"),
    (INFER.request(), "a request has one input"),
    (INFER.request(inputs=[{}] * 17), "at most 16 inputs"),
    (INFER.request(outputs=[{}] * 17), "at most 16 outputs"),
    (asked("image", "BYTES", [1] * 50, prefixed(b"a")), "the shape of image is"),
]


@pytest.mark.parametrize(("message", "sentence"), WRONG, ids=[each[1] for each in WRONG])
def test_what_is_wrong_is_said(message: Any, sentence: str) -> None:
    with pytest.raises(BadParameter, match=sentence):
        read_request(message, MOST)


@given(st.binary(max_size=200))
def test_random_bytes_are_a_request_or_refused(data: bytes) -> None:
    with suppress(RequestError):
        read_request(decoded("ModelInfer", data), MOST)


def part(number: int, content: bytes) -> bytes:
    """Return a field of bytes, or of a message, as the wire has it."""
    left, length = len(content), []
    while left > 127:
        length.append(left & 127 | 128)
        left >>= 7
    return bytes([number << 3 | 2, *length, left]) + content


MANY_FIELDS = [
    b"\x2a\x00" * 20_000,  # Inputs.
    part(4, b"") * 20_000,  # Parameters.
    b"\x7a\x00" * 20_000,  # Fields that nobody knows.
    part(5, part(5, b"\x42\x00" * 20_000)),  # Files in the contents of an input.
    part(5, part(3, b"\x7f" * (2**20 + 1))),  # A shape.
]


@pytest.mark.parametrize("data", MANY_FIELDS)
def test_a_message_of_many_fields_is_not_decoded(data: bytes) -> None:
    with pytest.raises(BadParameter, match="16384 fields"):
        decoded("ModelInfer", data)


def test_groups_hide_nothing() -> None:
    with pytest.raises(BadRequest, match="no request of ModelInfer"):
        decoded("ModelInfer", b"\x7b\x7c" + b"\x2a\x00" * 20_000)


def test_bytes_that_are_no_message_are_refused() -> None:
    with pytest.raises(BadRequest, match="no request of ModelInfer"):
        decoded("ModelInfer", b"\xff\xff")


def test_outputs_are_written_as_the_inputs_came() -> None:
    numbers = OutputTensor("probabilities", "FP32", (1, 2), data=struct.pack("<2f", 0.25, 0.75))
    classes = OutputTensor("probabilities", "BYTES", (1, 1), (b"0.75:1:cat",))

    raw = write_response(asked("image", "BYTES", [1], b"x"), "m", "3", [numbers, classes])
    typed = write_response(asked("image", "BYTES", [1]), "m", "3", [numbers, classes])

    assert (raw.model_name, raw.model_version, raw.id) == ("m", "3", "one")
    assert list(raw.raw_output_contents) == [numbers.data, prefixed(b"0.75:1:cat")]
    assert not any(each.HasField("contents") for each in raw.outputs)
    assert list(typed.outputs[0].contents.fp32_contents) == [0.25, 0.75]
    assert list(typed.outputs[1].contents.bytes_contents) == [b"0.75:1:cat"]
    assert not typed.raw_output_contents
    assert [list(each.shape) for each in typed.outputs] == [[1, 2], [1, 1]]


def test_the_service_has_the_methods_of_the_protocol() -> None:
    assert SERVICE == "inference.GRPCInferenceService"
    assert set(methods()) == {
        "ServerLive",
        "ServerReady",
        "ModelReady",
        "ServerMetadata",
        "ModelMetadata",
        "ModelInfer",
    }


def test_without_the_compiled_protocol_the_server_says_so_and_does_not_start(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(messages, "COMPILED", tmp_path / "none.binpb")
    monkeypatch.setattr(process, "methods", messages.methods.__wrapped__)

    with pytest.raises(ImageserveError, match="install imageserve anew"):
        process.GrpcProcess(Settings.from_env({})).run()
