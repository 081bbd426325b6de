"""What a caller may give as a picture, and the bytes that are sent for it."""

import io
import os
import struct
import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Protocol, TypeAlias, cast

from imageserve.client.errors import Unreadable

if TYPE_CHECKING:
    from _typeshed import ReadableBuffer


class PillowImage(Protocol):
    """What is needed of a ``PIL.Image.Image``; Pillow itself is not."""

    def getexif(self) -> Any: ...
    def convert(self, mode: str) -> Any: ...


class Array(Protocol):
    """What numpy arrays have; type checkers know them as buffers from Python 3.12 on."""

    @property
    def __array_interface__(self) -> Any: ...


Picture: TypeAlias = "str | os.PathLike[str] | BinaryIO | ReadableBuffer | PillowImage | Array"
"""A path, an open file, the bytes of a file, a Pillow image, or pixels: an array of uint8."""

_COLOURS = {1: 0, 2: 4, 3: 2, 4: 6}
"""Values a pixel has, and what PNG calls that: grey, with transparency, RGB, with transparency."""
_PNG_MODES = ("1", "L", "LA", "I;16", "P", "RGB", "RGBA")
_ORIENTATION = 0x0112


def contents(picture: Picture) -> bytes:
    """Return the file to send for a picture. Pixels become a PNG, so that none changes.

    Raises Unreadable, or TypeError and ValueError for what cannot be a picture.
    """
    try:
        if isinstance(picture, str | os.PathLike):
            return Path(picture).read_bytes()
        if hasattr(picture, "getexif"):
            return _png_of_image(picture)
        if hasattr(picture, "read"):
            return bytes(picture.read())
    except OSError as error:
        raise Unreadable(str(error), "unreadable") from error
    view = memoryview(cast("ReadableBuffer", picture))
    return bytes(view) if view.ndim == 1 else png(view)


def _png_of_image(image: Any) -> bytes:
    orientation = image.getexif().get(_ORIENTATION, 1)
    image = image if image.mode in _PNG_MODES else image.convert("RGB")
    exif = image.getexif()
    exif.clear()
    exif[_ORIENTATION] = orientation
    file = io.BytesIO()
    image.save(file, "PNG", compress_level=1, exif=exif)
    return file.getvalue()


def png(pixels: memoryview) -> bytes:
    """Write pixels as a PNG. Raises ValueError where they are not uint8, or of another shape."""
    height, width, *rest = pixels.shape or ()
    values = rest[0] if len(rest) == 1 else 0 if rest else 1
    if pixels.format != "B" or values not in _COLOURS:
        raise ValueError(
            "pixels are an array of uint8 with the shape (height, width) or (height, width, 1 to 4)"
            f", not of format {pixels.format!r} and shape {pixels.shape}"
        )
    data, row = pixels.tobytes(), width * values
    lines = b"".join(b"\0" + data[at : at + row] for at in range(0, len(data), row or 1))
    head = struct.pack(">IIBBBBB", width, height, 8, _COLOURS[values], 0, 0, 0)
    chunks = ((b"IHDR", head), (b"IDAT", zlib.compress(lines, 1)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_chunk(name, body) for name, body in chunks)


def _chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
