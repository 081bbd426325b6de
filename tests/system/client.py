"""An HTTP client for tests: one connection per call, no retries, and raw bytes where needed."""

import json
import socket
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection, HTTPResponse
from typing import Any

PATIENCE_S = 60.0


@dataclass(frozen=True)
class Reply:
    """One answer."""

    status: int
    headers: Mapping[str, str]
    """Their names in lower case."""
    body: bytes

    @property
    def text(self) -> str:
        return self.body.decode()

    @property
    def json(self) -> Any:
        return json.loads(self.text)

    @property
    def code(self) -> str:
        """The code of an error, checked to have the contract's one shape."""
        body = self.json
        assert body.keys() == {"success", "error", "request_id"}, body
        assert body["success"] is False
        assert body["error"].keys() == {"code", "message"}
        assert body["error"]["message"]
        assert body["request_id"] == self.headers["x-request-id"]
        assert self.headers["content-type"] == "application/json"
        return str(body["error"]["code"])

    @property
    def message(self) -> str:
        """The sentence of an error."""
        return str(self.json["error"]["message"])

    @property
    def labels(self) -> list[str]:
        """The labels of one picture, best first."""
        assert self.status == 200, (self.status, self.text)
        assert self.json["success"] is True
        return [prediction["label"] for prediction in self.json["predictions"]]

    @property
    def retry_after_s(self) -> int:
        return int(self.headers["retry-after"])


def form(
    *pictures: bytes, field: str = "image", extra: bytes = b""
) -> tuple[bytes, dict[str, str]]:
    """Write pictures as a multipart form: its body and its headers."""
    boundary = "b0undary"
    parts = [
        f'--{boundary}\r\nContent-Disposition: form-data; name="{field}"; filename="{i}.jpg"\r\n'
        "Content-Type: image/jpeg\r\n\r\n".encode()
        + picture
        + b"\r\n"
        for i, picture in enumerate(pictures)
    ]
    body = extra + b"".join(parts) + f"--{boundary}--\r\n".encode()
    return body, {"Content-Type": f"multipart/form-data; boundary={boundary}"}


class Client:
    """Speaks to one port, of this machine or a place that a test has made."""

    def __init__(self, port: int, host: str = "127.0.0.1") -> None:
        self.port = port
        self.host = host

    def ask(
        self, method: str, path: str, body: Any = None, headers: Mapping[str, str] | None = None
    ) -> Reply:
        connection = HTTPConnection(self.host, self.port, timeout=PATIENCE_S)
        try:
            chunked = body is not None and not isinstance(body, bytes)
            connection.request(method, path, body, dict(headers or {}), encode_chunked=chunked)
            return read_reply(connection.getresponse())
        finally:
            connection.close()

    def get(self, path: str) -> Reply:
        return self.ask("GET", path)

    def predict(self, body: Any, query: str = "", **headers: str) -> Reply:
        """Post a picture as the body; ``X_Request_Id="a"`` is the header ``X-Request-Id: a``."""
        named = {name.replace("_", "-"): value for name, value in headers.items()}
        return self.ask("POST", f"/predict{query}", body, named)

    def predict_form(self, *pictures: bytes, query: str = "") -> Reply:
        return self.ask("POST", f"/predict{query}", *form(*pictures))

    def status_of(self, path: str) -> int:
        """Return the status, 0 where there is no answer."""
        try:
            return self.get(path).status
        except OSError:
            return 0

    def open(self, data: bytes = b"", timeout_s: float = PATIENCE_S) -> socket.socket:
        """Open a connection and send the beginning of a request."""
        connection = socket.create_connection((self.host, self.port), timeout=timeout_s)
        connection.sendall(data)
        return connection

    def raw(self, data: bytes) -> Reply:
        """Send these bytes, and read one answer."""
        with self.open(data) as connection:
            return answer_on(connection)


def answer_on(connection: socket.socket) -> Reply:
    """Read one answer from a connection that was opened by hand."""
    response = HTTPResponse(connection, method="POST")
    try:
        response.begin()
        return read_reply(response)
    finally:
        response.close()


def read_reply(response: HTTPResponse) -> Reply:
    headers = {name.lower(): value for name, value in response.getheaders()}
    return Reply(response.status, headers, response.read())


def post_head(length: int, *more: str, path: str = "/predict") -> bytes:
    """Write the head of a POST with a declared length."""
    lines = [f"POST {path} HTTP/1.1", "Host: test", f"Content-Length: {length}", *more]
    return "\r\n".join([*lines, "", ""]).encode()


@contextmanager
def in_background(calls: Sequence[Callable[[], Reply]]) -> Iterator[list[Future[Reply]]]:
    """Make all calls at once, each in a thread; they are awaited at the end."""
    with ThreadPoolExecutor(len(calls)) as pool:
        yield [pool.submit(call) for call in calls]


def at_once(calls: Sequence[Callable[[], Reply]], most: int = 64) -> list[Reply]:
    """Make all calls, many at a time, and return their answers in order."""
    with ThreadPoolExecutor(min(most, len(calls))) as pool:
        return [future.result() for future in [pool.submit(call) for call in calls]]
