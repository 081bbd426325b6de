"""A collector of spans: OTLP over HTTP on loopback, read by OpenTelemetry's own messages."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import ExportTraceServiceRequest


@dataclass(frozen=True, slots=True)
class Received:
    """A span, as it came."""

    service: str
    name: str
    trace_id: str
    span_id: str
    parent_id: str
    """Empty for a root."""
    start_ns: int
    end_ns: int
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]
    """Trace and span ids."""
    is_error: bool


class Collector(ThreadingHTTPServer):
    """Keeps what it gets. It can also answer with an error, or not at all."""

    daemon_threads = True
    request_queue_size = 64

    def __init__(self) -> None:
        self.messages: list[Any] = []
        """ExportTraceServiceRequest, each."""
        self.asked = 0
        self.status = 200
        self.answers = threading.Event()
        """Cleared, it hangs."""
        self.answers.set()
        super().__init__(("127.0.0.1", 0), _Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def spans(self) -> list[Received]:
        return [span for message in list(self.messages) for span in _received(message)]

    def named(self, name: str) -> list[Received]:
        return [span for span in self.spans if span.name == name]

    def of_trace(self, trace_id: str) -> list[Received]:
        return [span for span in self.spans if span.trace_id == trace_id]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client may have given up."""


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Collector

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        self.server.asked += 1
        self.server.answers.wait()
        if self.server.status == 200:
            self.server.messages.append(ExportTraceServiceRequest.FromString(body))
        self.send_response(self.server.status)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


def _received(message: Any) -> Iterator[Received]:
    for resource in message.resource_spans:
        service = values(resource.resource.attributes)["service.name"]
        for span in (span for scope in resource.scope_spans for span in scope.spans):
            yield Received(
                service,
                span.name,
                span.trace_id.hex(),
                span.span_id.hex(),
                span.parent_span_id.hex(),
                span.start_time_unix_nano,
                span.end_time_unix_nano,
                values(span.attributes),
                tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
                span.status.code == span.status.STATUS_CODE_ERROR,
            )


def values(attributes: Any) -> dict[str, Any]:
    """Return attributes as plain values."""
    return {each.key: getattr(each.value, each.value.WhichOneof("value")) for each in attributes}


@contextmanager
def collecting() -> Iterator[Collector]:
    """Run a collector."""
    collector = Collector()
    thread = threading.Thread(target=collector.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield collector
    finally:
        collector.answers.set()
        collector.shutdown()
        thread.join()
        collector.server_close()
