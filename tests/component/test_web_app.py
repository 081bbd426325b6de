"""The HTTP contract, through Flask's test client: queue and worker are real, the server is not."""

import json
import logging
import re
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, abort
from flask.testing import FlaskClient
from tests.memory_queue import MemoryMonitor, MemoryQueue, producer_on, served_by
from tests.pictures import encoded, hostile_pictures, jpeg, photo
from tests.redis_server import PATIENCE_S
from werkzeug.test import TestResponse

from imageserve.config.settings import Settings
from imageserve.decoding import DecodingPolicy, decode
from imageserve.errors import QueueUnavailable, UploadTooSlow
from imageserve.models.entries import ModelEntry
from imageserve.models.stand_in import StandIn, stand_in_label
from imageserve.predictions import Outputs
from imageserve.preparation import Preparation
from imageserve.queue.admission import Admission, EnqueueCode, Limits
from imageserve.queue.consumer import Consumer, Lease
from imageserve.queue.producer import ProducerConfig
from imageserve.queue.snapshot import Snapshot, WorkerInfo
from imageserve.queue.wire import Job, Result
from imageserve.tracing import NO_TRACER
from imageserve.web.api_keys import ApiKeys
from imageserve.web.app import create_app
from imageserve.web.classify import WebConfig
from imageserve.web.greenlets import Wait
from imageserve.web.lifecycle import DrainFlag, Lifecycle, create_drain_flag
from imageserve.web.page import NO_PAGE, page_files
from imageserve.web.predict import Predictor
from imageserve.web.upload import UploadLimits
from imageserve.worker.loop import Worker, WorkerConfig
from imageserve.worker.runner import Runner

SIZE = (8, 8)
A, B = jpeg(32, 24, 1), jpeg(32, 24, 2)
MAX_IMAGE, MAX_BODY = 200_000, 500_000
POLICY = DecodingPolicy(MAX_IMAGE, 100_000, frozenset({"jpeg", "png", "bmp"}))
CONFIG = WebConfig(UploadLimits(MAX_BODY, MAX_IMAGE, 3, 9.0), 20.0, 4, 10**6)


def poison() -> bytes:
    """A picture at which the stand-in fails."""
    image = photo(8, 8)
    image.putpixel((0, 0), (255, 0, 255))
    return encoded(image, "PNG")


def label(picture: bytes) -> str:
    return stand_in_label(decode(picture, Preparation(SIZE), POLICY))


class WebQueue(MemoryQueue):
    """The in-memory queue as a web process meets it, with outages and refusals."""

    def __init__(self, name: str) -> None:
        super().__init__(name, lambda: time.time_ns() // 1_000_000)
        self.away = False
        self.sent: list[Job] = []
        self.code = EnqueueCode.ACCEPTED

    def enqueue(self, job: Job, pixels: bytes, timeout_ms: int, limits: Limits) -> Admission:
        self._check()
        self.sent.append(job)
        if self.code is not EnqueueCode.ACCEPTED:
            return Admission(self.code, 7)
        return super().enqueue(job, pixels, timeout_ms, limits)

    def results(self, job_ids: Any) -> list[Result | None]:
        self._check()
        return super().results(job_ids)

    def snapshot(self) -> Snapshot:
        self._check()
        return super().snapshot()

    def wait(self, block_s: float) -> None:
        super().wait(min(block_s, 0.01))

    def _check(self) -> None:
        if self.away:
            raise QueueUnavailable("away")


class Site:
    """An application around one or two models, its client, and a worker where there is one."""

    def __init__(self) -> None:
        self.queue = WebQueue("image_queue")
        self.other = WebQueue("other_queue")
        self.config = CONFIG
        self.page = NO_PAGE
        self.tracer = NO_TRACER
        self.lifecycle = Lifecycle(ready=True)

    def app(self) -> Flask:
        entries = {
            "m": ModelEntry("m", self.queue.name, Preparation(SIZE)),
            "n": ModelEntry("n", self.other.name, Preparation((16, 8), interpolation="box")),
        }
        queues = {"m": self.queue, "n": self.other}
        limits = ProducerConfig(100, 2**20, 60.0)
        models = {
            name: served_by(entry, producer_on(queues[name], limits))
            for name, entry in entries.items()
        }
        monitor = MemoryMonitor(self.queue, self.other)
        predictor = Predictor(models, POLICY, tracer=self.tracer)
        return create_app(predictor, monitor, self.config, self.lifecycle, self.page)

    def client(self) -> FlaskClient:
        return self.app().test_client()

    @contextmanager
    def worker(self, **options: Any) -> Iterator[None]:
        model = StandIn(Preparation(SIZE), poison=True, sleep=lambda _: None, **options)
        consumer = Consumer(self.queue, "m", Lease())
        worker = Worker(consumer, Runner(model, 4), "m", WorkerConfig("w", "h"))
        thread = threading.Thread(target=worker.run, name="worker")
        thread.start()
        yield
        worker.stop()
        thread.join(PATIENCE_S)


@pytest.fixture
def site() -> Site:
    """No worker: what is queued stays queued."""
    return Site()


@pytest.fixture(scope="module")
def working_site() -> Iterator[Site]:
    site = Site()
    with site.worker():
        yield site


@pytest.fixture
def client(working_site: Site) -> FlaskClient:
    """A server that answers."""
    return working_site.client()


def form(*pictures: bytes, field: str = "image") -> dict[str, Any]:
    return {field: [(BytesIO(data), f"{number}.jpg") for number, data in enumerate(pictures)]}


def code(response: TestResponse) -> tuple[int, str]:
    """Return status and code of an error, having checked its shape."""
    body = response.get_json()
    assert list(body) == ["success", "error", "request_id"]
    assert body["success"] is False
    assert list(body["error"]) == ["code", "message"]
    assert body["request_id"] == response.headers["X-Request-Id"]
    assert response.content_type == "application/json"
    return response.status_code, body["error"]["code"]


# -- answers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "request_of",
    [
        pytest.param(lambda data: {"data": form(data)}, id="a form"),
        pytest.param(lambda data: {"data": data}, id="a body"),
        pytest.param(
            lambda data: {"data": data, "content_type": "application/x-www-form-urlencoded"},
            id="a body as curl sends it",
        ),
    ],
)
def test_a_picture_is_answered_with_its_labels_best_first(
    client: FlaskClient, request_of: Callable[[bytes], dict[str, Any]]
) -> None:
    response = client.post("/predict", **request_of(A))

    body = response.get_json()
    assert (response.status_code, response.content_type) == (200, "application/json")
    assert list(body) == ["success", "predictions"]
    assert body["success"] is True
    assert body["predictions"][0] == {"label": label(A), "probability": 0.9}
    probabilities = [p["probability"] for p in body["predictions"]]
    assert len(probabilities) == 5
    assert probabilities == sorted(probabilities, reverse=True)


@pytest.mark.parametrize(("top", "count"), [("1", 1), ("7", 7), ("100000", 1000)])
def test_top_says_how_many_labels_and_there_are_never_more_than_classes(
    client: FlaskClient, top: str, count: int
) -> None:
    response = client.post(f"/predict?top={top}", data=A)

    assert len(response.get_json()["predictions"]) == count


@pytest.mark.parametrize("path", ["//predict", "predict"])
def test_slashes_before_the_address_do_not_count(client: FlaskClient, path: str) -> None:
    # The client itself would take the first part of "//predict" for a host.
    response = client.post("/", data=A, environ_overrides={"PATH_INFO": path})

    assert response.status_code == 200


def test_a_model_may_be_named(client: FlaskClient) -> None:
    assert client.post("/predict?model=m", data=A).status_code == 200


def test_several_pictures_are_answered_in_order(client: FlaskClient) -> None:
    response = client.post("/predict", data=form(A, B, A))

    body = response.get_json()
    assert list(body) == ["success", "results"]
    assert [result["success"] for result in body["results"]] == [True] * 3
    assert [r["predictions"][0]["label"] for r in body["results"]] == [label(A), label(B), label(A)]


def test_one_bad_picture_does_not_fail_the_others(client: FlaskClient) -> None:
    response = client.post("/predict", data=form(A, b"text", poison()))

    first, second, third = response.get_json()["results"]
    assert response.status_code == 200
    assert first["success"]
    assert (second["success"], second["error"]["code"]) == (False, "not_an_image")
    assert (third["success"], third["error"]["code"]) == (False, "model_failed")
    assert "part" not in second


def test_a_request_of_bad_pictures_only_is_answered_200(client: FlaskClient) -> None:
    response = client.post("/predict", data=form(b"text", bytes(MAX_IMAGE + 1)))

    assert response.status_code == 200
    codes = [result["error"]["code"] for result in response.get_json()["results"]]
    assert codes == ["not_an_image", "image_too_large"]


def test_a_request_fails_when_all_its_pictures_fail_and_one_with_a_server_error(site: Site) -> None:
    site.queue.code = EnqueueCode.FULL

    response = site.client().post("/predict", data=form(A, B, b"text"))

    assert code(response) == (503, "queue_full")
    assert response.headers["Retry-After"] == "5"


def test_a_server_error_of_one_picture_fails_no_other(
    working_site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    codes = iter([EnqueueCode.ACCEPTED, EnqueueCode.FULL])
    enqueue = working_site.queue.enqueue

    def one_is_refused(*args: Any) -> Admission:
        code = next(codes)
        return enqueue(*args) if code is EnqueueCode.ACCEPTED else Admission(code, 7)

    monkeypatch.setattr(working_site.queue, "enqueue", one_is_refused)

    response = working_site.client().post("/predict", data=form(A, B))

    first, second = response.get_json()["results"]
    assert response.status_code == 200
    assert first["predictions"][0]["label"] == label(A)
    assert second["error"]["code"] == "queue_full"


# -- headers --------------------------------------------------------------------------------------


@pytest.mark.parametrize("path", ["/predict", "/healthz", "/nowhere", "/models"])
def test_every_response_carries_the_callers_request_id(client: FlaskClient, path: str) -> None:
    headers = {"X-Request-Id": "req/7:a=b"}

    assert client.get(path, headers=headers).headers["X-Request-Id"] == "req/7:a=b"


@pytest.mark.parametrize("sent", [None, "", "with space", 'quo"te', "x" * 129])
def test_a_request_id_with_other_characters_is_replaced(
    client: FlaskClient, sent: str | None
) -> None:
    headers = {} if sent is None else {"X-Request-Id": sent}

    ids = [client.get("/healthz", headers=headers).headers["X-Request-Id"] for _ in range(2)]

    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in ids)
    assert ids[0] != ids[1]


def timings(response: TestResponse) -> dict[str, float]:
    parts = re.findall(r"(\w+);dur=([0-9.]+)", response.headers["Server-Timing"])
    return {name: float(ms) for name, ms in parts}


def test_an_answer_says_where_its_time_went(client: FlaskClient) -> None:
    found = timings(client.post("/predict", data=form(A, B)))

    assert list(found) == ["decode", "queue", "model", "total"]
    assert found["total"] >= found["decode"] > 0


def test_an_error_says_how_long_it_took(client: FlaskClient) -> None:
    assert list(timings(client.post("/predict", data=b"text"))) == ["total"]


@pytest.mark.parametrize("path", ["/healthz", "/readyz", "/metrics"])
def test_probes_carry_no_timings(client: FlaskClient, path: str) -> None:
    assert "Server-Timing" not in client.get(path).headers


@pytest.mark.parametrize(
    ("ask", "closes"),
    [
        pytest.param({"path": "/predict", "data": A}, False, id="a body that was read"),
        pytest.param({"path": "/predict", "data": b"text"}, False, id="one that was refused"),
        pytest.param({"path": "/predict?top=0", "data": A}, True, id="one that was not read"),
        pytest.param({"path": "/predict", "data": bytes(MAX_BODY + 1)}, True, id="one too large"),
        pytest.param({"path": "/nowhere", "data": A}, True, id="an unknown path"),
        pytest.param({"path": "/predict", "method": "GET"}, False, id="no body"),
        pytest.param({"path": "/healthz", "method": "HEAD"}, False, id="a probe"),
    ],
)
def test_a_connection_whose_body_was_not_read_is_closed(
    client: FlaskClient, ask: dict[str, Any], closes: bool
) -> None:
    response = client.open(**{"method": "POST", **ask})

    assert (response.headers.get("Connection") == "close") is closes


# -- refusals -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ask", "expected"),
    [
        pytest.param({"data": b""}, (400, "no_image"), id="an empty body"),
        pytest.param({"data": form(A, field="file")}, (400, "no_image"), id="another field"),
        pytest.param({"data": b"text"}, (400, "not_an_image"), id="no picture"),
        pytest.param({"data": A[:300]}, (400, "truncated_image"), id="a picture that is cut"),
        pytest.param(
            {"data": b"\x89PNG\r\n\x1a\n" + bytes(100)},
            (400, "corrupt_image"),
            id="a senseless one",
        ),
        pytest.param(
            {"data": A, "query_string": "top=many"}, (400, "bad_parameter"), id="a bad top"
        ),
        pytest.param(
            {"data": A, "headers": {"X-Request-Timeout": "soon"}},
            (400, "bad_parameter"),
            id="a bad timeout",
        ),
        pytest.param(
            {"data": A, "content_type": "multipart/form-data"},
            (400, "bad_parameter"),
            id="a form without boundary",
        ),
        pytest.param(
            {"data": A, "query_string": "model=vgg"}, (404, "unknown_model"), id="an unknown model"
        ),
        pytest.param({"data": bytes(MAX_BODY + 1)}, (413, "body_too_large"), id="a huge body"),
        pytest.param(
            {"data": bytes(MAX_IMAGE + 1)}, (413, "image_too_large"), id="a large picture"
        ),
        pytest.param(
            {"data": encoded(photo(400, 300), "PNG")[:2_000]},
            (413, "image_too_large"),
            id="too many pixels, refused from the header",
        ),
        pytest.param({"data": form(A, A, A, A)}, (413, "too_many_images"), id="many pictures"),
        pytest.param(
            {"data": encoded(photo(8, 8), "GIF")}, (415, "unsupported_format"), id="a GIF"
        ),
        pytest.param({"data": poison()}, (422, "model_failed"), id="the model fails"),
        pytest.param(
            {"data": A, "headers": {"X-Request-Timeout": "0.0001"}}, (504, "timed_out"), id="late"
        ),
    ],
)
def test_bad_requests_get_their_status_and_code(
    client: FlaskClient, ask: dict[str, Any], expected: tuple[int, str]
) -> None:
    assert code(client.post("/predict", **ask)) == expected


def test_hostile_pictures_get_their_codes_and_none_is_a_bug(client: FlaskClient) -> None:
    for name, data, codes in hostile_pictures(60, seed=4):
        status, found = code(client.post("/predict", data=data))
        assert status < 500, name
        assert found in codes | {"unsupported_format"}, name

    assert client.post("/predict", data=A).status_code == 200


@pytest.mark.parametrize(
    ("method", "path", "expected"),
    [
        ("GET", "/", (404, "not_found")),
        ("POST", "/predict/", (404, "not_found")),
        ("GET", "/predict", (405, "method_not_allowed")),
        ("DELETE", "/predict", (405, "method_not_allowed")),
        ("POST", "/healthz", (405, "method_not_allowed")),
    ],
)
def test_unknown_paths_and_methods_get_an_error_of_the_same_shape(
    client: FlaskClient, method: str, path: str, expected: tuple[int, str]
) -> None:
    assert code(client.open(path, method=method)) == expected


@pytest.mark.parametrize(
    ("method", "path", "said"),
    [("GET", "/predict", "allowed is POST"), ("POST", "/healthz", "allowed is GET")],
)
def test_a_wrong_method_is_told_the_right_one(
    client: FlaskClient, method: str, path: str, said: str
) -> None:
    message = client.open(path, method=method).get_json()["error"]["message"]

    assert message == f"{method} is not allowed at {path}; {said}"


def test_head_is_get_without_a_body(client: FlaskClient) -> None:
    response = client.head("/healthz")

    assert (response.status_code, response.data) == (200, b"")


def test_a_long_unknown_path_is_shortened_in_its_error(client: FlaskClient) -> None:
    message = client.get("/" + "x" * 5000).get_json()["error"]["message"]

    assert len(message) < 250


# -- overload -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("answer", "expected"),
    [
        (EnqueueCode.FULL, "queue_full"),
        (EnqueueCode.BYTES_FULL, "queue_full"),
        (EnqueueCode.NO_ROOM, "queue_full"),
        (EnqueueCode.WOULD_TIME_OUT, "would_time_out"),
        (EnqueueCode.COLLISION, "busy"),
    ],
)
def test_a_full_queue_is_503_with_retry_after(
    site: Site, answer: EnqueueCode, expected: str
) -> None:
    site.queue.code = answer

    response = site.client().post("/predict", data=A)

    assert code(response) == (503, expected)
    assert 1 <= int(response.headers["Retry-After"]) <= 60


def test_an_outage_of_redis_is_503_at_once(site: Site) -> None:
    site.queue.away = True

    response = site.client().post("/predict", data=A)

    assert code(response) == (503, "redis_unavailable")
    assert response.headers["Retry-After"] == "2"


def test_no_result_in_time_is_504_and_the_job_is_cancelled(site: Site) -> None:
    response = site.client().post("/predict", data=A, headers={"X-Request-Timeout": "0.05"})

    assert code(response) == (504, "timed_out")
    assert "Retry-After" not in response.headers
    claim = site.queue.claim(1, Lease(), redelivered=False)
    assert site.queue.pixels([json.loads(entry)["id"] for entry in claim.entries]) in ([None], [])


class HangUps:
    """Takes the place of the event loop, which watches for clients that hang up."""

    def __init__(self) -> None:
        self.gone = False
        self.waits: list[Wait] = []
        self.stopped = 0
        self.waiting = threading.Event()

    def __call__(self, environ: Mapping[str, Any], wait: Wait) -> Callable[[], None]:
        self.waits.append(wait)
        if self.gone:
            wait.hang_up()
        self.waiting.set()
        return self._stop

    def _stop(self) -> None:
        self.stopped += 1


@pytest.fixture
def hang_ups(monkeypatch: pytest.MonkeyPatch) -> HangUps:
    watched = HangUps()
    monkeypatch.setattr("imageserve.web.classify.watch_hang_up", watched)
    return watched


def test_one_request_more_than_the_slots_is_refused_unread_while_probes_answer(
    site: Site, hang_ups: HangUps
) -> None:
    site.config = replace(CONFIG, slots=1)
    client_of = site.app().test_client
    first = threading.Thread(target=lambda: client_of().post("/predict", data=A))
    first.start()
    assert hang_ups.waiting.wait(PATIENCE_S)

    response = client_of().post("/predict", data=A)

    assert code(response) == (503, "busy")
    assert (response.headers["Retry-After"], response.headers["Connection"]) == ("1", "close")
    assert client_of().get("/healthz").status_code == 200
    hang_ups.waits[0].hang_up()
    first.join(PATIENCE_S)
    assert hang_ups.stopped == 1


def test_uploads_beyond_the_memory_are_refused(site: Site) -> None:
    site.config = replace(CONFIG, memory_bytes=100)

    assert code(site.client().post("/predict", data=bytes(101))) == (503, "busy")


def test_an_upload_that_is_too_slow_is_408(site: Site, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[float] = []

    @contextmanager
    def deadline(seconds: float) -> Iterator[None]:
        asked.append(seconds)
        yield
        raise UploadTooSlow("too slow")

    monkeypatch.setattr("imageserve.web.upload.upload_deadline", deadline)

    response = site.client().post("/predict", data=A)

    assert code(response) == (408, "upload_too_slow")
    assert (asked, response.headers["Connection"]) == ([9.0], "close")


def test_a_client_that_hung_up_is_logged_as_such(
    site: Site, hang_ups: HangUps, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    hang_ups.gone = True

    response = site.client().post("/predict", data=A)

    assert (response.status_code, response.data) == (499, b"")
    assert request_lines(caplog)[0]["code"] == "client_gone"
    assert hang_ups.stopped == 1


# -- keys -----------------------------------------------------------------------------------------

KEY = "0123456789abcdef"


@pytest.mark.parametrize(
    ("headers", "expected"),
    [
        pytest.param({}, (401, "unauthorized"), id="no key"),
        pytest.param({"Authorization": "Basic abc"}, (401, "unauthorized"), id="another scheme"),
        pytest.param({"X-API-Key": KEY[:-1]}, (403, "forbidden"), id="a wrong key"),
        pytest.param({"Authorization": f"Bearer {KEY}"}, (400, "no_image"), id="a bearer"),
        pytest.param({"X-API-Key": KEY}, (400, "no_image"), id="an API key"),
    ],
)
def test_where_keys_are_switched_on_predict_asks_for_one(
    site: Site, tmp_path: Path, headers: dict[str, str], expected: tuple[int, str]
) -> None:
    (tmp_path / "keys").write_text(f"# mine\n{KEY}\n")
    site.config = replace(CONFIG, api_keys=ApiKeys(tmp_path / "keys"))
    client = site.client()

    response = client.post("/predict", headers=headers)

    assert code(response) == expected
    assert ("WWW-Authenticate" in response.headers) is (expected[0] == 401)
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("line", "headers", "expected"),
    [
        pytest.param("", {}, "", id="by default"),
        pytest.param("", {"X-Priority": "interactive"}, "", id="interactive"),
        pytest.param("", {"X-Priority": "background"}, "background", id="background"),
        pytest.param(KEY, {"X-Priority": "background"}, "background", id="lowered by the header"),
        pytest.param(f"{KEY} priority=background", {}, "background", id="by the key"),
        pytest.param(
            f"{KEY} priority=background",
            {"X-Priority": "interactive"},
            "background",
            id="a header does not raise it",
        ),
    ],
)
def test_a_job_has_the_lower_priority_of_key_and_header(
    site: Site, tmp_path: Path, line: str, headers: dict[str, str], expected: str
) -> None:
    if line:
        (tmp_path / "keys").write_text(f"{line}\n")
        site.config = replace(CONFIG, api_keys=ApiKeys(tmp_path / "keys"))
        headers = {"X-API-Key": KEY, **headers}

    with site.worker():
        assert site.client().post("/predict", data=A, headers=headers).status_code == 200

    assert [job.priority for job in site.queue.sent] == [expected]


def test_a_key_is_for_its_own_models_only(
    site: Site, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "keys").write_text(f"{KEY} name=team-a models=n,o\n")
    site.config = replace(CONFIG, api_keys=ApiKeys(tmp_path / "keys"))
    client, headers = site.client(), {"X-API-Key": KEY}
    caplog.set_level(logging.INFO)

    for query in ("", "?model=m"):
        body = BytesIO(A)
        response = client.post(
            f"/predict{query}", input_stream=body, content_length=len(A), headers=headers
        )
        assert code(response) == (403, "forbidden")
        message = response.get_json()["error"]["message"]
        assert message == "the API key is not for the model m, but for n, o"
        assert body.tell() == 0, "it is refused by its head"
    assert code(client.post("/predict?model=n", headers=headers)) == (400, "no_image")
    assert code(client.post("/predict?model=o", headers=headers)) == (404, "unknown_model")

    assert {line["key"] for line in request_lines(caplog)} == {"team-a"}
    assert KEY not in caplog.text


def test_another_priority_is_refused(site: Site) -> None:
    response = site.client().post("/predict", data=A, headers={"X-Priority": "urgent"})

    assert code(response) == (400, "bad_parameter")
    assert "X-Priority must be interactive or background, not urgent" in response.text


# -- bugs -----------------------------------------------------------------------------------------


def request_lines(caplog: pytest.LogCaptureFixture) -> list[dict[str, Any]]:
    found = [record for record in caplog.records if record.getMessage() == "request"]
    return [vars(record)["fields"] for record in found]


def test_a_bug_is_500_with_a_fixed_sentence_and_a_traceback_in_the_log(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def buggy(*_: object) -> bytes:
        raise TypeError("the secret inside")

    monkeypatch.setattr("imageserve.web.predict.open_picture", buggy)
    client = site.client()

    response = client.post("/predict", data=A, headers={"X-Request-Id": "req-9"})

    assert code(response) == (500, "internal")
    assert "secret" not in response.text
    (line,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert vars(line)["fields"] == {"request_id": "req-9"}
    assert line.exc_info
    assert str(line.exc_info[1]) == "the secret inside"
    assert client.get("/healthz").status_code == 200


@pytest.mark.parametrize(
    ("status", "expected"), [(418, (400, "bad_parameter")), (502, (500, "internal"))]
)
def test_errors_of_the_framework_have_the_same_shape(
    site: Site, status: int, expected: tuple[int, str]
) -> None:
    app = site.app()
    app.add_url_rule("/framework", view_func=lambda: abort(status))

    assert code(app.test_client().get("/framework")) == expected


# -- probes ---------------------------------------------------------------------------------------


@pytest.fixture
def drain_flag(tmp_path: Path) -> DrainFlag:
    create_drain_flag(tmp_path)
    return DrainFlag(tmp_path)


@pytest.mark.parametrize(
    ("ready", "stopping", "draining", "expected"),
    [
        pytest.param(True, False, False, (200, "ready"), id="serving"),
        pytest.param(False, False, False, (503, "waiting for Redis"), id="no contact yet"),
        pytest.param(True, False, True, (503, "draining"), id="draining"),
        pytest.param(True, True, False, (503, "draining"), id="stopping"),
        pytest.param(False, False, True, (503, "draining"), id="no contact yet, and draining"),
    ],
)
def test_readiness_says_whether_to_send_requests(
    site: Site,
    drain_flag: DrainFlag,
    ready: bool,
    stopping: bool,
    draining: bool,
    expected: tuple[int, str],
) -> None:
    site.lifecycle = Lifecycle(ready, stopping, drain_flag)
    if draining:
        drain_flag.set()
    client = site.client()

    response = client.get("/readyz")

    assert (response.status_code, response.get_json()) == (expected[0], {"status": expected[1]})
    assert client.get("/healthz").get_json() == {"status": "ok"}


def test_an_outage_of_redis_changes_neither_probe(site: Site) -> None:
    site.queue.away = True
    client = site.client()

    assert [client.get(path).status_code for path in ("/healthz", "/readyz")] == [200, 200]


def test_while_draining_requests_are_answered_and_connections_closed(
    working_site: Site, drain_flag: DrainFlag
) -> None:
    site = Site()
    site.queue = working_site.queue
    site.lifecycle = Lifecycle(ready=True, drain_flag=drain_flag)
    drain_flag.set()

    response = site.client().post("/predict", data=A)

    assert (response.status_code, response.headers["Connection"]) == (200, "close")


def test_once_stopping_new_requests_are_refused(site: Site) -> None:
    site.lifecycle.stopping = True

    response = site.client().post("/predict", data=A)

    assert code(response) == (503, "shutting_down")
    assert (response.headers["Retry-After"], response.headers["Connection"]) == ("1", "close")


# -- overview -------------------------------------------------------------------------------------


def test_the_models_are_listed_with_their_queue_size_and_workers(site: Site) -> None:
    info = WorkerInfo("w", "m", (8, 8, 3), 4, {4: 20.0}, "ready", "node", runtime="keras")
    info = replace(info, outputs=Outputs(("scores",), multi_label=True), classes=14)
    site.queue.heartbeat(info)

    models = site.client().get("/models").get_json()["models"]

    assert list(models) == ["m", "n"], "the default first"
    assert models["m"].pop("preparation")["resize"] == "squash"
    assert models["m"] == {
        "queue": "image_queue",
        "input_size": [8, 8],
        "interpolation": "bilinear",
        "workers": 1,
        "runtime": "keras",
        "outputs": ["labels", "scores"],
        "multi_label": True,
        "classes": 14,
        "stand_in": False,
    }
    assert models["n"]["workers"] == 0
    assert models["n"]["outputs"] is models["n"]["multi_label"] is models["n"]["classes"] is None


def test_the_metrics_are_prometheus_text(client: FlaskClient) -> None:
    client.post("/predict", data=A)
    client.post("/predict", data=b"text")

    response = client.get("/metrics")

    assert response.content_type.startswith("text/plain; version=")
    for line in (
        'imageserve_requests_total{code="",endpoint="predict",status="200"}',
        'imageserve_requests_total{code="not_an_image",endpoint="predict",status="400"}',
        'imageserve_pictures_total{model="m",outcome="ok"}',
        'imageserve_queue_length{model="m",queue="image_queue"} 0.0',
        "imageserve_slots_in_use 0.0",
        "imageserve_upload_bytes_held 0.0",
    ):
        assert line in response.text


# -- the page -------------------------------------------------------------------------------------


def test_the_page_is_served_with_its_policy_where_it_is_on(site: Site) -> None:
    site.page = page_files(Settings())
    client = site.client()

    page, script = client.get("/"), client.get("/page/main.js")

    assert (page.status_code, page.content_type) == (200, "text/html; charset=utf-8")
    assert (script.status_code, script.content_type) == (200, "text/javascript; charset=utf-8")
    for reply in (page, script):
        assert reply.headers["Content-Security-Policy"].startswith("default-src 'none'; ")
        assert reply.headers["X-Content-Type-Options"] == "nosniff"
    again = client.get("/", headers={"If-None-Match": page.headers["ETag"]})
    assert (again.status_code, again.data) == (304, b"")
    assert client.get("/page/__init__.py").status_code == 404
    assert client.post("/").status_code == 405


# -- log lines ------------------------------------------------------------------------------------


def test_a_request_is_one_line_with_its_id_sizes_and_times(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "imageserve.web.classify")

    client.post("/predict", data=A, headers={"X-Request-Id": "req-1"})

    (line,) = request_lines(caplog)
    times = {name: line.pop(name) for name in list(line) if name.endswith("_ms")}
    assert line == {
        "request_id": "req-1",
        "method": "POST",
        "path": "/predict",
        "status": 200,
        "bytes": len(A),
        "pictures": 1,
        "model": "m",
        "version": "1",
    }
    assert list(times) == ["decode_ms", "queue_ms", "model_ms", "total_ms"]


def test_a_refused_request_is_one_line_with_its_code(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "imageserve.web.classify")

    client.post("/predict?top=0", data=A)

    (line,) = request_lines(caplog)
    assert (line["status"], line["code"], "bytes" in line) == (400, "bad_parameter", False)


def test_requests_of_probes_and_dashboards_are_logged_at_debug_only(
    client: FlaskClient, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "imageserve.web.app")
    for path in ("/healthz", "/readyz", "/metrics", "/status"):
        client.get(path)
    assert request_lines(caplog) == []

    caplog.set_level(logging.DEBUG, "imageserve.web.app")
    client.get("/healthz")
    assert request_lines(caplog)[0]["path"] == "/healthz"
