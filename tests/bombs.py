"""Pictures of few bytes that would cost much: processor time or memory. All are below 1 MB.

Nothing here knows the package.
"""

import struct
import zlib
from collections.abc import Callable
from functools import partial

from PIL import Image
from tests.pictures import encoded, jpeg, jpeg_segment, photo, png, png_chunk

MOST_BYTES = 990_000


def png_of_chunks(name: bytes, content: bytes, count: int = MOST_BYTES) -> bytes:
    """A good PNG behind as many equal chunks as fit, at most ``count``."""
    chunk = png_chunk(name, content)
    good = encoded(photo(16, 16), "PNG")
    return good[:33] + chunk * min(count, (MOST_BYTES - len(good)) // len(chunk)) + good[33:]


def png_of_profiles() -> bytes:
    return png_of_chunks(b"iCCP", b"a\0\0" + zlib.compress(bytes(2**20), 9))


def png_of_texts() -> bytes:
    return png_of_chunks(b"zTXt", b"a\0\0" + zlib.compress(bytes(1_000 * 1024), 9))


def png_wide(side: int = 50_000_000) -> bytes:
    return png(side, 1, 1, 0, png_chunk(b"IDAT", zlib.compress(bytes(side // 8 + 2), 9)))


def jpeg_of_segments(marker: int, content: bytes, count: int = MOST_BYTES) -> bytes:
    """A good JPEG behind as many equal segments as fit, at most ``count``."""
    segment = jpeg_segment(marker, content)
    good = jpeg(40, 30)
    return good[:2] + segment * min(count, (MOST_BYTES - len(good)) // len(segment)) + good[2:]


def jpeg_behind(junk: bytes) -> bytes:
    good = jpeg(40, 30)
    return good[:2] + junk + good[2:]


def jpeg_of_scans(side: int, scans: int) -> bytes:
    """A JPEG of one colour that is refined again and again."""
    plain = encoded(Image.new("RGB", (side, side), (90, 120, 30)), "JPEG", progressive=True)
    last_scan = plain[plain.rindex(b"\xff\xda") : -2]
    return plain[:-2] + scans * last_scan + plain[-2:]


def gif_of_comments() -> bytes:
    good = encoded(photo(16, 16), "GIF")
    start = 13 + (3 << (good[10] & 7) + 1 if good[10] & 0x80 else 0)
    comment = b"!\xfe\x01c\0"
    return good[:start] + comment * ((MOST_BYTES - len(good)) // len(comment)) + good[start:]


def gif_of_clear_codes(side: int = 1_000) -> bytes:
    """A GIF whose codes clear the table for ever and draw nothing."""
    start = b"GIF89a" + struct.pack("<HHBBB", side, side, 0, 0, 0)
    frame = b"," + struct.pack("<HHHHB", 0, 0, side, side, 0) + b"\x08"
    codes = sum(256 << 9 * n for n in range(8)).to_bytes(9, "little") * 28
    block = bytes([len(codes)]) + codes
    return start + frame + block * (MOST_BYTES // len(block)) + b"\0;"


def bmp_of_runs(width: int, height: int, runs: bytes, bits: int = 8) -> bytes:
    """A BMP that is run-length encoded, with a palette of 256 or 16 greens."""
    colours = 1 << bits
    palette = b"".join(bytes([0, value * 255 // (colours - 1), 40, 0]) for value in range(colours))
    at = 54 + len(palette)
    head = b"BM" + struct.pack("<IHHI", at + len(runs), 0, 0, at)
    sizes = (40, width, height, 1, bits, 1 if bits == 8 else 2, len(runs), 0, 0, colours, 0)
    return head + struct.pack("<IiiHHIIiiII", *sizes) + palette + runs


class _Bits:
    """Writes numbers of any count of bits, the lowest first."""

    def __init__(self) -> None:
        self._waiting = self._count = 0
        self._bytes = bytearray()

    def put(self, *pairs: tuple[int, int]) -> None:
        for value, count in pairs:
            self._waiting |= value << self._count
            self._count += count
            while self._count >= 8:
                self._bytes.append(self._waiting & 255)
                self._waiting >>= 8
                self._count -= 8

    def ended(self) -> bytes:
        return bytes(self._bytes) + bytes([self._waiting]) + bytes(18)


def webp_of_code_tables(side: int) -> bytes:
    """A lossless WebP whose every block of sixteen pixels has code tables of its own.

    libwebp builds them all: 1.4 seconds for a million pixels, where others take 0.02.
    """
    bits = _Bits()
    bits.put((0x2F, 8), (side - 1, 14), (side - 1, 14), (0, 1), (0, 3))
    bits.put((0, 1), (1, 1), (11, 4), (1, 1), (0, 3), (0, 1))  # A cache; tables for each 4 x 4.
    for extra in (24, 0):  # Codes of eight bits for all values of green, and of red.
        bits.put((0, 1), (12 - 4, 4))
        bits.put(*((length, 3) for length in (0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 0, 1)), (0, 1))
        bits.put(*((1, 1),) * 256, *((0, 1),) * extra)
    bits.put(*((1, 1), (0, 1), (0, 1), (0, 1)) * 3)
    blocks = min(2**16, ((side + 3) // 4) ** 2)
    for number in range(((side + 3) // 4) ** 2):
        table = number % 2**16
        bits.put((_reversed(table & 255), 8), (_reversed(table >> 8), 8))
    for number in range(blocks):
        bits.put(*((1, 1), (0, 1), (0, 1), (number & 1, 1)) * 5)
    body = bits.ended()
    body += bytes(len(body) & 1)
    return _riff(b"VP8L" + struct.pack("<I", len(body)) + body)


def _reversed(byte: int) -> int:
    return int(f"{byte:08b}"[::-1], 2)


def _riff(chunks: bytes) -> bytes:
    return b"RIFF" + struct.pack("<I", 4 + len(chunks)) + b"WEBP" + chunks


def webp_of_frames() -> bytes:
    """A film of as many equal frames as fit."""
    film = encoded(photo(16, 16), "WEBP", save_all=True, append_images=[photo(16, 16, 1)])
    at = film.index(b"ANMF")
    frame = film[at : at + 8 + int.from_bytes(film[at + 4 : at + 8], "little")]
    return _riff(film[12:at] + frame * ((MOST_BYTES - at) // len(frame)))


#: By name: a picture whose header alone would cost seconds, or memory.
HEADERS: dict[str, Callable[[], bytes]] = {
    "PNG of colour profiles": png_of_profiles,
    "PNG of texts": png_of_texts,
    "PNG of nothing": partial(png_of_chunks, b"abCd", b""),
    "PNG of short texts": partial(png_of_chunks, b"tEXt", b"Comment\0b", 19_000),
    "PNG of raw profiles": partial(
        png_of_chunks, b"tEXt", b"Raw profile type exif\0" + b"\n" * 900_000
    ),
    "PNG of an endless EXIF directory": partial(
        png_of_chunks, b"eXIf", b"II*\0\x08\0\0\0\xff\xff" + bytes(900_000)
    ),
    "PNG of one side": png_wide,
    "JPEG of Photoshop's resources": partial(
        jpeg_of_segments, 0xED, b"Photoshop 3.0\0" + b"8BIM\0\1\0\0\0\0\0\0" * 5_000
    ),
    "JPEG of tables": partial(jpeg_of_segments, 0xDB, (b"\0" + bytes(range(1, 65))) * 1_000),
    "JPEG of comments": partial(jpeg_of_segments, 0xFE, b""),
    "JPEG of EXIF": partial(jpeg_of_segments, 0xE1, b"Exif\0\0xxxx"),
    "JPEG of fill bytes": lambda: jpeg_behind(b"\xff" * 980_000),
    "JPEG of stuffed bytes": lambda: jpeg_behind(b"\xff\0" * 490_000),
    "GIF of comments": gif_of_comments,
    "WebP of frames": webp_of_frames,
    "WebP of nothing": lambda: _riff(b"abcd\0\0\0\0" * 120_000),
    "BMP of a wide row": partial(bmp_of_runs, 50_000_000, 1, b"\1\7\0\0\0\1"),
}

#: By name: a picture whose pixels cost much for their number.
PIXELS: dict[str, Callable[[], bytes]] = {
    "JPEG of 90 scans": partial(jpeg_of_scans, 990, 80),
    "GIF of clear codes": gif_of_clear_codes,
    "WebP of code tables": partial(webp_of_code_tables, 400),
    "BMP of runs": partial(bmp_of_runs, 500, 500, (b"\1\7" * 500 + b"\0\0") * 500 + b"\0\1"),
    "BMP of empty rows": partial(bmp_of_runs, 3_000, 3_000, b"\0\0" * 3_000 + b"\0\1"),
}
