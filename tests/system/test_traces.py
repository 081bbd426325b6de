"""Traces over web processes, queue and workers, as a collector gets them."""

import signal
from collections.abc import Iterator
from functools import partial
from uuid import uuid4

import pytest
from tests.collector import Collector, SeenSpan
from tests.inference_protocol import binary_request
from tests.promtool import promtool
from tests.redis_server import free_port
from tests.system.client import Client, at_once, form, in_background
from tests.system.conftest import MakeStack
from tests.system.grpc_client import infer_request, serving
from tests.system.samples import RAISES, poison, sample, samples
from tests.system.stack import Program, Stack, running

TRACE, CALLER = "0af7651916cd43dd8448eb211c80319c", "b7ad6b7169203331"
OF_A_PICTURE = ["decode", "model", "queue", "reply"]
CLOCK_S = 0.002
"""Redis tells when a job was queued in whole milliseconds."""


@pytest.fixture(scope="module")
def shared(
    tmp_path_factory: pytest.TempPathFactory, redis_program: str
) -> Iterator[tuple[Stack, Collector]]:
    """A stack that traces what its callers trace, and nothing else."""
    directory = tmp_path_factory.mktemp("traces")
    with (
        Collector().running() as collector,
        running(
            directory,
            redis_program,
            MODEL="stand-in:batch_ms=5,image_ms=0,size=64,poison=1",
            WEB_PROCESSES="1",
            TRACES_ENDPOINT=collector.address,
            TRACES_SHARE="0",
        ) as stack,
    ):
        yield stack, collector


@pytest.fixture
def stack(shared: tuple[Stack, Collector]) -> Stack:
    return shared[0]


@pytest.fixture
def collector(shared: tuple[Stack, Collector]) -> Collector:
    return shared[1]


@pytest.fixture
def trace() -> str:
    """A trace id of the test's own."""
    return uuid4().hex


def sampled(trace: str) -> dict[str, str]:
    return {"traceparent": f"00-{trace}-{CALLER}-01"}


def tree(stack: Stack, collector: Collector, trace: str, pictures: int = 1) -> list[SeenSpan]:
    """Return the spans of a trace, the request first, and check that they are one tree."""
    count = 1 + len(OF_A_PICTURE) * pictures
    stack.wait_for(lambda: len(collector.of(trace)) >= count, "the spans of a request")
    spans = sorted(collector.of(trace), key=lambda span: span.name != "request")
    request, *parts = spans
    assert sorted(part.name for part in parts) == sorted(OF_A_PICTURE * pictures)
    assert (request.name, request.parent) == ("request", CALLER)
    assert {part.parent for part in parts} == {request.id}
    assert len({span.id for span in spans}) == len(spans)
    for part in parts:
        assert request.start_s - CLOCK_S <= part.start_s <= part.end_s
    jobs = {part.attributes["imageserve.job_id"] for part in parts}
    assert len(jobs) == pictures
    for job in jobs:
        own = {p.name: p for p in parts if p.attributes["imageserve.job_id"] == job}
        assert own["decode"].end_s <= own["queue"].start_s + CLOCK_S
        assert own["queue"].end_s <= own["model"].start_s + CLOCK_S
        assert own["model"].end_s <= own["reply"].start_s + CLOCK_S
    return spans


def assert_linked(stack: Stack, collector: Collector, models: list[SeenSpan]) -> None:
    """Check that the runs and the batches that they were part of lead to each other."""
    members = {(span.trace, span.id) for span in models}

    def batches() -> list[SeenSpan]:
        return [each for each in collector.named("batch") if members & set(each.links)]

    stack.wait_for(lambda: {link for each in batches() for link in each.links} == members, "links")
    for batch in batches():
        assert batch.parent == ""
        for model in models:
            if (model.trace, model.id) in batch.links:
                assert model.links == ((batch.trace, batch.id),)
                assert batch.trace != model.trace
                assert batch.start_s <= model.start_s <= model.end_s <= batch.end_s + CLOCK_S


def test_a_picture_is_one_tree_over_web_queue_and_worker(
    stack: Stack, collector: Collector, trace: str
) -> None:
    reply = stack.http.predict(sample(1).data, X_Request_Id="mine", **sampled(trace))

    assert reply.status == 200
    spans = tree(stack, collector, trace)
    assert {span.name: span.service for span in spans} == {
        **dict.fromkeys(("request", "decode"), "imageserve-web"),
        **dict.fromkeys(("queue", "model", "reply"), "imageserve-worker"),
    }
    assert spans[0].attributes["imageserve.request_id"] == "mine"
    (model,) = (span for span in spans if span.name == "model")
    assert model.attributes["attempt"] == model.attributes["imageserve.batch_size"] == 1
    assert model.attributes["imageserve.model"] == "stand-in"
    assert model.end_s - model.start_s >= 0.005, "the stand-in takes five milliseconds"
    assert not any(span.failed for span in spans)
    assert_linked(stack, collector, [model])
    (worker,) = stack.workers
    lines = [line for line in worker.batches() if trace in line.get("trace_ids", [])]
    assert [(line["request_ids"], line["trace_ids"]) for line in lines] == [(["mine"], [trace])]


def test_several_pictures_are_parts_of_one_request(
    stack: Stack, collector: Collector, trace: str
) -> None:
    body, headers = form(*(picture.data for picture in samples(3)))
    reply = stack.http.ask("POST", "/predict", body, headers | sampled(trace))

    assert reply.status == 200
    models = [span for span in tree(stack, collector, trace, 3) if span.name == "model"]
    assert len({span.attributes["imageserve.job_id"] for span in models}) == 3
    assert_linked(stack, collector, models)


def test_the_open_inference_protocol_gives_the_same_tree(
    stack: Stack, collector: Collector, trace: str
) -> None:
    body, headers = binary_request(sample(2).data)
    path = "/v2/models/stand-in/infer"
    reply = stack.http.ask("POST", path, body, headers | sampled(trace))

    assert reply.status == 200
    tree(stack, collector, trace)


def test_grpc_gives_the_same_tree(stack: Stack, collector: Collector, trace: str) -> None:
    with serving(stack) as (_, caller):
        metadata = tuple(sampled(trace).items())
        caller.call("ModelInfer", infer_request(sample(3).data), metadata=metadata)

        spans = tree(stack, collector, trace)
    assert spans[0].service == "imageserve-grpc"


def test_what_its_caller_does_not_sample_has_no_span_but_a_trace_id_in_the_log(
    stack: Stack, collector: Collector, trace: str
) -> None:
    unsampled = f"00-{trace}-{CALLER}-00"
    assert stack.http.predict(sample(4).data, traceparent=unsampled).status == 200
    assert stack.http.predict(sample(5).data, X_Request_Id="without").status == 200
    last = f"{int(trace, 16) ^ 2:032x}"
    assert stack.http.predict(sample(6).data, **sampled(last)).status == 200

    tree(stack, collector, last)
    assert collector.of(trace) == []
    assert not [
        s for s in collector.spans if s.attributes.get("imageserve.request_id") == "without"
    ]
    (worker,) = stack.workers
    assert any(line.get("trace_ids") == [trace] for line in worker.batches())
    assert any(line.get("trace_id") == trace for line in stack.web.lines("request"))


def test_an_error_is_that_of_the_span_in_which_it_happened(
    stack: Stack, collector: Collector, trace: str
) -> None:
    reply = stack.http.predict(poison(RAISES), **sampled(trace))

    assert (reply.status, reply.code) == (422, "model_failed")
    spans = {span.name: span for span in tree(stack, collector, trace)}
    assert (spans["model"].failed, spans["queue"].failed) == (True, False)
    assert spans["model"].attributes["error.type"] == "model_failed"


def test_a_killed_worker_leaves_one_run_the_second_and_one_that_stops_sends_its_last_spans(
    make_stack: MakeStack, trace: str
) -> None:
    with Collector().running() as collector:
        stack = make_stack(
            workers=2,
            MODEL="stand-in:batch_ms=600,image_ms=0,size=64",
            BATCH_SIZE="1",
            LEASE_S="0.6",
            WEB_PROCESSES="1",
            TRACES_ENDPOINT=collector.address,
            TRACES_SHARE="0",
        )
        victim, survivor = stack.workers
        survivor.pause()
        with in_background([partial(stack.http.predict, sample(1).data, **sampled(TRACE))]) as sent:
            stack.wait_for(lambda: stack.leased() == 1, "it is in its batch")
            victim.kill()
            survivor.resume()
        assert sent[0].result().status == 200

        spans = {span.name: span for span in tree(stack, collector, TRACE)}
        assert spans["model"].attributes["attempt"] == 2
        assert spans["queue"].end_s - spans["queue"].start_s >= 0.5, "most of the lease"
        assert survivor.batches()[0]["attempt"] == 2

        assert stack.http.predict(sample(2).data, **sampled(trace)).status == 200
        survivor.send(signal.SIGTERM)
        assert survivor.wait() == 0
        assert {"queue", "model", "reply"} <= {span.name for span in collector.of(trace)}


def lost_spans(worker: Program) -> float:
    text = Client(worker.metrics_port).get("/metrics").text
    assert promtool("check", "metrics", text=text) == ""
    rows = [line for line in text.splitlines() if line.startswith("imageserve_spans_lost_total{")]
    return sum(float(row.rpartition(" ")[2]) for row in rows)


def test_a_collector_that_fails_delays_no_answer_and_what_is_lost_is_counted(
    make_stack: MakeStack,
) -> None:
    port = free_port()
    stack = make_stack(
        workers=0,
        WEB_PROCESSES="1",
        TRACES_ENDPOINT=f"http://127.0.0.1:{port}",
        TRACES_SHARE="1",
        OTEL_EXPORTER_OTLP_TIMEOUT="1",
    )
    worker = stack.start_worker(METRICS_PORT=str(free_port()))

    def serves(fault: str) -> None:
        before = lost_spans(worker)
        replies = at_once([partial(stack.http.predict, picture.data) for picture in samples(12)])
        assert {reply.status for reply in replies} == {200}, fault
        stack.wait_for(lambda: lost_spans(worker) > before, f"spans are lost: {fault}")

    serves("it is away")
    with Collector(port).running() as collector:
        collector.released.clear()
        serves("it hangs")
        collector.status = 503
        collector.released.set()
        serves("it answers 503")
        stack.wait_for(lambda: stack.web.lines("spans are lost"), "the web process says so")
        assert len(worker.lines("spans are lost")) == len(stack.web.lines("spans are lost")) == 1

        collector.status = 200
        assert stack.http.predict(sample(20).data).status == 200
        stack.wait_for(lambda: worker.lines("spans are sent again"), "the end of the outage")
        stack.wait_for(lambda: stack.web.lines("spans are sent again"), "for the web process, too")
        stack.wait_for(lambda: collector.named("request"), "a request")
    roots = [span for span in collector.named("request") if not span.parent]
    assert len({span.trace for span in roots}) == len(collector.named("request"))
