"""FAST_RESIZE: vector units resize where each byte is within 1 of Pillow's, and nowhere else.

Where an exact half is rounded in both directions, the two may round apart twice: then a byte is 2
off. On noise that shrinks by exactly 5 to 4 it is one in 20,000, the most that was found.
"""

import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image
from tests.pictures import encoded, photo

from imageserve.config.choices import INTERPOLATIONS
from imageserve.decoding import DecodingPolicy, decode, open_picture, resizer_in_use, resizing
from imageserve.decoding.resizing import IS_FAST, resized
from imageserve.preparation import Preparation

PHOTOGRAPHS = Path(__file__).parents[1] / "photographs"

EXACT, FAST = DecodingPolicy(), DecodingPolicy(fast_resize=True)

needs_wheel = pytest.mark.skipif(not IS_FAST, reason="there is no cykooz-resizer for this machine")


def noise(width: int, height: int, mode: str, seed: int, values: int = 256) -> Image.Image:
    """A picture of so many different bytes; of two, they are black and white."""
    drawn = np.random.default_rng(seed)
    shape = (height, width, len(Image.new(mode, (1, 1)).getbands()))
    pixels = drawn.integers(0, values, shape) * 255 // (values - 1)
    return Image.frombytes(mode, (width, height), pixels.astype(np.uint8).tobytes())


def is_close(one: NDArray[Any], other: NDArray[Any]) -> bool:
    """Return whether all bytes are within 1, but for a thousandth (or one) that are 2 off."""
    apart = np.abs(one.astype(np.int16) - other)
    return bool(apart.max() <= 2 and np.count_nonzero(apart == 2) <= 1 + apart.size / 1000)


def pixels(data: bytes, preparation: Preparation, policy: DecodingPolicy) -> NDArray[np.int16]:
    return np.frombuffer(decode(data, preparation, policy), np.uint8).astype(np.int16)


# -- close to Pillow ----------------------------------------------------------------------------


@st.composite
def boxes(draw: st.DrawFn, width: int, height: int) -> tuple[float, float, float, float]:
    """Draw a part of a picture: all of it, or one with edges at fractions of pixels."""
    if draw(st.booleans()):
        return 0, 0, width, height
    edges = []
    for side in (width, height):
        begin = draw(st.floats(0, side - 0.5))
        edges.append((begin, draw(st.floats(begin + 0.25, side))))
    (left, right), (top, bottom) = edges
    return left, top, right, bottom


@needs_wheel
@given(st.data())
def test_pictures_of_any_size_are_close_to_pillows(data: st.DataObject) -> None:
    whole = st.integers(1, 300)
    (width, height), size = data.draw(st.tuples(whole, whole)), data.draw(st.tuples(whole, whole))
    mode, values = data.draw(st.sampled_from(["L", "RGB"])), data.draw(st.sampled_from([2, 7, 256]))
    image = noise(width, height, mode, data.draw(st.integers(0, 99)), values)
    box = data.draw(boxes(width, height))
    preparation = Preparation(size, colour="grey" if mode == "L" else "rgb")

    fast = resized(image, size, box, preparation, fast=True)
    by_pillow = image.resize(size, Image.Resampling.BILINEAR, box)

    assert (fast.mode, fast.size) == (mode, size)
    assert is_close(np.asarray(fast), np.asarray(by_pillow))


@needs_wheel
@pytest.mark.parametrize("path", sorted(PHOTOGRAPHS.glob("*.jpg")), ids=lambda path: path.stem)
@pytest.mark.parametrize("side", [96, 224, 299])
def test_each_byte_of_a_photograph_is_within_one(path: Path, side: int) -> None:
    with Image.open(path) as image:
        whole = image.convert("RGB")
    for width in range(100, 700, 61):
        photograph = whole.resize((width, 800 - width), Image.Resampling.BICUBIC)
        size, box = (side, side), (0.0, 0.0, *photograph.size)
        fast = resized(photograph, size, box, Preparation(size), fast=True)
        by_pillow = photograph.resize(size, Image.Resampling.BILINEAR)
        assert np.abs(np.asarray(fast).astype(int) - np.asarray(by_pillow)).max() <= 1


PREPARATIONS = {
    "squash": Preparation((48, 64)),
    "crop": Preparation((48, 64), "crop", 72),
    "Keras's crop": Preparation((48, 64), "crop"),
    "squashed, then cut": Preparation((48, 64), "squash", 72),
    "bars": Preparation((48, 64), "pad", pad=114),
    "grey": Preparation((48, 64), colour="grey"),
    "grey crop": Preparation((48, 64), "crop", 72, colour="grey"),
    "larger": Preparation((480, 640)),
}
PICTURES = {
    "JPEG": encoded(photo(500, 375), "JPEG", quality=85),
    "tall JPEG": encoded(noise(90, 800, "RGB", 1), "JPEG", quality=95),
    "wide JPEG": encoded(noise(800, 90, "RGB", 2), "JPEG", quality=95),
    "grey JPEG": encoded(noise(200, 170, "L", 3), "JPEG", quality=95),
    "CMYK JPEG": encoded(noise(200, 170, "CMYK", 4), "JPEG", quality=95),
    "PNG": encoded(noise(151, 203, "RGB", 5, 2), "PNG"),
    "PNG with alpha": encoded(noise(151, 203, "RGBA", 6), "PNG"),
    "palette PNG": encoded(noise(151, 203, "L", 7).convert("P"), "PNG"),
    "one row": encoded(noise(500, 1, "RGB", 8), "PNG"),
    "one column": encoded(noise(1, 500, "RGB", 9), "PNG"),
    "one pixel": encoded(noise(1, 1, "RGB", 10), "PNG"),
}


@needs_wheel
@pytest.mark.parametrize("preparation", PREPARATIONS.values(), ids=PREPARATIONS)
@pytest.mark.parametrize("fast_jpeg", [False, True], ids=["all pixels", "FAST_JPEG"])
def test_whatever_is_decoded_is_close(preparation: Preparation, fast_jpeg: bool) -> None:
    differ = 0
    for name, data in PICTURES.items():
        exact, fast = (
            pixels(data, preparation, DecodingPolicy(fast_jpeg=fast_jpeg, fast_resize=each))
            for each in (False, True)
        )
        assert is_close(exact, fast), name
        differ += not np.array_equal(exact, fast)
    assert differ, "Pillow has resized them all"


@needs_wheel
@pytest.mark.parametrize("sides", [(500, 375), (375, 500), (300, 900)], ids=str)
def test_of_a_usual_picture_hardly_a_byte_differs(sides: tuple[int, int]) -> None:
    data = encoded(noise(*sides, "RGB", 1), "PNG")
    exact, fast = (pixels(data, Preparation((224, 224)), each) for each in (EXACT, FAST))
    # An eighth of them if the other direction came first.
    assert np.mean(exact != fast) < 0.01


# -- by Pillow -------------------------------------------------------------------------------------

BY_PILLOW = {
    **{
        each: Preparation((48, 64), interpolation=each)
        for each in INTERPOLATIONS
        if each != "bilinear"
    },
    "without antialiasing": Preparation((48, 64), antialias=False),
    "with transparency": Preparation((48, 64), colour="rgba"),
}


@pytest.mark.parametrize("preparation", BY_PILLOW.values(), ids=BY_PILLOW)
def test_all_else_is_resized_by_pillow(preparation: Preparation) -> None:
    for data in PICTURES.values():
        assert np.array_equal(pixels(data, preparation, EXACT), pixels(data, preparation, FAST))


def test_where_there_is_no_wheel_pillow_resizes() -> None:
    data = PICTURES["JPEG"]
    code = """
import sys
sys.modules["cykooz_resizer"] = None  # As if it were not installed.
from imageserve.decoding import DecodingPolicy, decode, resizer_in_use
from imageserve.preparation import Preparation
policy = DecodingPolicy(fast_resize=True)
pixels = decode(sys.stdin.buffer.read(), Preparation((48, 64)), policy)
sys.stdout.write(pixels.hex() + " " + resizer_in_use(policy))
"""
    done = subprocess.run([sys.executable, "-c", code], input=data, capture_output=True, check=True)
    found, _, sentence = done.stdout.decode().partition(" ")
    assert found == decode(data, Preparation((48, 64)), EXACT).hex()
    assert sentence == "Pillow resizes pictures: cykooz-resizer is not installed"


def test_a_pillow_that_is_not_known_resizes_by_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resizing, "IS_FAST", False)
    monkeypatch.setattr(resizing, "_IS_INSTALLED", True)
    monkeypatch.setattr(resizing, "_PILLOW", 99)
    preparation = PREPARATIONS["squash"]

    assert "not known to work with Pillow 99" in resizer_in_use(FAST)
    assert np.array_equal(
        pixels(PICTURES["JPEG"], preparation, FAST), pixels(PICTURES["JPEG"], preparation, EXACT)
    )


@needs_wheel
def test_it_is_told_what_resizes() -> None:
    assert resizer_in_use(EXACT) == "Pillow resizes pictures (FAST_RESIZE=0)"
    assert resizer_in_use(FAST).startswith("cykooz-resizer (")


# -- hostile pictures ------------------------------------------------------------------------------

_ODD_SIZES = """
import random, sys
from PIL import Image
from imageserve.decoding.resizing import resized
from imageserve.preparation import Preparation

drawn = random.Random(int(sys.argv[1]))
sides = (1, 1, 2, 3, 7, 8, 31, 32, 33, 255, 1_000, 9_999, 65_535)
for number in range(int(sys.argv[2])):
    mode = drawn.choice(("L", "RGB"))
    width = drawn.choice(sides)
    height = drawn.choice([each for each in sides if width * each <= 70_000])
    size = tuple(drawn.choice((1, 2, 5, 16, 31, 64)) for _ in range(2))
    edges = []
    for side in (width, height):
        begin, end = sorted(drawn.uniform(0, side) for _ in range(2))
        edges.append(drawn.choice([(0, side), (begin, end), (int(begin), int(end) + 1),
                                   (begin, side), (0, end), (side - 2**-12, side), (0, 2**-12)]))
    (left, right), (top, bottom) = edges
    image = Image.new(mode, (width, height), 255)
    how = Preparation((1, 1), colour="grey" if mode == "L" else "rgb")
    result = resized(image, size, (left, top, right, bottom), how, fast=True)
    assert result.size == size
"""


@needs_wheel
def test_odd_sizes_and_parts_do_not_end_the_process() -> None:
    command = [sys.executable, "-c", _ODD_SIZES, "1", "20000"]
    done = subprocess.run(command, capture_output=True, check=False, text=True)
    assert (done.returncode, done.stderr) == (0, "")


@needs_wheel
def test_what_it_costs_is_reckoned_less_and_no_lower_than_it_is() -> None:
    picture = {
        fast: open_picture(PICTURES["JPEG"], DecodingPolicy(fast_resize=fast))
        for fast in (False, True)
    }
    costs = {fast: each.cost(Preparation((224, 224))) for fast, each in picture.items()}
    others = {
        fast: each.cost(Preparation((224, 224), interpolation="bicubic"))
        for fast, each in picture.items()
    }
    assert costs[True].seconds < costs[False].seconds
    assert others[True] == others[False]
