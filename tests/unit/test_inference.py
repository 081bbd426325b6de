"""The core of the Open Inference Protocol: what is read, what is refused, what comes out."""

import base64
import struct
import time
from array import array
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageserve.errors import (
    BadParameter,
    Busy,
    ModelFailed,
    NoImage,
    NotAnImage,
    RequestError,
    TimedOut,
    TooManyImages,
    WouldTimeOut,
)
from imageserve.inference.answer import error_of, output_tensors
from imageserve.inference.contract import (
    ServedModelFacts,
    model_config,
    model_metadata,
    server_metadata,
)
from imageserve.inference.request import (
    MOST_ID,
    AskedOutput,
    InferRequest,
    InputTensor,
    check_tensor,
    checked_classes,
    from_raw,
    from_values,
    infer_request,
)
from imageserve.inference.statistics import model_statistics
from imageserve.predictions import EMBEDDING, LABELS, PIECE, SCORES, Prediction
from imageserve.preparation import Pixels
from imageserve.web.outcomes import Answer

FILE = b"\xff\xd8\xff\xe0 a file"
PROBABILITIES = AskedOutput("probabilities")


def request_of(
    *inputs: InputTensor, outputs: Sequence[AskedOutput] = (), **parameters: Any
) -> InferRequest:
    return infer_request("7", inputs, outputs, parameters, 3)


def files(*contents: bytes) -> InputTensor:
    return InputTensor("image", "BYTES", (len(contents), 1), contents)


def no_pause() -> None:
    """Do not wait."""


def prefixed(*contents: bytes) -> bytes:
    return b"".join(struct.pack("<I", len(each)) + each for each in contents)


def answer(*predictions: Prediction, vector: bytes = b"") -> Answer:
    return Answer(predictions, 0, 0, 0, vector=vector)


def test_a_request_of_files_asks_for_the_probabilities_of_all_labels() -> None:
    assert request_of(files(b"a", b"b")) == InferRequest("7", (b"a", b"b"), (PROBABILITIES,))
    assert request_of(files(b"a")).want == SCORES


def test_pixels_are_cut_into_pictures() -> None:
    tensor = InputTensor("pixels", "UINT8", (2, 1, 2, 3), data=bytes(range(12)))
    expected = Pixels((1, 2, 3), bytes(range(6))), Pixels((1, 2, 3), bytes(range(6, 12)))
    assert request_of(tensor).pictures == expected


@pytest.mark.parametrize(
    ("inputs", "error", "sentence"),
    [
        ([], BadParameter, "a request has one input, which is image or pixels"),
        ([files(FILE), files(FILE)], BadParameter, "one input"),
        ([InputTensor("x", "BYTES", (1,), (FILE,))], BadParameter, "there is no input x"),
        ([InputTensor("image", "FP32", (1, 1))], BadParameter, "image is BYTES, not FP32"),
        ([InputTensor("image", "BYTES", (), (FILE,))], BadParameter, "shape of image"),
        ([InputTensor("image", "BYTES", (1, 2), (FILE,) * 2)], BadParameter, r"not \[1, 2\]"),
        ([InputTensor("image", "BYTES", (-1, 1), ())], BadParameter, "shape of image"),
        (
            [InputTensor("image", "BYTES", (1, 1), (FILE,) * 2)],
            BadParameter,
            "1 files, .* have more",
        ),
        ([InputTensor("image", "BYTES", (1,) * 9, (FILE,))], BadParameter, "shape of image"),
        ([InputTensor("pixels", "UINT8", (1, *[10**4000] * 3))], BadParameter, "shape of pixels"),
        ([InputTensor("image", "BYTES", (2, 1), (FILE,))], BadParameter, "2 files, .* have 1"),
        ([InputTensor("image", "BYTES", (0, 1))], NoImage, "no picture"),
        ([files(*[FILE] * 4)], TooManyImages, "at most 3"),
        ([InputTensor("pixels", "UINT8", (1, 2, 2), data=bytes(4))], BadParameter, "height"),
        ([InputTensor("pixels", "UINT8", (1, 1, 2, 3))], BadParameter, "6 bytes, .* have 0"),
    ],
)
def test_inputs_that_cannot_be_taken(
    inputs: list[InputTensor], error: type[RequestError], sentence: str
) -> None:
    with pytest.raises(error, match=sentence):
        request_of(*inputs)


def test_outputs_decide_what_a_job_is_asked_for() -> None:
    embedding, labels = AskedOutput("embedding"), AskedOutput("probabilities", 5)
    asked = [
        (request.want, request.classes)
        for outputs in ([embedding], [labels], [labels, embedding])
        for request in [request_of(files(FILE), outputs=outputs)]
    ]
    assert asked == [(EMBEDDING, 0), (LABELS, 5), (EMBEDDING, 5)]


@pytest.mark.parametrize(
    "outputs",
    [
        [AskedOutput("logits")],
        [PROBABILITIES, AskedOutput("probabilities", 3)],
        [AskedOutput("embedding", 3)],
        [PROBABILITIES, AskedOutput("embedding")],
    ],
)
def test_outputs_that_cannot_be_given(outputs: list[AskedOutput]) -> None:
    with pytest.raises(BadParameter):
        request_of(files(FILE), outputs=outputs)


def test_time_and_priority() -> None:
    def read(**parameters: Any) -> tuple[float | None, bool]:
        request = request_of(files(FILE), **parameters)
        return request.timeout_s, request.is_background

    assert read(timeout=1500, other="ignored") == (0.0015, False)
    assert read(timeout=0, priority=1) == (None, False)
    assert read(priority=2) == (None, True)
    assert read(timeout=10**30)[0] is not None


@pytest.mark.parametrize(
    "parameters",
    [
        {"timeout": -1},
        {"timeout": True},
        {"timeout": "1"},
        {"priority": 1.5},
        {"priority": -1},
        {"sequence_id": 3},
    ],
)
def test_parameters_that_cannot_be_taken(parameters: dict[str, Any]) -> None:
    with pytest.raises(BadParameter, match=next(iter(parameters))):
        request_of(files(FILE), **parameters)


def test_shared_memory_is_refused() -> None:
    check_tensor("image", {"binary_data_size": 3})
    with pytest.raises(BadParameter, match="shared memory is not served"):
        check_tensor("image", {"shared_memory_region": "r"})


@pytest.mark.parametrize("value", [-1, True, "5", 100_001, 1.0])
def test_a_number_of_classes_is_whole(value: Any) -> None:
    assert checked_classes(None) == 0
    with pytest.raises(BadParameter):
        checked_classes(value)


# -- contents -------------------------------------------------------------------------------------


@given(st.lists(st.binary(max_size=20), min_size=1, max_size=4))
def test_files_are_read_as_they_were_written(contents: list[bytes]) -> None:
    shape = len(contents), 1
    assert list(from_raw("image", "BYTES", shape, prefixed(*contents)).elements) == contents
    texts = [[base64.b64encode(each).decode()] for each in contents]
    assert list(from_values("image", "BYTES", shape, texts, base64.b64decode).elements) == contents


@pytest.mark.parametrize(
    "tensor",
    [
        from_raw("image", "BYTES", (2, 1), bytes(4 * 100)),
        from_values("image", "BYTES", (2, 1), [""] * 100, base64.b64decode),
    ],
)
def test_of_many_empty_files_few_are_looked_at(tensor: InputTensor) -> None:
    with pytest.raises(BadParameter, match="says 2 files, and its contents have more"):
        request_of(tensor)
    assert len(list(tensor.elements)) == 97


def test_a_shape_of_thousands_of_sides_is_not_multiplied() -> None:
    began = time.process_time()
    tensor = from_raw("image", "BYTES", (2**60,) * 200_000, FILE)
    with pytest.raises(BadParameter, match="shape of image"):
        request_of(tensor)
    assert time.process_time() - began < 2


def test_an_id_that_is_repeated_is_short() -> None:
    with pytest.raises(BadParameter, match="at most 1024 characters"):
        infer_request("x" * (MOST_ID + 1), [files(FILE)], [], {}, 3)


def test_a_single_file_may_come_without_its_length() -> None:
    assert from_raw("image", "BYTES", (1, 1), FILE).elements == (FILE,)


@pytest.mark.parametrize("raw", [FILE, prefixed(FILE) + b"\1", prefixed(FILE)[:-1] * 2])
def test_several_files_may_not(raw: bytes) -> None:
    with pytest.raises(BadParameter, match="before each must stand its length"):
        list(from_raw("image", "BYTES", (2, 1), raw).elements)


@given(st.binary(max_size=40), st.lists(st.integers(-1, 3), max_size=3))
def test_raw_contents_are_read_or_refused(raw: bytes, shape: list[int]) -> None:
    with suppress(BadParameter):
        list(from_raw("image", "BYTES", tuple(shape), raw).elements)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda each: st.lists(each, max_size=3) | st.dictionaries(st.text(max_size=3), each),
    max_leaves=8,
)


@given(st.sampled_from(["BYTES", "UINT8", "FP32", "?"]), JSON)
def test_values_of_json_are_read_or_refused(datatype: str, values: Any) -> None:
    with suppress(BadParameter):
        list(from_values("image", datatype, (1, 1), values, base64.b64decode).elements)


def test_pixels_in_json_may_be_nested() -> None:
    nested = from_values(
        "pixels", "UINT8", (1, 1, 2, 3), [[[[1, 2, 3], [4, 5, 255]]]], base64.b64decode
    )
    assert nested.data == bytes([1, 2, 3, 4, 5, 255])
    with pytest.raises(BadParameter, match="0 to 255"):
        from_values("pixels", "UINT8", (1, 1, 1, 1), [256], base64.b64decode)
    with pytest.raises(BadParameter, match="0 to 255"):
        from_values("pixels", "UINT8", (1,) * 9, [[[[[[[[[1]]]]]]]]], base64.b64decode)


# -- answers --------------------------------------------------------------------------------------


def test_a_vector_becomes_a_row() -> None:
    rows = array("f", [0.25, 0.75]).tobytes(), array("f", [1.0, 0.0]).tobytes()
    answers = [answer(vector=row) for row in rows]
    (tensor,) = output_tensors(request_of(files(FILE)), answers)
    assert (tensor.name, tensor.datatype, tensor.shape) == ("probabilities", "FP32", (2, 2))
    assert tensor.raw() == b"".join(rows)
    assert tensor.numbers.tolist() == [0.25, 0.75, 1.0, 0.0]


def test_classes_become_texts() -> None:
    asked = request_of(files(FILE), outputs=[AskedOutput("probabilities", 2)])
    given = answer(Prediction("a:b", 0.5, 7), Prediction("é", 0.25, 0), Prediction("c", 0.1, 1))
    (tensor,) = output_tensors(asked, [given])
    assert (tensor.datatype, tensor.shape) == ("BYTES", (1, 2))
    assert tensor.elements == (b"0.5:7:a:b", "0.25:0:é".encode())
    assert tensor.raw() == prefixed(*tensor.elements)


def test_others_have_their_turn_while_many_classes_are_written() -> None:
    labels = [Prediction(f"label {i}", i / PIECE, i) for i in range(2 * PIECE + 1)]
    asked = request_of(files(FILE), outputs=[AskedOutput("probabilities", len(labels))])
    pauses: list[str] = []

    (tensor,) = output_tensors(asked, [answer(*labels)] * 2, lambda: pauses.append("made"))
    raw = tensor.raw(lambda: pauses.append("written"))

    assert pauses == ["made"] * 2 * 3 + ["written"] * 5, "every PIECE labels"
    assert raw == prefixed(*tensor.elements)
    assert len(tensor.elements) == 2 * len(labels)


def test_rows_of_two_versions_make_no_tensor() -> None:
    with pytest.raises(Busy, match="being changed"):
        output_tensors(request_of(files(FILE)), [answer(vector=bytes(4)), answer(vector=bytes(8))])


def test_the_error_of_a_request_names_its_picture_and_the_servers_goes_first() -> None:
    assert error_of([answer(), answer()]) is None
    wrong, late = NotAnImage("no picture"), WouldTimeOut(2.0, retry_after_s=3)
    assert error_of([wrong]) is wrong
    found = error_of([answer(), wrong, ModelFailed("it failed")])
    assert found is not None
    assert (found.code, found.message) == ("not_an_image", "picture 1: no picture")
    found = error_of([NotAnImage("no picture"), late, TimedOut("late")])
    assert found is not None
    assert (found.code, found.retry_after_s) == ("would_time_out", 3)
    assert found.message.startswith("picture 1: ")


# -- what is served -------------------------------------------------------------------------------


def test_the_server_names_no_extension_that_changes_anything() -> None:
    told = server_metadata("1.2")
    assert (told["name"], told["version"]) == ("imageserve", "1.2")
    assert "statistics" in told["extensions"]
    assert not {"model_repository", "system_shared_memory"} & set(told["extensions"])


def test_metadata_and_configuration_have_the_same_sides() -> None:
    outputs = ("probabilities", "embedding")
    facts = ServedModelFacts("m", ("3",), (8, 9, 3), 10, outputs, 16, "keras")
    metadata, config = model_metadata(facts), model_config(facts)
    assert metadata["versions"] == ["3"]
    assert [each["shape"] for each in metadata["inputs"]] == [[-1, 1], [-1, 8, 9, 3]]
    assert [each["shape"] for each in metadata["outputs"]] == [[-1, 10], [-1, -1]]
    for told, configured in (("inputs", "input"), ("outputs", "output")):
        shapes = [each["shape"][1:] for each in metadata[told]]
        assert [each["dims"] for each in config[configured]] == shapes
    assert config["max_batch_size"] == 16


def test_what_nobody_has_said_yet_may_have_any_length() -> None:
    metadata = model_metadata(ServedModelFacts("m"))
    assert metadata["inputs"][1]["shape"] == [-1, -1, -1, -1]
    assert metadata["outputs"] == [{"name": "probabilities", "datatype": "FP32", "shape": [-1, -1]}]


def test_statistics_come_from_the_counters() -> None:
    counters = {
        "completed": 5,
        "failed": 1,
        "expired": 2,
        "batches": 2,
        "queue_us": 700,
        "model_us": 300,
        "failed_us": 9,
        "last_ms": 1234,
        "calls:4": 1,
        "calls_us:4": 100,
        "calls:12": 1,
        "calls_us:12": 200,
    }
    told = model_statistics("m", "2", counters)
    assert (told["inference_count"], told["execution_count"]) == (5, 2)
    assert told["last_inference"] == 1234
    times = told["inference_stats"]
    assert times["success"] == {"count": 5, "ns": 1_000_000}
    assert times["queue"] == {"count": 5, "ns": 700_000}
    assert times["compute_infer"] == {"count": 5, "ns": 300_000}
    assert times["fail"] == {"count": 3, "ns": 9_000}
    sizes = [(each["batch_size"], each["compute_infer"]["ns"]) for each in told["batch_stats"]]
    assert sizes == [(4, 100_000), (12, 200_000)]


def test_a_queue_without_counters_has_statistics_of_zero() -> None:
    told = model_statistics("m", "1", {})
    assert told["inference_count"] == told["execution_count"] == 0
    assert told["batch_stats"] == []
