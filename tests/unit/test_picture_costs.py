"""No header costs much to read, and what the pixels will cost is reckoned before it is taken."""

import gc
import json
import subprocess
import sys
import time
import zlib
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tests.bombs import (
    HEADERS,
    PIXELS,
    bmp_of_runs,
    jpeg_of_segments,
    png_of_chunks,
    png_wide,
    webp_of_code_tables,
)
from tests.pictures import encoded, jpeg, photo, png, png_chunk

from imageserve.config.choices import INTERPOLATIONS
from imageserve.decoding import DecodingPolicy, decode, open_picture
from imageserve.errors import ImageTooLarge, RequestError
from imageserve.preparation import Preparation, encode_preparation

POLICY = DecodingPolicy(fast_jpeg=True)
SIZE = (224, 224)


def processor_s(call: Callable[[], object]) -> float:
    """Return the processor time of the faster of two calls."""
    seconds = []
    gc.collect()
    for _ in range(2):
        began = time.process_time()
        with suppress(RequestError):
            call()
        seconds.append(time.process_time() - began)
    return min(seconds)


@pytest.mark.parametrize("name", HEADERS)
def test_no_header_takes_more_than_milliseconds_to_read(name: str) -> None:
    data = HEADERS[name]()
    assert len(data) < 1_000_000
    # Up to 10 ms were measured; Pillow takes seconds for some of these.
    assert processor_s(lambda: open_picture(data, POLICY)) < 0.04


@pytest.mark.parametrize("name", sorted(HEADERS.keys() - {"PNG of one side", "BMP of a wide row"}))
def test_the_pixels_behind_a_costly_header_cost_no_more_than_reckoned(name: str) -> None:
    try:
        picture = open_picture(HEADERS[name](), POLICY)
    except RequestError:
        return
    allowed_s = 0.05 + 3 * picture.cost(Preparation(SIZE)).seconds
    assert processor_s(lambda: picture.to_pixels(Preparation(SIZE))) < allowed_s


@pytest.mark.parametrize("name", PIXELS)
def test_costly_pixels_are_reckoned_as_costly(name: str) -> None:
    picture = open_picture(PIXELS[name](), POLICY)
    reckoned_s = picture.cost(Preparation(SIZE)).seconds
    assert processor_s(lambda: picture.to_pixels(Preparation(SIZE))) < 0.02 + 3 * reckoned_s


PREPARATIONS = {
    "crop": Preparation(SIZE, "crop", 256, "bicubic"),
    "Keras's crop": Preparation(SIZE, "crop"),
    "crop of a large picture": Preparation(SIZE, "crop", 1_024),
    "bars": Preparation(SIZE, "pad"),
    "grey": Preparation(SIZE, colour="grey"),
    "RGBA": Preparation(SIZE, "crop", 256, colour="rgba"),
    "nearest pixels": Preparation(SIZE, "crop", 1_024, antialias=False),
    "bilinear": Preparation(SIZE),
}
LONG = {
    "wide": lambda: png_wide(60_000),
    "tall": lambda: encoded(Image.new("RGB", (1, 60_000)), "PNG"),
    "eight to one": lambda: encoded(photo(1_600, 200), "PNG"),
    "a little longer": lambda: encoded(photo(200, 1_610), "PNG"),
    "tiny": lambda: encoded(photo(8, 1), "PNG"),
}


@pytest.mark.parametrize("name", LONG)
def test_each_preparation_of_a_long_picture_is_reckoned_with(name: str) -> None:
    picture = open_picture(LONG[name](), POLICY)

    for preparation in PREPARATIONS.values():
        cost = picture.cost(preparation)
        taken_s = processor_s(lambda: picture.to_pixels(preparation))  # noqa: B023
        assert taken_s < 0.02 + 3 * cost.seconds, preparation
        assert cost.memory_bytes < 2**26, "a picture that fits would be refused"


@pytest.mark.parametrize("data", [jpeg(), encoded(photo(160, 120), "PNG")], ids=["JPEG", "PNG"])
def test_a_usual_small_picture_is_reckoned_as_cheap(data: bytes) -> None:
    assert open_picture(data, POLICY).cost(Preparation(SIZE)).seconds < 0.005


def test_a_lossless_webp_may_cost_a_hundred_times_as_much_as_it_seems() -> None:
    data = webp_of_code_tables(200)
    plain = encoded(photo(200, 200), "WEBP", lossless=True)
    costs = [open_picture(each, POLICY).cost(Preparation(SIZE)) for each in (data, plain)]
    assert costs[0].seconds == pytest.approx(costs[1].seconds, rel=0.1)
    assert costs[0].seconds > 40_000 * 1_000 / 1e9


# Limits


@pytest.mark.parametrize(
    "data",
    [png_wide(), bmp_of_runs(50_000_000, 1, b"\1\7\0\0\0\1"), png_wide(65_536)],
    ids=["PNG", "BMP", "a little over"],
)
def test_a_side_has_a_limit_of_its_own(data: bytes) -> None:
    with pytest.raises(ImageTooLarge, match=r"\d x 1 pixels; a side may have at most 65535"):
        open_picture(data, POLICY)


def test_the_longest_side_is_allowed() -> None:
    assert (
        len(decode(png_wide(65_535), Preparation((8, 8), interpolation="lanczos"), POLICY))
        == 8 * 8 * 3
    )
    with pytest.raises(ImageTooLarge, match="at most 99"):
        open_picture(jpeg(100, 10), DecodingPolicy(max_side=99))


@pytest.mark.parametrize(
    ("data", "limit"),
    [
        (png_of_chunks(b"abCd", b""), "the PNG has more than 20000 chunks"),
        (jpeg_of_segments(0xFE, b""), "the JPEG has more than 20000 segments before its first"),
        (jpeg_of_segments(0xDB, b"\0" + bytes(range(1, 65))), "more than 1000 tables"),
        (HEADERS["GIF of comments"](), "the GIF has more than 20000 blocks before its first"),
        (HEADERS["WebP of nothing"](), "the WEBP has more than 20000 chunks"),
    ],
    ids=["PNG", "JPEG", "tables", "GIF", "WebP"],
)
def test_a_limit_of_pieces_is_called_a_limit(data: bytes, limit: str) -> None:
    if data[8:12] == b"WEBP":  # Its size is looked for in its first chunk.
        data = data[:12] + encoded(photo(8, 8), "WEBP")[12:] + data[12:]
        data = data[:4] + (len(data) - 8).to_bytes(4, "little") + data[8:]
    with pytest.raises(ImageTooLarge, match=limit):
        open_picture(data, POLICY)


def test_more_memory_than_allowed_is_refused_before_it_is_taken() -> None:
    picture = open_picture(jpeg(2_000, 1_000), DecodingPolicy(max_memory=1_000_000))
    with pytest.raises(ImageTooLarge, match=r"takes \d+ bytes of memory; at most 1000000 are"):
        picture.cost(Preparation(SIZE))


# Memory

_MEASURED = """
import json, re, sys
from pathlib import Path
from imageserve.decoding import DecodingPolicy, open_picture
from imageserve.preparation import decode_preparation

def peak():  # ru_maxrss would begin at the peak of the process that started this one
    return 1024 * int(re.search(r"VmHWM:\\s+(\\d+)", Path("/proc/self/status").read_text())[1])

policy = DecodingPolicy(fast_resize=True)
picture = open_picture(sys.stdin.buffer.read(), policy)
before, preparation = peak(), decode_preparation(json.loads(sys.argv[1]))
picture.to_pixels(preparation)
print(peak() - before, picture.cost(preparation).memory_bytes)
"""


def _turned(image: Image.Image, fmt: str, **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = 6
    return encoded(image, fmt, exif=exif, **options)


def _grey_of_16_bits(width: int, height: int) -> bytes:
    rows = zlib.compress(bytes((2 * width + 1) * height), 1)
    return png(width, height, 16, 0, png_chunk(b"IDAT", rows))


MEMORY: dict[str, Callable[[], bytes]] = {
    "JPEG": lambda: encoded(photo(2000, 1500), "JPEG"),
    "turned JPEG": lambda: _turned(photo(2000, 1500), "JPEG"),
    "progressive JPEG": lambda: encoded(photo(2000, 1500), "JPEG", progressive=True),
    "CMYK JPEG": lambda: encoded(photo(2000, 1500, mode="CMYK"), "JPEG", progressive=True),
    "PNG with alpha": lambda: _turned(photo(2000, 1500, mode="RGBA"), "PNG", compress_level=1),
    "palette PNG": lambda: _turned(photo(2000, 1500, mode="L").convert("P"), "PNG"),
    "PNG of 16 bits": lambda: _grey_of_16_bits(2000, 1500),
    "WebP": lambda: encoded(photo(2000, 1500), "WEBP", method=0),
    "WebP with alpha": lambda: _turned(photo(2000, 1500, mode="RGBA"), "WEBP", method=0),
    "lossless WebP": lambda: encoded(
        photo(2000, 1500, mode="RGBA"), "WEBP", lossless=True, method=0, quality=0
    ),
    "GIF": lambda: encoded(photo(2000, 1500, mode="L").convert("P"), "GIF", transparency=3),
    "BMP": lambda: encoded(photo(1800, 1800), "BMP"),
    "BMP of runs": lambda: bmp_of_runs(2000, 1500, b"\0\1"),
    "tall": lambda: encoded(Image.new("RGB", (70, 60_000)), "PNG"),
}


PLAIN = Preparation(SIZE, interpolation="lanczos")
OTHERS = {
    "JPEG": ["crop of a large picture", "grey", "nearest pixels", "bilinear"],
    "turned JPEG": ["RGBA"],
    "CMYK JPEG": ["grey"],
    "palette PNG": ["RGBA", "nearest pixels"],
    "PNG with alpha": ["grey", "RGBA"],
    "WebP with alpha": ["RGBA"],
    "GIF": ["grey", "RGBA"],
    "tall": ["crop", "bars", "bilinear"],
}
"""Pictures of `MEMORY` that are prepared in other ways than `PLAIN` as well."""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
@pytest.mark.parametrize(
    ("name", "preparation"),
    [(name, PLAIN) for name in MEMORY]
    + [(name, PREPARATIONS[how]) for name, others in OTHERS.items() for how in others],
    ids=[*MEMORY, *(f"{name}, {how}" for name, others in OTHERS.items() for how in others)],
)
def test_decoding_takes_no_more_memory_than_reckoned(name: str, preparation: Preparation) -> None:
    how = json.dumps(encode_preparation(preparation))
    command = [sys.executable, "-c", _MEASURED, how]
    path = {"PYTHONPATH": ":".join(sys.path), "MALLOC_MMAP_THRESHOLD_": str(2**20)}
    done = subprocess.run(command, input=MEMORY[name](), capture_output=True, check=True, env=path)
    taken, reckoned = map(int, done.stdout.split())
    assert taken <= reckoned + 8 * 2**20
    assert reckoned <= 4 * taken + 16 * 2**20, "a picture that fits would be refused"


def test_each_way_to_resize_is_reckoned_with() -> None:
    picture = open_picture(encoded(Image.new("L", (60_000, 2)), "PNG"), POLICY)
    costs = {each: picture.cost(Preparation(SIZE, interpolation=each)) for each in INTERPOLATIONS}
    assert costs["lanczos"].memory_bytes > costs["bilinear"].memory_bytes
    for interpolation, cost in costs.items():
        preparation = Preparation(SIZE, interpolation=interpolation)
        taken = processor_s(lambda: picture.to_pixels(preparation))  # noqa: B023
        assert taken < 0.01 + 3 * cost.seconds


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "lanczos"])
def test_a_large_input_of_a_model_is_reckoned_with(interpolation: str) -> None:
    picture = open_picture(jpeg(100, 100), POLICY)
    reckoned_s = picture.cost(Preparation((2_048, 2_048), interpolation=interpolation)).seconds
    taken_s = processor_s(
        lambda: picture.to_pixels(Preparation((2_048, 2_048), interpolation=interpolation))
    )
    assert reckoned_s / 6 < taken_s < 3 * reckoned_s


def test_the_array_of_a_wide_row_is_the_row() -> None:
    data = png(4, 1, 8, 0, png_chunk(b"IDAT", zlib.compress(b"\0" + bytes([5, 6, 7, 8]))))
    row = np.frombuffer(
        decode(data, Preparation((1, 4), interpolation="nearest"), POLICY), np.uint8
    )[::3]
    assert row.tolist() == [5, 6, 7, 8]
