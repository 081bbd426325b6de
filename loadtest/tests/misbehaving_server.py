"""A small HTTP server that looks like imageserve with the stand-in, and can be made to misbehave.

It answers each picture with its label, which it gets from the test; a test replaces the answers to
some of the requests. One thread a connection, raw sockets, so that anything at all can be sent.
"""

import json
import re
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from types import TracebackType
from typing import Any

SIDE = 16
"""Height and width of the model's input."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_BOUNDARY = re.compile(rb"boundary=([^\r\n;]+)")


class HangUp(Exception):
    """Raised by an answer that closed its connection."""


@dataclass
class Call:
    """One ``POST /predict``, numbered from 1, and how to answer it."""

    number: int
    head: bytes
    pictures: list[bytes]
    labels: Mapping[bytes, str]
    connection: socket.socket

    def good_items(self) -> list[dict[str, Any]]:
        return [self.item(picture) for picture in self.pictures]

    def item(self, picture: bytes) -> dict[str, Any]:
        label = self.labels.get(picture)
        if label is None:
            return {"success": False, "error": {"code": "not_an_image", "message": "no"}}
        rest = {"label": "other", "probability": 0.1}
        return {"success": True, "predictions": [{"label": label, "probability": 0.9}, rest]}

    def answer_well(self) -> None:
        self.answer(self.good_items())

    def answer(self, items: list[dict[str, Any]]) -> None:
        """Answer correctly, with these items for the pictures."""
        if len(self.pictures) > 1:
            self.send_json(200, {"success": True, "results": items})
        else:
            self.send_json(200 if items[0]["success"] else 400, items[0])

    def send_json(self, status: int, body: Any, *headers: str) -> None:
        self.send(response(status, json.dumps(body).encode(), *headers))

    def send(self, data: bytes) -> None:
        self.connection.sendall(data)

    def end(self) -> None:
        """Close the connection like a process that exits normally."""
        self.connection.close()
        raise HangUp

    def reset(self) -> None:
        """Close the connection like a process that is killed: the client sees a reset."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.end()


def response(status: int, body: bytes, *headers: str) -> bytes:
    lines = [f"HTTP/1.1 {status} Whatever", f"Content-Length: {len(body)}", *headers]
    return "\r\n".join([*lines, "", ""]).encode() + body


Behaviour = Callable[[Call], None]


@dataclass
class Server:
    """Listens on a free port of loopback until it is stopped."""

    labels: Mapping[bytes, str]
    behave: Behaviour
    pages: dict[str, Any] = field(default_factory=dict)
    calls: list[Call] = field(default_factory=list)
    tls: ssl.SSLContext | None = None
    _lock: threading.Lock = field(default_factory=threading.Lock)
    _connections: list[socket.socket] = field(default_factory=list)
    _threads: list[threading.Thread] = field(default_factory=list)

    def __enter__(self) -> "Server":
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._start(self._accept)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        at: TracebackType | None,
    ) -> None:
        _shut(self._listener)
        for connection in self._connections:
            _shut(connection)
        for thread in self._threads:
            thread.join(10)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def _start(self, function: Callable[..., None], *arguments: object) -> None:
        thread = threading.Thread(target=function, args=arguments, daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                connection, _ = self._listener.accept()
                self._connections.append(connection)
                self._start(self._serve, connection)

    def _serve(self, connection: socket.socket) -> None:
        with suppress(OSError, HangUp):
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
                self._connections.append(connection)
            with connection:
                for head, body in _requests(connection):
                    self._answer(connection, head, body)

    def _answer(self, connection: socket.socket, head: bytes, body: bytes) -> None:
        path = head.split(b" ", 2)[1].decode().partition("?")[0]
        if path == "/predict":
            self.behave(self._call(connection, head, body))
        elif path in self.pages:
            connection.sendall(response(200, json.dumps(self.pages[path]).encode()))
        else:
            connection.sendall(response(404, b"{}"))

    def _call(self, connection: socket.socket, head: bytes, body: bytes) -> Call:
        with self._lock:
            pictures = _pictures(head, body)
            call = Call(len(self.calls) + 1, head, pictures, self.labels, connection)
            self.calls.append(call)
        return call


def pages() -> dict[str, Any]:
    """The pages that describe the service."""
    queue = {"queued": 3, "in_flight": 2, "capacity_per_s": 100.0, "workers": [{"id": "w"}]}
    return {
        "/readyz": {"status": "ready"},
        "/models": {"models": {"stand-in": {"input_size": [SIDE, SIDE]}}},
        "/status": {"models": {"stand-in": queue}},
    }


@contextmanager
def serving(pictures: Iterable[Any], behave: Behaviour = Call.answer_well) -> Iterator[Server]:
    """Serve the labels of these pictures; ``behave`` answers every call."""
    labels = {picture.data: picture.label for picture in pictures if picture.label}
    with Server(labels, behave, pages()) as server:
        yield server


def every(n: int, bad: Behaviour) -> Behaviour:
    """Answer every n-th call badly and all others correctly."""

    def behave(call: Call) -> None:
        if call.number % n == 0:
            bad(call)
        else:
            call.answer_well()

    return behave


def _requests(connection: socket.socket) -> Iterator[tuple[bytes, bytes]]:
    """Yield the head and body of each request."""
    received = b""
    while True:
        while b"\r\n\r\n" not in received:
            if not (data := connection.recv(65_536)):
                return
            received += data
        head, _, received = received.partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        wanted = int(length[1]) if length else 0
        while len(received) < wanted:
            if not (data := connection.recv(65_536)):
                return
            received += data
        yield head, received[:wanted]
        received = received[wanted:]


def _pictures(head: bytes, body: bytes) -> list[bytes]:
    boundary = _BOUNDARY.search(head)
    if boundary is None:
        return [body]
    parts = body.split(b"--" + boundary[1])[1:-1]
    return [part.partition(b"\r\n\r\n")[2].removesuffix(b"\r\n") for part in parts]


def _shut(connection: socket.socket) -> None:
    """Close a connection on which another thread is waiting."""
    with suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)
    connection.close()
