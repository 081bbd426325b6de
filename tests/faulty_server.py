"""A small HTTP server that answers as it is told: late, in pieces, wrong, or not at all."""

import json
import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

LABELS = {"success": True, "predictions": [{"label": "star", "probability": 0.9}]}

Fault = Callable[["Handler"], None]


class Handler(BaseHTTPRequestHandler):
    """One connection. Does the next fault of the script, else answers with labels."""

    protocol_version = "HTTP/1.1"
    server: "FaultyServer"

    def do_POST(self) -> None:
        body = self.rfile.read(int(self.headers["Content-Length"]))
        with self.server.lock:
            headers = {name.lower(): value for name, value in self.headers.items()}
            self.server.asked.append((time.monotonic(), headers, body))
            fault = self.server.script.popleft() if self.server.script else answer()
        try:
            fault(self)
        except OSError:
            self.close_connection = True

    def log_message(self, format: str, *args: object) -> None:
        """Say nothing."""


class FaultyServer(ThreadingHTTPServer):
    """With the faults to come in ``script``, and what was asked: when, its headers, its body."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, port: int = 0) -> None:
        self.lock = threading.Lock()
        self.script: deque[Fault] = deque()
        self.asked: list[tuple[float, dict[str, str], bytes]] = []
        self.hung_up = threading.Semaphore(0)
        super().__init__(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server_port}"

    @property
    def request_ids(self) -> list[str]:
        return [headers["x-request-id"] for _, headers, _ in self.asked]

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: clients of these tests hang up."""


@contextmanager
def serving(port: int = 0) -> Iterator[FaultyServer]:
    server = FaultyServer(port)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02})
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def answer(status: int = 200, body: Any = LABELS, **headers: str) -> Fault:
    """Answer; ``Retry_After="1"`` is the header ``Retry-After: 1``."""

    def act(handler: Handler) -> None:
        data = body if isinstance(body, bytes) else json.dumps(body).encode()
        handler.send_response(status)
        for name, value in headers.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.wfile.write(data)

    return act


def refusal(status: int, code: str, **headers: str) -> Fault:
    error = {"code": code, "message": f"it is {code}"}
    return answer(status, {"success": False, "error": error, "request_id": "r"}, **headers)


def reset(handler: Handler) -> None:
    """Break the connection before the answer."""
    handler.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    handler.connection.close()
    raise ConnectionResetError


def half_an_answer(handler: Handler) -> None:
    """Break the connection in the middle of the answer."""
    handler.send_response(200)
    handler.send_header("Content-Length", "100")
    handler.end_headers()
    handler.wfile.write(b'{"success": tr')
    raise ConnectionResetError


def drips(handler: Handler) -> None:
    """Answer with a byte now and then, without end."""
    handler.send_response(200)
    handler.send_header("Content-Length", "1000000")
    handler.end_headers()
    while True:
        handler.wfile.write(b" ")
        time.sleep(0.02)


def silence(handler: Handler) -> None:
    """Answer never; notice that the client hangs up."""
    handler.connection.settimeout(60)
    if not handler.rfile.read(1):
        handler.server.hung_up.release()
    handler.close_connection = True
