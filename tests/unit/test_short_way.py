"""From a parsed head to the application and back, beside what gunicorn does."""

import re
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.unreader import IterUnreader
from gunicorn.http.wsgi import Response, create

from imageserve.web.calls import reply_of, status_line
from imageserve.web.edge import request_id
from imageserve.web.short_way import CLOSE, Head, PlainConfig, as_bytes, environ_of

HEAD = (
    b"POST /predict?top=2&model=m HTTP/1.1\r\nHost: a\r\nContent-Type: image/png\r\n"
    b"Content-Length: 3\r\nAccept: a\r\nAccept: b\r\nAccept: c\r\nX-Request-Id: r\r\n\r\nabc"
)


class Socket:
    def __init__(self) -> None:
        self.sent = b""

    def sendall(self, data: bytes) -> None:
        self.sent += data


def parsed(address: str = "10.0.0.9", head: bytes = HEAD) -> Any:
    return Head(PlainConfig(Config()), IterUnreader([head]), (address, 5), 1)


def test_the_application_reads_what_gunicorn_would_give_it() -> None:
    sock, req = Socket(), parsed()
    _, theirs = create(req, sock, ("10.0.0.9", 5), ("0.0.0.0", 8000), Config())

    ours = environ_of(req, sock)

    assert ours == {name: theirs[name] for name in ours}
    assert ours["HTTP_ACCEPT"] == "a,b,c"
    assert {name for name in theirs if name.startswith(("HTTP_", "CONTENT_"))} <= set(ours)


@pytest.mark.parametrize("close", [False, True])
@pytest.mark.parametrize("status", [200, 413, 499, 503])
def test_an_answer_is_the_one_that_gunicorn_would_send(status: int, close: bool) -> None:
    sock, req = Socket(), parsed()
    reply = reply_of(b"body\n", "application/json", status)
    reply.headers += [("X-Request-Id", "r"), *([CLOSE] if close else [])]
    theirs = Response(req, sock, Config())
    theirs.must_close = close
    theirs.start_response(status_line(status), [*reply.headers, ("Vary", "Origin")])
    theirs.write(reply.body)

    ours = as_bytes(reply, req.version, {"Vary": "Origin"}, close=close)

    assert _undated(ours) == _undated(sock.sent)


def _undated(answer: bytes) -> bytes:
    undated, count = re.subn(rb"\r\nDate: [^\r]{29}\r\n", b"\r\n", answer)
    assert count == 1
    return undated


def test_the_address_of_a_sender_decides_whether_it_is_a_proxy() -> None:
    head = HEAD.replace(b"Host: a", b"Host: a\r\nX-Forwarded-Proto: https")

    told = [parsed(address, head).scheme for address in ("127.0.0.1", "10.0.0.9", "127.0.0.1")]

    assert told == ["https", "http", "https"]


def test_ids_of_requests_are_all_different() -> None:
    found = {request_id(None) for _ in range(1000)}

    assert len(found) == 1000
    assert all(re.fullmatch("[0-9a-f]{32}", each) for each in found)
