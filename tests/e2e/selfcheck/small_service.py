"""The Service of a release in the small cluster: it knows the label of every sample picture."""

import csv
import hashlib
import json
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from tests.e2e.cluster import SAMPLES

Answer = tuple[int, dict[str, str], Any]


class Service:
    """Answers as docs/http-api.md says, except for its faults."""

    def __init__(self, faults: frozenset[str] = frozenset()) -> None:
        self.faults = faults
        self.keys: list[str] = []
        self.has_redis = True
        self.dropping_until = 0.0
        self._labels = dict(_samples())
        service = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                if time.monotonic() < service.dropping_until:
                    self.close_connection = True
                    return
                status, headers, content = service.answer(body, self.headers.get("X-API-Key"))
                text = json.dumps(content).encode()
                self.send_response(status)
                for name, value in {**headers, "Content-Length": str(len(text))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *args: object) -> None:
                pass

        self._server = QuietServer(("127.0.0.1", 0), Handler)
        self.port = self._server.server_port
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    def drop(self, seconds: float) -> None:
        """Break all connections for a while."""
        self.dropping_until = time.monotonic() + seconds

    def answer(self, body: bytes, key: str | None) -> Answer:
        if self.keys and key not in self.keys:
            code, status = ("forbidden", 403) if key else ("unauthorized", 401)
            return status, {}, _error(code)
        if not self.has_redis:
            return self._without_redis()
        parts = [part.partition(b"\r\n\r\n")[2] for part in body.split(b"\r\n--imageserve-e2e")]
        if not body.startswith(b"--imageserve-e2e"):
            return 200, {}, self._result(body)
        # The first part lacks the line break before its boundary.
        return 200, {}, {"success": True, "results": [self._result(p) for p in parts if p]}

    def _without_redis(self) -> Answer:
        if "no Retry-After" in self.faults:
            return 503, {}, _error("redis_unavailable")
        if "internal errors without Redis" in self.faults:
            return 500, {}, _error("internal")
        return 503, {"Retry-After": "2"}, _error("redis_unavailable")

    def _result(self, data: bytes) -> dict[str, Any]:
        label = self._labels.get(hashlib.sha256(data).hexdigest(), "unknown")
        if label == "zigzag" and "wrong labels" in self.faults:
            label = "stripes"
        return {"success": True, "predictions": [{"label": label, "probability": 0.9}]}


class QuietServer(ThreadingHTTPServer):
    """A server that does not log clients that have gone."""

    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        del request, client_address


def _samples() -> list[tuple[str, str]]:
    with (SAMPLES / "labels.csv").open(newline="") as lines:
        rows = list(csv.DictReader(lines))
    return [
        (hashlib.sha256((SAMPLES / row["file"]).read_bytes()).hexdigest(), row["label"])
        for row in rows
    ]


def _error(code: str) -> dict[str, Any]:
    message = f"the small cluster says {code}"
    return {"success": False, "error": {"code": code, "message": message}, "request_id": "r"}
