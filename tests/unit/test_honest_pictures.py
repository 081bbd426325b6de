"""Pictures that honest programs write in rare ways are answered, and upright."""

import struct
import zlib
from collections.abc import Callable
from io import BytesIO

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from PIL.PngImagePlugin import PngInfo
from tests.bombs import bmp_of_runs
from tests.pictures import encoded, jpeg, jpeg_segment, photo, png, png_chunk

from imageserve.decoding import DecodingPolicy, decode
from imageserve.errors import TruncatedImage
from imageserve.preparation import Preparation

WIDTH, HEIGHT = 61, 43
LANDSCAPE, PORTRAIT = (HEIGHT, WIDTH), (WIDTH, HEIGHT)


def pixels(data: bytes, size: tuple[int, int] = LANDSCAPE) -> NDArray[np.uint8]:
    raw = decode(data, Preparation(size), DecodingPolicy())
    return np.frombuffer(raw, np.uint8).reshape(*size, 3)


def upright_by_pillow(data: bytes) -> NDArray[np.uint8]:
    image = ImageOps.exif_transpose(Image.open(BytesIO(data)))
    return np.asarray(image.convert("RGB"))


# JPEG: what stands between the segments, and many of them

GOOD = jpeg(WIDTH, HEIGHT)
ADOBE = encoded(photo(WIDTH, HEIGHT, mode="CMYK"), "JPEG")


@pytest.mark.parametrize("good", [GOOD, ADOBE], ids=["RGB", "CMYK"])
@pytest.mark.parametrize(
    "between",
    [
        pytest.param(b"\xff" * 5_000, id="fill bytes"),
        pytest.param(700 * jpeg_segment(0xFE, b"a comment"), id="comments"),
        pytest.param(50 * jpeg_segment(0xE2, b"ICC_PROFILE\0" + bytes(60_000)), id="a profile"),
        pytest.param(b"\0\0", id="a gap"),
    ],
)
def test_what_stands_before_the_pixels_of_a_jpeg_does_not_matter(
    between: bytes, good: bytes
) -> None:
    first = 4 + int.from_bytes(good[4:6], "big")
    data = good[:first] + between + good[first:]
    assert np.array_equal(pixels(data), pixels(good))


def test_fill_bytes_may_stand_before_every_marker() -> None:
    at, data = 2, GOOD[:2]
    while GOOD[at + 1] != 0xDA:
        stop = at + 2 + int.from_bytes(GOOD[at + 2 : at + 4], "big")
        data += b"\xff" * 9 + GOOD[at:stop]
        at = stop
    assert np.array_equal(pixels(data + b"\xff" * 9 + GOOD[at:]), pixels(GOOD))


# Orientation


def exif(value: bytes, kind: int, order: str) -> bytes:
    head = {">": b"MM\0*", "<": b"II*\0"}[order]
    entry = struct.pack(order + "HHI", 0x0112, kind, 1) + value.ljust(4, b"\0")
    return head + struct.pack(order + "IH", 8, 1) + entry + bytes(4)


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("kind", [3, 4, 8, 9], ids=["SHORT", "LONG", "SSHORT", "SLONG"])
@pytest.mark.parametrize("orientation", [1, 6, 8, 9])
def test_an_orientation_of_any_whole_number_is_heeded(
    orientation: int, kind: int, order: str
) -> None:
    value = struct.pack(order + {3: "H", 4: "I", 8: "h", 9: "i"}[kind], orientation)
    data = GOOD[:2] + jpeg_segment(0xE1, b"Exif\0\0" + exif(value, kind, order)) + GOOD[2:]
    expected = upright_by_pillow(data)
    assert expected.shape[:2] == (PORTRAIT if orientation in (6, 8) else LANDSCAPE)
    assert np.array_equal(pixels(data, expected.shape[:2]), expected)


SIX = exif(b"\0\6", 3, ">")
XMP = '<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'


def raw_profile(name: str, content: bytes) -> str:
    """Write a profile as ImageMagick does: 36 bytes a line."""
    text = content.hex()
    lines = [text[at : at + 72] for at in range(0, len(text), 72)]
    return f"\n{name}\n{len(content):8}\n" + "\n".join(lines) + "\n"


def png_with_text(keyword: str, text: str, *, zipped: bool, tail: bool = False) -> bytes:
    info = PngInfo()
    info.add_text(keyword, text, zip=zipped)
    name, body, _ = info.chunks[0]
    good = encoded(photo(WIDTH, HEIGHT), "PNG")
    at = len(good) - 12 if tail else 33
    return good[:at] + png_chunk(name, body) + good[at:]


@pytest.mark.parametrize("tail", [False, True], ids=["before the pixels", "behind them"])
@pytest.mark.parametrize("zipped", [False, True], ids=["tEXt", "zTXt"])
@pytest.mark.parametrize("start", [b"Exif\0\0", b""], ids=["with its name", "bare"])
@pytest.mark.parametrize("keyword", ["exif", "APP1"])
def test_imagemagicks_raw_profile_turns_a_png(
    keyword: str, start: bytes, zipped: bool, tail: bool
) -> None:
    text = raw_profile("exif", start + SIX)
    data = png_with_text(f"Raw profile type {keyword}", text, zipped=zipped, tail=tail)
    expected = np.rot90(np.asarray(photo(WIDTH, HEIGHT)), -1)
    assert np.array_equal(pixels(data, PORTRAIT), expected)
    if keyword == "exif":  # The only one of the two that Pillow knows.
        assert np.array_equal(upright_by_pillow(data), expected)


@pytest.mark.parametrize("text", ["", "\nexif\n 12\nnot hexadecimal", "\n" * 500, "\n\n\n0"])
def test_a_raw_profile_that_is_none_turns_nothing(text: str) -> None:
    data = png_with_text("Raw profile type exif", text, zipped=False)
    assert np.array_equal(pixels(data), np.asarray(photo(WIDTH, HEIGHT)))


def _png_with_xmp(*, zipped: bool) -> bytes:
    info = PngInfo()
    info.add_itxt("XML:com.adobe.xmp", XMP, zip=zipped)
    return encoded(photo(WIDTH, HEIGHT), "PNG", pnginfo=info)


WITH_XMP: dict[str, Callable[[], bytes]] = {
    "PNG": lambda: _png_with_xmp(zipped=False),
    "PNG, compressed": lambda: _png_with_xmp(zipped=True),
    "JPEG": lambda: encoded(photo(WIDTH, HEIGHT), "JPEG", xmp=XMP.encode()),
    "WebP": lambda: encoded(photo(WIDTH, HEIGHT), "WEBP", xmp=XMP.encode()),
    "EXIF has its own word": lambda: encoded(
        photo(WIDTH, HEIGHT), "WEBP", xmp=XMP.encode(), exif=exif(b"\0\3", 3, ">")
    ),
}


@pytest.mark.parametrize("name", WITH_XMP)
def test_xmp_turns_a_picture_where_exif_does_not(name: str) -> None:
    data = WITH_XMP[name]()
    expected = upright_by_pillow(data)
    assert expected.shape[:2] == (LANDSCAPE if "EXIF" in name else PORTRAIT)
    assert np.array_equal(pixels(data, expected.shape[:2]), expected)


# PNG


def test_each_row_of_a_png_may_be_a_chunk_of_its_own() -> None:
    values = np.random.default_rng(9).integers(0, 256, (3_000, 8), dtype=np.uint8)
    packer = zlib.compressobj()
    rows = [
        packer.compress(b"\0" + row.tobytes()) + packer.flush(zlib.Z_SYNC_FLUSH) for row in values
    ]
    chunks = (png_chunk(b"IDAT", row) for row in [*rows, packer.flush()])
    result = pixels(png(8, 3_000, 8, 0, *chunks), (3_000, 8))
    assert np.array_equal(result[..., 0], values)


def test_a_text_before_the_pixels_that_expands_without_end_does_no_harm() -> None:
    good = encoded(photo(WIDTH, HEIGHT), "PNG")
    bomb = png_chunk(b"zTXt", b"Comment\0\0" + zlib.compress(bytes(100 * 2**20), 9))
    assert np.array_equal(pixels(good[:33] + bomb + good[33:]), pixels(good))


# BMP, run-length encoded

EOL, END = b"\0\0", b"\0\1"
FLAT = b"".join(bytes([WIDTH, row]) + EOL for row in range(HEIGHT)) + END
NOISY = b"".join(
    b"".join(bytes([1 + column % 3, (7 * row + column) % 256]) for column in range(0, 60, 2))
    + bytes([WIDTH, 9])
    + EOL
    for row in range(HEIGHT)
)
ABSOLUTE = b"".join(
    bytes([0, 7, *range(row, row + 7)]) + b"\0" + bytes([WIDTH - 7, 3]) + EOL
    for row in range(HEIGHT)
)


@pytest.mark.parametrize("bits", [8, 4])
@pytest.mark.parametrize("runs", [FLAT, NOISY], ids=["flat", "noisy"])
def test_a_bmp_of_runs_is_decoded_as_pillow_does(runs: bytes, bits: int) -> None:
    data = bmp_of_runs(WIDTH, HEIGHT, runs, bits)
    assert np.array_equal(pixels(data), upright_by_pillow(data))


def test_runs_of_single_pixels_are_decoded() -> None:
    data = bmp_of_runs(WIDTH, HEIGHT, ABSOLUTE)
    assert np.array_equal(pixels(data), upright_by_pillow(data))


def test_pairs_of_single_pixels_are_decoded() -> None:
    row = bytes([0, 5, 0x12, 0x34, 0x50, 0, WIDTH - 5, 0x67]) + EOL
    data = bmp_of_runs(WIDTH, HEIGHT, row * HEIGHT, 4)
    assert np.array_equal(pixels(data), upright_by_pillow(data))
    assert (pixels(data)[0, :7, 1] // 17).tolist() == [1, 2, 3, 4, 5, 6, 7]


def test_what_no_run_fills_has_the_first_colour() -> None:
    # Two pixels of colour 255, a jump of three to the right and one up, a row that is skipped.
    runs = b"\2\xff" + b"\0\2\3\1" + b"\1\xff" + EOL + EOL + b"\1\xff" + END
    green = pixels(bmp_of_runs(8, 5, runs), (5, 8))[..., 1]
    assert np.flatnonzero(green[::-1]).tolist() == [0, 1, 13, 24]


def test_a_run_that_is_longer_than_its_row_ends_with_it() -> None:
    assert np.array_equal(
        pixels(bmp_of_runs(8, 2, (b"\xff\x80" + EOL) * 2), (2, 8)),
        pixels(bmp_of_runs(8, 2, (b"\x08\x80" + EOL) * 2), (2, 8)),
    )


@pytest.mark.parametrize("cut", [1, 2, 5, len(FLAT) // 2])
def test_runs_that_end_too_early_are_truncated(cut: int) -> None:
    whole = bmp_of_runs(WIDTH, HEIGHT, FLAT[: -len(EOL + END)])
    assert len(pixels(whole))
    with pytest.raises(TruncatedImage, match="the BMP ends before it is complete"):
        pixels(whole[:-cut])


def test_a_palette_of_too_many_colours_is_cut() -> None:
    image = photo(WIDTH, HEIGHT, mode="L").convert("P")
    good = encoded(image, "BMP")
    more = bytes(4 * 60_000)
    head = bytearray(good[:1078])
    struct.pack_into("<I", head, 10, 1078 + len(more))
    struct.pack_into("<I", head, 46, 256 + 60_000)
    assert np.array_equal(pixels(bytes(head) + more + good[1078:]), pixels(good))
