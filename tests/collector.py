"""A collector of traces on loopback: it reads what exporters of OpenTelemetry send to it."""

import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, cast

from opentelemetry.proto.collector.trace.v1.trace_service_pb2 import (
    ExportTraceServiceRequest,
    ExportTraceServiceResponse,
)
from opentelemetry.proto.common.v1.common_pb2 import KeyValue
from opentelemetry.proto.trace.v1.trace_pb2 import Span as WireSpan
from opentelemetry.proto.trace.v1.trace_pb2 import Status


@dataclass(frozen=True)
class SeenSpan:
    """A span as it came."""

    service: str
    name: str
    trace: str
    """Ids are hexadecimal digits; "" for none."""
    id: str
    parent: str
    start_s: float
    end_s: float
    attributes: dict[str, Any]
    links: tuple[tuple[str, str], ...]
    """Trace and span."""
    failed: bool
    state: str = ""


class Collector:
    """Notes the spans that it gets. It can be made to refuse them, or to hang."""

    def __init__(self, port: int = 0) -> None:
        """``port``: 0 for any that is free."""
        self.status = 200
        self.location = ""
        """Where it sends those who come."""
        self.more = 0
        """Bytes of its answer that it promises and of which 8,192 come."""
        self.requests = 0
        self.released = threading.Event()
        """While it is not set, nobody gets an answer."""
        self.released.set()
        self._spans: list[SeenSpan] = []
        self._server = ThreadingHTTPServer(("127.0.0.1", port), self._handler())
        self._server.daemon_threads = True

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def spans(self) -> list[SeenSpan]:
        return list(self._spans)

    def named(self, name: str) -> list[SeenSpan]:
        return [span for span in self.spans if span.name == name]

    def of(self, trace: str) -> list[SeenSpan]:
        return [span for span in self.spans if span.trace == trace]

    @contextmanager
    def running(self) -> Iterator["Collector"]:
        thread = threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True)
        thread.start()
        try:
            yield self
        finally:
            self.released.set()
            self._server.shutdown()
            self._server.server_close()
            thread.join()

    def _handler(self) -> type[BaseHTTPRequestHandler]:
        collector = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                collector.requests += 1
                collector.released.wait()
                if collector.status == 200:
                    assert self.path == "/v1/traces"
                    collector._spans += read(body)
                answer = ExportTraceServiceResponse().SerializeToString()
                self.send_response(collector.status)
                self.send_header("Content-Type", "application/x-protobuf")
                self.send_header("Content-Length", str(len(answer) + collector.more))
                if collector.location:
                    self.send_header("Location", collector.location)
                self.end_headers()
                self.wfile.write(answer + bytes(min(collector.more, 8192)))

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        return Handler


def read(body: bytes) -> list[SeenSpan]:
    """Return the spans of one request of an exporter."""
    request = ExportTraceServiceRequest.FromString(body)
    return [
        _seen(span, str(_values(part.resource.attributes).get("service.name", "")))
        for part in request.resource_spans
        for scope in part.scope_spans
        for span in scope.spans
    ]


def _seen(span: WireSpan, service: str) -> SeenSpan:
    return SeenSpan(
        service=service,
        name=span.name,
        trace=span.trace_id.hex(),
        id=span.span_id.hex(),
        parent=span.parent_span_id.hex(),
        start_s=span.start_time_unix_nano / 1e9,
        end_s=span.end_time_unix_nano / 1e9,
        attributes=_values(span.attributes),
        links=tuple((link.trace_id.hex(), link.span_id.hex()) for link in span.links),
        failed=span.status.code == Status.STATUS_CODE_ERROR,
        state=span.trace_state,
    )


def _values(pairs: Iterable[KeyValue]) -> dict[str, Any]:
    return {
        pair.key: getattr(pair.value, cast(str, pair.value.WhichOneof("value"))) for pair in pairs
    }
