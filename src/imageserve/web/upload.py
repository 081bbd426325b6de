"""Reads the pictures of a request body, within limits of bytes, pictures and time.

gunicorn's own readers collect as much as they are asked for, in however many steps, before they
return any of it. The bodies here return what came, so that it can be counted at once. Werkzeug's
parser of forms took 1.2 CPU-ms per picture, ten times as much as this one.
"""

import re
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import multipart

from imageserve import metrics
from imageserve.errors import (
    BadParameter,
    BadRequest,
    BodyTooLarge,
    Busy,
    EncodingRefused,
    ImageTooLarge,
    NoImage,
    RequestError,
    TooManyImages,
    TransferEncodingRefused,
)
from imageserve.web.greenlets import Turn, upload_deadline

# -- a body in pieces ------------------------------------------------------------------------------

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


# -- the pictures in it ----------------------------------------------------------------------------

FIELD = "image"
CHUNK_BYTES = 256 * 1024
MAX_OTHER_PARTS = 64
"""Parts of a form that are not pictures; they are skipped."""

FORM_BYTES = 16 * 1024
"""A form is parsed in pieces of this size. One that is all headers takes 1 ms each."""

_WRAPPED = {
    b"data:": "a data URI",
    b"{": "JSON",
    b"[": "JSON",
    b'"': "JSON",
    b"image=": "a URL-encoded form",
    b"/9j/": "base64",
    b"iVBORw0KGgo": "base64",
    b"R0lGOD": "base64",
    b"UklGR": "base64",
    b"Qk": "base64",
}
"""How pictures begin that are wrapped in something; no picture begins like this."""
_WRAPPERS = tuple(_WRAPPED)


class UploadMemory:
    """Bytes of uploads in memory: a pod has little, and a client may send much."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._lock = threading.Lock()

    @contextmanager
    def account(self) -> Iterator["UploadAccount"]:
        """Open an account for one request, and give its bytes back at the end."""
        account = UploadAccount(self)
        try:
            yield account
        finally:
            self.change(-account.bytes)

    def change(self, count: int) -> bool:
        """Add ``count`` bytes; return False, and add none, where that exceeds the limit."""
        with self._lock:
            if count > 0 and self.held + count > self.limit:
                return False
            self.held += count
        metrics.upload_bytes_held.inc(count)
        return True


class UploadAccount:
    """The bytes that one request holds."""

    def __init__(self, memory: UploadMemory) -> None:
        self.bytes = 0
        self._memory = memory

    def take(self, count: int) -> None:
        """Add ``count`` bytes to the account.

        Raises Busy where the process holds too many already.
        """
        if not self._memory.change(count):
            raise Busy("too many uploads are in memory", retry_after_s=1)
        self.bytes += count

    @contextmanager
    def more(self, count: int) -> Iterator[None]:
        """Hold ``count`` bytes for a while. Raises Busy as `take` does."""
        self.take(count)
        try:
            yield
        finally:
            self._memory.change(-count)
            self.bytes -= count


@dataclass(frozen=True, slots=True)
class UploadLimits:
    """Limits of one request."""

    max_body_bytes: int
    max_image_bytes: int
    max_images: int
    timeout_s: float


@dataclass(frozen=True, slots=True)
class Upload:
    """The pictures of one request, in order; an error in place of one that is too large."""

    pictures: tuple[bytes | RequestError, ...]
    bytes: int


class UploadReader:
    """Reads uploads."""

    def __init__(self, limits: UploadLimits) -> None:
        self.limits = limits

    def read(self, environ: Mapping[str, object], account: UploadAccount) -> Upload:
        """Return the pictures of a WSGI request.

        Raises a RequestError where there is none, or the request as a whole breaks a limit.
        """
        source = self._source(environ, account)
        kind, options = multipart.parse_options_header(str(environ.get("CONTENT_TYPE") or ""))
        with upload_deadline(self.limits.timeout_s):
            if kind == "multipart/form-data":
                pictures = self._form_pictures(source, options.get("boundary", ""))
            else:
                pictures = [checked(source.read_all(), self.limits)]
        if not pictures or pictures == [b""]:
            raise NoImage(f'send a picture: as the request body, or as form field "{FIELD}"')
        return Upload(tuple(pictures), source.total)

    def read_whole(self, environ: Mapping[str, object], account: UploadAccount) -> bytes:
        """Return the body of a WSGI request as it is. Raises as `read` does."""
        source = self._source(environ, account)
        with upload_deadline(self.limits.timeout_s):
            return source.read_all()

    def _source(self, environ: Mapping[str, object], account: UploadAccount) -> "_CountingReader":
        length = content_length(environ)
        if length is not None and length > self.limits.max_body_bytes:
            raise _body_too_large(self.limits)
        if encoded := _encoded("Content-Encoding", environ.get("HTTP_CONTENT_ENCODING")):
            raise encoded
        return _CountingReader(body_of(environ), length, self.limits, account)

    def _form_pictures(
        self, source: "_CountingReader", boundary: str
    ) -> list[bytes | RequestError]:
        try:
            form = _Form(boundary, self.limits)
            # To the end of the body, not of the form: what is left would be the next request.
            while chunk := source.read(CHUNK_BYTES):
                form.feed(chunk)
            return form.finish()
        except multipart.MultipartError as error:
            # Its first argument is its sentence; the others quote what came.
            raise BadParameter(f"the multipart form cannot be read: {error.args[0]}") from error


def checked(data: bytes, limits: UploadLimits) -> bytes | RequestError:
    """Return a picture, or why it is not taken: it is too large, or wrapped in something."""
    if len(data) > limits.max_image_bytes:
        return _image_too_large(limits)
    return _wrapped(data) or data


def _body_too_large(limits: UploadLimits) -> RequestError:
    return BodyTooLarge(f"at most {limits.max_body_bytes} bytes may be sent")


def _image_too_large(limits: UploadLimits) -> RequestError:
    return ImageTooLarge(f"a picture may have at most {limits.max_image_bytes} bytes")


def _wrapped(data: bytes) -> RequestError | None:
    """Return the error for a picture that is not sent as its own bytes."""
    if not data.startswith(_WRAPPERS):
        return None
    what = next(name for start, name in _WRAPPED.items() if data.startswith(start))
    return EncodingRefused(f"this is {what}; {AS_THEY_ARE}")


def _encoded(header: str, value: object) -> RequestError | None:
    """Return the error for a body, or a part of a form, that has to be decoded first."""
    codings = [coding.strip().lower() for coding in str(value or "").split(",")]
    others = [coding for coding in codings if coding not in _PLAIN]
    if not others:
        return None
    return EncodingRefused(f"{header}: {named(others[0])} is not served; {AS_THEY_ARE}")


_PLAIN = ("", "identity", "binary", "8bit", "7bit", "utf-8", "utf8")
"""Encodings that change nothing. Some clients name a character set: pictures have none."""


class _CountingReader:
    """Counts the bytes that are read of a body, and stops at its limits."""

    def __init__(
        self, body: Body, length: int | None, limits: UploadLimits, account: UploadAccount
    ) -> None:
        self.total = 0
        self._body = body
        self._length = length
        self._limits = limits
        self._account = account

    def read(self, size: int) -> bytes:
        if self._length is not None:
            size = min(size, self._length - self.total)
        chunk = self._body.read(size) if size > 0 else b""
        self.total += len(chunk)
        if self.total > self._limits.max_body_bytes:
            raise _body_too_large(self._limits)
        if not chunk and self._length is not None and self.total < self._length:
            raise BadRequest(f"the body ended after {self.total} of {self._length} bytes")
        self._account.take(len(chunk))
        return chunk

    def read_all(self) -> bytes:
        first = self.read(CHUNK_BYTES)
        if len(first) < CHUNK_BYTES and self.total == self._length:
            return first
        chunks = [first]
        while chunk := self.read(CHUNK_BYTES):
            chunks.append(chunk)
        return b"".join(chunks)


class _Form:
    """A multipart form. Only its pictures are kept."""

    def __init__(self, boundary: str, limits: UploadLimits) -> None:
        self._limits = limits
        # Latin-1 can read any name; file names come in all character sets, and nobody reads them.
        self._parser = multipart.PushMultipartParser(
            boundary,
            max_segment_count=limits.max_images + MAX_OTHER_PARTS,
            header_charset="latin-1",
        )
        self._turn = Turn()
        self._pictures: list[bytes | RequestError] = []
        self._chunks: list[bytes] | None = None
        self._refused: RequestError | None = None
        """Why the picture that comes now is not read."""
        self._size = 0

    def feed(self, chunk: bytes) -> None:
        for start in range(0, len(chunk), FORM_BYTES):
            self._feed(chunk[start : start + FORM_BYTES])
            self._turn.give()

    def _feed(self, chunk: bytes) -> None:
        for event in self._parser.parse(chunk):
            if isinstance(event, multipart.MultipartSegment):
                self._begin(event)
            elif event is None:
                self._end()
            elif self._chunks is not None:
                self._add(event)

    def finish(self) -> list[bytes | RequestError]:
        self._parser.close()
        return self._pictures

    def _begin(self, segment: multipart.MultipartSegment) -> None:
        self._chunks = [] if segment.name == FIELD else None
        self._refused = None
        self._size = 0
        for name, value in segment.headerlist:
            if name in ("Content-Encoding", "Content-Transfer-Encoding"):
                self._refused = self._refused or _encoded(name, value)
        if self._chunks is not None and len(self._pictures) >= self._limits.max_images:
            raise TooManyImages(f"at most {self._limits.max_images} pictures may be sent at once")

    def _add(self, data: bytes) -> None:
        self._size += len(data)
        if self._size > self._limits.max_image_bytes:
            self._refused = self._refused or _image_too_large(self._limits)
        if self._chunks is not None and self._refused is None:
            self._chunks.append(bytes(data))

    def _end(self) -> None:
        if self._chunks is None:
            return
        picture = b"".join(self._chunks)
        self._pictures.append(self._refused or _wrapped(picture) or picture)
        self._chunks = None
