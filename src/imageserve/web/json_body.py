"""The JSON of a request. Its long texts, pictures in base64, are read piece by piece.

Python reads JSON in one go: 20 MB hold up a process for 70 milliseconds. So the long texts of a
large body are left where they are, the rest is read, and a picture is decoded a piece at a time.
"""

import base64
from collections.abc import Iterable, Iterator
from typing import Any
from uuid import uuid4

from imageserve.errors import BadParameter
from imageserve.inference.answer import Pause
from imageserve.inference.request import MOST_ID, MOST_TENSORS, check_values
from imageserve.queue.fields import json_object

MOST_QUOTES = 2**14
MOST_JSON_BYTES = 2**21
"""Quotes of the JSON of a large body, and its bytes outside of texts: those are read in one go."""

LONG = 256
"""A text of more bytes is left where it is."""

PIECE = 2**18
"""Bytes of base64 that are decoded at once: a millisecond or two. A multiple of 4."""

_LONGEST_ID = 6 * MOST_ID
"""Most bytes of an id: JSON writes one character as six at most."""

_BACKSLASH = ord("\\")


class JsonBody:
    """A body that has been read."""

    def __init__(self, text: bytes, pause: Pause) -> None:
        """Read a body; ``pause`` is called every few milliseconds.

        Raises ValueError where it is no JSON object, BadParameter where it takes long to read.
        """
        self._body, self._pause = text, pause
        self._long: dict[str, tuple[int, int]] = {}
        """Where each long text is, by what stands in its place."""
        short = text if len(text) <= MOST_JSON_BYTES else self._without_long_texts()
        check_values(short.count(b","))
        self.fields = json_object(short)
        if self._long:
            self._restore_names()

    def file(self, text: Any) -> bytes:
        """Decode a text of the body from base64. Raises ValueError and TypeError."""
        if text in self._long:
            return _decoded(self._pieces(*self._long[text]), self._pause)
        if not isinstance(text, str):
            raise TypeError("no text")
        data = text.encode("ascii")
        return _decoded((data[i : i + PIECE] for i in range(0, len(data), PIECE)), self._pause)

    def _without_long_texts(self) -> bytes:
        """Return the body with a name in place of each long text, which nobody can guess."""
        body, mark = self._body, uuid4().hex
        parts: list[bytes] = []
        quotes = outside = begin = 0
        while (end := body.find(b'"', begin)) >= 0:
            quotes, is_text = quotes + 1, quotes % 2 == 1
            if quotes > MOST_QUOTES or (end and body[end - 1] == _BACKSLASH):
                raise _too_long()  # After quotes in a text nobody knows what is outside of it.
            if is_text and end - begin > LONG:
                name = f"{mark}-{len(self._long)}"
                self._long[name] = begin, end
                parts += name.encode(), b'"'
                self._pause()
            else:
                parts.append(body[begin : end + 1])
                outside += 0 if is_text else end - begin
            begin = end + 1
            if outside > MOST_JSON_BYTES:
                raise _too_long()
            if quotes % 1024 == 0:
                self._pause()
        if outside + len(body) - begin > MOST_JSON_BYTES:
            raise _too_long()
        return b"".join([*parts, body[begin:]])

    def _restore_names(self) -> None:
        """Put back what is no picture: the id of a request, the names of its tensors."""
        for fields in _objects(self.fields):
            for key, value in fields.items():
                if key != "data" and type(value) is str and value in self._long:
                    begin, end = self._long[value]
                    raw = self._body[begin : min(end, begin + _LONGEST_ID + 1)]
                    # Of what is too long, the beginning is enough to refuse it.
                    fields[key] = raw.decode("ascii", "replace")
                    if len(raw) <= _LONGEST_ID:
                        fields[key] = _plain(raw)

    def _pieces(self, begin: int, end: int) -> Iterator[bytes]:
        """Yield a long text without its escapes: many programs write a slash as one."""
        has_escapes = self._body.find(b"\\", begin, end) >= 0
        while begin < end:
            stop = min(begin + PIECE, end)
            if not has_escapes:
                yield self._body[begin:stop]
            else:
                stop = _whole_escapes(self._body, stop, end)
                yield _plain(self._body[begin:stop]).encode("ascii")
            begin = stop


def _whole_escapes(body: bytes, stop: int, end: int) -> int:
    """Return where a piece of a text can stop, at ``stop`` or a few bytes before it.

    An escaped backslash would mislead it: base64 has none.
    """
    last = body.rfind(b"\\", stop - 5, stop)
    if stop == end or last < 0:
        return stop
    length = 6 if body[last + 1 : last + 2] == b"u" else 2
    return last if last + length > stop else stop


def _plain(text: bytes) -> str:
    """Return a text of JSON without its escapes. Raises ValueError."""
    return str(json_object(b'{"":"%b"}' % text)[""])


def _objects(fields: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Yield the body, its inputs and its outputs, as many as there may be."""
    yield fields
    for name in ("inputs", "outputs"):
        value = fields.get(name)
        if isinstance(value, list):
            yield from (each for each in value[: MOST_TENSORS + 1] if isinstance(each, dict))


def _decoded(pieces: Iterable[bytes], pause: Pause) -> bytes:
    """Decode base64. Raises ValueError."""
    decoded, rest, is_padded = [], b"", False
    for piece in pieces:
        if is_padded:
            raise ValueError("padding before the end")
        data = rest + piece
        size = len(data) // 4 * 4
        decoded.append(base64.b64decode(data[:size], validate=True))
        rest, is_padded = data[size:], data.endswith(b"=", 0, size)
        pause()
    decoded.append(base64.b64decode(rest, validate=True))
    return b"".join(decoded)


def _too_long() -> BadParameter:
    return BadParameter(
        f"JSON may have {MOST_JSON_BYTES} bytes besides its texts: send tensors as bytes after it"
    )
