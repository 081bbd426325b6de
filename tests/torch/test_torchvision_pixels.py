"""Pixels equal those of torchvision's transforms; rows of the table in docs/model-folders.md."""

from collections.abc import Callable
from io import BytesIO
from random import Random
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.pictures import encoded
from tests.pixel_table import check_row, pictures
from torchvision import transforms

import torch
from imageserve.decoding import DecodingPolicy, decode
from imageserve.preparation import Preparation

SIZE = (224, 224)
LONG = [(2000, 200), (150, 1500), (3001, 97)]


def how(interpolation: str) -> Any:
    return transforms.InterpolationMode(interpolation)


def crop(interpolation: str, **options: Any) -> Callable[[Any], Any]:
    resize = transforms.Resize(256, how(interpolation), **options)
    return transforms.Compose([resize, transforms.CenterCrop(224)])  # type: ignore[no-any-return]


def on_tensors(transform: Callable[[Any], Any]) -> Callable[[Image.Image], Any]:
    """Do it as for pictures of ``torchvision.io.decode_image``."""

    def transformed(image: Image.Image) -> Any:
        tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)
        return transform(tensor).permute(1, 2, 0).numpy()

    return transformed


CROP, BICUBIC = Preparation(SIZE, "crop", 256), Preparation(SIZE, "crop", 256, "bicubic")
ROWS: list[tuple[str, str, Preparation, Callable[[Image.Image], Any], Any]] = [
    (
        "torchvision `Resize(256)`, `CenterCrop(224)`",
        "`resize: crop`, `resize_to: 256`",
        CROP,
        crop("bilinear"),
        {},
    ),
    (
        "the same with `BICUBIC`",
        "`resize: crop`, `resize_to: 256`, `interpolation: bicubic`",
        BICUBIC,
        crop("bicubic"),
        {},
    ),
    (
        "the same of pictures longer than eight to one",
        "`resize: crop`, `resize_to: 256`, `interpolation: bicubic`",
        BICUBIC,
        crop("bicubic"),
        {"sides": LONG},
    ),
    (
        "torchvision `Resize((224, 224))`",
        "none",
        Preparation(SIZE),
        transforms.Resize(SIZE),
        {},
    ),
    (
        "torchvision `Resize(256)`, `CenterCrop(224)` of a tensor",
        "`resize: crop`, `resize_to: 256`",
        CROP,
        on_tensors(crop("bilinear", antialias=True)),
        {},
    ),
    (
        "the same of a tensor with `BICUBIC`",
        "`resize: crop`, `resize_to: 256`, `interpolation: bicubic`",
        BICUBIC,
        on_tensors(crop("bicubic", antialias=True)),
        {},
    ),
    (
        "the same of a tensor with `antialias=False`",
        "`resize: crop`, `resize_to: 256`, `antialias: false`",
        Preparation(SIZE, "crop", 256, antialias=False),
        on_tensors(crop("bilinear", antialias=False)),
        {},
    ),
]


@pytest.mark.parametrize("row", ROWS, ids=lambda row: row[0])
def test_the_table_says_how_near_the_pixels_are(row: Any) -> None:
    *columns, options = row
    check_row(*columns, **options)


def prepared(data: bytes, preparation: Preparation) -> Any:
    raw = decode(data, preparation, DecodingPolicy())
    return np.frombuffer(raw, np.uint8).reshape(preparation.shape)


@pytest.mark.parametrize("interpolation", ["nearest", "bilinear", "bicubic", "box", "lanczos"])
@pytest.mark.parametrize("seed", range(12))
def test_any_crop_of_any_picture_is_that_of_torchvision(seed: int, interpolation: str) -> None:
    drawn = Random(seed)
    size = drawn.randrange(8, 60), drawn.randrange(8, 60)
    resize_to = max(size) + drawn.randrange(12)
    sides = drawn.randrange(20, 130), drawn.randrange(20, 130)
    (image,) = pictures([sides])
    data = encoded(image, "PNG")
    transform = transforms.Compose(
        [transforms.Resize(resize_to, how(interpolation)), transforms.CenterCrop(size)]
    )

    found = prepared(data, Preparation(size, "crop", resize_to, interpolation))
    grey = prepared(data, Preparation(size, "crop", resize_to, interpolation, colour="grey"))

    assert np.array_equal(found, np.asarray(transform(image)))
    assert np.array_equal(grey[..., 0], np.asarray(transform(transforms.Grayscale()(image))))


@pytest.mark.parametrize("orientation", range(2, 9))
def test_a_turned_picture_is_that_of_torchvision(orientation: int) -> None:
    (image,) = pictures([(130, 90)])
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(image, "JPEG", exif=exif)
    upright = ImageOps.exif_transpose(Image.open(BytesIO(data)))

    transform = transforms.Compose([transforms.Resize(32), transforms.CenterCrop(28)])

    found = prepared(data, Preparation((28, 28), "crop", 32))
    assert np.array_equal(found, np.asarray(transform(upright)))
