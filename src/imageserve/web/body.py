"""What follows the head of a request: whether there is a body, how long it is, and its bytes.

gunicorn's own readers collect as much as they are asked for, in however many steps, before they
return any of it. These return what came, so that it can be counted at once.
"""

import re
from collections.abc import Mapping
from typing import Any, Protocol

from imageserve.errors import (
    BadParameter,
    BadRequest,
    RequestError,
    TransferEncodingRefused,
)

AS_THEY_ARE = "send the bytes of the picture as they are"

FREE_CHUNKS = 4096
CHUNK_LEAST_BYTES = 128
"""A chunked body may have 4096 chunks of any size; all others must have 128 bytes on average. Each
chunk costs as much as 30 KB of a body, whatever its size."""
TRAILER_BYTES = 32 * 1024

CHUNKS_BYTES = 16 * 1024
"""Small chunks are put together to pieces of this size."""


class Body(Protocol):
    """A request body to read from."""

    def read(self, size: int) -> bytes: ...


def body_of(environ: Mapping[str, object]) -> Body:
    """Return the body of a WSGI request, to be read in pieces."""
    body: Any = environ["wsgi.input"]
    reader = getattr(body, "reader", None)
    if reader is None:
        return body  # type: ignore[no-any-return]
    return _Chunks(reader) if hasattr(reader, "parser") else _Pieces(reader)


class _Pieces:
    """A body of known length."""

    def __init__(self, reader: Any) -> None:
        self._reader = reader

    def read(self, size: int) -> bytes:
        """Return what is there, at least a byte; nothing where the body or the connection ends."""
        left: int = self._reader.length
        if left == 0:
            return b""
        unreader = self._reader.unreader
        piece: bytes = unreader.read(None, read_ahead=min(size, left))
        if len(piece) > left:  # The next request has come too.
            unreader.unread(piece[left:])
            piece = piece[:left]
        self._reader.length = left - len(piece)
        return piece


class _Chunks:
    """A chunked body."""

    def __init__(self, reader: Any) -> None:
        reader.limit_trailer_section = TRAILER_BYTES
        self._parse_chunk_size = reader.parse_chunk_size
        reader.parse_chunk_size = self._next_chunk
        self._reader = reader
        self._chunks = 0
        self._total = 0

    def read(self, size: int) -> bytes:
        """Return some bytes, fewer than CHUNKS_BYTES at the end only.

        Raises BadRequest where the chunks are too small.
        """
        size = min(size, CHUNKS_BYTES)
        pieces: list[bytes] = []
        while size > 0 and self._reader.parser is not None:
            piece = next(self._reader.parser, None)
            if piece is None:
                self._reader.parser = None
                break
            pieces.append(piece)
            size -= len(piece)
            self._total += len(piece)
        return b"".join(pieces)

    def _next_chunk(self, unreader: Any, data: bytes | None = None) -> Any:
        self._chunks += 1
        if self._chunks > FREE_CHUNKS + self._total // CHUNK_LEAST_BYTES:
            raise BadRequest(
                f"the body comes in too small chunks: send at least {CHUNK_LEAST_BYTES} bytes in "
                "each"
            )
        return self._parse_chunk_size(unreader, data)


def has_body(environ: Mapping[str, object]) -> bool:
    """Whether a request says that a body follows its head."""
    has_length = environ.get("CONTENT_LENGTH", "") not in ("", "0")
    return has_length or "HTTP_TRANSFER_ENCODING" in environ


def has_unread_body(req: Any) -> bool:
    """Whether some of a request's body was not read."""
    reader = getattr(getattr(req, "body", None), "reader", None)
    return bool(getattr(reader, "length", None) or getattr(reader, "parser", None))


def content_length(environ: Mapping[str, object]) -> int | None:
    """Return the declared length; None for a chunked body.

    Raises BadParameter where it is not a number, TransferEncodingRefused where the body is encoded
    in another way.
    """
    if encoding := str(environ.get("HTTP_TRANSFER_ENCODING", "")):
        if refused := transfer_encoding_refused(encoding):
            raise refused
        if environ.get("wsgi.input_terminated"):
            return None
    text = str(environ.get("CONTENT_LENGTH") or "0")
    if not (text.isascii() and text.isdigit()):
        raise BadParameter("Content-Length is not a number")
    return int(text)


def transfer_encoding_refused(value: str) -> RequestError | None:
    """Return the error for a Transfer-Encoding that is not served; None for "chunked"."""
    codings = [coding.strip().lower() for coding in value.split(",")]
    others = [coding for coding in codings if coding not in ("", "identity", "chunked")]
    if not others:
        return None
    return TransferEncodingRefused(
        f"Transfer-Encoding: {named(others[0])} is not served; {AS_THEY_ARE}"
    )


def named(coding: str) -> str:
    """Return a name that a client sent, as a message may have it."""
    return re.sub(r"[^A-Za-z0-9._+-]", "?", coding[:40])
