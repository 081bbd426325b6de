"""Request bodies behind gunicorn's parser: by length and in chunks, counted as they come."""

from collections.abc import Iterable
from typing import Any

import pytest
from gunicorn.config import Config
from gunicorn.http.parser import RequestParser

from imageserve.errors import BadRequest, RequestError
from imageserve.web.upload import (
    CHUNK_LEAST_BYTES,
    FREE_CHUNKS,
    body_of,
    has_unread_body,
    transfer_encoding_refused,
)

PICTURE = bytes(range(256)) * 40
CHUNKED = b"Transfer-Encoding: chunked"
NEXT = b"GET /next HTTP/1.1\r\nHost: a\r\n\r\n"


class Source:
    """A connection that receives these pieces."""

    def __init__(self, pieces: Iterable[bytes]) -> None:
        self._pieces = list(pieces)

    def recv(self, size: int) -> bytes:
        if not self._pieces:
            return b""
        piece = self._pieces.pop(0)
        if len(piece) > size:
            self._pieces.insert(0, piece[size:])
        return piece[:size]


def parser(header: bytes, pieces: Iterable[bytes]) -> RequestParser:
    head = b"POST /predict HTTP/1.1\r\nHost: a\r\n" + header + b"\r\n\r\n"
    return RequestParser(Config(), Source([head, *pieces]), ("127.0.0.1", 1))


def chunks(*pieces: bytes) -> bytes:
    return b"".join(b"%x\r\n%b\r\n" % (len(piece), piece) for piece in [*pieces, b""])


def length(data: bytes) -> bytes:
    return b"Content-Length: %d" % len(data)


def read_all(req: Any) -> list[bytes]:
    body = body_of({"wsgi.input": req.body})
    return list(iter(lambda: body.read(2**18), b""))


SENT = {
    "length": (length(PICTURE), [PICTURE]),
    "length, in pieces": (length(PICTURE), [PICTURE[:1], PICTURE[1:5000], PICTURE[5000:]]),
    "one chunk": (CHUNKED, [chunks(PICTURE)]),
    "chunks": (CHUNKED, [chunks(PICTURE[:1], PICTURE[1:5000], PICTURE[5000:])]),
    "chunks, cut anywhere": (CHUNKED, [bytes([byte]) for byte in chunks(PICTURE)]),
}


@pytest.mark.parametrize(("header", "pieces"), SENT.values(), ids=SENT)
def test_a_body_is_read_to_its_end_and_not_further(header: bytes, pieces: list[bytes]) -> None:
    requests = parser(header, [*pieces[:-1], pieces[-1] + NEXT])
    req = next(requests)
    assert has_unread_body(req)

    assert b"".join(read_all(req)) == PICTURE

    assert not has_unread_body(req)
    assert next(requests).path == "/next"


def test_what_has_come_is_returned_at_once() -> None:
    req = next(parser(length(PICTURE), [PICTURE[:100], PICTURE[100:300], PICTURE[300:]]))
    assert [len(piece) for piece in read_all(req)] == [100, 200, len(PICTURE) - 300]


def test_a_body_that_breaks_off_ends() -> None:
    assert b"".join(read_all(next(parser(length(PICTURE), [PICTURE[:100]])))) == PICTURE[:100]


@pytest.mark.parametrize("size", [1, 2, 50])
def test_too_many_small_chunks_are_refused(size: int) -> None:
    data = chunks(*[b"x" * size] * (2 * FREE_CHUNKS), *[b"x" * size] * (1_000_000 // size))
    with pytest.raises(BadRequest, match=f"at least {CHUNK_LEAST_BYTES} bytes in each"):
        read_all(next(parser(CHUNKED, [data])))


def test_a_few_small_chunks_and_many_of_a_sensible_size_are_read() -> None:
    pieces = [b"x"] * FREE_CHUNKS + [b"y" * CHUNK_LEAST_BYTES] * 20_000
    req = next(parser(CHUNKED, [chunks(*pieces)]))
    assert b"".join(read_all(req)) == b"".join(pieces)


def test_trailers_have_a_limit() -> None:
    endless = (b"X-%d: " % number + b"t" * 1000 + b"\r\n" for number in range(1000))
    req = next(parser(CHUNKED, [b"1\r\nx\r\n0\r\n", *endless]))
    with pytest.raises(Exception, match="trailer section size"):
        read_all(req)


@pytest.mark.parametrize(
    ("value", "named"),
    [
        ("chunked", None),
        ("Chunked", None),
        ("gzip", "gzip"),
        ("gzip, chunked", "gzip"),
        ("X'\x00<b>, chunked", "x???b?"),
    ],
)
def test_other_transfer_encodings_are_named(value: str, named: str | None) -> None:
    refused: RequestError | None = transfer_encoding_refused(value)
    assert (refused is None) is (named is None)
    assert refused is None or f"Transfer-Encoding: {named} is not served" in refused.message
