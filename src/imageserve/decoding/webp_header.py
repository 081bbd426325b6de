"""The header of a WebP: its chunks. Of a film the first frame is kept."""

import struct

from imageserve.decoding.header import (
    MOST_PIECES,
    Bytes,
    Header,
    corrupt,
    orientation,
    too_many_pieces,
    truncated,
)

_FRAMES = (b"VP8 ", b"VP8L", b"ANMF")
_WANTED = frozenset((*_FRAMES, b"VP8X", b"ANIM", b"ALPH", b"EXIF", b"XMP "))
_CHUNK_HEAD = struct.Struct("<4sI")
_ANIMATED, _ALPHA = 0x02, 0x10

_NS_PER_PIXEL, _NS_PER_BYTE = 10.0, 80.0
_NS_PER_PIXEL_LOSSLESS = 1600.0
"""A lossless picture may have code tables of their own for each block of sixteen pixels."""
_BYTES_PER_PIXEL = 4
_WORKING_BYTES_PER_PIXEL = 14
"""Two canvases, a copy of one, and what a frame is decoded with."""


def read_webp(data: bytes) -> Header:
    """Read the chunks.

    Raises TruncatedImage, CorruptImage, and ImageTooLarge where there are too many.
    """
    if len(data) < max(25, 8 + int.from_bytes(data[4:8], "little")):
        raise truncated("webp")
    size = _size(data)
    if not min(size):
        raise corrupt("webp")
    chunks = _chunks(data)
    frame = next((name for name in _FRAMES if name in chunks), None)
    if frame is None:
        raise corrupt("webp")
    flags = 0
    kept: list[Bytes] = []
    if b"VP8X" in chunks:
        # What it says of profiles and metadata is taken back: they are left out.
        flags = data[20] & (_ANIMATED | _ALPHA)
        kept = [data[12:20] + bytes([flags]) + data[21:30]]
        kept += [chunks[name] for name in (b"ANIM", b"ALPH") if name in chunks]
    kept.append(chunks[frame])
    content = bytes(chunks[frame][8:]) if frame == b"ANMF" else b""
    lossless = frame == b"VP8L" or b"ALPH" in chunks or content[16:20] in (b"VP8L", b"ALPH")
    is_transparent = frame != b"VP8 " or bool(flags & _ALPHA)
    pixels = size[0] * size[1]
    per_pixel = _NS_PER_PIXEL + (_NS_PER_PIXEL_LOSSLESS if lossless else 0)
    exif, xmp = (bytes(chunks.get(name, b""))[8:] for name in (b"EXIF", b"XMP "))
    return Header(
        "webp",
        size,
        (b"RIFF", struct.pack("<I", 4 + sum(map(len, kept))), b"WEBP", *kept),
        (pixels * per_pixel + len(chunks[frame]) * _NS_PER_BYTE) / 1e9,
        bytes_per_pixel=_BYTES_PER_PIXEL,
        working_bytes_per_pixel=_WORKING_BYTES_PER_PIXEL,
        orientation=orientation(exif, xmp),
        is_rgb=not is_transparent,
        is_transparent=is_transparent,
    )


def _size(data: bytes) -> tuple[int, int]:
    def number(start: int, stop: int) -> int:
        return int.from_bytes(data[start:stop], "little")

    match data[12:16]:
        case b"VP8X":
            return number(24, 27) + 1, number(27, 30) + 1
        case b"VP8L" if data[20] == 0x2F:
            return (number(21, 25) & 0x3FFF) + 1, (number(21, 25) >> 14 & 0x3FFF) + 1
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":
            return number(26, 28) & 0x3FFF, number(28, 30) & 0x3FFF
    raise corrupt("webp")


def _chunks(data: bytes) -> dict[bytes, memoryview]:
    """Return the first chunk of each name, with its head and its padding."""
    view = memoryview(data)[: 8 + int.from_bytes(data[4:8], "little")]
    found: dict[bytes, memoryview] = {}
    at, last = 12, len(view) - 8
    for _ in range(MOST_PIECES):
        if at > last:
            return found
        name, length = _CHUNK_HEAD.unpack_from(view, at)
        stop = at + 8 + length + (length & 1)
        if name in _WANTED:
            found.setdefault(name, view[at:stop])
        at = stop
    raise too_many_pieces("webp", "chunks")
