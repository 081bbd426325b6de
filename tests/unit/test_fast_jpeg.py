"""FAST_JPEG: large JPEGs are decoded at a reduced size, and the pixels change little."""

import struct
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from tests.pictures import encoded, jpeg, photo

from imageserve.decoding import DecodingPolicy, decode
from imageserve.errors import TruncatedImage
from imageserve.preparation import Preparation

EXACT, FAST = DecodingPolicy(), DecodingPolicy(fast_jpeg=True)
SIZE = (30, 40)
LARGE = (341, 263)
"""Width and height: above four times 40 and not a multiple of anything."""


def pixels(
    data: bytes, policy: DecodingPolicy, interpolation: str = "bilinear"
) -> NDArray[np.int16]:
    return np.frombuffer(
        decode(data, Preparation(SIZE, interpolation=interpolation), policy), np.uint8
    ).astype(np.int16)


def exif(orientation: int) -> bytes:
    entry = struct.pack(">HHIHH", 0x0112, 3, 1, orientation, 0)
    return b"Exif\0\0MM\0*" + struct.pack(">IH", 8, 1) + entry + bytes(4)


def large(mode: str = "RGB", **options: Any) -> bytes:
    return encoded(photo(*LARGE, mode=mode), "JPEG", quality=90, **options)


LARGE_JPEGS = {
    "colour": large(),
    "grey": large("L"),
    "cmyk": large("CMYK"),
    "progressive": large(progressive=True),
    "all colours at full size": large(subsampling=0),
    **{f"orientation {n}": large(exif=exif(n)) for n in range(2, 9)},
}


@pytest.mark.parametrize("data", LARGE_JPEGS.values(), ids=LARGE_JPEGS)
def test_a_large_jpeg_looks_the_same_when_it_is_decoded_at_a_reduced_size(data: bytes) -> None:
    fast, exact = pixels(data, FAST), pixels(data, EXACT)

    assert not np.array_equal(fast, exact)
    assert np.abs(fast - exact).max() <= 6


def test_the_smallest_size_that_is_twice_the_models_is_decoded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pictures = [jpeg(width, width) for width in (640, 639, 320, 319, 160, 159)]
    decoded: list[int] = []

    def resize(self: Image.Image, *_: object) -> Image.Image:
        decoded.append(self.width)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(Image.Image, "resize", resize)
    for data in pictures:
        decode(data, Preparation(SIZE), FAST)

    assert decoded == [80, 160, 80, 160, 80, 159]


SAME = {
    "a small JPEG": (jpeg(159, 400), "bilinear"),
    "single pixels are picked": (large(), "nearest"),
    "a PNG": (encoded(photo(*LARGE), "PNG"), "bilinear"),
    "a WebP": (encoded(photo(*LARGE), "WEBP"), "bilinear"),
}


@pytest.mark.parametrize(("data", "interpolation"), SAME.values(), ids=SAME)
def test_nothing_else_changes(data: bytes, interpolation: str) -> None:
    assert np.array_equal(pixels(data, FAST, interpolation), pixels(data, EXACT, interpolation))


def framed(width: int, height: int, orientation: int) -> bytes:
    """A large JPEG with a frame of another colour along its edges."""
    image = Image.new("RGB", (width, height), (200, 60, 30))
    image.paste((20, 160, 220), (32, 32, width - 32, height - 32))
    return encoded(image, "JPEG", quality=95, subsampling=0, exif=exif(orientation))


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("sides", [(2047, 1537), (641, 647), (640, 480)], ids=str)
def test_the_edges_of_sides_that_do_not_divide_stay_where_they_are(
    sides: tuple[int, int], orientation: int
) -> None:
    data = framed(*sides, orientation)
    fast, exact = pixels(data, FAST), pixels(data, EXACT)

    assert np.abs(fast - exact).max() <= 8


def test_a_large_jpeg_that_is_cut_off_is_refused_all_the_same() -> None:
    data = large()

    with pytest.raises(TruncatedImage):
        pixels(data[: len(data) // 2], FAST)
