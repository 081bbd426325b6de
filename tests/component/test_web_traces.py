"""What a web process makes of a caller's trace: its job, its spans, its lines in the log."""

import asyncio
import logging
from contextlib import suppress
from io import BytesIO
from types import SimpleNamespace
from typing import Any

import pytest
from tests.component.test_web_app import A, B, Site, poison, request_lines
from tests.inference_protocol import binary_request
from tests.spans import CALLER, UNSAMPLED, KeptSpans

from imageserve.errors import Busy, NotFound, QueueUnavailable
from imageserve.grpc_server import calls
from imageserve.trace_context import MOST_TEXT, TraceContext
from imageserve.tracing import NO_TRACER, Tracer
from imageserve.web.edge import SMALL_BYTES, Cors
from imageserve.web.lifecycle import Lifecycle
from imageserve.web.server import Worker

IDS = {"request_id": "req-1", "trace_id": CALLER.trace_id}
HEADERS = {"traceparent": CALLER.traceparent, "tracestate": "v=1", "X-Request-Id": "req-1"}


@pytest.fixture
def kept() -> KeptSpans:
    return KeptSpans()


@pytest.fixture
def traced(site: Site, kept: KeptSpans) -> Site:
    """A site that records what callers sample."""
    site.tracer = kept.tracer()
    return site


@pytest.fixture
def site() -> Site:
    return Site()


@pytest.mark.parametrize("door", ["/predict", "/v2/models/m/infer"])
def test_a_request_is_a_span_of_its_callers_trace_and_its_job_a_part_of_that(
    traced: Site, kept: KeptSpans, door: str
) -> None:
    body, more = (A, {}) if door == "/predict" else binary_request(A)

    with traced.worker():
        assert traced.client().post(door, data=body, headers={**HEADERS, **more}).status_code == 200

    request = kept.one("request")
    (job,) = traced.queue.sent
    assert request.parent == CALLER
    assert request.context == job.context == CALLER.child(request.context.span_id)
    assert request.context.span_id != CALLER.span_id
    assert (request.kind, request.error) == ("server", "")
    assert request.attributes == {
        "http.request.method": "POST",
        "url.path": door,
        "url.scheme": "http",
        "http.route": door.replace("/m/", "/{model}/"),
        "http.response.status_code": 200,
        "imageserve.request_id": "req-1",
        "imageserve.model": "m",
        "imageserve.model_version": "1",
        "imageserve.pictures": 1,
    }


def test_each_picture_that_is_decoded_is_a_span_of_its_request(
    traced: Site, kept: KeptSpans
) -> None:
    form = {"image": [(BytesIO(each), "a.jpg") for each in (A, b"no picture", B)]}

    with traced.worker():
        traced.client().post("/predict", data=form, headers=HEADERS)

    request = kept.one("request")
    decodes = kept.named("decode")
    first, last = traced.queue.sent
    assert [span.parent for span in decodes] == [request.context] * 3
    assert [span.context.trace_id for span in decodes] == [CALLER.trace_id] * 3
    for place, (span, data) in enumerate(zip(decodes, (A, b"no picture", B), strict=True)):
        assert span.attributes["imageserve.picture"] == place
        assert span.attributes["imageserve.bytes"] == len(data)
    jobs = [span.attributes["imageserve.job_id"] for span in decodes]
    assert (jobs[0], jobs[2]) == (first.id, last.id)
    assert len(set(jobs)) == 3
    assert [span.error for span in decodes] == ["", "not_an_image", ""]
    assert request.attributes["imageserve.pictures"] == 3
    spans = [request, *decodes]
    assert all(1e9 < request.start_s <= span.start_s <= span.end_s for span in spans)
    assert all(span.end_s <= request.end_s for span in spans)


@pytest.mark.parametrize(
    ("headers", "context"),
    [
        pytest.param({"traceparent": UNSAMPLED.traceparent}, UNSAMPLED, id="not sampled"),
        pytest.param({"traceparent": "00-zz"}, None, id="malformed"),
        pytest.param({"tracestate": "a=1"}, None, id="no traceparent"),
        pytest.param({}, None, id="none"),
    ],
)
def test_what_its_caller_does_not_sample_has_no_span(
    traced: Site, kept: KeptSpans, headers: dict[str, str], context: TraceContext | None
) -> None:
    with traced.worker():
        assert traced.client().post("/predict", data=A, headers=headers).status_code == 200

    assert kept.spans == []
    assert [job.context for job in traced.queue.sent] == [context]


def test_without_a_caller_the_share_begins_a_trace(site: Site, kept: KeptSpans) -> None:
    site.tracer = kept.tracer(share=1.0)

    with site.worker():
        site.client().post("/predict", data=A)

    request = kept.one("request")
    assert request.parent is None
    assert [job.context for job in site.queue.sent] == [request.context]


def test_without_tracing_a_callers_context_is_passed_on_as_it_came(site: Site) -> None:
    with site.worker():
        assert site.client().post("/predict", data=A, headers=HEADERS).status_code == 200

    assert [job.context for job in site.queue.sent] == [CALLER]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        ("/predict?top=0", 400, "bad_parameter"),
        ("/predict?model=x", 404, "unknown_model"),
        ("/predict", 500, "internal"),
    ],
)
def test_a_refused_request_has_a_span_that_says_why_and_a_failed_one_is_an_error(
    traced: Site,
    kept: KeptSpans,
    monkeypatch: pytest.MonkeyPatch,
    path: str,
    status: int,
    code: str,
) -> None:
    def buggy(*_: object) -> bytes:
        raise TypeError("a bug")

    monkeypatch.setattr("imageserve.web.predict.open_picture", buggy)

    assert traced.client().post(path, data=A, headers=HEADERS).status_code == status

    (request,) = kept.named("request")
    assert request.attributes["http.response.status_code"] == status
    assert request.attributes["error.type"] == code
    assert request.error == (code if status >= 500 else "")
    assert [span.error for span in kept.named("decode")] == ["internal"] * (status == 500)


def test_a_span_that_waits_keeps_little_of_a_long_address(traced: Site, kept: KeptSpans) -> None:
    traced.client().post(f"/v2/models/{'x' * 5000}/infer", data=A, headers=HEADERS)

    (request,) = kept.spans
    assert len(str(request.attributes["url.path"])) == MOST_TEXT
    assert request.attributes["http.route"] == "/v2/models/{model}/infer"
    assert all(len(str(value)) <= MOST_TEXT for value in request.attributes.values())


# -- lines in the log -----------------------------------------------------------------------------


def _fields(record: logging.LogRecord) -> dict[str, Any]:
    found: dict[str, Any] = getattr(record, "fields", {})
    return found


@pytest.mark.parametrize("parent", [CALLER, UNSAMPLED])
def test_the_line_of_a_request_has_its_ids_and_the_version_of_its_model(
    site: Site, caplog: pytest.LogCaptureFixture, parent: TraceContext
) -> None:
    caplog.set_level(logging.INFO, "imageserve.web.classify")
    headers = {**HEADERS, "traceparent": parent.traceparent}

    with site.worker():
        site.client().post("/predict", data=A, headers=headers)

    (line,) = request_lines(caplog)
    found = line["request_id"], line["trace_id"], line["model"], line["version"]
    assert found == ("req-1", CALLER.trace_id, "m", "1")


def test_the_line_of_a_picture_on_which_the_model_fails_says_which_version_did(
    site: Site, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "imageserve.web.classify")

    with site.worker():
        reply = site.client().post("/predict", data=poison(), headers=HEADERS)

    (line,) = request_lines(caplog)
    assert (reply.status_code, line["version"]) == (422, "1")


def test_a_line_of_any_call_has_the_ids(site: Site, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG, "imageserve.web.app")

    site.client().get("/models", headers=HEADERS)

    (line,) = request_lines(caplog)
    assert (line["request_id"], line["trace_id"]) == ("req-1", CALLER.trace_id)


def test_the_line_of_a_bug_has_the_ids(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageserve.web.predict.open_picture", None)

    site.client().post("/predict", data=A, headers=HEADERS)

    (line,) = [record for record in caplog.records if record.levelno == logging.CRITICAL]
    assert _fields(line) == IDS


def test_the_line_of_a_picture_that_cannot_be_queued_has_the_ids(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def enqueue(*_: object) -> None:
        raise QueueUnavailable("away")

    monkeypatch.setattr(site.queue, "enqueue", enqueue)

    site.client().post("/predict", data=A, headers={**HEADERS, "X-Request-Timeout": "0.2"})

    lines = [
        each for each in caplog.records if "a picture could not be queued" in each.getMessage()
    ]
    assert lines
    assert all(_fields(each) == IDS for each in lines)


def test_the_line_of_jobs_that_cannot_be_cancelled_has_the_ids(
    site: Site, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    def results(*_: object) -> None:
        raise QueueUnavailable("away")

    monkeypatch.setattr(site.queue, "results", results)

    site.client().post("/predict", data=A, headers={**HEADERS, "X-Request-Timeout": "0.2"})

    (line,) = [each for each in caplog.records if "could not be cancelled" in each.getMessage()]
    assert _fields(line) == IDS


# -- answers below the application ----------------------------------------------------------------


class Client:
    """A client's side of a connection."""

    def __init__(self) -> None:
        self.sent = b""

    def sendall(self, data: bytes) -> None:
        self.sent += data

    def __getattr__(self, name: str) -> Any:
        return lambda *_: None


def gunicorn_worker(tracer: Tracer) -> Any:
    worker = Worker.__new__(Worker)
    worker.app = SimpleNamespace(tracer=tracer, lifecycle=Lifecycle(), cors=Cors())
    worker._connections, worker.worker_connections = 0, 10
    return worker


def request_of(**headers: str) -> Any:
    listed = [(name.upper().replace("_", "-"), value) for name, value in headers.items()]
    reader = SimpleNamespace(length=SMALL_BYTES + 1)
    return SimpleNamespace(
        method="POST",
        path="/predict",
        query="",
        scheme="http",
        headers=listed,
        body=SimpleNamespace(reader=reader),
        should_close=lambda: True,
    )


@pytest.mark.parametrize(
    ("parent", "spans"), [(CALLER.traceparent, 1), (UNSAMPLED.traceparent, 0), ("00-zz", 0)]
)
def test_a_picture_that_is_refused_by_its_head_has_a_span_where_its_caller_samples(
    kept: KeptSpans, caplog: pytest.LogCaptureFixture, parent: str, spans: int
) -> None:
    caplog.set_level(logging.DEBUG, "imageserve.web.edge")
    client = Client()
    request = request_of(traceparent=parent, tracestate="v=1", x_request_id="req-1")

    with pytest.raises(StopIteration):
        gunicorn_worker(kept.tracer())._refuse(request, client, Busy("late", retry_after_s=1))

    assert client.sent.startswith(b"HTTP/1.1 503 ")
    assert b"X-Request-Id: req-1" in client.sent
    assert len(kept.named("request")) == len(kept.spans) == spans
    for span in kept.spans:
        assert (span.parent, span.error) == (CALLER, "busy")
        assert span.attributes["http.response.status_code"] == 503
    (line,) = [each for each in caplog.records if each.getMessage() == "refused early"]
    assert _fields(line) == (IDS if parent != "00-zz" else {"request_id": "req-1"})


def test_an_error_below_the_application_is_found_by_the_id_that_its_client_gets(
    caplog: pytest.LogCaptureFixture,
) -> None:
    client = Client()
    request = request_of(traceparent=CALLER.traceparent, x_request_id="req-1")

    gunicorn_worker(NO_TRACER).handle_error(request, client, None, ValueError("a bug"))

    assert b"X-Request-Id: req-1" in client.sent
    (line,) = [each for each in caplog.records if "below the application" in each.getMessage()]
    assert _fields(line) == IDS


# -- gRPC -----------------------------------------------------------------------------------------


class Aborted(Exception):
    pass


class Context:
    """A call, as the library shows it."""

    def __init__(self, *metadata: tuple[str, str]) -> None:
        self._metadata = metadata

    def invocation_metadata(self) -> tuple[tuple[str, str], ...]:
        return self._metadata

    def set_trailing_metadata(self, metadata: Any) -> None:
        del metadata

    async def abort(self, *_: Any) -> None:
        raise Aborted


@pytest.mark.parametrize(
    ("error", "told", "code", "status"),
    [
        (None, "", "", "OK"),
        (NotFound("no"), "", "not_found", "NOT_FOUND"),
        (ValueError("a bug"), "internal", "internal", "INTERNAL"),
        (asyncio.CancelledError(), "", "client_gone", "CANCELLED"),
    ],
)
def test_a_call_of_grpc_is_a_span_of_its_callers_trace(
    kept: KeptSpans, error: BaseException | None, told: str, code: str, status: str
) -> None:
    metadata = [("traceparent", CALLER.traceparent), ("tracestate", "v=1"), ("x-request-id", "r")]
    tracer = kept.tracer()
    context = Context(*metadata)
    call = calls._call("ModelInfer", context, tracer)

    async def take(*_: object) -> str:
        call.model = "m"
        if error is not None:
            raise error
        return "an answer"

    with suppress(Aborted, asyncio.CancelledError):
        asyncio.run(calls._served("infer", call, take, context, tracer))

    (span,) = kept.spans
    assert (span.name, span.parent, span.context) == ("request", CALLER, call.context)
    assert (span.error, span.attributes.get("error.type", "")) == (told, code)
    rpc = {name: value for name, value in span.attributes.items() if name.startswith("rpc.")}
    assert rpc == {
        "rpc.system.name": "grpc",
        "rpc.method": "inference.GRPCInferenceService/ModelInfer",
        "rpc.response.status_code": status,
    }
    assert (span.attributes["imageserve.model"], span.attributes["imageserve.request_id"]) == (
        "m",
        "r",
    )


def test_several_tracestates_of_grpc_are_one_and_several_traceparents_are_none() -> None:
    parent = ("traceparent", CALLER.traceparent)
    call = calls._call(
        "ModelInfer", Context(parent, ("tracestate", "a=1"), ("tracestate", "b=2")), NO_TRACER
    )
    assert call.context is not None
    assert call.context.state == "a=1,b=2"
    assert calls._call("ModelInfer", Context(parent, parent), NO_TRACER).context is None
