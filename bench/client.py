"""A closed loop of HTTP clients in one process: each posts a picture, waits, posts it again.

It runs as a process of its own, so that its CPU time is counted separately:
``python -m bench.client PORT CLIENTS WARM_UP_S SECONDS PICTURE``; ``--help`` lists the options. It
prints ``begin`` and ``end`` around the time that counts, then one line of JSON. One thread, raw
sockets, requests that are built once: it costs a tenth of what an HTTP library would.
"""

import argparse
import heapq
import json
import re
import selectors
import socket
import sys
import time
from dataclasses import asdict, dataclass, field
from pathlib import Path

DRAIN_S = 5.0
"""How long to wait for outstanding answers at the end."""

PAUSE_S = 0.1
"""A client whose picture was not classified waits this long: a server that refuses at once would
otherwise be asked, and counted, thousands of times a second."""

_LENGTH = re.compile(rb"\r\ncontent-length: *(\d+)", re.IGNORECASE)
_CLOSE = re.compile(rb"\r\nconnection: *close", re.IGNORECASE)
_BOUNDARY = "----bench-7MA4YWxkTrZu0gW"


@dataclass(slots=True)
class Counts:
    """What the clients saw within the time that counts."""

    seconds: float = 0.0
    images: int = 0
    errors: int = 0
    """Good pictures that were not classified, or not answered within the final wait."""
    broken: int = 0
    """Broken pictures that were answered."""
    cpu_s: float = 0.0
    longest_gap_s: float = 0.0
    """The longest time in which no picture was classified."""
    latencies_ms: list[float] = field(default_factory=list)
    """Latencies of the good pictures."""


def multipart_request(picture: bytes) -> bytes:
    """Build the request that a browser or ``curl -F image=@photo.jpg`` would send."""
    head = (
        f"--{_BOUNDARY}\r\n"
        'Content-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return _request(f"multipart/form-data; boundary={_BOUNDARY}", body)


def plain_request(picture: bytes) -> bytes:
    """Build the request whose body is the picture, as ``curl --data-binary @photo.jpg`` does."""
    return _request("image/jpeg", picture)


def _request(content_type: str, body: bytes) -> bytes:
    headers = (
        "POST /predict HTTP/1.1\r\n"
        "Host: 127.0.0.1\r\n"
        f"Content-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return headers.encode() + body


def broken_picture(picture: bytes) -> bytes:
    """Cut a picture off in the middle: its header is fine, its pixels are not all there."""
    return picture[: len(picture) // 2]


class _Client:
    """One client with its connection."""

    def __init__(self, port: int, selector: selectors.BaseSelector) -> None:
        self.is_broken = False
        self._port = port
        self._request = memoryview(b"")
        self._selector = selector
        self._socket: socket.socket | None = None
        self._sent = 0
        self._received = bytearray()
        self._started = 0.0

    def start(self, request: bytes, *, is_broken: bool) -> bool:
        """Send a request; return whether the server could be reached."""
        self._request = memoryview(request)
        self.is_broken = is_broken
        self._sent = 0
        self._received.clear()
        self._started = time.perf_counter()
        try:
            self._send(self._connection())
        except OSError:
            self.close()
            return False
        return True

    def _connection(self) -> socket.socket:
        if self._socket is None:
            self._socket = socket.create_connection(("127.0.0.1", self._port), timeout=10)
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setblocking(False)
            self._selector.register(self._socket, selectors.EVENT_WRITE, self)
        else:
            self._selector.modify(self._socket, selectors.EVENT_WRITE, self)
        return self._socket

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
    """Some clients, and the loop that drives them.

    With ``broken_every`` N, each Nth request is the broken one.
    """

    def __init__(
        self, port: int, clients: int, good: bytes, broken: bytes = b"", broken_every: int = 0
    ) -> None:
        self._selector = selectors.DefaultSelector()
        self._clients = [_Client(port, self._selector) for _ in range(clients)]
        self._good = good
        self._broken = broken
        self._broken_every = broken_every
        self._begun = 0
        self._waiting: set[_Client] = set()
        self._paused: list[tuple[float, int, _Client]] = []
        self._counts = Counts()
        self._latest = 0.0

    def start(self) -> None:
        for client in self._clients:
            self._begin(client)

    def run(self, seconds: float) -> Counts:
        """Run for a time; each client sends its next request once it is answered."""
        self._counts = counts = Counts()
        cpu_s = time.process_time()
        began = self._latest = time.perf_counter()
        end = began + seconds
        while (now := time.perf_counter()) < end:
            self._end_pauses(now)
            for client, status in self._answers(min(end, self._next_pause_end()) - now):
                if status == 200 or client.is_broken:
                    self._begin(client)
                else:
                    self._pause(client)
        ended = time.perf_counter()
        counts.seconds = ended - began
        counts.longest_gap_s = max(counts.longest_gap_s, ended - self._latest)
        counts.cpu_s = time.process_time() - cpu_s
        return counts

    def drain(self, patience_s: float) -> None:
        """Wait for the outstanding answers; begin nothing new. What is late counts as failed."""
        end = time.perf_counter() + patience_s
        counts = self._counts
        images, latencies = counts.images, len(counts.latencies_ms)
        while self._waiting and (now := time.perf_counter()) < end:
            self._answers(end - now)
        # They are good answers and no failures, but they do not belong to the measured time.
        counts.images = images
        del counts.latencies_ms[latencies:]
        counts.errors += sum(not client.is_broken for client in self._waiting)
        for client in self._clients:
            client.close()

    def _begin(self, client: _Client) -> None:
        self._begun += 1
        is_broken = self._broken_every > 0 and self._begun % self._broken_every == 0
        if client.start(self._broken if is_broken else self._good, is_broken=is_broken):
            self._waiting.add(client)
        else:
            self._counts.errors += not is_broken
            self._pause(client)

    def _pause(self, client: _Client) -> None:
        heapq.heappush(self._paused, (time.perf_counter() + PAUSE_S, id(client), client))

    def _end_pauses(self, now: float) -> None:
        while self._paused and self._paused[0][0] <= now:
            self._begin(heapq.heappop(self._paused)[2])

    def _next_pause_end(self) -> float:
        return self._paused[0][0] if self._paused else float("inf")

    def _answers(self, timeout_s: float) -> list[tuple[_Client, int]]:
        answers = []
        for key, _ in self._selector.select(max(0.0, timeout_s)):
            client: _Client = key.data
            if (answer := client.go_on()) is not None:
                self._waiting.discard(client)
                self._count(client, *answer)
                answers.append((client, answer[0]))
        return answers

    def _count(self, client: _Client, status: int, elapsed_ms: float) -> None:
        counts = self._counts
        if client.is_broken:
            counts.broken += 1
            return
        counts.images += status == 200
        counts.errors += status != 200
        counts.latencies_ms.append(elapsed_ms)
        if status == 200:
            now = time.perf_counter()
            counts.longest_gap_s = max(counts.longest_gap_s, now - self._latest)
            self._latest = now


def main(arguments: list[str]) -> None:
    given = _parse(arguments)
    picture = given.picture.read_bytes()
    build = plain_request if given.plain else multipart_request
    broken = build(broken_picture(picture))
    load = Load(given.port, given.clients, build(picture), broken, given.broken_every)
    load.start()
    load.run(given.warm_up_s)
    print("begin", flush=True)
    counts = load.run(given.seconds)
    print("end", flush=True)
    load.drain(given.patience_s)
    print(json.dumps(asdict(counts)))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.client")
    parser.add_argument("port", type=int)
    parser.add_argument("clients", type=int)
    parser.add_argument("warm_up_s", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--plain", action="store_true", help="the body is the picture, no form")
    parser.add_argument("--broken-every", type=int, default=0, metavar="N")
    parser.add_argument("--patience-s", type=float, default=DRAIN_S)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
