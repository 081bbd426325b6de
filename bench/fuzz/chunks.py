"""Changes along the structure of a picture: its chunks, and the numbers of its header.

Check sums and lengths are made right again, mostly, so that a decoder gets to the damage.
"""

import struct
from collections.abc import Callable, Iterator
from random import Random

from tests.pictures import jpeg_segment, png_chunk

Chunk = tuple[bytes, bytes]
"""Its name and its content."""

_PNG = b"\x89PNG\r\n\x1a\n"
_SIDES = (0, 1, 2, 255, 4096, 7071, 16_383, 30_000, 65_535, 10**6, 50_000_000, 2**31 - 1, 2**32 - 1)
_COPIES = (2, 2, 3, 50, 1000)
_MOST_BYTES = 600_000
_PNG_NAMES: tuple[bytes, ...] = (
    b"iCCP",
    b"tEXt",
    b"zTXt",
    b"iTXt",
    b"tRNS",
    b"PLTE",
    b"gAMA",
    b"pHYs",
    b"eXIf",
)
_PNG_NAMES += (b"acTL", b"fcTL", b"fdAT", b"cHRM", b"sRGB", b"IDAT", b"IEND", b"iDOT", b"\0\0\0\0")
_RIFF_NAMES = (
    b"VP8X",
    b"VP8 ",
    b"VP8L",
    b"ALPH",
    b"ANIM",
    b"ANMF",
    b"ICCP",
    b"EXIF",
    b"XMP ",
)
_JPEG_MARKERS = (0xC0, 0xC2, 0xC4, 0xDA, 0xDB, 0xDD, 0xE0, 0xE1, 0xE2, 0xED, 0xEE, 0xFE, 0xD0, 0x01)


def change_chunks(data: bytes, drawn: Random) -> bytes:
    """Drop, repeat, swap, empty, spoil or add chunks of a PNG, a WebP or a JPEG."""
    for is_kind, read, write, names in _FORMATS:
        if is_kind(data):
            chunks = _changed(list(read(data)), drawn, names)
            return write(chunks, drawn)[:_MOST_BYTES] or b"\0"
    return data


def _changed(chunks: list[Chunk], drawn: Random, names: tuple[bytes, ...]) -> list[Chunk]:
    if not chunks:
        return chunks
    at = drawn.randrange(len(chunks))
    name, content = chunks[at]
    what = drawn.randrange(6)
    if what == 0:
        return chunks[:at] + chunks[at + 1 :]
    if what == 1:
        return chunks[:at] + [chunks[at]] * drawn.choice(_COPIES) + chunks[at + 1 :]
    if what == 2:
        other = drawn.randrange(len(chunks))
        chunks[at], chunks[other] = chunks[other], chunks[at]
    elif what == 3:
        chunks[at] = (name, content[: drawn.randrange(len(content) + 1)])
    elif what == 4:
        chunks[at] = (name, _spoilt(content, drawn))
    else:
        added = (drawn.choice(names), drawn.randbytes(drawn.choice((0, 1, 8, 20, 300))))
        chunks[at:at] = [added] * drawn.choice((1, 1, *_COPIES))
    return chunks


def _spoilt(content: bytes, drawn: Random) -> bytes:
    changed = bytearray(content)
    for _ in range(drawn.choice((1, 2, 8)) if content else 0):
        changed[drawn.randrange(len(changed))] = drawn.choice((0, 1, 0x80, 0xFF))
    return bytes(changed)


# -- formats: reading stops silently where the data is no longer one ------------------------------


def _png_chunks(data: bytes) -> Iterator[Chunk]:
    at = len(_PNG)
    while at + 8 <= len(data):
        (length,) = struct.unpack_from(">I", data, at)
        yield data[at + 4 : at + 8], data[at + 8 : at + 8 + length]
        at += 12 + length


def _png(chunks: list[Chunk], drawn: Random) -> bytes:
    written = _PNG + b"".join(png_chunk(*chunk) for chunk in chunks)
    return written if drawn.random() < 0.9 else _spoilt(written, drawn)


def _riff_chunks(data: bytes) -> Iterator[Chunk]:
    at = 12
    while at + 8 <= len(data):
        (length,) = struct.unpack_from("<I", data, at + 4)
        yield data[at : at + 4], data[at + 8 : at + 8 + length]
        at += 8 + length + length % 2


def _riff(chunks: list[Chunk], drawn: Random) -> bytes:
    parts = [
        name + struct.pack("<I", len(content)) + content + bytes(len(content) % 2)
        for name, content in chunks
    ]
    body = b"WEBP" + b"".join(parts)
    length = len(body) if drawn.random() < 0.9 else drawn.choice(_SIDES)
    return b"RIFF" + struct.pack("<I", length) + body


def _jpeg_segments(data: bytes) -> Iterator[Chunk]:
    """Yield segments; the last one is the rest from the first scan on."""
    at = 2
    while at + 4 <= len(data) and data[at] == 0xFF and data[at + 1] != 0xDA:
        (length,) = struct.unpack_from(">H", data, at + 2)
        yield data[at : at + 2], data[at + 4 : at + 2 + length]
        at += 2 + max(length, 2)
    yield b"", data[at:]


def _jpeg(chunks: list[Chunk], drawn: Random) -> bytes:
    fill = b"\xff" * drawn.choice((0, 0, 0, 1, 7, 300))
    parts = []
    for name, content in chunks:
        whole = jpeg_segment(name[1], content[:65_000]) if len(name) == 2 else content
        parts.append(fill + whole if len(name) == 2 else whole)
    return b"\xff\xd8" + b"".join(parts)


_FORMATS: tuple[
    tuple[
        Callable[[bytes], bool],
        Callable[[bytes], Iterator[Chunk]],
        Callable[[list[Chunk], Random], bytes],
        tuple[bytes, ...],
    ],
    ...,
] = (
    (lambda data: data.startswith(_PNG), _png_chunks, _png, _PNG_NAMES),
    (lambda data: data[8:12] == b"WEBP", _riff_chunks, _riff, _RIFF_NAMES),
    (
        lambda data: data.startswith(b"\xff\xd8"),
        _jpeg_segments,
        _jpeg,
        tuple(bytes((0xFF, each)) for each in _JPEG_MARKERS),
    ),
)


# -- the size in the header -----------------------------------------------------------------------


def change_size(data: bytes, drawn: Random) -> bytes:
    """Write other sides into the header, with a right check sum."""
    width, height = drawn.choice(_SIDES), drawn.choice(_SIDES)
    if data.startswith(_PNG):
        chunks = list(_png_chunks(data))
        if chunks and chunks[0][0] == b"IHDR":
            chunks[0] = (b"IHDR", struct.pack(">II", width, height) + chunks[0][1][8:])
        return _PNG + b"".join(png_chunk(*chunk) for chunk in chunks)
    if data[:3] == b"GIF":
        return data[:6] + struct.pack("<HH", width & 0xFFFF, height & 0xFFFF) + data[10:]
    if data[:2] == b"BM":
        return data[:18] + struct.pack("<II", width, height) + _bmp_kind(data[26:], drawn)
    at = _size_at(data)
    if at is None:
        return data
    return data[:at] + struct.pack(">HH", height & 0xFFFF, width & 0xFFFF) + data[at + 4 :]


def _bmp_kind(rest: bytes, drawn: Random) -> bytes:
    """Change planes, bits and compression, one time in two."""
    if drawn.random() < 0.5:
        return rest
    kinds = (drawn.choice((0, 1, 4, 8, 16, 24, 32, 65_535)), drawn.choice((0, 1, 2, 3, 6, 9)))
    return rest[:2] + struct.pack("<HI", *kinds) + rest[8:]


def _size_at(data: bytes) -> int | None:
    """Return where a JPEG or a WebP says its size."""
    for mark, offset in ((b"\xff\xc0", 5), (b"\xff\xc2", 5), (b"VP8X", 12), (b"\x9d\x01\x2a", 3)):
        if (found := data.find(mark)) >= 0:
            return found + offset
    return None
