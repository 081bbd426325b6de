"""Spans as a collector gets them: the messages of OTLP, read by their own classes."""

import logging
import os
import socket
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from types import SimpleNamespace
from typing import Any

import pytest
from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest
from tests.collector import Collector
from tests.spans import CALLER

from imageserve import __version__
from imageserve.otlp import Exporter
from imageserve.trace_context import MOST_TEXT, Span, TraceContext, read_context

OWN = CALLER.child("c" * 16)
SPAN = Span("request", OWN, CALLER, 1_700_000_000.25, 1_700_000_001.5, {}, kind="server")

Sent = Callable[..., Any]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> Sent:
    """Export spans; return the message that the collector would get."""

    def send(*spans: Span) -> Any:
        messages: list[Any] = []

        def export(data: bytes) -> Any:
            messages.append(ExportTraceServiceRequest.FromString(data))
            return SimpleNamespace(success=True)

        exporter = Exporter("http://collector:4318/v1/traces", "imageserve-web")
        monkeypatch.setattr(exporter._exporter._client, "export", export)
        assert exporter.export(spans) == ""
        (message,) = messages
        return message

    return send


def spans_of(message: Any) -> Sequence[Any]:
    (resource,) = message.resource_spans
    (scope,) = resource.scope_spans
    return list(scope.spans)


def values(attributes: Any) -> dict[str, Any]:
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


def test_a_span_has_its_ids_its_times_and_its_kind(sent: Sent) -> None:
    (span,) = spans_of(sent(SPAN))
    ids = span.trace_id.hex(), span.span_id.hex(), span.parent_span_id.hex()
    assert ids == (CALLER.trace_id, OWN.span_id, CALLER.span_id)
    assert (span.name, span.kind, span.trace_state) == ("request", span.SPAN_KIND_SERVER, "v=1")
    times = span.start_time_unix_nano, span.end_time_unix_nano
    assert times == (1_700_000_000_250_000_000, 1_700_000_001_500_000_000)
    assert span.status.code == span.status.STATUS_CODE_UNSET


@pytest.mark.parametrize(
    ("kind", "number", "is_remote"),
    [("internal", 1, False), ("server", 2, True), ("consumer", 5, True)],
)
def test_a_parent_in_another_process_is_said_to_be_there(
    sent: Sent, kind: Any, number: int, is_remote: bool
) -> None:
    (span,) = spans_of(sent(replace(SPAN, kind=kind)))
    assert (span.kind, bool(span.flags & 0x200)) == (number, is_remote)


@pytest.mark.parametrize("state", ["v=1,w=a b", "0v=1", "a@b@c=1", "a@=1"])
def test_a_tracestate_goes_out_as_it_came_and_no_client_fills_the_log(
    sent: Sent, state: str, caplog: pytest.LogCaptureFixture
) -> None:
    found = read_context(CALLER.traceparent, state)
    assert found is not None
    (span,) = spans_of(sent(replace(SPAN, context=found, links=(found,))))
    assert span.trace_state == state
    assert caplog.records == []


def test_a_span_without_a_parent_is_a_root(sent: Sent) -> None:
    (span,) = spans_of(sent(replace(SPAN, parent=None)))
    assert span.parent_span_id == b""


def test_attributes_keep_their_types_and_none_breaks_a_batch(sent: Sent) -> None:
    told: dict[str, Any] = {
        "t": "a",
        "n": 3,
        "f": 0.5,
        "b": True,
        "half": "\ud83d",
        "long": "x" * 9999,
    }
    (span,) = spans_of(sent(replace(SPAN, attributes=told)))
    assert values(span.attributes) == {**told, "half": "?", "long": "x" * MOST_TEXT}


def test_an_error_has_its_code(sent: Sent) -> None:
    (span,) = spans_of(sent(replace(SPAN, error="model_failed")))
    assert (span.status.code, span.status.message) == (
        span.status.STATUS_CODE_ERROR,
        "model_failed",
    )
    assert values(span.attributes) == {"error.type": "model_failed"}


def test_links_name_spans_of_other_traces(sent: Sent) -> None:
    other = TraceContext("d" * 32, "e" * 16, sampled=True)
    (span,) = spans_of(sent(replace(SPAN, links=(other, CALLER))))
    found = [(link.trace_id.hex(), link.span_id.hex()) for link in span.links]
    assert found == [(other.trace_id, other.span_id), (CALLER.trace_id, CALLER.span_id)]


def test_clocks_that_differ_make_no_span_of_negative_length(sent: Sent) -> None:
    (span,) = spans_of(sent(replace(SPAN, start_s=2.0, end_s=1.0)))
    assert span.start_time_unix_nano == span.end_time_unix_nano == 2_000_000_000


def test_the_process_says_what_it_is_and_the_variables_of_the_sdk_have_the_last_word(
    sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert values(sent(SPAN).resource_spans[0].resource.attributes) == {
        "service.name": "imageserve-web",
        "service.version": __version__,
        "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
    }
    monkeypatch.setenv("OTEL_SERVICE_NAME", "shop")
    monkeypatch.setenv("OTEL_RESOURCE_ATTRIBUTES", "k8s.pod.name=web-1,service.name=other")
    found = values(sent(SPAN).resource_spans[0].resource.attributes)
    assert (found["service.name"], found["k8s.pod.name"]) == ("shop", "web-1")
    assert found["service.version"] == __version__


# -- a collector that does not take them -----------------------------------------------------------


@pytest.fixture
def collector() -> Iterator[Collector]:
    with Collector().running() as running:
        yield running


@pytest.fixture
def impatient(collector: Collector, monkeypatch: pytest.MonkeyPatch) -> Exporter:
    exporter = Exporter(f"{collector.address}/v1/traces", "imageserve-web")
    monkeypatch.setattr(exporter._exporter._client, "_compute_backoff", lambda _: 0.01)
    return exporter


def test_a_collector_gets_what_was_sent(collector: Collector, impatient: Exporter) -> None:
    assert impatient.export([SPAN, SPAN]) == ""
    assert [span.id for span in collector.spans] == [OWN.span_id] * 2


def test_a_collector_that_is_away_is_told_and_no_line_is_written(
    impatient: Exporter, collector: Collector, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    collector._server.socket.close()

    told = impatient.export([SPAN])

    assert "Connection refused" in told
    assert "retrying" not in told
    assert caplog.records == []


def test_a_collector_that_answers_with_an_error_is_asked_again_and_then_told(
    impatient: Exporter, collector: Collector
) -> None:
    collector.status = 503
    assert impatient.export([SPAN]) == "Service Unavailable"
    assert collector.requests == 6
    collector.status = 404
    assert impatient.export([SPAN]).endswith("code: 404, reason: Not Found")


def test_an_address_that_has_moved_is_told_and_nothing_is_sent_elsewhere(
    collector: Collector, impatient: Exporter
) -> None:
    collector.status, collector.location = 307, f"{collector.address}/v1/traces"
    assert impatient.export([SPAN]).endswith(f"reason: 307, moved to {collector.location}")
    assert collector.requests == 1


def test_a_long_answer_is_not_read(collector: Collector, impatient: Exporter) -> None:
    collector.more = 10**9
    assert impatient.export([SPAN]) == ""
    assert collector.requests == 1


def test_a_collector_that_hangs_is_given_up(
    collector: Collector, monkeypatch: pytest.MonkeyPatch
) -> None:
    collector.released.clear()
    monkeypatch.setenv("OTEL_EXPORTER_OTLP_TIMEOUT", "0.2")
    exporter = Exporter(f"{collector.address}/v1/traces", "imageserve-web")
    assert "timeout" in exporter.export([SPAN])
