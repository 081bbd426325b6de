"""Quotas of API keys as clients meet them, through Flask's test client: queue and worker are real.

How ENQUEUE counts is in ``test_queue_quotas.py``.
"""

import logging
import os
from collections.abc import Iterator, Mapping
from dataclasses import replace
from io import BytesIO
from pathlib import Path

import pytest
from flask.testing import FlaskClient
from tests.component.test_infer_calls import as_json
from tests.component.test_web_app import CONFIG, KEY, A, B, Site, code, form, request_lines
from tests.component.test_web_outputs import CLASSES
from tests.redis_server import eventually
from tests.unit.test_metrics import samples
from werkzeug.test import TestResponse

from imageserve.web.api_keys import CHECK_FILE_S, ApiKeys

OTHER = "other-key-0123456789"
INFER = "/v2/models/m/infer"
SLOW = "rate=0.01 burst=2"
"""No third picture while a test runs."""
SAID = "the key team-a may send 0.01 pictures a second, and 2 at once"


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def site(tmp_path: Path) -> Iterator[Site]:
    (tmp_path / "keys").write_text(f"{KEY} name=team-a {SLOW}\n{OTHER} name=team-a {SLOW}\n")
    site = Site()
    site.config = replace(CONFIG, api_keys=ApiKeys(tmp_path / "keys"))
    with site.worker(classes=CLASSES):
        eventually(lambda: bool(site.queue.snapshot().live_workers), "a heartbeat")
        yield site


def send(client: FlaskClient, key: str = KEY, data: object = A, query: str = "") -> TestResponse:
    return client.post(f"/predict{query}", data=data, headers={"X-API-Key": key})


def counted(client: FlaskClient) -> Mapping[str, float]:
    """Return the pictures of the key by outcome."""
    found = samples(client.get("/metrics").text)
    name = "imageserve_key_pictures_total"
    return {labels[0]: n for (each, labels), n in found.items() if each == name}


def test_a_key_over_its_rate_is_refused_by_its_head(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    client = site.client()
    before = counted(client)
    assert [send(client, each).status_code for each in (KEY, OTHER)] == [200, 200]

    for key in (KEY, OTHER):
        body = BytesIO(A)
        response = client.post(
            "/predict", input_stream=body, content_length=len(A), headers={"X-API-Key": key}
        )
        assert code(response) == (429, "rate_limited")
        assert response.get_json()["error"]["message"] == SAID
        assert 90 <= int(response.headers["Retry-After"]) <= 100
        assert body.tell() == 0, "nothing of it is read"

    after = counted(client)
    assert {name: n - before.get(name, 0) for name, n in after.items()} == {
        "ok": 2,
        "rate_limited": 2,
    }
    assert [line["key"] for line in request_lines(caplog)] == 4 * ["team-a"]
    assert KEY not in caplog.text
    assert KEY not in client.get("/metrics").text


def test_of_several_pictures_those_beyond_the_quota_are_refused_by_themselves(site: Site) -> None:
    client = site.client()

    response = send(client, data=form(A, B, A))

    assert response.status_code == 200
    first, second, beyond = response.get_json()["results"]
    assert first["success"]
    assert second["success"]
    assert beyond["error"] == {"code": "rate_limited", "message": SAID}


def test_the_inference_protocol_has_its_own_shape(site: Site) -> None:
    client = site.client()
    headers = {"X-API-Key": KEY}

    assert client.post(INFER, json=as_json(A), headers=headers).status_code == 200

    together = client.post(INFER, json=as_json(A, B), headers=headers)
    known = client.post(INFER, json=as_json(A, B), headers=headers)
    # Nothing was counted of them: there is room for one.
    assert client.post(INFER, json=as_json(B), headers=headers).status_code == 200
    by_head = client.post(INFER, data=b"no JSON", headers=headers)

    for response, said in ((together, f"picture 0: {SAID}"), (known, SAID), (by_head, SAID)):
        assert response.status_code == 429
        assert response.get_json()["code"] == "rate_limited"
        assert response.get_json()["error"] == said
        assert 90 <= int(response.headers["Retry-After"]) <= 100


def test_a_form_of_which_no_picture_may_come_is_refused_as_a_whole(site: Site) -> None:
    assert [send(site.client()).status_code for _ in range(2)] == [200, 200]

    # Another process, which only ENQUEUE tells of it.
    response = send(site.client(), data=form(A, B))

    assert code(response) == (429, "rate_limited")
    assert 90 <= int(response.headers["Retry-After"]) <= 100


def test_a_request_that_is_answered_whole_sends_nothing_after_a_picture_that_fails(
    site: Site,
) -> None:
    response = site.client().post(INFER, json=as_json(b"no picture", A), headers={"X-API-Key": KEY})

    assert response.status_code == 400
    assert response.get_json()["error"].startswith("picture 0: ")
    assert not site.queue.sent


def test_what_is_answered_whole_and_is_more_than_the_burst_is_told_so(site: Site) -> None:
    response = site.client().post(INFER, json=as_json(A, B, A), headers={"X-API-Key": KEY})

    assert response.status_code == 413
    assert response.get_json()["code"] == "too_many_images"
    assert response.get_json()["error"] == "the key team-a may send 2 pictures at once, not 3"
    assert not site.queue.sent


def test_a_quota_is_of_one_name_and_one_queue(site: Site, tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(f"{KEY} name=team-a rate=0.01\n{OTHER} name=team-b\n")
    site.config = replace(CONFIG, api_keys=ApiKeys(tmp_path / "keys"))
    client = site.client()

    assert [send(client).status_code for _ in range(2)] == [200, 429]
    assert [send(client, OTHER).status_code for _ in range(3)] == 3 * [200]
    # That of the other model takes it; it has no worker.
    client.post("/predict?model=n", data=A, headers={"X-API-Key": KEY, "X-Request-Timeout": "0.05"})
    assert len(site.other.sent) == 1


def test_a_quota_that_changes_is_in_force_at_once(site: Site, tmp_path: Path) -> None:
    path, clock = tmp_path / "keys", Clock()
    site.config = replace(CONFIG, api_keys=ApiKeys(path, clock))
    client = site.client()
    assert [send(client).status_code for _ in range(3)] == [200, 200, 429]

    path.write_text(f"{KEY} name=team-a rate=1000\n")
    os.utime(path, ns=(1, 1))
    clock.now += CHECK_FILE_S

    eventually(lambda: send(client).status_code == 200, "no more than a moment of the old rate")
    eventually(lambda: send(client).status_code == 200, "the new rate")
