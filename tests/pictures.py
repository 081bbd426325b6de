"""Pictures for tests: good ones and hostile ones.

All are drawn from a seed, so a failing test can be repeated. Nothing here knows the package.
"""

import struct
import zlib
from collections.abc import Callable, Iterator
from io import BytesIO
from itertools import cycle, islice
from random import Random
from typing import Any

from PIL import Image

#: Pillow's name of each format, and its options for saving.
SAVE_OPTIONS: dict[str, dict[str, Any]] = {
    "JPEG": {"quality": 85},
    "PNG": {},
    "WEBP": {"method": 0},
    "GIF": {},
    "BMP": {},
}

Hostile = tuple[str, bytes, frozenset[str]]


def photo(width: int, height: int, seed: int = 0, mode: str = "RGB") -> Image.Image:
    """A picture of smooth random colours, as unlike another seed's as two photos are."""
    drawn = Random(seed)
    bands = [_smooth_band(width, height, drawn) for _ in Image.new(mode, (1, 1)).getbands()]
    return Image.merge(mode, bands)


def _smooth_band(width: int, height: int, drawn: Random) -> Image.Image:
    coarse = Image.frombytes("L", (7, 5), drawn.randbytes(35))
    return coarse.resize((width, height), Image.Resampling.BICUBIC)


def encoded(image: Image.Image, fmt: str, **save_options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, fmt, **save_options)
    return buffer.getvalue()


def jpeg(width: int = 500, height: int = 375, seed: int = 0) -> bytes:
    return encoded(photo(width, height, seed), "JPEG", **SAVE_OPTIONS["JPEG"])


def jpeg_segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def png_chunk(name: bytes, content: bytes) -> bytes:
    return struct.pack(">I", len(content)) + name + content + _crc(name + content)


def _crc(content: bytes) -> bytes:
    return struct.pack(">I", zlib.crc32(content))


def png(width: int, height: int, depth: int, colour: int, *chunks: bytes) -> bytes:
    """A PNG of these chunks, whatever its header claims."""
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    parts = (png_chunk(b"IHDR", header), *chunks, png_chunk(b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def png_with_text_bomb(expanded_bytes: int) -> bytes:
    """A good PNG whose comment expands to this many bytes."""
    text = b"Comment\0\0" + zlib.compress(bytes(expanded_bytes), 9)
    good = encoded(photo(16, 16), "PNG")
    return good[:33] + png_chunk(b"zTXt", text) + good[33:]


def png_in_chunks(count: int) -> bytes:
    """A good PNG with this many chunks that nobody needs."""
    good = encoded(photo(16, 16), "PNG")
    return good[:33] + count * png_chunk(b"abCd", b"") + good[33:]


def huge_png(side: int = 60_000) -> bytes:
    return png(side, side, 8, 2, png_chunk(b"IDAT", zlib.compress(bytes(100))))


def huge_gif(side: int = 65_535) -> bytes:
    """A screen of this size with one pixel drawn."""
    good = encoded(Image.new("P", (1, 1)), "GIF")
    return good[:6] + struct.pack("<HH", side, side) + good[10:]


def gif_with_huge_frame(side: int = 65_535) -> bytes:
    """A small screen, and a frame of this size that is to be wiped before the next."""
    screen = b"GIF89a" + struct.pack("<HHBBB", 4, 4, 0, 0, 0)
    wipe = b"!\xf9\x04\x08\0\0\0\0"
    frame = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\2"
    return screen + wipe + frame + b"\1\0\0;"


def huge_bmp(side: int = 30_000) -> bytes:
    good = encoded(photo(4, 4), "BMP")
    return good[:18] + struct.pack("<II", side, side) + good[26:]


def huge_webp(side: int = 16_383) -> bytes:
    """A film on a canvas of this size, of two small frames."""
    frames = {"save_all": True, "append_images": [photo(16, 16, 1)]}
    good = encoded(photo(16, 16), "WEBP", **frames)
    at = good.index(b"VP8X") + 12
    return good[:at] + 2 * struct.pack("<I", side - 1)[:3] + good[at + 6 :]


def hostile_pictures(count: int, seed: int = 0) -> Iterator[Hostile]:
    """Return (name, bytes, the error codes that may answer them), each below 300 KB."""
    drawn = Random(seed)
    makers = cycle(_MAKERS)
    return (maker(drawn) for maker in islice(makers, count))


def _fixed(name: str, code: str, content: bytes) -> Callable[[Random], Hostile]:
    return lambda _: (name, content, frozenset({code}))


def _cut(fmt: str) -> Callable[[Random], Hostile]:
    def maker(drawn: Random) -> Hostile:
        good = encoded(photo(120, 90, drawn.randrange(2**32)), fmt, **SAVE_OPTIONS[fmt])
        at = drawn.randrange(20, len(good) * 9 // 10)
        return f"{fmt} cut at byte {at}", good[:at], _CUT_OR_SPOILT

    return maker


def _noise_after(name: str, start: bytes) -> Callable[[Random], Hostile]:
    def maker(drawn: Random) -> Hostile:
        return f"noise after {name}", start + drawn.randbytes(2_000), _CUT_OR_SPOILT

    return maker


def _noise(drawn: Random) -> Hostile:
    return "noise", b"\x01" + drawn.randbytes(2_000), frozenset({"not_an_image"})


_CUT_OR_SPOILT = frozenset({"truncated_image", "corrupt_image"})
_RIFF = b"RIFF" + struct.pack("<I", 1_990) + b"WEBPVP8 "
_MAKERS: tuple[Callable[[Random], Hostile], ...] = (
    _fixed("nothing", "no_image", b""),
    _fixed("text", "not_an_image", b"BM is how this text begins, and it goes on.\n"),
    _fixed("html", "not_an_image", b"<!DOCTYPE html><title>404</title>"),
    _fixed("a zip", "not_an_image", b"PK\x03\x04\x14\0\0\0\x08\0" + bytes(200)),
    _noise,
    *map(_cut, SAVE_OPTIONS),
    _noise_after("a JPEG header", b"\xff\xd8\xff\xe0\0\x10JFIF\0\1\1\0\0\1\0\1\0\0"),
    _noise_after("a PNG header", huge_png(100)[:33]),
    _noise_after("a WebP header", _RIFF),
    _fixed("only a JPEG's start", "truncated_image", b"\xff\xd8\xff"),
    _fixed("only a PNG's start", "truncated_image", b"\x89PNG\r\n\x1a\n"),
    _fixed("a huge PNG", "image_too_large", huge_png()),
    _fixed("a huge GIF", "image_too_large", huge_gif()),
    _fixed("a GIF with a huge frame", "image_too_large", gif_with_huge_frame()),
    _fixed("a huge BMP", "image_too_large", huge_bmp()),
    _fixed("a huge WebP", "image_too_large", huge_webp()),
    _fixed("a PNG in endless chunks", "image_too_large", png_in_chunks(20_001)),
    _fixed("a TIFF", "unsupported_format", encoded(photo(8, 8), "TIFF")),
    _fixed("an icon", "unsupported_format", encoded(photo(16, 16), "ICO")),
    _fixed("a PDF", "unsupported_format", b"%PDF-1.7\n%\xe2\xe3\xcf\xd3\n"),
    _fixed("an SVG", "unsupported_format", b'<?xml version="1.0"?>\n<svg width="1"/>'),
    _fixed("a HEIC", "unsupported_format", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
)
