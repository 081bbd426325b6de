"""The Open Inference Protocol from real web processes: the answers of /predict, by any wire."""

import base64
import json
import signal
import struct
import threading
from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
from tests.inference_protocol import LENGTH, binary_request
from tests.system.client import Reply, at_once
from tests.system.samples import sample, samples
from tests.system.stack import Stack, running

from imageserve.models.stand_in import stand_in_class

INFER = "/v2/models/stand-in/infer"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_program: str) -> Iterator[Stack]:
    with running(
        tmp_path_factory.mktemp("inference"),
        redis_program,
        MODEL="stand-in:batch_ms=5,image_ms=0,size=64,version=3",
        BATCH_SIZE="16",
        MAX_IMAGES="4",
    ) as stack:
        yield stack


def infer(stack: Stack, *pictures: bytes, path: str = INFER, **more: Any) -> Reply:
    """Send pictures as bytes after the JSON."""
    return stack.http.ask("POST", path, *binary_request(*pictures, **more))


def labels(reply: Reply) -> list[list[str]]:
    assert reply.status == 200, reply.text
    (output,) = reply.json["outputs"]
    return [text.split(":", 2) for text in output["data"]]


CLASSES = [{"name": "probabilities", "parameters": {"classification": 5}}]


def test_answers_are_those_of_predict_for_many_at_once(stack: Stack) -> None:
    pictures = [each.data for each in samples(24)]
    calls = [
        call
        for picture in pictures
        for call in (
            partial(stack.http.predict, picture),
            partial(infer, stack, picture, outputs=CLASSES),
            partial(infer, stack, picture, parameters={"binary_data_output": True}),
        )
    ]

    replies = at_once(calls, most=24)

    for number in range(len(pictures)):
        predicted, classes, scores = replies[3 * number : 3 * number + 3]
        expected = predicted.json["predictions"]
        found = labels(classes)
        assert [(float(p), name) for p, _, name in found] == [
            (each["probability"], each["label"]) for each in expected
        ]
        size = int(scores.headers[LENGTH.lower()])
        told = json.loads(scores.body[:size])
        assert told["model_version"] == "3"
        numbers = struct.unpack("<1000f", scores.body[size:])
        best = max(range(1000), key=numbers.__getitem__)
        assert best == int(found[0][1]) == stand_in_class(found[0][2], 1000)


def test_several_pictures_and_one_alone_are_answered_in_json(stack: Stack) -> None:
    pictures = [each.data for each in samples(3)]
    data = [base64.b64encode(each).decode() for each in pictures]
    tensor = {"name": "image", "datatype": "BYTES", "shape": [3, 1], "data": data}
    body = json.dumps({"inputs": [tensor], "outputs": CLASSES}).encode()
    many = labels(stack.http.ask("POST", "/v2/models/stand-in/versions/3/infer", body, {}))

    alone = [labels(infer(stack, each, outputs=CLASSES)) for each in pictures]
    assert many == [row for rows in alone for row in rows]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/v2/models/other/infer", 404, "unknown_model"),
        ("/v2/models/stand-in/versions/2/infer", 404, "unknown_version"),
        ("/v2/models/a%2Fb/infer", 404, "unknown_model"),
        ("/v2/models/stand-in/versions/3/nothing", 404, "not_found"),
    ],
)
def test_errors_are_texts_with_a_code_beside(
    stack: Stack, path: str, status: int, code: str
) -> None:
    reply = infer(stack, sample(1).data, path=path)

    assert (reply.status, reply.json["code"]) == (status, code)
    assert isinstance(reply.json["error"], str)
    assert reply.json["request_id"] == reply.headers["x-request-id"]


def test_a_deadline_of_microseconds_is_heeded(stack: Stack) -> None:
    reply = infer(stack, sample(1).data, parameters={"timeout": 1})

    assert reply.status in (503, 504)
    assert reply.json["code"] in ("would_time_out", "timed_out")


def test_every_process_tells_the_same_statistics(stack: Stack) -> None:
    def told() -> Any:
        return stack.http.get("/v2/models/stand-in/stats").json["model_stats"]

    before = told()[0]["inference_count"]
    at_once([partial(infer, stack, each.data) for each in samples(12)], most=12)
    stack.wait_for(lambda: told()[0]["inference_count"] >= before + 12, "twelve pictures more")
    many = [told() for _ in range(8)]
    assert all(each == many[0] for each in many)
    (model,) = many[0]
    sizes = model["batch_stats"]
    assert sum(each["compute_infer"]["count"] for each in sizes) == model["execution_count"]
    assert model["inference_stats"]["compute_infer"]["ns"] > 0
    assert model["version"] == "3"


def test_a_server_that_stops_answers_what_it_has_taken(
    tmp_path_factory: pytest.TempPathFactory, redis_program: str
) -> None:
    with running(
        tmp_path_factory.mktemp("stopping"),
        redis_program,
        MODEL="stand-in:batch_ms=400,image_ms=0,size=64",
    ) as stack:
        found: list[Reply] = []
        asking = threading.Thread(target=lambda: found.append(infer(stack, sample(1).data)))
        asking.start()
        stack.wait_for(
            lambda: stack.http.get("/status").json["models"]["stand-in"]["in_flight"] == 1,
            "a picture in work",
        )
        stack.web.send(signal.SIGTERM)
        asking.join()
        assert found[0].status == 200
