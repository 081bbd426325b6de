"""The one door to OpenTelemetry: spans to a collector, by OTLP over HTTP.

Imported only where TRACES_ENDPOINT is set. The variables of its SDK for the exporter are in force:
``OTEL_EXPORTER_OTLP_HEADERS``, ``OTEL_EXPORTER_OTLP_CERTIFICATE``, ``OTEL_RESOURCE_ATTRIBUTES``
and so on.
"""

import logging
import os
import socket
from collections.abc import Sequence
from typing import Any, cast

import requests
from opentelemetry.exporter.otlp.proto.http import trace_exporter
from opentelemetry.sdk.environment_variables import (
    OTEL_EXPORTER_OTLP_TIMEOUT,
    OTEL_EXPORTER_OTLP_TRACES_TIMEOUT,
)
from opentelemetry.sdk.resources import OTELResourceDetector, Resource
from opentelemetry.sdk.trace import ReadableSpan
from opentelemetry.sdk.trace.export import SpanExportResult
from opentelemetry.sdk.util.instrumentation import InstrumentationScope
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode, TraceFlags
from opentelemetry.trace import TraceState as State
from urllib3.exceptions import HTTPError

from imageserve import __version__
from imageserve.trace_context import MOST_TEXT, Span, TraceContext, Value

TIMEOUT_S = 3.0
"""Time that a batch has to reach the collector, with all tries, if the SDK's variables set none."""

MOST_ANSWER_BYTES = 4096
"""Most that is read of an answer of the collector; then its connection is closed."""

_KINDS = {
    "internal": SpanKind.INTERNAL,
    "server": SpanKind.SERVER,
    "consumer": SpanKind.CONSUMER,
}


class _Reason(logging.Filter):
    """Keeps what the exporter logs of each try: here it is told once for an outage."""

    text = ""

    def filter(self, record: logging.LogRecord) -> bool:
        # Its last line says that it gave up; those before say why.
        if record.levelno < logging.ERROR and isinstance(record.args, tuple):
            self.text = str(record.args[0])  # Without how soon it tries again.
        elif not self.text:
            self.text = record.getMessage()
        return False


_reason = _Reason()
"""One for all exporters: after a filter that says no, a logger asks no other one."""


class _Session(requests.Session):
    """Connections to the collector, which may be something else by mistake."""

    def request(self, *args: Any, **options: Any) -> requests.Response:
        """Raise RequestException for a redirect, which the exporter would take for success."""
        answer = super().request(*args, **{**options, "stream": True, "allow_redirects": False})
        try:
            start = answer.raw.read(MOST_ANSWER_BYTES, decode_content=False)
        except HTTPError:
            start = None
        if start is None or len(start) == MOST_ANSWER_BYTES:
            answer.close()
        if 300 <= answer.status_code < 400:
            where = answer.headers.get("Location", "nowhere")
            raise requests.RequestException(f"{answer.status_code}, moved to {where}")
        return answer


class Exporter:
    """Sends spans of one process."""

    def __init__(self, address: str, service: str) -> None:
        timeouts = (OTEL_EXPORTER_OTLP_TRACES_TIMEOUT, OTEL_EXPORTER_OTLP_TIMEOUT)
        is_set = any(os.environ.get(name) for name in timeouts)
        self._exporter = trace_exporter.OTLPSpanExporter(
            address, timeout=None if is_set else TIMEOUT_S, session=_Session()
        )
        own = {
            "service.name": service,
            "service.version": __version__,
            "service.instance.id": f"{socket.gethostname()}-{os.getpid()}",
        }
        # What people say in the SDK's variables comes last.
        self._resource = Resource(own).merge(OTELResourceDetector().detect())
        self._scope = InstrumentationScope("imageserve", __version__)
        logging.getLogger(trace_exporter.__name__).addFilter(_reason)

    def export(self, spans: Sequence[Span]) -> str:
        """Send spans; return why that failed, "" where it did not."""
        _reason.text = ""
        result = self._exporter.export([self._readable(span) for span in spans])
        if result is SpanExportResult.SUCCESS:
            return ""
        return _reason.text or "the exporter does not say why"

    def _readable(self, span: Span) -> ReadableSpan:
        status = Status(StatusCode.ERROR, span.error) if span.error else Status()
        attributes = {name: _value(value) for name, value in span.attributes.items()}
        if span.error:
            attributes["error.type"] = span.error
        is_remote = span.kind != "internal"
        return ReadableSpan(
            span.name,
            _span_context(span.context),
            None if span.parent is None else _span_context(span.parent, is_remote=is_remote),
            self._resource,
            attributes,
            links=[Link(_span_context(each, is_remote=True)) for each in span.links],
            kind=_KINDS[span.kind],
            status=status,
            start_time=_nanoseconds(span.start_s),
            # Begin and end may be of two clocks.
            end_time=_nanoseconds(max(span.start_s, span.end_s)),
            instrumentation_scope=self._scope,
        )


def _span_context(context: TraceContext, *, is_remote: bool = False) -> SpanContext:
    return SpanContext(
        int(context.trace_id, 16),
        int(context.span_id, 16),
        is_remote,
        TraceFlags(TraceFlags.SAMPLED if context.sampled else TraceFlags.DEFAULT),
        _state(context.state),
    )


def _state(text: str) -> State:
    """Return a ``tracestate`` as it came. The SDK logs a line for each that it does not know."""
    pairs = (member.strip().split("=", 1) for member in text.split(","))
    return cast(State, dict(pair for pair in pairs if len(pair) > 1))


def _nanoseconds(seconds: float) -> int:
    """Return a time of this century: of that, a float has microseconds, and no more."""
    return round(seconds * 1e6) * 1000


def _value(value: Value) -> Value:
    if not isinstance(value, str):
        return value
    # Lone surrogates cannot be encoded: all spans of a batch would be lost.
    return value[:MOST_TEXT].encode("utf-8", "replace").decode()
