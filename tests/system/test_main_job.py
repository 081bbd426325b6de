"""The main job: a picture in over HTTP, its labels out, through every real part."""

import csv
import re
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import requests
from tests.pictures import jpeg
from tests.system.client import answer_on, at_once, form, post_head
from tests.system.samples import AS_SERVED, EXACT, SIZE, label_of, sample, samples
from tests.system.stack import Stack, running

from imageserve.decoding import resizer_in_use

IMAGES = Path(__file__).parents[2] / "loadtest" / "images"


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory, redis_program: str) -> Iterator[Stack]:
    with running(tmp_path_factory.mktemp("main"), redis_program, workers=2) as stack:
        yield stack


def test_a_jpeg_posted_as_a_form_gets_five_labels_best_first(stack: Stack) -> None:
    picture = sample(1)
    reply = stack.http.predict_form(picture.data)
    assert reply.labels[0] == picture.label
    assert reply.headers["content-type"] == "application/json"
    assert reply.json.keys() == {"success", "predictions"}
    probabilities = [p["probability"] for p in reply.json["predictions"]]
    assert len(probabilities) == 5
    assert probabilities == sorted(probabilities, reverse=True)
    assert all(isinstance(p, float) for p in probabilities)


@pytest.mark.parametrize(
    "content_type",
    ["application/x-www-form-urlencoded", "image/jpeg", "application/octet-stream", ""],
)
def test_a_body_that_is_no_form_is_the_picture(stack: Stack, content_type: str) -> None:
    picture = sample(2)
    headers = {"Content_Type": content_type} if content_type else {}
    assert stack.http.predict(picture.data, **headers).labels[0] == picture.label


@pytest.mark.parametrize("fmt", ["JPEG", "PNG", "WEBP", "GIF", "BMP"])
def test_every_format_is_classified(stack: Stack, fmt: str) -> None:
    picture = sample(3, fmt)
    assert stack.http.predict(picture.data).labels[0] == picture.label


def test_a_chunked_body_is_classified(stack: Stack) -> None:
    picture = sample(4)
    pieces = [picture.data[i : i + 500] for i in range(0, len(picture.data), 500)]
    reply = stack.http.predict(iter(pieces), Transfer_Encoding="chunked")
    assert reply.labels[0] == picture.label


def test_a_client_that_waits_for_100_continue_is_served(stack: Stack) -> None:
    picture = sample(5)
    with stack.http.open(post_head(len(picture.data), "Expect: 100-continue")) as connection:
        assert b"100" in connection.recv(100)
        connection.sendall(picture.data)
        assert answer_on(connection).labels[0] == picture.label


def test_a_connection_serves_one_request_after_another(stack: Stack) -> None:
    with requests.Session() as session:
        for picture in samples(5, first=10):
            url = f"http://127.0.0.1:{stack.port}/predict"
            answer = session.post(url, data=picture.data, timeout=30)
            assert answer.json()["predictions"][0]["label"] == picture.label
            assert answer.headers.get("Connection", "").lower() != "close"


def test_several_pictures_are_answered_in_order_and_a_bad_one_harms_only_itself(
    stack: Stack,
) -> None:
    first, last = samples(2, first=20)
    reply = stack.http.predict_form(first.data, b"no picture at all", last.data)
    assert reply.status == 200
    assert reply.json.keys() == {"success", "results"}
    good, bad, also_good = reply.json["results"]
    assert good["success"] is True
    assert good["predictions"][0]["label"] == first.label
    assert also_good["predictions"][0]["label"] == last.label
    assert bad["success"] is False
    assert bad["error"]["code"] == "not_an_image"


def test_other_fields_of_a_form_are_ignored(stack: Stack) -> None:
    picture = sample(6)
    note = b'--b0undary\r\nContent-Disposition: form-data; name="note"\r\n\r\nhello\r\n'
    body, headers = form(picture.data, extra=note)
    assert stack.http.ask("POST", "/predict", body, headers).labels[0] == picture.label


@pytest.mark.parametrize(("top", "labels"), [(1, 1), (3, 3), (50, 50), (5000, 1000)])
def test_top_limits_the_labels_to_at_most_the_classes(stack: Stack, top: int, labels: int) -> None:
    picture = sample(7)
    reply = stack.http.predict(picture.data, f"?top={top}")
    assert reply.labels[0] == picture.label
    assert len(reply.labels) == labels


def test_a_model_can_be_named(stack: Stack) -> None:
    picture = sample(8)
    assert stack.http.predict(picture.data, "?model=stand-in").labels[0] == picture.label


def test_a_deadline_can_be_shortened(stack: Stack) -> None:
    picture = sample(9)
    reply = stack.http.predict(picture.data, X_Request_Timeout="20.5")
    assert reply.labels[0] == picture.label


@pytest.mark.parametrize(("sent", "kept"), [("abc-123", True), ("x" * 129, False), ("a b", False)])
def test_a_sane_request_id_comes_back(stack: Stack, sent: str, kept: bool) -> None:
    reply = stack.http.predict(sample(9).data, X_Request_Id=sent)
    assert (reply.headers["x-request-id"] == sent) is kept
    assert reply.headers["x-request-id"]


def test_an_answer_tells_where_the_time_went(stack: Stack) -> None:
    timing = stack.http.predict(sample(9).data).headers["server-timing"]
    times = {name: float(ms) for name, ms in re.findall(r"(\w+);dur=([\d.]+)", timing)}
    assert times.keys() == {"decode", "queue", "model", "total"}
    assert times["model"] >= 5
    assert times["total"] >= times["model"]


def test_a_request_and_its_batch_are_one_log_line_each_with_their_ids(stack: Stack) -> None:
    stack.http.predict(sample(9).data, X_Request_Id="find-me")

    def logged() -> list[dict[str, Any]]:
        lines = stack.web.lines("request")
        return [line for line in lines if line.get("request_id") == "find-me"]

    stack.wait_for(logged, "the request is logged")
    (line,) = logged()
    assert line["status"] == 200
    assert line["bytes"] == len(sample(9).data)
    assert line["total_ms"] > 0


def test_many_clients_at_once_each_get_their_own_label(stack: Stack) -> None:
    pictures = samples(120, first=100)
    replies = at_once([partial(stack.http.predict, picture.data) for picture in pictures])
    assert [reply.labels[0] for reply in replies] == [picture.label for picture in pictures]


def test_a_large_photo_is_decoded_beside_the_event_loop(stack: Stack) -> None:
    data = jpeg(1600, 1200, seed=1)
    assert stack.http.predict(data).labels[0] == label_of(data, SIZE)


def test_with_the_fast_ways_off_every_pixel_is_what_pillow_makes_of_the_whole_photo(
    tmp_path: Path, redis_program: str
) -> None:
    data = jpeg(400, 300, seed=1)
    assert label_of(data, policy=EXACT) != label_of(data)
    with running(
        tmp_path / "exact", redis_program, WEB_PROCESSES="1", FAST_JPEG="0", FAST_RESIZE="0"
    ) as exact:
        assert exact.http.predict(data).labels[0] == label_of(data, policy=EXACT)
        assert exact.web.lines("Pillow resizes pictures (FAST_RESIZE=0)")


def test_each_web_process_says_at_its_start_what_resizes(stack: Stack) -> None:
    assert stack.web.lines(resizer_in_use(AS_SERVED))


def test_nothing_is_left_in_redis_but_what_expires(stack: Stack) -> None:
    stack.wait_for(stack.idle, "all jobs are done")
    assert stack.keys_without_expiry() == []
    assert not stack.names("p")


# -- the bundled model --------------------------------------------------------------------------


@pytest.fixture(scope="module")
def shapes(tmp_path_factory: pytest.TempPathFactory, redis_program: str) -> Iterator[Stack]:
    directory = tmp_path_factory.mktemp("shapes")
    with running(directory, redis_program, MODEL="shapes", WEB_PROCESSES="1") as stack:
        yield stack


def rows() -> list[tuple[str, str]]:
    with (IMAGES / "labels.csv").open(newline="") as file:
        return [(row["file"], row["label"]) for row in csv.DictReader(file)]


@pytest.mark.timeout(180)
def test_the_bundled_model_names_what_the_sample_pictures_show(shapes: Stack) -> None:
    calls = [partial(shapes.http.predict, (IMAGES / file).read_bytes()) for file, _ in rows()]
    replies = at_once(calls, most=8)
    assert [reply.labels[0] for reply in replies] == [label for _, label in rows()]


@pytest.mark.timeout(180)
def test_the_original_keras_rest_client_works_unchanged(shapes: Stack) -> None:
    file, label = rows()[0]
    url, image_path = f"http://127.0.0.1:{shapes.port}/predict", IMAGES / file

    # What follows is the client script's own code.
    with open(image_path, "rb") as image:
        payload = {"image": image.read()}
    r = requests.post(url, files=payload).json()
    found = []
    assert r["success"]
    for i, result in enumerate(r["predictions"]):
        found.append("{}. {}: {:.4f}".format(i + 1, result["label"], result["probability"]))

    assert found[0].startswith(f"1. {label}: 0.") or found[0] == f"1. {label}: 1.0000"
    assert len(found) == 5
