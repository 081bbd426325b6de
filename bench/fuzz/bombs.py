"""Small files that ask a decoder for much: time, memory, or steps."""

import struct
import zlib
from collections.abc import Callable
from random import Random

from tests.pictures import (
    encoded,
    gif_with_huge_frame,
    huge_bmp,
    huge_gif,
    huge_png,
    huge_webp,
    jpeg,
    jpeg_segment,
    photo,
    png,
    png_chunk,
    png_with_text_bomb,
)

Bomb = tuple[str, bytes]


def bomb(drawn: Random) -> Bomb:
    name, maker = drawn.choice(_BOMBS)
    return name, maker(drawn)


def rle_bmp(width: int, height: int, body: bytes) -> bytes:
    """A BMP of 8 bits whose pixels are these run-length codes."""
    palette = b"".join(struct.pack("<BBBB", i, i, i, 0) for i in range(256))
    offset = 54 + len(palette)
    head = struct.pack("<IiiHHIIiiII", 40, width, height, 1, 8, 1, len(body), 0, 0, 256, 0)
    return struct.pack("<2sIHHI", b"BM", offset + len(body), 0, 0, offset) + head + palette + body


def _many_chunks(drawn: Random) -> bytes:
    """A PNG of many chunks of one kind, each a few bytes long or compressed."""
    name = drawn.choice((b"iCCP", b"zTXt", b"tEXt", b"iTXt", b"eXIf", b"acTL", b"IDAT", b"tRNS"))
    profile = b"p\0\0" + zlib.compress(bytes(drawn.choice((10, 1000, 50_000))), 9)
    content = profile if name in (b"iCCP", b"zTXt") else bytes(drawn.choice((0, 1, 8)))
    count = min(drawn.choice((100, 2000, 20_000)), 990_000 // (12 + len(content)))
    good = encoded(photo(16, 16), "PNG")
    return good[:33] + png_chunk(name, content) * count + good[33:]


def _flat_png(drawn: Random) -> bytes:
    """A PNG of the largest allowed size, or of one long side, all of one colour."""
    width, height = drawn.choice(((7000, 7000), (50_000, 900), (900, 50_000), (50_000_000, 1)))
    depth, colour = drawn.choice(((1, 0), (8, 0)))
    rows = height * (1 + width * depth // 8)
    return png(width, height, depth, colour, png_chunk(b"IDAT", zlib.compress(bytes(rows), 1)))


def _many_segments(drawn: Random) -> bytes:
    """A JPEG of many short segments before its picture."""
    marker = drawn.choice((0xFE, 0xE1, 0xE2, 0xED, 0xDB, 0xC4, 0xDD))
    count = drawn.choice((100, 2000, 20_000))
    good = jpeg(64, 48)
    return (
        good[:2]
        + jpeg_segment(marker, drawn.randbytes(drawn.choice((0, 2, 12)))) * count
        + good[2:]
    )


def _many_scans(drawn: Random) -> bytes:
    """A progressive JPEG that repeats its last scan."""
    good = encoded(photo(*drawn.choice(((64, 48), (2000, 1500)))), "JPEG", progressive=True)
    last = good[good.rindex(b"\xff\xda") : -2]
    return good[:-2] + last * min(drawn.choice((10, 90, 1000)), 400_000 // len(last)) + good[-2:]


def _many_frames(drawn: Random) -> bytes:
    """A GIF of many frames, or of many extensions."""
    good = encoded(photo(8, 8), "GIF")
    extra = drawn.choice((b"!\xfe\x01x\0", b"!\xf9\x04\x08\0\0\0\0", b"!\xff\x0bNETSCAPE2.0\0"))
    at = good.index(b",")
    return good[:at] + extra * drawn.choice((100, 5000, 50_000)) + good[at:]


def _huge_directory(drawn: Random) -> bytes:
    """A JPEG whose EXIF has as many entries as fit, or says so."""
    claimed = drawn.choice((5000, 65_535))
    entry = struct.pack(">HHII", drawn.choice((0x0112, 0x9999)), drawn.choice((3, 4, 7)), 1, 6)
    exif = b"Exif\0\0MM\0*" + struct.pack(">IH", 8, claimed) + entry * 5000
    good = jpeg(64, 48)
    return good[:2] + jpeg_segment(0xE1, exif) + good[2:]


def _long_run(drawn: Random) -> bytes:
    """A run-length BMP whose codes claim more, or far fewer, pixels than it has."""
    width, height = drawn.choice(((7000, 7000), (60_000, 800), (800, 60_000), (64, 48)))
    code = drawn.choice((b"\xff\x01", b"\0\0", b"\0\2\xff\xff", b"\0\x03abc\0", b"\x01\x02"))
    return rle_bmp(width, height, code * drawn.choice((2, 500, 100_000)) + b"\0\1")


def _fixed(data: bytes) -> Callable[[Random], bytes]:
    return lambda _: data


_BOMBS: tuple[tuple[str, Callable[[Random], bytes]], ...] = (
    ("a PNG of many chunks", _many_chunks),
    ("a flat PNG", _flat_png),
    ("a JPEG of many segments", _many_segments),
    ("a JPEG of many scans", _many_scans),
    ("a GIF of many blocks", _many_frames),
    ("a JPEG with a huge directory", _huge_directory),
    ("a BMP of long runs", _long_run),
    ("a PNG with a text bomb", _fixed(png_with_text_bomb(50 * 2**20))),
    ("a huge PNG", _fixed(huge_png())),
    ("a huge GIF", _fixed(huge_gif())),
    ("a GIF with a huge frame", _fixed(gif_with_huge_frame())),
    ("a huge BMP", _fixed(huge_bmp())),
    ("a huge WebP", _fixed(huge_webp())),
)
