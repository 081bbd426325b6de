"""The Open Inference Protocol over HTTP, through Flask's test client: queue and worker are real."""

import base64
import gc
import json
import struct
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from hypothesis import given
from hypothesis import strategies as st
from tests.component.test_web_app import POLICY, SIZE, A, B, Site, label, poison
from tests.component.test_web_outputs import CLASSES, LENGTH, OLD, embedding_of, scores_of
from tests.inference_protocol import binary_request
from tests.redis_server import eventually
from werkzeug.test import TestResponse

from imageserve import errors
from imageserve.decoding import decode
from imageserve.models.stand_in import stand_in_class
from imageserve.predictions import SCORES, Outputs
from imageserve.preparation import Preparation
from imageserve.queue.admission import EnqueueCode
from imageserve.queue.snapshot import WorkerInfo
from imageserve.web.api_keys import ApiKeys
from imageserve.web.infer_door import read_request
from imageserve.web.parameters import INFERENCE_HEADER as HEADER
from imageserve.web.upload import UploadLimits

INFER = "/v2/models/m/infer"
LIMITS = UploadLimits(500_000, 200_000, 3, 9.0)


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    with site.worker(classes=CLASSES, embedding=LENGTH):
        eventually(lambda: bool(site.queue.snapshot().live_workers), "a heartbeat")
        yield site


@pytest.fixture
def client(site: Site) -> FlaskClient:
    return site.client()


def as_json(*pictures: bytes, **more: Any) -> dict[str, Any]:
    data = [base64.b64encode(each).decode() for each in pictures]
    shape = [len(pictures), 1]
    return {
        "inputs": [{"name": "image", "datatype": "BYTES", "shape": shape, "data": data}],
        **more,
    }


def as_binary(*pictures: bytes) -> dict[str, Any]:
    """Return body and headers of a request whose answer is to come as bytes."""
    body, headers = binary_request(*pictures, id="7", parameters={"binary_data_output": True})
    return {"data": body, "headers": headers}


def output(response: TestResponse) -> Any:
    (found,) = response.get_json()["outputs"]
    return found


def tensors(response: TestResponse) -> tuple[dict[str, Any], dict[str, bytes]]:
    """Return the JSON of an answer, and the bytes of each tensor behind it."""
    length = int(response.headers[HEADER])
    told, rest = json.loads(response.data[:length]), response.data[length:]
    found = {}
    for each in told["outputs"]:
        size = each["parameters"]["binary_data_size"]
        found[each["name"]], rest = rest[:size], rest[size:]
    assert not rest
    return told, found


def refusal(response: TestResponse) -> tuple[int, str, str]:
    """Return status, code and sentence of an error, having checked its shape."""
    body = response.get_json()
    assert list(body) == ["error", "code", "request_id"]
    assert body["request_id"] == response.headers["X-Request-Id"]
    return response.status_code, body["code"], body["error"]


# -- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", [INFER, "/v2/models/m/versions/1/infer"])
def test_a_request_in_json_is_answered_in_json(client: FlaskClient, path: str) -> None:
    response = client.post(path, json=as_json(A, B, id="7"))

    assert response.status_code == 200
    body = response.get_json()
    assert (body["model_name"], body["model_version"], body["id"]) == ("m", "1", "7")
    assert output(response) == {
        "name": "probabilities",
        "datatype": "FP32",
        "shape": [2, CLASSES],
        "data": [*scores_of(A), *scores_of(B)],
    }
    assert "decode" in response.headers["Server-Timing"]
    assert response.headers["X-Model-Version"] == "1"


def test_a_request_in_bytes_is_answered_in_bytes(client: FlaskClient) -> None:
    response = client.post(INFER, **as_binary(A, B))

    told, contents = tensors(response)
    assert response.content_type == "application/octet-stream"
    assert told["id"] == "7"
    assert [each["shape"] for each in told["outputs"]] == [[2, CLASSES]]
    numbers = np.frombuffer(contents["probabilities"], "<f4").tolist()
    assert numbers == [*scores_of(A), *scores_of(B)]


def test_the_whole_body_may_be_one_picture(client: FlaskClient) -> None:
    response = client.post(INFER, data=A, headers={HEADER: "0"})

    assert output(response)["data"] == scores_of(A)


def test_labels_have_the_numbers_of_their_classes(client: FlaskClient) -> None:
    asked = [{"name": "probabilities", "parameters": {"classification": 3}}]
    found = output(client.post(INFER, json=as_json(A, outputs=asked)))

    predicted = client.post("/predict?top=3", data=A).get_json()["predictions"]
    assert (found["datatype"], found["shape"]) == ("BYTES", [1, 3])
    texts = [text.split(":", 2) for text in found["data"]]
    assert [(float(p), name) for p, _, name in texts] == [
        (each["probability"], each["label"]) for each in predicted
    ]
    assert int(texts[0][1]) == stand_in_class(label(A), CLASSES)


def test_labels_and_an_embedding_come_together(client: FlaskClient) -> None:
    asked = [
        {"name": "embedding", "parameters": {"binary_data": True}},
        {"name": "probabilities", "parameters": {"classification": 2, "binary_data": True}},
    ]
    told, contents = tensors(client.post(INFER, json=as_json(A, outputs=asked)))

    assert [each["shape"] for each in told["outputs"]] == [[1, LENGTH], [1, 2]]
    assert np.frombuffer(contents["embedding"], "<f4").tolist() == embedding_of(A)
    (size,) = struct.unpack_from("<I", contents["probabilities"])
    assert contents["probabilities"][4 : 4 + size].decode().endswith(label(A))


@pytest.mark.parametrize("is_binary", [False, True])
def test_pixels_are_run_as_they_are(client: FlaskClient, is_binary: bool) -> None:
    pixels = decode(A, Preparation(SIZE), POLICY)
    tensor: dict[str, Any] = {"name": "pixels", "datatype": "UINT8", "shape": [1, *SIZE, 3]}
    if is_binary:
        tensor["parameters"] = {"binary_data_size": len(pixels)}
        text = json.dumps({"inputs": [tensor]}).encode()
        response = client.post(INFER, data=text + pixels, headers={HEADER: str(len(text))})
    else:
        nested = np.frombuffer(pixels, np.uint8).reshape(1, *SIZE, 3).tolist()
        response = client.post(INFER, json={"inputs": [{**tensor, "data": nested}]})

    assert output(response)["data"] == scores_of(A)


def test_time_and_priority_reach_the_queue(site: Site) -> None:
    parameters = {"priority": 2, "timeout": 5_000_000}
    response = site.client().post(INFER, json=as_json(A, parameters=parameters))

    assert response.status_code == 200
    assert site.queue.sent[-1].priority == "background"
    assert site.queue.sent[-1].result_ttl_ms <= 65_000


# -- errors ---------------------------------------------------------------------------------------


def wrong(**changes: Any) -> dict[str, Any]:
    (tensor,) = as_json(A)["inputs"]
    return {"json": {"inputs": [{**tensor, **changes}]}}


@pytest.mark.parametrize(
    ("sent", "sentence"),
    [
        pytest.param({"data": A}, "no JSON object", id="a file as /predict takes it"),
        pytest.param({"json": []}, "no JSON object", id="a list"),
        pytest.param({"json": {}}, "'inputs'", id="no inputs"),
        pytest.param({"json": {"inputs": [3]}}, "list of objects", id="an input of nothing"),
        pytest.param(wrong(name=3), "'name' must be a text", id="a name"),
        pytest.param(wrong(name="x"), "no input x", id="another input"),
        pytest.param(wrong(datatype="FP32"), "BYTES", id="a datatype"),
        pytest.param(wrong(shape="1"), "'shape'", id="no shape"),
        pytest.param(wrong(shape=[True, 1]), "'shape'", id="a truth as a side"),
        pytest.param(wrong(shape=[2, 1]), "2 files", id="a shape that does not fit"),
        pytest.param(wrong(data="no base64!"), "base64", id="no base64"),
        pytest.param(wrong(parameters=3), "'parameters'", id="parameters"),
        pytest.param(
            wrong(parameters={"shared_memory_region": "r"}), "shared memory", id="shared memory"
        ),
        pytest.param(
            wrong(data=None, parameters={"binary_data_size": 9}), "at most", id="too few bytes"
        ),
        pytest.param(wrong(data=None, parameters={"binary_data_size": True}), "number", id="size"),
        pytest.param(
            wrong(parameters={"binary_data_size": 0}), "both 'data' and", id="contents twice"
        ),
        pytest.param(
            {"json": as_json(A, outputs=[{"name": "logits"}])}, "no output logits", id="an output"
        ),
        pytest.param(
            {"json": as_json(A, parameters={"sequence_id": 1})}, "sequence", id="a sequence"
        ),
        pytest.param({"data": b"{}", "headers": {HEADER: "3"}}, "at most the 2", id="too long"),
        pytest.param({"data": b"{}", "headers": {HEADER: "-1"}}, "not -1", id="no length"),
        pytest.param({"data": b"{}", "headers": {HEADER: "9" * 5000}}, HEADER, id="huge"),
        pytest.param(
            {"data": b'{"inputs": []}..', "headers": {HEADER: "14"}}, "no input", id="bytes left"
        ),
        pytest.param({"data": b"[" * 100_000}, "no JSON", id="nested deeply"),
    ],
)
def test_what_cannot_be_understood_is_answered_400(
    client: FlaskClient, sent: dict[str, Any], sentence: str
) -> None:
    status, _, said = refusal(client.post(INFER, **sent))

    assert status == 400
    assert sentence in said


def test_pixels_of_another_size_are_told_which_one_is_right(client: FlaskClient) -> None:
    tensor = {"name": "pixels", "datatype": "UINT8", "shape": [1, 1, 1, 3], "data": [1, 2, 3]}
    status, _, said = refusal(client.post(INFER, json={"inputs": [tensor]}))

    assert status == 400
    assert "[8, 8, 3]" in said


def test_one_bad_picture_fails_its_request_and_is_named(client: FlaskClient) -> None:
    status, code, said = refusal(client.post(INFER, json=as_json(A, b"text", poison())))

    assert (status, code) == (400, "not_an_image")
    assert said.startswith("picture 1: ")


@pytest.mark.parametrize(
    ("picture", "expected"),
    [
        (poison(), (422, "model_failed")),
        (bytes(200_001), (413, "image_too_large")),
        (base64.b64encode(A), (415, "unsupported_encoding")),
        (b"", (400, "no_image")),
    ],
)
def test_a_picture_has_the_errors_that_it_has_in_predict(
    client: FlaskClient, picture: bytes, expected: tuple[int, str]
) -> None:
    assert refusal(client.post(INFER, **as_binary(picture)))[:2] == expected


def test_there_are_bounds_of_pictures_and_of_bytes(client: FlaskClient) -> None:
    found = [
        refusal(client.post(INFER, json=as_json(*[A] * 4)))[:2],
        refusal(client.post(INFER, data=bytes(500_001)))[:2],
        refusal(client.post(INFER, data=A, headers={"Content-Encoding": "gzip"}))[:2],
    ]
    assert found == [
        (413, "too_many_images"),
        (413, "body_too_large"),
        (415, "unsupported_encoding"),
    ]


@pytest.mark.parametrize(
    ("path", "expected"),
    [
        ("/v2/models/x/infer", (404, "unknown_model")),
        ("/v2/models/m/versions/9/infer", (404, "unknown_version")),
        ("/v2/repository/index", (404, "not_found")),
        ("/v2/nothing", (404, "not_found")),
    ],
)
def test_what_is_not_there(client: FlaskClient, path: str, expected: tuple[int, str]) -> None:
    assert refusal(client.post(path, json=as_json(A)))[:2] == expected


def test_there_is_no_way_to_change_anything(client: FlaskClient) -> None:
    for part in ("repository/models/m/load", "systemsharedmemory/region/r/register", "logging"):
        status, _, said = refusal(client.post(f"/v2/{part}"))
        assert status == 404
        assert "nothing at" not in said
    assert refusal(client.get(INFER))[:2] == (405, "method_not_allowed")


def test_a_full_queue_says_when_to_come_again() -> None:
    site = Site()
    site.queue.code = EnqueueCode.FULL
    response = site.client().post(INFER, json=as_json(A, parameters={}, outputs=LABELS))

    assert refusal(response)[:2] == (503, "queue_full")
    assert response.headers["Retry-After"] == "5"


LABELS = [{"name": "probabilities", "parameters": {"classification": 1}}]


def test_keys_and_a_drain_are_heeded(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("0123456789abcdef\n")
    site = Site()
    site.config = replace(site.config, api_keys=ApiKeys(tmp_path / "keys"))
    assert refusal(site.client().post(INFER, json=as_json(A)))[:2] == (401, "unauthorized")
    site.config = replace(site.config, api_keys=None)
    site.lifecycle.stopping = True
    assert refusal(site.client().post(INFER, json=as_json(A)))[:2] == (503, "shutting_down")


def test_a_key_is_for_its_own_models_only(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text("0123456789abcdef models=n\n")
    site = Site()
    site.config = replace(site.config, api_keys=ApiKeys(tmp_path / "keys"))
    headers = {"X-API-Key": "0123456789abcdef"}

    response = site.client().post(INFER, data=b"no JSON", headers=headers)

    assert refusal(response) == (
        403,
        "forbidden",
        "the API key is not for the model m, but for n",
    )


def test_workers_that_do_not_number_classes_are_not_asked_for_labels(site: Site) -> None:
    other = Site()
    other.queue.heartbeat(OLD)
    status, code, said = refusal(other.client().post(INFER, json=as_json(A, outputs=LABELS)))
    assert (status, code) == (503, "busy")
    assert "workers of the model give its scores" in said


def test_another_version_than_the_address_names_may_not_answer() -> None:
    other = Site()
    info = WorkerInfo("w2", "m", (8, 8, 3), 4, {4: 20.0}, "ready", "node", version="2")
    with other.worker():
        eventually(lambda: bool(other.queue.snapshot().live_workers), "a heartbeat")
        other.queue.heartbeat(
            replace(info, preparation=Preparation(SIZE), outputs=Outputs((SCORES,)))
        )
        response = other.client().post("/v2/models/m/versions/2/infer", json=as_json(A))

    status, code, said = refusal(response)
    assert (status, code) == (503, "busy")
    assert said.startswith("version 2 is being replaced")
    assert response.headers["Retry-After"] == "1"


def _request_errors() -> list[errors.RequestError]:
    return [each for each in gc.get_objects() if isinstance(each, errors.RequestError)]


@pytest.mark.parametrize("path", [INFER, "/predict"])
@pytest.mark.parametrize("picture", [b"no picture", b"data:image/png"])
def test_an_upload_that_was_refused_waits_for_no_garbage_collector(
    client: FlaskClient, path: str, picture: bytes
) -> None:
    body = as_binary(picture) if path == INFER else {"data": picture}
    gc.collect()
    gc.disable()
    try:
        before = set(map(id, _request_errors()))  # Parameters of other tests.
        status = client.post(path, **body).status_code
        held = [each for each in _request_errors() if id(each) not in before]
    finally:
        gc.enable()
    assert (status >= 400, held) == (True, [])


MANY = 2**19 + 1


@pytest.mark.parametrize(
    ("body", "sentence"),
    [
        (b"[" + b"1," * MANY + b"1]", "524288 numbers"),
        (b"[" + b"1" * 2**21 + b"]", "2097152 bytes besides"),
        (b'["\\"", ' + b"1" * 2**21 + b', ""]', "2097152 bytes besides"),
        (b'["' + b"A" * 2**21 + b'"' + b' ""' * 2**13 + b"]", "2097152 bytes besides"),
        (b'{"inputs":[' + b"{}," * 16 + b"{}]}", "at most 16 inputs"),
        (b'{"inputs":[],"outputs":[' + b"{}," * 16 + b"{}]}", "at most 16 outputs"),
    ],
)
def test_json_may_not_hold_up_the_process(body: bytes, sentence: str) -> None:
    with pytest.raises(errors.BadParameter, match=sentence):
        read_request(body, None, LIMITS, lambda: None)


def test_json_is_held_three_times_while_it_is_read() -> None:
    body = json.dumps({"inputs": [], "id": "x" * 400_000})
    for memory_bytes, expected in [
        (3 * len(body), (400, "bad_parameter")),
        (3 * len(body) - 1, (503, "busy")),
    ]:
        site = Site()
        site.config = replace(site.config, memory_bytes=memory_bytes)
        assert refusal(site.client().post(INFER, data=body))[:2] == expected


@given(st.binary(max_size=60), st.none() | st.text("0123456789-x", max_size=4))
def test_any_body_is_read_or_refused(body: bytes, length: str | None) -> None:
    _read(body, length)


FIELD = st.none() | st.booleans() | st.integers() | st.text(max_size=5) | st.just("image")
TENSOR = st.dictionaries(
    st.sampled_from(["name", "datatype", "shape", "data", "parameters"]),
    FIELD
    | st.sampled_from(["image", "pixels", "BYTES", "UINT8", "probabilities"])
    | st.lists(st.integers(-1, 2), max_size=4)
    | st.dictionaries(
        st.sampled_from(["binary_data_size", "classification", "binary_data"]),
        FIELD | st.integers(0, 9),
    ),
)


@given(
    st.dictionaries(
        st.sampled_from(["id", "inputs", "outputs", "parameters"]),
        FIELD | st.lists(TENSOR, max_size=2) | st.dictionaries(st.text(max_size=4), FIELD),
    ),
    st.binary(max_size=12),
)
def test_any_json_is_read_or_refused(fields: dict[str, Any], raw: bytes) -> None:
    text = json.dumps(fields).encode()
    _read(text + raw, str(len(text)))


def _read(body: bytes, length: str | None) -> None:
    try:
        read_request(body, length, LIMITS, lambda: None)
    except errors.RequestError as error:
        refused: errors.RequestError | None = error
    else:
        refused = None
    assert refused is None or refused.status in (400, 413)


# -- what is served -------------------------------------------------------------------------------


def test_the_server_and_its_models_describe_themselves(client: FlaskClient) -> None:
    assert client.get("/v2").get_json() == client.get("/v2/").get_json()
    assert "binary_tensor_data" in client.get("/v2").get_json()["extensions"]
    assert client.get("/v2/health/live").get_json() == {"live": True}
    assert client.get("/v2/health/ready").get_json() == {"ready": True}
    told = client.get("/v2/models/m").get_json()
    assert told == client.get("/v2/models/m/versions/1").get_json()
    assert (told["name"], told["versions"]) == ("m", ["1"])
    assert [each["shape"] for each in told["inputs"]] == [[-1, 1], [-1, *SIZE, 3]]
    assert [each["name"] for each in told["outputs"]] == ["probabilities", "embedding"]
    assert told["outputs"][0]["shape"] == [-1, CLASSES]
    assert client.get("/v2/models/m/config").get_json()["max_batch_size"] == 3


def test_a_model_is_ready_while_a_worker_lives(client: FlaskClient) -> None:
    paths = ["m", "m/versions/1", "n"]
    found = [client.get(f"/v2/models/{path}/ready") for path in paths]
    assert [each.status_code for each in found] == [200, 200, 503]
    assert found[2].get_json() == {"name": "n", "ready": False}
    assert refusal(client.get("/v2/models/x/ready"))[:2] == (404, "unknown_model")


@pytest.mark.parametrize("ending", ["", "/config", "/stats"])
def test_only_what_is_there_describes_itself(client: FlaskClient, ending: str) -> None:
    assert refusal(client.get(f"/v2/models/x{ending}"))[:2] == (404, "unknown_model")
    version = client.get(f"/v2/models/m/versions/9{ending}")
    assert refusal(version)[:2] == (404, "unknown_version")


def test_a_server_that_drains_is_not_ready(site: Site) -> None:
    other = Site()
    other.lifecycle.ready = False
    response = other.client().get("/v2/health/ready")
    assert (response.status_code, response.get_json()) == (503, {"ready": False})


def test_a_queue_that_cannot_be_read_is_an_error() -> None:
    site = Site()
    site.queue.away = True
    assert refusal(site.client().get("/v2/models/m"))[:2] == (503, "redis_unavailable")


def test_statistics_count_pictures(client: FlaskClient) -> None:
    def count(path: str) -> int:
        stats: Sequence[dict[str, Any]] = client.get(path).get_json()["model_stats"]
        found: int = stats[0]["inference_count"]
        return found

    before = count("/v2/models/m/stats")
    assert client.post(INFER, json=as_json(A, B)).status_code == 200
    eventually(lambda: count("/v2/models/m/stats") == before + 2, "two more pictures")
    assert count("/v2/models/m/versions/1/stats") == count("/v2/models/stats")
