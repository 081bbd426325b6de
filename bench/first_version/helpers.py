"""Pixels to text and back."""

import base64
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def prepare_image(image: Image.Image, target: tuple[int, int]) -> NDArray[np.float32]:
    """Return a batch of one picture in RGB, of this size, as Keras's img_to_array does."""
    if image.mode != "RGB":
        image = image.convert("RGB")
    resized = image.resize(target, Image.Resampling.NEAREST)
    return np.expand_dims(np.asarray(resized, dtype="float32"), axis=0)


def base64_encode_image(image: NDArray[Any]) -> str:
    return base64.b64encode(image.copy(order="C").tobytes()).decode("utf-8")


def base64_decode_image(text: str, dtype: str, shape: tuple[int, ...]) -> NDArray[Any]:
    return np.frombuffer(base64.decodebytes(text.encode("utf-8")), dtype=dtype).reshape(shape)
