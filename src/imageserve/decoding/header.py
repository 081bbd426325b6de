"""What is known of a picture before a single pixel is decoded.

Each format has a bounded scan of its own (`jpeg_header` and so on) that looks at the names and
lengths of a picture's pieces, never at more than ``MOST_PIECES`` of them. Pillow's ``open`` would
look into each: a PNG of 990 KB, all colour profiles, took it 2.7 seconds. Pillow gets the pieces
that make the pixels and nothing else.
"""

import re
import struct
import zlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from imageserve.errors import CorruptImage, ImageTooLarge, TruncatedImage

MOST_PIECES = 20_000
"""Most segments, chunks or blocks of one picture. A PNG of 10 MB in chunks of 512 bytes has as
many; to walk past all of them takes 10 ms."""

Bytes = bytes | bytearray | memoryview


@dataclass(frozen=True, slots=True)
class Header:
    """A picture that is still encoded, and what its pixels will cost."""

    kind: str
    size: tuple[int, int]
    """Width and height, before the picture is turned upright."""
    parts: Sequence[Bytes]
    """The pieces that the decoder needs: joined, they are a picture of the same format."""
    decode_s: float
    """Processor time of the decoder at most, on a machine like the one it was measured on."""
    bytes_per_pixel: int
    """Of the decoded picture, before it is turned and converted."""
    working_bytes_per_pixel: int = 0
    """What the decoder needs beside it meanwhile."""
    orientation: int = 1
    is_rgb: bool = False
    """Whether the decoder gives what is resized."""
    is_transparent: bool = False
    scans: int = 1
    is_cut: bool = False
    """Whether the bytes end within a piece."""
    unpacked: Callable[[], bytes] | None = None
    """Makes the picture that the decoder gets, where that is not ``parts``."""

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height of the picture when it has been turned upright."""
        width, height = self.size
        return (width, height) if self.orientation < 5 else (height, width)

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    def encoded(self) -> bytes:
        """Return the picture that the decoder gets."""
        if self.unpacked is not None:
            return self.unpacked()
        only = self.parts[0]
        return only if len(self.parts) == 1 and isinstance(only, bytes) else b"".join(self.parts)


def name_of(kind: str) -> str:
    return kind.upper().replace("_", " ")


def truncated(kind: str) -> TruncatedImage:
    return TruncatedImage(f"the {name_of(kind)} ends before it is complete")


def corrupt(kind: str) -> CorruptImage:
    return CorruptImage(f"the bytes begin like a {name_of(kind)} and cannot be decoded")


def too_much_memory() -> ImageTooLarge:
    return ImageTooLarge("decoding the picture takes more memory than it may")


def too_many_pieces(kind: str, pieces: str) -> ImageTooLarge:
    return ImageTooLarge(f"the {name_of(kind)} has more than {MOST_PIECES} {pieces}")


# -- which side is up ------------------------------------------------------------------------------


_TAG = 0x0112
_INTEGERS = {3: "H", 4: "I", 8: "h", 9: "i"}
"""EXIF's types of whole numbers that can hold it: short and long, without and with a sign."""
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_MOST_BYTES = 2**20
"""Most bytes of metadata that are looked at; those of a camera are a tenth of it."""

_MOST_ENTRIES = 1_000


def orientation(exif: bytes | None, xmp: bytes | None) -> int:
    """Return 1 to 8, as Pillow's ``exif_transpose`` does; 1 (upright) where nothing valid is said.

    Pillow's own reader warns, and takes longer than decoding a small picture.
    """
    number = _from_exif(exif) if exif else None
    if number is None and xmp:
        found = _XMP_ORIENTATION.search(xmp, 0, _MOST_BYTES)
        number = int(found[1]) if found else None
    return number if number is not None and 1 <= number <= 8 else 1


def _from_exif(exif: bytes) -> int | None:
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    number = None
    try:
        if order is not None:
            (directory,) = struct.unpack_from(order + "I", exif, 4)
            (entries,) = struct.unpack_from(order + "H", exif, directory)
            for start in range(directory + 2, directory + 2 + 12 * min(entries, _MOST_ENTRIES), 12):
                tag, kind, count = struct.unpack_from(order + "HHI", exif, start)
                if tag == _TAG and count == 1 and kind in _INTEGERS:
                    (number,) = struct.unpack_from(order + _INTEGERS[kind], exif, start + 8)
    except struct.error:
        pass
    return number


def raw_profile(text: bytes) -> bytes | None:
    """Read a profile as ImageMagick writes it into a PNG: a name, a length, and hexadecimal."""
    try:
        return bytes.fromhex(text[:_MOST_BYTES].split(b"\n", 3)[-1].decode("ascii"))
    except ValueError:
        return None


def inflated(data: bytes) -> bytes:
    """Return a compressed text, its first megabyte where it is longer; nothing if it is invalid."""
    try:
        return zlib.decompressobj().decompress(data, _MOST_BYTES)
    except zlib.error:
        return b""
