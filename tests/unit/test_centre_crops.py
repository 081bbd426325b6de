"""The middle that is cut out of a resized picture: pixels equal those of resizing, then cutting."""

import io

import numpy as np
import pytest
from PIL import Image

from imageserve.decoding import DecodingPolicy, decode
from imageserve.preparation import Preparation, decode_preparation, encode_preparation

SIDES = [(90, 60), (61, 83), (75, 75), (200, 33)]


def expected(image: Image.Image, preparation: Preparation) -> np.ndarray:
    """Resize all of a picture, then cut, as torchvision and transformers do."""
    width, height = image.size
    side, (down, across) = preparation.resize_to or 0, preparation.size
    short = min(width, height)
    resized = (side, side)
    if preparation.resize == "crop":
        resized = (int(side * width / short), int(side * height / short))
    pixels = np.asarray(image.resize(resized, Image.Resampling.BILINEAR))
    if preparation.crop_rounding == "even":  # torchvision.transforms.functional.center_crop
        top = round((resized[1] - down) / 2.0)
        left = round((resized[0] - across) / 2.0)
    else:  # transformers.image_transforms.center_crop
        top, left = (resized[1] - down) // 2, (resized[0] - across) // 2
    return pixels[top : top + down, left : left + across]


@pytest.mark.parametrize("sides", SIDES, ids=str)
@pytest.mark.parametrize("resize", ["crop", "squash"])
@pytest.mark.parametrize("rounding", ["even", "down"])
@pytest.mark.parametrize("cut", [24, 25])
def test_the_middle_is_that_of_the_whole_picture(
    sides: tuple[int, int], resize: str, rounding: str, cut: int
) -> None:
    noise = np.random.default_rng(0).integers(0, 256, (sides[1], sides[0], 3), dtype=np.uint8)
    image = Image.fromarray(noise)
    file = io.BytesIO()
    image.save(file, "PNG")
    preparation = Preparation((cut, cut), resize, resize_to=28, crop_rounding=rounding)

    pixels = decode(file.getvalue(), preparation, DecodingPolicy())

    found = np.frombuffer(pixels, np.uint8).reshape(preparation.shape)
    assert np.array_equal(found, expected(image, preparation))


def test_both_roundings_cross_the_wire() -> None:
    even = Preparation((24, 24), "crop", resize_to=27)
    down = Preparation((24, 24), "crop", resize_to=27, crop_rounding="down")

    assert decode_preparation(encode_preparation(down)) == down
    assert even.fingerprint != down.fingerprint


def test_bars_have_no_middle_to_cut_out() -> None:
    with pytest.raises(ValueError, match="'resize_to' is for 'resize: crop' and 'resize: squash'"):
        Preparation((24, 24), "pad", resize_to=28)
