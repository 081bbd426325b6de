"""What is known of a picture before a single pixel is decoded.

Each format has a bounded scan of its own (`jpeg_header` and so on) that looks at the names and
lengths of a picture's pieces, never at more than ``MOST_PIECES`` of them. Pillow's ``open`` would
look into each: a PNG of 990 KB, all colour profiles, took it 2.7 seconds. Pillow gets the pieces
that make the pixels and nothing else.
"""

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
