"""What may be asked for beside the likeliest labels: min, top=all, scores, embeddings, as bytes."""

import json
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from flask.testing import FlaskClient
from tests.component.test_web_app import MAX_BODY, A, B, Site, code, form, label, poison
from tests.redis_server import eventually
from werkzeug.test import TestResponse

from imageserve.models.stand_in import stand_in_class
from imageserve.predictions import Outputs
from imageserve.queue.producer import REMOVED_AT_ONCE
from imageserve.queue.snapshot import WorkerInfo
from imageserve.queue.wire import Finished, Result

CLASSES, LENGTH = 40, 24
BYTES = "application/octet-stream"
OLD = WorkerInfo("old", "m", (8, 8, 3), 4, {4: 20.0}, "ready", "node")


@pytest.fixture(scope="module")
def site() -> Iterator[Site]:
    site = Site()
    with site.worker(classes=CLASSES, embedding=LENGTH):
        eventually(lambda: bool(site.queue.snapshot().live_workers), "a heartbeat")
        yield site


@pytest.fixture
def client(site: Site) -> FlaskClient:
    return site.client()


@pytest.fixture
def idle() -> Site:
    """No worker: what is queued stays queued."""
    return Site()


def scores_of(picture: bytes) -> list[float]:
    scores = np.zeros(CLASSES, np.float32)
    scores[stand_in_class(label(picture), CLASSES)] = 0.9
    return scores.tolist()


def embedding_of(picture: bytes) -> list[int]:
    return [*(label(picture) * 2).encode()]


def numbers(response: TestResponse) -> Any:
    return np.frombuffer(response.data, "<f4").tolist()


# -- labels ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("query", "count"),
    [
        pytest.param("top=all", CLASSES, id="all"),
        pytest.param("min=0.02", 3, id="those that are likely enough"),
        pytest.param("min=0.02&top=2", 2, id="at most two of them"),
        pytest.param("min=0.02&top=9", 3, id="fewer than top"),
        pytest.param("min=0", CLASSES, id="any"),
        pytest.param("min=0.95", 0, id="none"),
        pytest.param("min=0.95&top=1", 0, id="none of one"),
    ],
)
def test_labels_are_chosen_by_their_number_and_by_their_probability(
    client: FlaskClient, query: str, count: int
) -> None:
    response = client.post(f"/predict?{query}", data=A)

    assert response.status_code == 200
    found = response.get_json()["predictions"]
    assert len(found) == count
    assert [p["label"] for p in found[:1]] == [label(A)][:count]
    assert "Vary" not in response.headers


def test_a_worker_of_an_older_release_gives_all_labels_and_the_probable_ones_are_kept(
    idle: Site,
) -> None:
    with idle.worker(classes=CLASSES):
        # Such a worker reads no field that it does not know.
        enqueue = idle.queue.enqueue
        idle.queue.enqueue = lambda job, *rest: enqueue(  # type: ignore[method-assign]
            replace(job, least=0.0, want=""), *rest
        )

        response = idle.client().post("/predict?min=0.02", data=A)

    assert len(response.get_json()["predictions"]) == 3


# -- vectors --------------------------------------------------------------------------------------


@pytest.mark.parametrize(("output", "of"), [("scores", scores_of), ("embedding", embedding_of)])
def test_a_vector_is_given_as_json_or_as_bytes_with_its_shape(
    client: FlaskClient, output: str, of: Any
) -> None:
    told = client.post(f"/predict?output={output}", data=A)
    raw = client.post(f"/predict?output={output}", data=A, headers={"Accept": BYTES})

    assert told.get_json() == {"success": True, output: of(A)}
    assert told.content_type == "application/json"
    assert numbers(raw) == of(A)
    assert raw.content_type == BYTES
    assert raw.headers["X-Shape"] == str(len(of(A)))
    for response in (told, raw):
        assert response.headers["Vary"] == "Accept"
        assert response.headers["X-Model-Version"] == "1"
        assert "model;dur=" in response.headers["Server-Timing"]


def test_vectors_of_several_pictures_are_rows(client: FlaskClient) -> None:
    told = client.post("/predict?output=scores", data=form(A, B))
    raw = client.post("/predict?output=scores", data=form(A, B), headers={"Accept": BYTES})

    assert [result["scores"] for result in told.get_json()["results"]] == [
        scores_of(A),
        scores_of(B),
    ]
    assert raw.headers["X-Shape"] == f"2,{CLASSES}"
    assert numbers(raw) == scores_of(A) + scores_of(B)


@pytest.mark.parametrize("bad", [b"text", poison()])
def test_with_an_error_among_them_the_answer_is_json_whatever_is_accepted(
    client: FlaskClient, bad: bytes
) -> None:
    response = client.post("/predict?output=scores", data=form(A, bad), headers={"Accept": BYTES})

    first, second = response.get_json()["results"]
    assert first["scores"] == scores_of(A)
    assert not second["success"]
    assert response.headers["Vary"] == "Accept"


@pytest.mark.parametrize(
    ("accept", "expected"),
    [
        ("*/*", "application/json"),
        ("application/*", "application/json"),
        ("application/json, application/octet-stream", "application/json"),
        (f"{BYTES}, */*", BYTES),
        (f"application/json;q=0.5, {BYTES}", BYTES),
        (f"{BYTES};q=0.1, */*;q=0.2", "application/json"),
        (f"{BYTES};q=0", "application/json"),
        ("text/html", "application/json"),
        ("nonsense;;q=x", "application/json"),
        ("", "application/json"),
    ],
)
def test_bytes_are_sent_to_those_who_prefer_them(
    client: FlaskClient, accept: str, expected: str
) -> None:
    response = client.post("/predict?output=scores", data=A, headers={"Accept": accept})

    assert (response.status_code, response.content_type) == (200, expected)


def test_labels_are_json_whatever_is_accepted(client: FlaskClient) -> None:
    response = client.post("/predict", data=A, headers={"Accept": BYTES})

    assert response.content_type == "application/json"


def test_an_error_is_json_whatever_is_accepted(client: FlaskClient) -> None:
    response = client.post("/predict?output=scores", data=b"text", headers={"Accept": BYTES})

    assert code(response) == (400, "not_an_image")


def test_what_was_read_of_a_vector_is_not_left_in_redis(
    site: Site, client: FlaskClient, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageserve.queue.producer.REMOVED_AT_ONCE", 1)
    site.queue._results.clear()
    client.post("/predict?output=scores", data=form(A, B))

    assert not [each for each, _ in site.queue._results.values() if each.vector]


@pytest.mark.parametrize(("query", "kept"), [("top=all", 0), ("min=0", 0), ("top=9", 2)])
def test_many_labels_that_were_read_are_not_left_in_redis(
    idle: Site, query: str, kept: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageserve.queue.producer.REMOVED_AT_ONCE", 1)
    with idle.worker(classes=500):
        assert idle.client().post(f"/predict?{query}", data=form(A, B)).status_code == 200

    assert len(idle.queue._results) == kept


# -- what cannot be asked for ---------------------------------------------------------------------


@pytest.mark.parametrize(
    "query", ["min=2", "min=", "output=all", "output=", "output=scores&top=3", "top=every"]
)
def test_a_wrong_parameter_is_refused_before_the_upload_is_read(
    client: FlaskClient, query: str
) -> None:
    response = client.post(f"/predict?{query}", data=bytes(MAX_BODY + 1))

    assert code(response) == (400, "bad_parameter")


@pytest.mark.parametrize(
    ("others", "expected"),
    [
        pytest.param([Outputs(("scores",))], (400, "bad_parameter"), id="the model names none"),
        pytest.param([None], (503, "busy"), id="a worker of 0.1.0"),
        pytest.param(
            [Outputs(("scores",)), Outputs(("scores", "embedding"))], (503, "busy"), id="not all"
        ),
    ],
)
def test_an_embedding_is_asked_for_while_all_live_workers_give_it(
    idle: Site, others: list[Outputs | None], expected: tuple[int, str]
) -> None:
    for number, outputs in enumerate(others):
        idle.queue.heartbeat(replace(OLD, id=f"w-{number}", outputs=outputs))

    response = idle.client().post("/predict?output=embedding", data=bytes(MAX_BODY + 1))

    assert code(response) == expected, "before the upload is read"
    assert (response.headers.get("Retry-After") is not None) == (expected[0] == 503)
    assert "embedding" in response.get_json()["error"]["message"]


def test_without_a_live_worker_the_picture_is_queued_and_wakes_the_model(idle: Site) -> None:
    response = idle.client().post(
        "/predict?output=scores", data=A, headers={"X-Request-Timeout": "0.2"}
    )

    assert code(response) == (504, "timed_out")
    assert idle.queue.snapshot().stats["accepted"] == 1


def test_a_worker_that_gives_no_vector_is_met_with_503(idle: Site) -> None:
    finish = idle.queue._finish_one

    def as_in_0_1_0(job: Finished) -> None:
        result = job.result
        finish(replace(job, result=Result(**{**_fields(result), "vector": b""})))

    idle.queue._finish_one = as_in_0_1_0  # type: ignore[method-assign]
    with idle.worker():
        response = idle.client().post("/predict?output=scores", data=A)

    assert code(response) == (503, "busy")
    assert response.headers["Retry-After"] == "1"
    assert "gives no scores" in response.get_json()["error"]["message"]


def _fields(result: Result) -> dict[str, Any]:
    return {name: getattr(result, name) for name in Result.__slots__}


def test_too_many_numbers_for_json_are_sent_as_bytes(idle: Site) -> None:
    with idle.worker(classes=100_000):
        client = idle.client()
        whole = client.post("/predict?output=scores", data=form(A, B))
        refused = client.post("/predict?output=scores", data=form(A, B, A))
        raw = client.post("/predict?output=scores", data=form(A, B, A), headers={"Accept": BYTES})

    assert len(whole.get_json()["results"]) == 2
    assert code(refused) == (400, "bad_parameter")
    assert "300000 numbers are more than the 262144" in refused.get_json()["error"]["message"]
    assert raw.headers["X-Shape"] == "3,100000"


def test_an_answer_that_is_too_long_says_what_to_do(idle: Site) -> None:
    with idle.worker(classes=300_000):
        response = idle.client().post("/predict?output=scores", data=A)

    assert code(response) == (422, "model_failed")
    message = response.get_json()["error"]["message"]
    assert "more than the 1048576 that one may have" in message
    assert not idle.queue.dead(1), json.dumps("the picture is not to blame")


def test_results_that_were_read_are_removed_several_at_once(idle: Site) -> None:
    client = idle.client()
    left = []
    with idle.worker(classes=CLASSES):
        for _ in range(REMOVED_AT_ONCE + 1):
            assert client.post("/predict?output=scores", data=A).status_code == 200
            left.append(len(idle.queue._results))

    assert left == [*range(1, REMOVED_AT_ONCE), 0, 1]
