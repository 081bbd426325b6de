"""A closed loop of HTTP clients in one process: each posts a picture, waits, posts it again.

It runs as a process of its own, so that its CPU time is counted separately:
``python -m bench.closed_loop PORT CLIENTS WARM_UP_S SECONDS PICTURE``; ``--help`` lists the
options. It prints ``begin`` and ``end`` around the time that counts, then one line of JSON. One
thread, raw sockets, requests that are built once: it costs a tenth of what an HTTP library would.
"""

import argparse
import errno
import heapq
import json
import math
import os
import re
import selectors
import socket
import sys
import time
from base64 import b64encode
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

DRAIN_S = 5.0
"""How long to wait for outstanding answers at the end."""

PAUSE_S = 0.1
"""A client whose picture was not classified waits this long: a server that refuses at once would
otherwise be asked, and counted, thousands of times a second."""

PATH = "/predict"
V1_PATH = "/v1/models/classify:predict"
V2_PATH = "/v2/models/classify/infer"
OUR_V2_PATH = "/v2/models/stand-in/infer"

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
    failed: dict[str, int] = field(default_factory=dict)
    """The errors by what came instead: a status, or a word."""
    all_answered_s: float = math.inf
    """How long after they began together every client had had its first answer."""

    def fail(self, why: str) -> None:
        self.errors += 1
        self.failed[why] = self.failed.get(why, 0) + 1


class Form(StrEnum):
    """How a picture is sent."""

    MULTIPART = "multipart"
    """As a browser or ``curl -F image=@photo.jpg`` does."""
    PLAIN = "plain"
    """The body is the picture, as ``curl --data-binary @photo.jpg`` does."""
    V1 = "v1"
    """KServe's first protocol: JSON with the picture in base64."""
    V2 = "v2"
    """The Open Inference Protocol, version 2, with the picture as a binary tensor."""
    V2_LABELS = "v2-labels"
    """The same to this system; the answer is five labels, as those of /predict."""
    V2_SCORES = "v2-scores"
    """The same; the answer is the probabilities of all labels."""


def picture_request(form: Form, picture: bytes, deadline_s: float | None = None) -> bytes:
    """Build one request; ``deadline_s`` is sent where the form has a place for it."""
    timeout = "" if deadline_s is None else f"X-Request-Timeout: {deadline_s:g}\r\n"
    if form is Form.PLAIN:
        return _request("image/jpeg", picture, timeout)
    if form is Form.MULTIPART:
        return multipart_request(picture, timeout)
    if form is Form.V1:
        instance = {"image": {"b64": b64encode(picture).decode()}}
        return _request("application/json", _json({"instances": [instance]}), timeout, V1_PATH)
    if form is Form.V2:
        return _v2_request(V2_PATH, "IMAGE", {}, picture, deadline_s)
    kind = {"classification": 5} if form is Form.V2_LABELS else {}
    output = {"name": "probabilities", "parameters": {"binary_data": True, **kind}}
    return _v2_request(OUR_V2_PATH, "image", {"outputs": [output]}, picture, deadline_s)


def multipart_request(picture: bytes, more_headers: str = "") -> bytes:
    head = (
        f"--{_BOUNDARY}\r\n"
        'Content-Disposition: form-data; name="image"; filename="photo.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n"
    )
    body = head.encode() + picture + f"\r\n--{_BOUNDARY}--\r\n".encode()
    return _request(f"multipart/form-data; boundary={_BOUNDARY}", body, more_headers)


def _v2_request(
    path: str, name: str, more: Mapping[str, object], picture: bytes, deadline_s: float | None
) -> bytes:
    element = len(picture).to_bytes(4, "little") + picture
    tensor = {
        "name": name,
        "shape": [1, 1],
        "datatype": "BYTES",
        "parameters": {"binary_data_size": len(element)},
    }
    timeout = {} if deadline_s is None else {"parameters": {"timeout": round(deadline_s * 1e6)}}
    head = _json({"inputs": [tensor], **more, **timeout})
    length = f"Inference-Header-Content-Length: {len(head)}\r\n"
    return _request("application/octet-stream", head + element, length, path)


def _json(value: object) -> bytes:
    return json.dumps(value).encode()


def _request(content_type: str, body: bytes, more_headers: str, path: str = PATH) -> bytes:
    headers = (
        f"POST {path} HTTP/1.1\r\n"
        "Host: 127.0.0.1\r\n"
        f"Content-Type: {content_type}\r\n"
        f"{more_headers}"
        f"Content-Length: {len(body)}\r\n\r\n"
    )
    return headers.encode() + body


def broken_picture(picture: bytes) -> bytes:
    """Cut a picture off in the middle: its header is fine, its pixels are not all there."""
    return picture[: len(picture) // 2]


class Client:
    """One client with its connection."""

    def __init__(self, port: int, selector: selectors.BaseSelector) -> None:
        self.is_broken = False
        self.was_answered = False
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
            self._socket = socket.socket()
            self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
            self._socket.setblocking(False)
            self._selector.register(self._socket, selectors.EVENT_WRITE, self)
            # A server whose backlog is full lets connections wait: the others go on meanwhile.
            failed = self._socket.connect_ex(("127.0.0.1", self._port))
            if failed not in (0, errno.EINPROGRESS):
                raise OSError(failed, os.strerror(failed))
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
        if not separator or not _is_whole(head, body):
            return None
        elapsed_ms = self._elapsed_ms()
        if _CLOSE.search(head):
            self.close()
        return int(head[9:12]), elapsed_ms

    def _elapsed_ms(self) -> float:
        return (time.perf_counter() - self._started) * 1000


def _is_whole(head: bytes, body: bytes) -> bool:
    length = _LENGTH.search(head)
    # The others send it in chunks, of which the last one is empty.
    return body.endswith(b"0\r\n\r\n") if length is None else len(body) >= int(length[1])


class Load:
    """Some clients, and the loop that drives them.

    With ``broken_every`` N, each Nth request is the broken one.
    """

    def __init__(
        self, port: int, clients: int, good: bytes, broken: bytes = b"", broken_every: int = 0
    ) -> None:
        self._selector = selectors.DefaultSelector()
        self._clients = [Client(port, self._selector) for _ in range(clients)]
        self._good = good
        self._broken = broken
        self._broken_every = broken_every
        self._begun = 0
        self._waiting: set[Client] = set()
        self._paused: list[tuple[float, int, Client]] = []
        self._counts = Counts()
        self._latest = 0.0
        self._started = 0.0
        self._all_answered_s = math.inf

    def start(self) -> None:
        self._started = time.perf_counter()
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
        counts.all_answered_s = self._all_answered_s
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
        for client in self._waiting:
            if not client.is_broken:
                counts.fail("no answer")
        for client in self._clients:
            client.close()

    def _begin(self, client: Client) -> None:
        self._begun += 1
        is_broken = self._broken_every > 0 and self._begun % self._broken_every == 0
        if client.start(self._broken if is_broken else self._good, is_broken=is_broken):
            self._waiting.add(client)
        else:
            if not is_broken:
                self._counts.fail("not reached")
            self._pause(client)

    def _pause(self, client: Client) -> None:
        heapq.heappush(self._paused, (time.perf_counter() + PAUSE_S, id(client), client))

    def _end_pauses(self, now: float) -> None:
        while self._paused and self._paused[0][0] <= now:
            self._begin(heapq.heappop(self._paused)[2])

    def _next_pause_end(self) -> float:
        return self._paused[0][0] if self._paused else float("inf")

    def _answers(self, timeout_s: float) -> list[tuple[Client, int]]:
        answers = []
        for key, _ in self._selector.select(max(0.0, timeout_s)):
            client: Client = key.data
            if (answer := client.go_on()) is not None:
                self._waiting.discard(client)
                self._count(client, *answer)
                answers.append((client, answer[0]))
        return answers

    def _count(self, client: Client, status: int, elapsed_ms: float) -> None:
        counts = self._counts
        if client.is_broken:
            counts.broken += 1
            return
        counts.latencies_ms.append(elapsed_ms)
        if status != 200:
            counts.fail(str(status) if status else "connection lost")
            return
        counts.images += 1
        now = time.perf_counter()
        counts.longest_gap_s = max(counts.longest_gap_s, now - self._latest)
        self._latest = now
        if not client.was_answered:
            client.was_answered = True
            if all(each.was_answered for each in self._clients):
                self._all_answered_s = now - self._started


def main(arguments: list[str]) -> None:
    given = _parse(arguments)
    picture = given.picture.read_bytes()
    good = picture_request(given.form, picture)
    broken = picture_request(given.form, broken_picture(picture))
    load = Load(given.port, given.clients, good, broken, given.broken_every)
    load.start()
    load.run(given.warm_up_s)
    print("begin", flush=True)
    counts = load.run(given.seconds)
    print("end", flush=True)
    load.drain(given.patience_s)
    print(json.dumps(asdict(counts)))


def _parse(arguments: list[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="python -m bench.closed_loop")
    parser.add_argument("port", type=int)
    parser.add_argument("clients", type=int)
    parser.add_argument("warm_up_s", type=float)
    parser.add_argument("seconds", type=float)
    parser.add_argument("picture", type=Path)
    parser.add_argument("--form", type=Form, choices=Form, default=Form.MULTIPART)
    parser.add_argument("--broken-every", type=int, default=0, metavar="N")
    parser.add_argument("--patience-s", type=float, default=DRAIN_S)
    return parser.parse_args(arguments)


if __name__ == "__main__":
    main(sys.argv[1:])
