"""Pictures become the pixels Keras would see; everything else becomes a RequestError."""

import struct
import subprocess
import sys
import warnings
import zlib
from collections.abc import Callable
from contextlib import suppress
from io import BytesIO
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, PngImagePlugin
from tests.pictures import (
    SAVE_OPTIONS,
    Hostile,
    encoded,
    gif_with_huge_frame,
    hostile_pictures,
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

from imageserve.config.choices import IMAGE_FORMATS, INTERPOLATIONS
from imageserve.decoding import DecodingPolicy, decode, open_picture
from imageserve.errors import (
    CorruptImage,
    ImageTooLarge,
    NoImage,
    NotAnImage,
    RequestError,
    TruncatedImage,
    UnsupportedFormat,
)
from imageserve.preparation import Preparation

LoadImg = Callable[..., Image.Image]

POLICY = DecodingPolicy()
WIDTH, HEIGHT = 61, 43


def pixels(data: bytes, size: tuple[int, int] = (HEIGHT, WIDTH)) -> NDArray[np.uint8]:
    raw = decode(data, Preparation(size), POLICY)
    return np.frombuffer(raw, np.uint8).reshape(*size, 3)


@pytest.fixture(scope="module")
def load_img() -> LoadImg:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        import keras

    return keras.utils.load_img  # type: ignore[no-any-return]


def _palette(colours: int = 256) -> Image.Image:
    return photo(WIDTH, HEIGHT).quantize(colours)


def _frames(fmt: str) -> bytes:
    first, *others = (photo(WIDTH, HEIGHT, seed) for seed in range(3))
    return encoded(first, fmt, save_all=True, append_images=others)


def _bmp_16_bits() -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 8, 4, 1, 16, 0, 64, 0, 0, 0, 0)
    file_header = b"BM" + struct.pack("<IHHI", 54 + 64, 0, 0, 54)
    return file_header + header + Random(1).randbytes(64)


def _interlaced_png() -> bytes:
    """Two by two pixels, in the passes 1, 6 and 7 of Adam7."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", 2, 2, 8, 0, 0, 0, 1))
    data = png_chunk(b"IDAT", zlib.compress(bytes([0, 10, 0, 90, 0, 170, 250])))
    return b"\x89PNG\r\n\x1a\n" + header + data + png_chunk(b"IEND", b"")


PICTURES = {
    "jpeg": jpeg(WIDTH, HEIGHT),
    "jpeg-grey": encoded(photo(WIDTH, HEIGHT, mode="L"), "JPEG"),
    "jpeg-cmyk": encoded(photo(WIDTH, HEIGHT, mode="CMYK"), "JPEG"),
    "jpeg-progressive": encoded(photo(WIDTH, HEIGHT), "JPEG", progressive=True),
    "jpeg-mpo": _frames("MPO"),
    "png-1": encoded(photo(WIDTH, HEIGHT).convert("1"), "PNG"),
    "png-l": encoded(photo(WIDTH, HEIGHT, mode="L"), "PNG"),
    "png-p": encoded(_palette(), "PNG"),
    "png-p-of-4": encoded(_palette(4), "PNG"),
    "png-rgb": encoded(photo(WIDTH, HEIGHT), "PNG"),
    "png-rgba-opaque": encoded(photo(WIDTH, HEIGHT).convert("RGBA"), "PNG"),
    "png-interlaced": _interlaced_png(),
    "png-animated": _frames("PNG"),
    "webp": encoded(photo(WIDTH, HEIGHT), "WEBP"),
    "webp-lossless": encoded(photo(WIDTH, HEIGHT), "WEBP", lossless=True),
    "webp-animated": _frames("WEBP"),
    "gif": encoded(photo(WIDTH, HEIGHT), "GIF"),
    "gif-grey": encoded(photo(WIDTH, HEIGHT, mode="L"), "GIF"),
    "gif-animated": _frames("GIF"),
    "bmp-1": encoded(photo(WIDTH, HEIGHT).convert("1"), "BMP"),
    "bmp-l": encoded(photo(WIDTH, HEIGHT, mode="L"), "BMP"),
    "bmp-p": encoded(_palette(), "BMP"),
    "bmp-16-bits": _bmp_16_bits(),
    "bmp-rgb": encoded(photo(WIDTH, HEIGHT), "BMP"),
}


@pytest.mark.parametrize("interpolation", INTERPOLATIONS)
@pytest.mark.parametrize("size", [(HEIGHT, WIDTH), (32, 32), (90, 20), (1, 1)], ids=str)
@pytest.mark.parametrize("data", PICTURES.values(), ids=PICTURES)
def test_pixels_are_those_of_keras(
    data: bytes, size: tuple[int, int], interpolation: str, load_img: LoadImg
) -> None:
    expected = load_img(BytesIO(data), target_size=size, interpolation=interpolation)
    assert (
        decode(data, Preparation(size, interpolation=interpolation), POLICY) == expected.tobytes()
    )


def test_a_memoryview_is_as_good_as_bytes() -> None:
    data = PICTURES["png-rgb"]
    assert decode(memoryview(data), Preparation((9, 9), interpolation="box"), POLICY) == decode(
        data, Preparation((9, 9), interpolation="box"), POLICY
    )


@pytest.mark.parametrize("name", ["jpeg", "png-p", "webp", "gif", "bmp-rgb"])
def test_pixels_are_known_before_decoding(name: str) -> None:
    assert open_picture(PICTURES[name], POLICY).pixels == WIDTH * HEIGHT


# Orientation

#: How EXIF says rows and columns of the stored picture become those of the upright one.
UPRIGHT: dict[int, Callable[[NDArray[np.uint8]], NDArray[np.uint8]]] = {
    1: lambda stored: stored,
    2: lambda stored: stored[:, ::-1],
    3: lambda stored: stored[::-1, ::-1],
    4: lambda stored: stored[::-1],
    5: lambda stored: stored.transpose(1, 0, 2),
    6: lambda stored: np.rot90(stored, -1),
    7: lambda stored: stored[::-1, ::-1].transpose(1, 0, 2),
    8: np.rot90,
    0: lambda stored: stored,
    9: lambda stored: stored,
}


def _exif(orientation: int, order: str = ">") -> bytes:
    head = {">": b"MM\0*", "<": b"II*\0"}[order]
    make = struct.pack(order + "HHIHH", 0x010F, 2, 1, 0, 0)
    entry = struct.pack(order + "HHIHH", 0x0112, 3, 1, orientation, 0)
    directory = struct.pack(order + "H", 2) + make + entry + bytes(4)
    return b"Exif\0\0" + head + struct.pack(order + "I", 8) + directory


@pytest.mark.parametrize("order", "<>")
@pytest.mark.parametrize("fmt", ["PNG", "JPEG", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_a_picture_with_orientation_is_turned_upright(
    orientation: int, fmt: str, order: str
) -> None:
    image = photo(WIDTH, HEIGHT)
    stored = pixels(encoded(image, fmt))
    data = encoded(image, fmt, exif=_exif(orientation, order))
    expected = UPRIGHT[orientation](stored)
    assert np.array_equal(pixels(data, expected.shape[:2]), expected)


def test_a_palette_is_turned_upright_too() -> None:
    image = _palette()
    expected = UPRIGHT[6](pixels(encoded(image, "PNG")))
    data = encoded(image, "PNG", exif=_exif(6))
    assert np.array_equal(pixels(data, (WIDTH, HEIGHT)), expected)


@pytest.mark.parametrize(
    "exif",
    [
        pytest.param(b"Exif\0\0", id="empty"),
        pytest.param(_exif(6)[:17], id="cut"),
        pytest.param(b"Exif\0\0" + b"\xff" * 60, id="no order of bytes"),
        pytest.param(b"Exif\0\0MM\0*\xff\xff\xff\xff", id="directory nowhere"),
        pytest.param(b"Exif\0\0MM\0*\0\0\0\x08\xff\xff" + b"\1" * 90, id="too many entries"),
        pytest.param(b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x1a\0\5\0\0\0\1", id="no resolution"),
        pytest.param(Random(3).randbytes(500), id="noise"),
    ],
)
def test_corrupt_exif_means_no_orientation(exif: bytes) -> None:
    good = PICTURES["jpeg"]
    # At the very front, so that no JFIF header has told Pillow the dpi.
    data = good[:2] + jpeg_segment(0xE1, exif) + good[2:]
    assert np.array_equal(pixels(data), pixels(good))


def test_a_text_that_calls_itself_exif_means_no_orientation() -> None:
    text = PngImagePlugin.PngInfo()
    text.add_text("exif", "not at all")
    image = photo(WIDTH, HEIGHT)
    data = encoded(image, "PNG", pnginfo=text)
    assert np.array_equal(pixels(data), np.asarray(image))


# Transparency


def _on_white(rgba: NDArray[np.uint8]) -> NDArray[np.uint8]:
    wide = rgba.astype(np.float64)
    alpha = wide[..., 3:] / 255
    return np.rint(wide[..., :3] * alpha + 255 * (1 - alpha)).astype(np.uint8)


@pytest.mark.parametrize("mode", ["RGBA", "LA"])
@pytest.mark.parametrize(
    ("fmt", "options"), [("PNG", {}), ("WEBP", {"lossless": True, "exact": True})], ids=str
)
def test_alpha_is_laid_on_white(mode: str, fmt: str, options: dict[str, Any]) -> None:
    image = photo(WIDTH, HEIGHT, mode=mode)
    expected = _on_white(np.asarray(image.convert("RGBA")))
    assert np.array_equal(pixels(encoded(image, fmt, **options)), expected)


def test_a_bmp_with_alpha_is_laid_on_white() -> None:
    image = photo(WIDTH, HEIGHT, mode="RGBA")
    masks = struct.pack("<4I", 0xFF0000, 0xFF00, 0xFF, 0xFF000000)
    size = (108, WIDTH, -HEIGHT, 1, 32, 3)
    header = struct.pack("<IiiHHI", *size) + bytes(20) + masks + bytes(52)
    raw = image.tobytes("raw", "BGRA")
    data = b"BM" + struct.pack("<IHHI", 122 + len(raw), 0, 0, 122) + header + raw
    assert np.array_equal(pixels(data), _on_white(np.asarray(image)))


@pytest.mark.parametrize("fmt", ["PNG", "GIF"])
def test_a_transparent_palette_entry_is_white(fmt: str) -> None:
    image = _palette()
    key = image.getpixel((20, 20))
    expected = np.where(
        np.asarray(image)[..., None] == key, np.uint8(255), np.asarray(image.convert("RGB"))
    )
    data = encoded(image, fmt, transparency=key)
    assert (expected == 255).all(axis=-1).any()
    assert np.array_equal(pixels(data), expected)


def test_palette_entries_may_be_half_transparent() -> None:
    image = _palette()
    alphas = Random(5).randbytes(256)
    alpha = np.frombuffer(alphas, np.uint8)[np.asarray(image)]
    expected = _on_white(np.dstack([np.asarray(image.convert("RGB")), alpha]))
    assert np.array_equal(pixels(encoded(image, "PNG", transparency=alphas)), expected)


@pytest.mark.parametrize(
    ("depth", "colour", "row", "key", "expected"),
    [
        pytest.param(1, 0, b"\x40", b"\0\1", [0, 255, 0, 0], id="1-bit grey, white"),
        pytest.param(1, 0, b"\x40", b"\0\0", [255] * 4, id="1-bit grey, black"),
        pytest.param(2, 0, b"\x1b", b"\0\2", [0, 85, 255, 255], id="2-bit grey"),
        pytest.param(4, 0, b"\x02\x4f", b"\0\2", [0, 255, 68, 255], id="4-bit grey"),
        pytest.param(8, 0, b"\0\7\x08\x09", b"\0\7", [0, 255, 8, 9], id="8-bit grey"),
        pytest.param(16, 0, b"\0\0\1\0\1\1\x80\0", b"\1\0", [0, 255, 1, 128], id="16-bit grey"),
        pytest.param(
            8, 2, bytes([5] * 6 + [6] * 6), b"\0\5\0\5\0\5", [255, 255, 6, 6], id="8-bit colour"
        ),
        pytest.param(
            16, 2, b"\5\1" * 6 + b"\6\1" * 6, b"\5\1" * 3, [255, 255, 6, 6], id="16-bit colour"
        ),
    ],
)
def test_a_transparent_colour_is_white(
    depth: int, colour: int, row: bytes, key: bytes, expected: list[int]
) -> None:
    data = png_chunk(b"IDAT", zlib.compress(b"\0" + row))
    result = pixels(png(4, 1, depth, colour, png_chunk(b"tRNS", key), data), (1, 4))
    assert result[0].tolist() == [[value] * 3 for value in expected]


# Sixteen bits


def _png_of_16_bits(colour: int, values: NDArray[np.uint16]) -> bytes:
    height, width = values.shape[:2]
    rows = (b"\0" + row.astype(">u2").tobytes() for row in values)
    data = png_chunk(b"IDAT", zlib.compress(b"".join(rows)))
    return png(width, height, 16, colour, data)


def test_every_value_of_16_bit_grey_is_divided_by_257_and_rounded() -> None:
    values = np.arange(2**16, dtype=np.uint16).reshape(256, 256)
    result = pixels(_png_of_16_bits(0, values), (256, 256))
    expected = np.rint(values / 257).astype(np.uint8)
    assert np.array_equal(result, np.dstack([expected] * 3))


@pytest.mark.parametrize(("colour", "bands"), [(2, 3), (4, 2), (6, 4)], ids=["RGB", "LA", "RGBA"])
def test_16_bit_colour_keeps_its_high_bytes(colour: int, bands: int) -> None:
    values = np.random.default_rng(7).integers(0, 2**16, (20, 30, bands), dtype=np.uint16)
    high = (values >> 8).astype(np.uint8)
    rgb = high[..., :3] if bands > 2 else np.dstack([high[..., 0]] * 3)
    alpha = high[..., -1] if bands != 3 else np.full((20, 30), 255, np.uint8)
    result = pixels(_png_of_16_bits(colour, values), (20, 30))
    assert np.array_equal(result, _on_white(np.dstack([rgb, alpha])))


# Limits


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(huge_png(), id="PNG"),
        pytest.param(huge_gif(), id="GIF"),
        pytest.param(gif_with_huge_frame(), id="GIF frame"),
        pytest.param(huge_bmp(), id="BMP"),
        pytest.param(huge_webp(), id="WebP"),
        pytest.param(encoded(Image.new("1", (8_000, 6_251)), "PNG"), id="a little over"),
    ],
)
def test_too_many_pixels_are_refused_by_the_header(data: bytes) -> None:
    with pytest.raises(ImageTooLarge, match=r"\d+ x \d+ = \d+ pixels; at most 50000000 are"):
        open_picture(data, POLICY)


@pytest.mark.parametrize("fmt", SAVE_OPTIONS)
def test_the_pixel_limit_itself_is_allowed(fmt: str) -> None:
    data = encoded(photo(20, 10), fmt)
    assert open_picture(data, DecodingPolicy(max_pixels=200)).pixels == 200
    with pytest.raises(ImageTooLarge, match="20 x 10 = 200 pixels; at most 199 are"):
        open_picture(data, DecodingPolicy(max_pixels=199))


@pytest.mark.parametrize("options", [{}, {"lossless": True}, {"exact": True}], ids=str)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_the_size_of_every_kind_of_webp_is_read(mode: str, options: dict[str, Any]) -> None:
    data = encoded(photo(700, 300, mode=mode), "WEBP", **options)
    with pytest.raises(ImageTooLarge, match="700 x 300 = 210000 pixels"):
        open_picture(data, DecodingPolicy(max_pixels=209_999))


def test_too_many_bytes_are_refused() -> None:
    data = jpeg(WIDTH, HEIGHT)
    with pytest.raises(ImageTooLarge, match=f"{len(data)} bytes; at most 100 are"):
        decode(data, Preparation((8, 8), interpolation="nearest"), DecodingPolicy(max_bytes=100))


def test_a_jpeg_with_endless_scans_is_refused() -> None:
    good = encoded(photo(300, 200), "JPEG", progressive=True)
    last_scan = good[good.rindex(b"\xff\xda") : -2]
    with pytest.raises(ImageTooLarge, match="scans of 300 x 200 pixels"):
        open_picture(good + 100 * last_scan, DecodingPolicy(max_pixels=100_000))


def test_a_jpeg_with_endless_scans_of_one_colour_is_refused() -> None:
    good = encoded(photo(300, 200), "JPEG")
    at = good.rindex(b"\xff\xda")
    scan = jpeg_segment(0xDA, b"\1\1\0\0\x3f\0") + b"\0"
    with pytest.raises(ImageTooLarge, match="101 scans of 300 x 200 pixels"):
        open_picture(good[:at] + 101 * scan, DecodingPolicy(max_pixels=100_000))


def test_a_png_in_small_chunks_is_decoded() -> None:
    values = np.random.default_rng(9).integers(0, 256, (700, 500), dtype=np.uint8)
    rows = zlib.compress(b"".join(b"\0" + row.tobytes() for row in values))
    chunks = (png_chunk(b"IDAT", rows[at : at + 512]) for at in range(0, len(rows), 512))
    result = pixels(png(500, 700, 8, 0, *chunks), (700, 500))
    assert np.array_equal(result[..., 0], values)


def test_a_jpeg_with_a_large_profile_is_decoded() -> None:
    image = photo(WIDTH, HEIGHT)
    data = encoded(image, "JPEG", icc_profile=bytes(2 * 2**20))
    assert np.array_equal(pixels(data), pixels(encoded(image, "JPEG")))


_MEASURED = """
import re, sys
from pathlib import Path
from imageserve.decoding import DecodingPolicy, decode
from imageserve.errors import RequestError
from imageserve.preparation import Preparation

def peak_kib():  # ru_maxrss would begin at the peak of the process that started this one
    return int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

data = sys.stdin.buffer.read()
before = peak_kib()
try:
    decode(data, Preparation((224, 224)), DecodingPolicy())
except RequestError as error:
    print(error.code)
else:
    print("ok")
print((peak_kib() - before) // 1024)
"""


def _measured(data: bytes) -> tuple[str, int]:
    """Decode in a process of its own, where nothing may be printed; the answer and peak MiB."""
    command = [sys.executable, "-c", _MEASURED]
    path = {"PYTHONPATH": ":".join(sys.path)}
    run = subprocess.run(command, input=data, capture_output=True, check=True, env=path)
    assert run.stderr == b""
    code, mib = run.stdout.decode().split()
    return code, int(mib)


def _bomb_in_profile() -> bytes:
    good = encoded(photo(16, 16), "PNG")
    profile = png_chunk(b"iCCP", b"x\0\0" + zlib.compress(bytes(200 * 2**20), 9))
    return good[:33] + profile + good[33:]


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("data", "answer", "most_mib"),
    [
        pytest.param(png_with_text_bomb(200 * 2**20), "ok", 20, id="text bomb"),
        pytest.param(_bomb_in_profile(), "ok", 20, id="profile bomb"),
        pytest.param(huge_webp(), "image_too_large", 20, id="huge WebP"),
        pytest.param(huge_png(), "image_too_large", 20, id="huge PNG"),
        pytest.param(gif_with_huge_frame(20_000), "image_too_large", 20, id="huge GIF frame"),
        pytest.param(
            encoded(Image.new("RGBA", (5_000, 2_000), "#12345678"), "PNG"),
            "ok",
            100,
            id="10 million pixels with alpha",
        ),
    ],
)
def test_memory_stays_modest(data: bytes, answer: str, most_mib: int) -> None:
    code, mib = _measured(data)
    assert code == answer
    assert mib <= most_mib


# What is no picture, or not an accepted one


def test_no_bytes_are_no_image() -> None:
    with pytest.raises(NoImage, match="empty"):
        open_picture(b"", POLICY)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"\0", id="one byte"),
        pytest.param(b"hello, this is text", id="text"),
        pytest.param(b"BM is how this text begins", id="text like a BMP"),
        pytest.param(b"PK\x03\x04" + bytes(100), id="zip"),
        pytest.param(b"<html><body>404</body></html>", id="HTML"),
        pytest.param(b" " * 100_000, id="blanks"),
        pytest.param(b"RIFF\x24\0\0\0WAVEfmt ", id="sound"),
        pytest.param(b"\0\0\0\x18ftypisom\0\0\0\0", id="film"),
        pytest.param(b"P6 1 1 255 abc", id="PPM"),
    ],
)
def test_other_bytes_are_no_image(data: bytes) -> None:
    with pytest.raises(NotAnImage, match="accepted: JPEG, PNG, WEBP, GIF, BMP"):
        open_picture(data, POLICY)


@pytest.mark.parametrize(
    ("name", "data"),
    [
        ("TIFF", encoded(photo(8, 8), "TIFF")),
        ("TIFF", b"MM\0*\0\0\0\x08"),
        ("HEIC", b"\0\0\0\x18ftypheic\0\0\0\0mif1heic"),
        ("HEIC", b"\0\0\0\x18ftypmif1\0\0\0\0mif1heic"),
        ("AVIF", b"\0\0\0\x1cftypavif\0\0\0\0avifmif1"),
        ("ICO", encoded(photo(16, 16), "ICO")),
        ("PSD", b"8BPS\0\1" + bytes(20)),
        ("PDF", b"%PDF-1.7\n"),
        ("SVG", b'<svg xmlns="http://www.w3.org/2000/svg"/>'),
        ("SVG", b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- drawn -->\n<svg width="1"/>'),
        ("JPEG 2000", b"\0\0\0\x0cjP  \r\n\x87\n" + bytes(9)),
        ("JPEG 2000", b"\xff\x4f\xff\x51" + bytes(9)),
        ("JPEG XL", b"\xff\x0a" + bytes(9)),
        ("JPEG XL", b"\0\0\0\x0cJXL \r\n\x87\n" + bytes(9)),
    ],
)
def test_other_pictures_are_named(name: str, data: bytes) -> None:
    message = f"format {name}; accepted: JPEG, PNG, WEBP, GIF, BMP"
    with pytest.raises(UnsupportedFormat, match=message):
        open_picture(data, POLICY)


@pytest.mark.parametrize("fmt", SAVE_OPTIONS)
def test_a_format_can_be_switched_off(fmt: str) -> None:
    policy = DecodingPolicy(formats=frozenset(IMAGE_FORMATS) - {fmt.lower()})
    with pytest.raises(UnsupportedFormat, match=f"format {fmt}; accepted: (?!.*{fmt})"):
        open_picture(encoded(photo(8, 8), fmt), policy)


# Spoilt pictures

WHOLE = {
    "JPEG": jpeg(WIDTH, HEIGHT),
    "progressive JPEG": PICTURES["jpeg-progressive"],
    "MPO": PICTURES["jpeg-mpo"],
    "PNG": PICTURES["png-rgb"],
    "palette PNG": PICTURES["png-p"],
    "animated PNG": PICTURES["png-animated"],
    "WebP": PICTURES["webp"],
    "WebP with alpha": encoded(photo(WIDTH, HEIGHT, mode="RGBA"), "WEBP"),
    "GIF": PICTURES["gif"],
    "BMP": PICTURES["bmp-rgb"],
    "palette BMP": PICTURES["bmp-p"],
}


@pytest.mark.parametrize("part", [0.1, 0.25, 0.5, 0.75, 0.9])
@pytest.mark.parametrize("name", sorted(WHOLE.keys() - {"MPO", "animated PNG"}))
def test_a_picture_cut_short_is_truncated(name: str, part: float) -> None:
    data = WHOLE[name]
    with pytest.raises(TruncatedImage, match="ends before it is complete"):
        decode(data[: int(len(data) * part)], Preparation((8, 8)), POLICY)


def _replaced(data: bytes, old: bytes, new: bytes) -> bytes:
    assert old in data
    return data.replace(old, new, 1)


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(
            _replaced(WHOLE["JPEG"], b"\xff\xc4\0\x1f\0", b"\xff\xc4\0\x1f\xff"),
            id="JPEG with an impossible table",
        ),
        pytest.param(
            png(9, 9, 8, 2, png_chunk(b"IDAT", b"\1" * 400)), id="PNG with no compressed data"
        ),
        pytest.param(png(9, 9, 8, 2), id="PNG with no data"),
        pytest.param(png(9, 9, 7, 2), id="PNG of seven bits"),
        pytest.param(_replaced(WHOLE["PNG"], b"IDAT", b"ID\0T"), id="PNG with a chunk of no name"),
        pytest.param(_replaced(WHOLE["WebP"], b"\x9d\x01\x2a", bytes(3)), id="WebP of no frame"),
        pytest.param(_replaced(WHOLE["WebP"], b"VP8 ", b"VP9 "), id="WebP of another codec"),
        pytest.param(_replaced(WHOLE["BMP"], b"\x18\0", b"\x17\0"), id="BMP of 23 bits"),
    ],
)
def test_a_picture_that_makes_no_sense_is_corrupt(data: bytes) -> None:
    with pytest.raises(CorruptImage, match=r"begin like a (JPEG|PNG|WEBP|BMP) and cannot be"):
        decode(data, Preparation((8, 8)), POLICY)


def _flipped(data: bytearray, drawn: Random) -> None:
    for _ in range(drawn.choice([1, 2, 10])):
        data[drawn.randrange(len(data))] ^= 1 << drawn.randrange(8)


def _header_edited(data: bytearray, drawn: Random) -> None:
    for _ in range(drawn.choice([1, 4])):
        data[drawn.randrange(min(len(data), 200))] = drawn.choice([0, 1, 127, 128, 255])


def _cut(data: bytearray, drawn: Random) -> None:
    del data[drawn.choice([drawn.randrange(40), drawn.randrange(len(data))]) :]


def _inserted(data: bytearray, drawn: Random) -> None:
    at = drawn.choice([drawn.randrange(60), drawn.randrange(len(data))])
    data[at:at] = drawn.choice([bytes(9), b"\xff\xd8\xff\xda", drawn.randbytes(50)])


def _removed(data: bytearray, drawn: Random) -> None:
    at = drawn.randrange(len(data))
    del data[at : at + drawn.choice([1, 4, 100])]


WAYS = [
    Preparation((16, 24)),
    Preparation((16, 24), "crop", 32, "bicubic"),
    Preparation((16, 24), "crop", antialias=False, colour="grey"),
    Preparation((16, 24), "squash", 32, "nearest", crop_rounding="down"),
    Preparation((16, 24), "pad", pad=114, colour="rgba"),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("spoil", [_flipped, _header_edited, _cut, _inserted, _removed])
@pytest.mark.parametrize("name", WHOLE)
def test_a_spoilt_picture_gives_pixels_or_a_request_error(
    name: str, spoil: Callable[[bytearray, Random], None]
) -> None:
    policy = DecodingPolicy(max_pixels=1_000_000)
    for seed in range(60):
        data = bytearray(WHOLE[name])
        spoil(data, Random(seed))
        with suppress(RequestError):
            way = WAYS[seed % len(WAYS)]
            assert len(decode(bytes(data), way, policy)) == way.bytes, f"seed {seed}"


@pytest.mark.parametrize("hostile", list(hostile_pictures(48)), ids=lambda hostile: hostile[0])
def test_a_hostile_picture_is_answered_as_it_should(hostile: Hostile) -> None:
    _, data, codes = hostile
    assert len(data) < 300_000
    with pytest.raises(RequestError) as caught:
        decode(data, Preparation((16, 16)), POLICY)
    assert caught.value.code in codes


def _png_with_senseless_frame_count() -> bytes:
    good = PICTURES["png-rgb"]
    return good[:33] + png_chunk(b"acTL", bytes(8)) + good[33:]


# Pytest makes warnings errors, over the head of the module's own filter.
@pytest.mark.filterwarnings("ignore:Invalid APNG")
def test_an_animated_png_of_no_frames_is_its_default_picture() -> None:
    data = _png_with_senseless_frame_count()
    assert np.array_equal(pixels(data), pixels(PICTURES["png-rgb"]))


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_an_animated_png_of_no_frames_prints_no_warning() -> None:
    assert _measured(_png_with_senseless_frame_count())[0] == "ok"
