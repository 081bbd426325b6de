"""What a connection is like after a request was refused of which only the head was read."""

import json
import socket
from collections.abc import Iterator
from typing import Any

import pytest
from gunicorn import http
from gunicorn.config import Config

from imageserve import metrics
from imageserve.errors import Busy
from imageserve.web import edge
from imageserve.web.edge import age_s, is_picture, refuse, request_id

BUSY = Busy("too much", retry_after_s=7)
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


def is_kept(request: Any, sock: socket.socket, *, draining: bool = False) -> bool:
    """Refuse it; return whether the connection goes on."""
    try:
        ids = {"request_id": request_id(dict(request.headers).get("X-REQUEST-ID"))}
        refuse(request, sock, BUSY, ids, draining=draining)
    except StopIteration:
        return False
    return True


class Connection:
    """Both ends of a connection, and gunicorn's parser on one of them."""

    def __init__(self) -> None:
        self.server, self.client = socket.socketpair()
        self.client.settimeout(10)
        self._parser: Any = http.get_parser(Config(), self.server, ("127.0.0.1", 1))

    def request(self, sent: bytes) -> Any:
        self.client.sendall(sent)
        return next(self._parser)

    def refused(self, sent: bytes, *, draining: bool = False) -> tuple[bool, str, Any]:
        """Return whether it is kept, the head of the answer, and its body."""
        kept = is_kept(self.request(sent), self.server, draining=draining)
        head, _, body = self.client.recv(65_536).decode().partition("\r\n\r\n")
        return kept, head, json.loads(body)


@pytest.fixture
def connection() -> Iterator[Connection]:
    made = Connection()
    yield made
    made.server.close()
    made.client.close()


def head(length: int, *more: str) -> bytes:
    lines = ["POST /predict?top=3 HTTP/1.1", "Host: a", *more, f"Content-Length: {length}"]
    return "\r\n".join([*lines, "", ""]).encode()


@pytest.mark.parametrize("size", [0, 5, 9_000, 200_000])
def test_a_small_body_is_dropped_and_the_next_request_is_read(
    connection: Connection, size: int
) -> None:
    connection.server.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)
    connection.client.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 2**20)

    kept, answer, body = connection.refused(head(size, "X-Request-Id: mine") + size * b"x" + NEXT)

    assert kept
    assert answer.startswith("HTTP/1.1 503 Service Unavailable\r\n")
    assert {"Connection: keep-alive", "Retry-After: 7", "X-Request-Id: mine"} <= set(
        answer.split("\r\n")
    )
    error = {"code": "busy", "message": "too much"}
    assert body == {"success": False, "error": error, "request_id": "mine"}
    assert connection.request(b"").path == "/next"


@pytest.mark.parametrize(
    "sent",
    [
        pytest.param(head(edge.SMALL_BYTES + 1), id="large"),
        pytest.param(head(5, "Expect: 100-continue"), id="waits before it sends"),
        pytest.param(head(5, "Connection: close"), id="wants it closed"),
        pytest.param(
            b"POST /predict HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\n", id="chunked"
        ),
    ],
)
def test_otherwise_the_connection_is_closed(connection: Connection, sent: bytes) -> None:
    kept, answer, _ = connection.refused(sent)

    assert not kept
    assert "Connection: close" in answer.split("\r\n")


def test_a_server_that_drains_closes_it_too(connection: Connection) -> None:
    kept, answer, _ = connection.refused(head(1) + b"x", draining=True)

    assert not kept
    assert "Connection: close" in answer.split("\r\n")


def test_a_client_that_leaves_within_its_body_ends_the_connection(connection: Connection) -> None:
    request = connection.request(head(100) + b"x")
    connection.client.shutdown(socket.SHUT_WR)

    assert not is_kept(request, connection.server)


def test_a_request_id_that_could_do_harm_is_replaced(connection: Connection) -> None:
    _, answer, body = connection.refused(head(0, "X-Request-Id: a b"))

    assert len(body["request_id"]) == 32
    assert f"X-Request-Id: {body['request_id']}" in answer


@pytest.mark.parametrize("path", ["/v2/models/m/infer", "/v2/models/m/versions/2/infer"])
def test_inference_is_refused_in_the_shape_of_its_protocol(
    connection: Connection, path: str
) -> None:
    counter = metrics.requests_total.labels("infer", "503", "busy")
    before = counter._value.get()
    sent = f"POST {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 0\r\nX-Request-Id: mine\r\n\r\n"

    assert is_picture(connection.request(sent.encode()))
    _, answer, body = connection.refused(sent.encode())

    assert "Retry-After: 7" in answer.split("\r\n")
    assert body == {"error": "too much", "code": "busy", "request_id": "mine"}
    assert counter._value.get() == before + 1


def test_it_is_counted_like_every_refusal(connection: Connection) -> None:
    counter = metrics.requests_total.labels("predict", "503", "busy")
    before = counter._value.get()

    connection.refused(head(0))

    assert counter._value.get() == before + 1


def test_so_is_that_of_a_client_that_does_not_wait_for_it(connection: Connection) -> None:
    counter = metrics.requests_total.labels("predict", "503", "busy")
    before = counter._value.get()
    request = connection.request(head(0))
    connection.client.close()

    with pytest.raises(BrokenPipeError):
        is_kept(request, connection.server)

    assert counter._value.get() == before + 1


def test_only_posts_to_predict_are_pictures(connection: Connection) -> None:
    assert is_picture(connection.request(head(0)))
    assert not is_picture(connection.request(NEXT))
    assert not is_picture(connection.request(b"POST /other HTTP/1.1\r\nHost: a\r\n\r\n"))


def test_the_kernel_knows_how_old_a_request_is() -> None:
    with (
        socket.create_server(("127.0.0.1", 0)) as listener,
        socket.create_connection(listener.getsockname()) as client,
    ):
        client.sendall(head(0))
        client.settimeout(0.3)
        with pytest.raises(TimeoutError):  # Nobody accepts it for a while.
            client.recv(1)
        with listener.accept()[0] as accepted:
            assert 0.2 < age_s(accepted) < 60


def test_a_socket_that_is_no_tcp_has_no_age(connection: Connection) -> None:
    assert age_s(connection.server) == 0
