"""Prepared pixels equal those of Keras, Pillow and TensorFlow, and torchvision's step by step.

torchvision itself is compared in tests/torch.
"""

import warnings
from io import BytesIO
from random import Random
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image, ImageOps
from tests.pictures import encoded, photo

from imageserve.config.choices import INTERPOLATIONS
from imageserve.decoding import DecodingPolicy, decode
from imageserve.preparation import Preparation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras
    import tensorflow

Pixels = NDArray[np.uint8]

EXACT, FAST = DecodingPolicy(), DecodingPolicy(fast_jpeg=True)
SIDES = [(61, 43), (43, 61), (50, 50), (97, 13), (13, 97), (24, 24), (7, 5), (301, 200)]
"""Widths and heights: landscape, portrait, square, long, and smaller than the result."""


def noisy(width: int, height: int, mode: str = "RGB") -> Image.Image:
    """A picture of which no two pixels are alike, so that one in a wrong place is seen."""
    noise = Random(width * 1000 + height).randbytes(width * height * len(mode))
    return Image.frombytes(mode, (width, height), noise)


def prepared(
    data: bytes | Image.Image, preparation: Preparation, policy: DecodingPolicy = EXACT
) -> Pixels:
    if isinstance(data, Image.Image):
        data = encoded(data, "PNG")
    raw = decode(data, preparation, policy)
    return np.frombuffer(raw, np.uint8).reshape(preparation.shape)


def turned(image: Image.Image, orientation: int, fmt: str = "PNG", **options: Any) -> bytes:
    exif = Image.Exif()
    exif[0x0112] = orientation
    return encoded(image, fmt, exif=exif, **options)


# -- torchvision, step by step ---------------------------------------------------------------------


def resized_then_cut(image: Image.Image, resize_to: int, size: int, how: str) -> Image.Image:
    """Return what ``Resize`` and ``CenterCrop`` of torchvision make of a picture of Pillow."""
    width, height = image.size
    longer = int(resize_to * max(width, height) / min(width, height))
    sides = (resize_to, longer) if width <= height else (longer, resize_to)
    whole = image.resize(sides, Image.Resampling[how.upper()])
    left, top = (round((side - size) / 2.0) for side in whole.size)
    return whole.crop((left, top, left + size, top + size))


@pytest.mark.parametrize("how", ["bilinear", "bicubic", "nearest"])
@pytest.mark.parametrize("sides", SIDES, ids=str)
def test_a_crop_equals_resizing_all_of_the_picture_and_cutting(
    sides: tuple[int, int], how: str
) -> None:
    image = noisy(*sides)

    for resize_to, size in [(28, 24), (27, 24), (24, 24), (31, 8)]:
        expected = resized_then_cut(image, resize_to, size, how)
        found = prepared(image, Preparation((size, size), "crop", resize_to, how))
        assert np.array_equal(found, np.asarray(expected))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_picture_is_turned_before_its_middle_is_cut_out(orientation: int) -> None:
    data = turned(noisy(61, 43), orientation)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data)))

    found = prepared(data, Preparation((20, 20), "crop", 24))

    assert np.array_equal(found, np.asarray(resized_then_cut(upright, 24, 20, "bilinear")))


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
@pytest.mark.parametrize("sides", [(911, 41), (37, 1203)], ids=str)
def test_the_middle_of_a_long_picture_differs_by_rounding_alone(
    sides: tuple[int, int], how: str
) -> None:
    image = photo(*sides)
    expected = np.asarray(resized_then_cut(image, 64, 56, how)).astype(int)

    difference = np.abs(prepared(image, Preparation((56, 56), "crop", 64, how)) - expected)

    assert difference.max() <= 2
    assert (difference > 0).mean() < 0.02


# -- Keras -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", INTERPOLATIONS)
@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("mode", ["rgb", "rgba", "grayscale"])
def test_pixels_are_those_of_load_img(sides: tuple[int, int], how: str, mode: str) -> None:
    image = noisy(*sides, "RGBA" if mode == "rgba" else "RGB")
    data = encoded(image, "PNG")
    colour = {"grayscale": "grey"}.get(mode, mode)

    for size, keeps in [((24, 24), True), ((24, 24), False), ((9, 31), True), ((40, 8), True)]:
        expected = keras.utils.load_img(
            BytesIO(data), mode, size, interpolation=how, keep_aspect_ratio=keeps
        )
        resize = "crop" if keeps else "squash"
        found = prepared(data, Preparation(size, resize, interpolation=how, colour=colour))
        assert np.array_equal(found, np.asarray(expected).reshape(found.shape))


# -- Pillow ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("how", ["bilinear", "bicubic"])
@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize(("mode", "colour"), [("RGB", "rgb"), ("L", "grey"), ("RGBA", "rgba")])
def test_bars_are_those_of_pillow(sides: tuple[int, int], how: str, mode: str, colour: str) -> None:
    image = noisy(*sides, mode) if mode != "L" else noisy(*sides).convert("L")
    bars: Any = {"RGB": (9,) * 3, "L": 9, "RGBA": (9, 9, 9, 255)}[mode]

    for height, width in [(24, 24), (9, 31), (31, 8)]:
        expected = ImageOps.pad(image, (width, height), Image.Resampling[how.upper()], bars)
        found = prepared(image, Preparation((height, width), "pad", None, how, True, colour, 9))
        assert np.array_equal(found, np.asarray(expected).reshape(found.shape))


def test_transparency_is_kept_where_the_model_takes_it_and_white_where_it_is_grey() -> None:
    image = noisy(30, 20, "RGBA")
    white = Image.new("RGBA", image.size, "white")

    rgba = prepared(image, Preparation((20, 30), colour="rgba"))
    grey = prepared(image, Preparation((20, 30), colour="grey"))

    assert np.array_equal(rgba, np.asarray(image))
    on_white = np.asarray(Image.alpha_composite(white, image).convert("L"))[..., None]
    assert np.abs(grey.astype(int) - on_white).max() <= 1
    assert prepared(noisy(30, 20), Preparation((20, 30), colour="rgba"))[..., 3].min() == 255


# -- TensorFlow ------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [(24, 24), (9, 31), (40, 8)], ids=str)
@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("mode", ["RGB", "RGBA"])
def test_without_antialiasing_pixels_are_those_of_tensorflow_rounded(
    sides: tuple[int, int], size: tuple[int, int], mode: str
) -> None:
    image = noisy(*sides, mode)
    exact = tensorflow.image.resize(np.asarray(image), size).numpy()

    found = prepared(image, Preparation(size, antialias=False, colour=mode.lower()))

    assert np.abs(found - exact).max() < 0.51


def test_single_pixels_that_are_picked_are_those_of_tensorflow() -> None:
    image = noisy(61, 43)
    expected = tensorflow.image.resize(np.asarray(image), (24, 20), "nearest").numpy()

    for antialias in (True, False):
        preparation = Preparation((24, 20), interpolation="nearest", antialias=antialias)
        assert np.array_equal(prepared(image, preparation), expected)


def test_without_antialiasing_the_middle_is_that_of_the_whole_picture() -> None:
    image = noisy(83, 61)
    exact = tensorflow.image.resize(np.asarray(image), (32, 43)).numpy()[4:28, 10:34]

    found = prepared(image, Preparation((24, 24), "crop", 32, antialias=False))

    assert np.abs(found - exact).max() < 0.51


# -- FAST_JPEG -------------------------------------------------------------------------------------

PREPARATIONS = {
    "crop": Preparation((30, 40), "crop", 44),
    "bicubic crop": Preparation((30, 40), "crop", 44, "bicubic"),
    "Keras's crop": Preparation((30, 40), "crop"),
    "squashed, then cut": Preparation((30, 40), "squash", 44),
    "bars": Preparation((30, 40), "pad", pad=114),
    "grey": Preparation((30, 40), colour="grey"),
    "grey crop": Preparation((30, 40), "crop", 44, colour="grey"),
    "rgba bars": Preparation((30, 40), "pad", colour="rgba"),
}


@pytest.mark.parametrize("orientation", [1, 3, 6, 8])
@pytest.mark.parametrize("preparation", PREPARATIONS.values(), ids=PREPARATIONS)
@pytest.mark.parametrize("sides", [(683, 527), (411, 1601)], ids=str)
def test_a_large_jpeg_at_a_reduced_size_is_prepared_alike(
    sides: tuple[int, int], preparation: Preparation, orientation: int
) -> None:
    data = turned(photo(*sides), orientation, "JPEG", quality=90)

    fast, exact = (prepared(data, preparation, policy).astype(int) for policy in (FAST, EXACT))

    assert not np.array_equal(fast, exact)
    assert np.abs(fast - exact).max() <= 6


@pytest.mark.parametrize(
    "preparation",
    [
        Preparation((30, 40), antialias=False),
        Preparation((30, 40), interpolation="nearest"),
        Preparation((30, 40), "crop", 132),
    ],
    ids=["nearest pixels", "single pixels", "resized to more than a quarter"],
)
def test_a_jpeg_is_decoded_in_full_where_that_makes_the_pixels(preparation: Preparation) -> None:
    data = encoded(photo(683, 527), "JPEG", quality=90)

    assert np.array_equal(prepared(data, preparation, FAST), prepared(data, preparation))
