"""Reads messages of Protocol Buffers from a file, without the libraries that define them.

A web process has neither ONNX Runtime nor TensorFlow, and both load a whole model to say what it
takes. Contents are skipped, so a file of gigabytes is read in milliseconds. Not through memory
mapping: a file that is cut short meanwhile would end the process.
"""

import os
from collections.abc import Iterator
from typing import Union

_HEAD = 20
"""Bytes of the longest key and length."""
_MOST_TEXT = 4096


class BadMessage(ValueError):
    """The bytes are no such message."""


class Message:
    """A message inside an open file, or a text or bytes: the format does not tell."""

    def __init__(self, descriptor: int, begin: int, end: int) -> None:
        self._descriptor = descriptor
        self._begin, self._end = begin, end

    @classmethod
    def of_file(cls, descriptor: int) -> "Message":
        """Return the message that is the whole open file."""
        return cls(descriptor, 0, os.fstat(descriptor).st_size)

    def __iter__(self) -> Iterator[tuple[int, Union[int, "Message"]]]:
        """Yield the number and value of each field; numbers of fixed size are left out.

        Raises BadMessage, and OSError.
        """
        at = self._begin
        while at < self._end:
            head = os.pread(self._descriptor, _HEAD, at)
            key, used = _varint(head, 0)
            number, kind = key >> 3, key & 7
            if kind in (1, 5):
                at += used + (8 if kind == 1 else 4)
                continue
            if kind not in (0, 2):
                raise BadMessage(f"a field of kind {kind}")
            value, used = _varint(head, used)
            at += used
            if kind == 0:
                yield number, value
                continue
            if at + value > self._end:
                raise BadMessage("a field longer than its message")
            yield number, Message(self._descriptor, at, at + value)
            at += value

    def parts(self, number: int) -> Iterator["Message"]:
        """Yield the messages in the fields of this number."""
        return (value for n, value in self if n == number and isinstance(value, Message))

    def number(self, number: int) -> int:
        """Return the number in the last field of this number, 0 where there is none."""
        found = [value for n, value in self if n == number and isinstance(value, int)]
        return found[-1] if found else 0

    def text(self, number: int) -> str:
        """Return the text in the last field of this number, "" where there is none."""
        return next((part.content() for part in reversed(list(self.parts(number)))), "")

    def content(self) -> str:
        """Return this as text, its beginning where it is long."""
        length = min(_MOST_TEXT, self._end - self._begin)
        return os.pread(self._descriptor, length, self._begin).decode("utf-8", "replace")


def _varint(data: bytes, at: int) -> tuple[int, int]:
    """Return a number of variable length and where it ends."""
    value = shift = 0
    for each in data[at : at + 10]:
        value |= (each & 0x7F) << shift
        shift += 7
        if each < 0x80:
            return value, at + shift // 7
    raise BadMessage("a number without an end")
