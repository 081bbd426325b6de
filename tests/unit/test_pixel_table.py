"""Rows of the table in docs/model-folders.md of Keras, TensorFlow and Pillow."""

import warnings
from io import BytesIO
from typing import Any

import numpy as np
import pytest
from PIL import Image, ImageOps
from tests.pictures import encoded
from tests.pixel_table import check_row

from imageserve.decoding import DecodingPolicy
from imageserve.decoding.resizing import IS_FAST
from imageserve.preparation import Preparation

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    import keras
    import tensorflow

SIZE = (224, 224)


def load_img(image: Image.Image, **options: Any) -> Image.Image:
    options = {"interpolation": "bilinear", **options}
    file = BytesIO(encoded(image, "PNG"))
    return keras.utils.load_img(file, target_size=SIZE, **options)  # type: ignore[no-any-return]


def smart_resize(image: Image.Image) -> Any:
    return keras.preprocessing.image.smart_resize(np.asarray(image, np.float32), SIZE)


def by_tensorflow(image: Image.Image, **options: Any) -> Any:
    return tensorflow.image.resize(np.asarray(image), SIZE, **options).numpy()


ROWS = {
    '`keras.utils.load_img(…, interpolation="bilinear")`': (
        "none",
        Preparation(SIZE),
        load_img,
    ),
    "`load_img` as it is": (
        "`interpolation: nearest`",
        Preparation(SIZE, interpolation="nearest"),
        lambda image: load_img(image, interpolation="nearest"),
    ),
    "`load_img(…, keep_aspect_ratio=True)`": (
        "`resize: crop`",
        Preparation(SIZE, "crop"),
        lambda image: load_img(image, keep_aspect_ratio=True),
    ),
    '`load_img(…, color_mode="grayscale")`': (
        "`colour: grey`",
        Preparation(SIZE, colour="grey"),
        lambda image: load_img(image, color_mode="grayscale"),
    ),
    "`tf.image.resize`, `keras.utils.image_dataset_from_directory`": (
        "`antialias: false`",
        Preparation(SIZE, antialias=False),
        by_tensorflow,
    ),
    "`image_dataset_from_directory(…, crop_to_aspect_ratio=True)`": (
        "`resize: crop`, `antialias: false`",
        Preparation(SIZE, "crop", antialias=False),
        smart_resize,
    ),
    "`tf.image.resize(…, antialias=True)`": (
        "none",
        Preparation(SIZE),
        lambda image: by_tensorflow(image, antialias=True),
    ),
    "`PIL.ImageOps.pad(…, color=(114, 114, 114))`": (
        "`resize: pad`, `pad: 114`, `interpolation: bicubic`",
        Preparation(SIZE, "pad", interpolation="bicubic", pad=114),
        lambda image: ImageOps.pad(image, SIZE, color=(114, 114, 114)),
    ),
}


@pytest.mark.parametrize("library", ROWS)
def test_the_table_says_how_near_the_pixels_are(library: str) -> None:
    check_row(library, *ROWS[library])


def test_the_table_says_how_near_a_jpeg_of_reduced_size_is() -> None:
    def full(image: Image.Image) -> Image.Image:
        return Image.open(BytesIO(encoded(image, "JPEG"))).resize(SIZE, Image.Resampling.BILINEAR)

    library = "`load_img` of a JPEG with `FAST_JPEG` on, four times as large or more"
    sides = [(1600, 1200), (1000, 1000)]
    check_row(
        library,
        "none",
        Preparation(SIZE),
        full,
        sides=sides,
        fmt="JPEG",
        policy=DecodingPolicy(fast_jpeg=True),
    )


@pytest.mark.skipif(not IS_FAST, reason="there is no cykooz-resizer for this machine")
def test_the_table_says_how_near_a_picture_is_that_vector_units_have_resized() -> None:
    library = '`load_img(…, interpolation="bilinear")` with `FAST_RESIZE` on'
    policy = DecodingPolicy(fast_resize=True)
    check_row(library, "none", Preparation(SIZE), load_img, policy=policy)
