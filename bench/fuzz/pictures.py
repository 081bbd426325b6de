"""Mutated pictures: case K of a seed is the same bytes on every machine with the same Pillow.

A case takes one good picture, or builds a bomb, and breaks it in one to three ways: blindly, or
along the chunks of its format, so that the damage lies behind a header that is still believed.
"""

import functools
import struct
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from PIL import Image
from tests.pictures import encoded, photo

from bench.fuzz import bombs, chunks

CANARY = b"CANARY-of-a-body"
"""Ends many pictures and forms: where a log holds it, a log holds bytes of a body."""

_FILES = Path(__file__).parents[2] / "loadtest" / "images"
_BOMB_SHARE = 0.08
_INTERESTING = (0, 1, 0x7F, 0x80, 0xFF)
_EXTREMES = (0, 1, 2, 0x7F, 0xFF, 0x7FFF, 0x8000, 0xFFFF, 0x7FFFFFFF, 0x80000000, 0xFFFFFFFF)


@dataclass(frozen=True, slots=True)
class Mutant:
    """A broken picture, and what was done to it."""

    name: str
    data: bytes


def mutant(seed: int, case: int) -> Mutant:
    drawn = Random(f"{seed}/picture/{case}")
    if drawn.random() < _BOMB_SHARE:
        name, data = bombs.bomb(drawn)
        changes = drawn.choice((0, 0, 1))
    else:
        name, data = drawn.choice(good_pictures())
        changes = drawn.choice((1, 1, 2, 3))
    for _ in range(changes):
        change = drawn.choice(_CHANGES)
        data = change(data, drawn)
        name += f", {change.__name__.strip('_')}"
    return Mutant(name, data + CANARY if drawn.random() < 0.5 else data)


@functools.cache
def good_pictures() -> tuple[tuple[str, bytes], ...]:
    """Return the pictures that are broken: every format in every mode, and those of the repo."""
    paths = [path for path in sorted(_FILES.iterdir()) if path.suffix != ".csv"]
    files = [(path.name, path.read_bytes()) for path in paths]
    return (*_jpegs(), *_pngs(), *_webps(), *_gifs(), *_bmps(), *files)


def _jpegs() -> Sequence[tuple[str, bytes]]:
    rgb, exif = photo(80, 60), Image.Exif()
    exif[0x0112] = 6
    return [
        ("a JPEG", encoded(rgb, "JPEG")),
        ("a progressive JPEG", encoded(rgb, "JPEG", progressive=True)),
        ("a grey JPEG", encoded(photo(80, 60, mode="L"), "JPEG")),
        ("a CMYK JPEG", encoded(photo(80, 60, mode="CMYK"), "JPEG")),
        ("a turned JPEG", encoded(rgb, "JPEG", exif=exif)),
        ("a JPEG of many restarts", encoded(rgb, "JPEG", restart_marker_blocks=1)),
        ("a large JPEG", encoded(photo(600, 450), "JPEG", quality=60)),
    ]


def _pngs() -> Sequence[tuple[str, bytes]]:
    modes = ("RGB", "RGBA", "L", "LA")
    rgb = photo(80, 60)
    words = Image.frombytes("I;16", (40, 30), Random(0).randbytes(2400))
    return [
        *((f"a PNG of {mode}", encoded(photo(80, 60, mode=mode), "PNG")) for mode in modes),
        ("a PNG of a palette", encoded(rgb.quantize(16), "PNG", transparency=3)),
        ("a PNG of bits", encoded(rgb.convert("1"), "PNG")),
        ("a PNG of 16 bits", encoded(words, "PNG")),
        ("a PNG film", encoded(rgb, "PNG", save_all=True, append_images=[photo(80, 60, 1)])),
    ]


def _webps() -> Sequence[tuple[str, bytes]]:
    rgb = photo(80, 60)
    return [
        ("a WebP", encoded(rgb, "WEBP", method=0)),
        ("a WebP without loss", encoded(rgb, "WEBP", method=0, lossless=True)),
        ("a transparent WebP", encoded(photo(80, 60, mode="RGBA"), "WEBP", method=0)),
        ("a WebP film", encoded(rgb, "WEBP", save_all=True, append_images=[photo(80, 60, 1)])),
    ]


def _gifs() -> Sequence[tuple[str, bytes]]:
    film = [photo(40, 30, each) for each in range(1, 4)]
    return [
        ("a GIF", encoded(photo(80, 60), "GIF")),
        ("a transparent GIF", encoded(photo(80, 60).quantize(8), "GIF", transparency=2)),
        ("a GIF film", encoded(photo(40, 30), "GIF", save_all=True, append_images=film)),
    ]


def _bmps() -> Sequence[tuple[str, bytes]]:
    rgb = photo(80, 60)
    rows = [bytes((40, colour, 40, colour + 7, 0, 0)) for colour in range(60)]
    return [
        ("a BMP", encoded(rgb, "BMP")),
        ("a BMP of a palette", encoded(rgb.quantize(16), "BMP")),
        ("a BMP of bits", encoded(rgb.convert("1"), "BMP")),
        ("a run-length BMP", bombs.rle_bmp(80, 60, b"".join([*rows, b"\0\1"]))),
    ]


# -- blind changes --------------------------------------------------------------------------------


def _flip_bits(data: bytes, drawn: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(drawn.choice((1, 1, 2, 8, 40))):
        changed[_place(data, drawn)] ^= 1 << drawn.randrange(8)
    return bytes(changed)


def _set_bytes(data: bytes, drawn: Random) -> bytes:
    changed = bytearray(data)
    for _ in range(drawn.choice((1, 2, 8))):
        changed[_place(data, drawn)] = drawn.choice(_INTERESTING)
    return bytes(changed)


def _set_number(data: bytes, drawn: Random) -> bytes:
    """Write an extreme number where a length or a size may stand."""
    form = drawn.choice(("<H", ">H", "<I", ">I"))
    number = drawn.choice(_EXTREMES) & (0xFFFF if form[1] == "H" else 0xFFFFFFFF)
    at = _place(data, drawn)
    written = struct.pack(form, number)
    return data[:at] + written + data[at + len(written) :]


def _cut_end(data: bytes, drawn: Random) -> bytes:
    return data[: 1 + _place(data, drawn)]


def _cut_out(data: bytes, drawn: Random) -> bytes:
    at = _place(data, drawn)
    return data[:at] + data[at + drawn.choice((1, 2, 4, 64, 1000)) :] or b"\xff"


def _insert_noise(data: bytes, drawn: Random) -> bytes:
    at = _place(data, drawn)
    return data[:at] + drawn.randbytes(drawn.choice((1, 4, 100, 5000))) + data[at:]


def _repeat(data: bytes, drawn: Random) -> bytes:
    at, length = _place(data, drawn), drawn.choice((1, 16, 300))
    times = drawn.choice((1, 3, 200))
    return data[:at] + data[at : at + length] * times + data[at:]


def _join_two(data: bytes, drawn: Random) -> bytes:
    other = drawn.choice(good_pictures())[1]
    return data[: 1 + _place(data, drawn)] + other[_place(other, drawn) :]


def _place(data: bytes, drawn: Random) -> int:
    """Draw a place, half of the time in the header."""
    return drawn.randrange(min(len(data), 64) if drawn.random() < 0.5 else len(data))


_CHANGES: tuple[Callable[[bytes, Random], bytes], ...] = (
    _flip_bits,
    _set_bytes,
    _set_number,
    _cut_end,
    _cut_out,
    _insert_noise,
    _repeat,
    _join_two,
    chunks.change_chunks,
    chunks.change_chunks,
    chunks.change_chunks,
    chunks.change_size,
    chunks.change_size,
)
