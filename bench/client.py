"""A closed loop of HTTP clients in one process: each posts a picture, waits, posts it again.

Run as a process of its own, so that its CPU time is nobody else's:
``python -m bench.client PORT CLIENTS WARM_UP_S SECONDS PICTURE``. It prints ``begin`` and ``end``
around the time that counts, then one line of JSON. One thread, raw sockets, a request that is built
once: it costs a tenth of what an HTTP library would.
"""

import json
import re
import selectors
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

DRAIN_S = 5.0
"""How long to wait for answers that are outstanding at the end, so that nothing is left behind."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_BOUNDARY = "----bench-7MA4YWxkTrZu0gW"


@dataclass(slots=True)
class Counts:
    """What the clients saw within the time that counts."""

    seconds: float = 0.0
    images: int = 0
    errors: int = 0
    cpu_s: float = 0.0
    latencies_ms: list[float] = field(default_factory=list)


def multipart_request(picture: bytes) -> bytes:
    """Build the request that a browser or ``curl -F image=@photo.jpg`` would send."""
    head = (
        f"--{_BOUNDARY}\r\n"
        'Content-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()
    headers = (
        "POST /predict HTTP/1.1\r\n"
        "Host: 127.0.0.1\r\n"
        f"Content-Type: multipart/form-data; boundary={_BOUNDARY}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return headers.encode() + body


class _Client:
    """One client with its connection."""

    def __init__(self, port: int, request: bytes, selector: selectors.BaseSelector) -> None:
        self._port = port
        self._request = memoryview(request)
        self._selector = selector
        self._socket: socket.socket | None = None
        self._sent = 0
        self._received = bytearray()
        self._started = 0.0

    def start(self) -> None:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=10)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setblocking(False)
            self._selector.register(self._socket, selectors.EVENT_WRITE, self)
        else:
            self._selector.modify(self._socket, selectors.EVENT_WRITE, self)
        self._sent = 0
        self._received.clear()
        self._started = time.perf_counter()
        self._send(self._socket)

    def go_on(self) -> tuple[int, float] | None:
        """Send or receive what is possible; return status and milliseconds once answered."""
        sock = self._socket
        assert sock is not None
        try:
            if self._sent < len(self._request):
                self._send(sock)
                return None
            data = sock.recv(65_536)
        except BlockingIOError:
            return None
        except OSError:
            data = b""
        self._received += data
        if not data:
            self.close()
            return 0, self._elapsed_ms()
        return self._answer()

    def close(self) -> None:
        if self._socket is not None:
            self._selector.unregister(self._socket)
            self._socket.close()
            self._socket = None

    def _send(self, sock: socket.socket) -> None:
        try:
            self._sent += sock.send(self._request[self._sent :])
        except BlockingIOError:
            return
        if self._sent == len(self._request):
            self._selector.modify(sock, selectors.EVENT_READ, self)

    def _answer(self) -> tuple[int, float] | None:
        head, separator, body = bytes(self._received).partition(b"\r\n\r\n")
        length = _LENGTH.search(head)
        if not separator or length is None or len(body) < int(length[1]):
            return None
        elapsed_ms = self._elapsed_ms()
        if _CLOSE.search(head):
            self.close()
        return int(head[9:12]), elapsed_ms

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._started) * 1000


class Load:
    """Some clients, and the loop that drives them."""

    def __init__(self, port: int, clients: int, picture: bytes) -> None:
        self._selector = selectors.DefaultSelector()
        request = multipart_request(picture)
        self._clients = [_Client(port, request, self._selector) for _ in range(clients)]

    def start(self) -> None:
        for client in self._clients:
            client.start()

    def run(self, seconds: float) -> Counts:
        """Go on for a time; each client begins anew when it is answered."""
        counts = Counts()
        cpu_s = time.process_time()
        began = time.perf_counter()
        end = began + seconds
        while (now := time.perf_counter()) < end:
            for client, status, elapsed_ms in self._answers(end - now):
                counts.images += status == 200
                counts.errors += status != 200
                counts.latencies_ms.append(elapsed_ms)
                client.start()
        counts.seconds = time.perf_counter() - began
        counts.cpu_s = time.process_time() - cpu_s
        return counts

    def drain(self) -> None:
        """Wait for the outstanding answers; begin nothing new."""
        end = time.perf_counter() + DRAIN_S
        open_clients = set(self._clients)
        while open_clients and (now := time.perf_counter()) < end:
            open_clients -= {client for client, _, _ in self._answers(end - now)}
        for client in self._clients:
            client.close()

    def _answers(self, timeout_s: float) -> list[tuple[_Client, int, float]]:
        answers = []
        for key, _ in self._selector.select(timeout_s):
            client: _Client = key.data
            if (answer := client.go_on()) is not None:
                answers.append((client, *answer))
        return answers


def main(arguments: list[str]) -> None:
    port, clients, warm_up_s, seconds, picture = arguments
    load = Load(int(port), int(clients), Path(picture).read_bytes())
    load.start()
    load.run(float(warm_up_s))
    print("begin", flush=True)
    counts = load.run(float(seconds))
    print("end", flush=True)
    load.drain()
    print(json.dumps(asdict(counts)))


if __name__ == "__main__":
    main(sys.argv[1:])
