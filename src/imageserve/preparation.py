"""How a picture becomes the pixels that a model takes: its preparation. Pure.

It belongs to the model: whoever trained it has chosen it. The web process does what is said here,
geometry and the number of colours, and what crosses the queue is one byte a colour. All arithmetic
(scaling, the order of colours, the layout) is done by the model's graph.
"""

import functools
import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any

from imageserve.config.choices import (
    CROP_ROUNDINGS,
    DEFAULT_INTERPOLATION,
    INTERPOLATIONS,
    INTERPOLATIONS_WITHOUT_ANTIALIAS,
    RESIZES,
)

COLOURS: Mapping[str, int] = {"rgb": 3, "grey": 1, "rgba": 4}
"""What crosses the queue -> its bytes a pixel."""
COLOURS_BY_NUMBER = {number: colour for colour, number in COLOURS.items()}

LONGEST_SIDE = 2**16
"""No model takes a larger picture; one that a message asks for is not even reckoned."""

FAST_FACTOR = 2
"""FAST_JPEG: a JPEG is decoded at a half, a quarter or an eighth of its size if the result still
has this many times the model's height and width. The decoder averages the pixels that it leaves
out, and resizing has at least four pixels for each of the model's: close to the full result."""

_WHOLE_UP_TO = 8
"""A picture of this ratio of its sides, or less, is resized as a whole before its middle is cut
out. Of a longer one, only that part is resized: up to one pixel in a hundred then differs, by one
or two of 255, because Pillow keeps the part's edges in float32."""

Box = tuple[float, float, float, float]
"""Part of a picture, in its pixels: left, top, right, bottom."""


@dataclass(frozen=True, slots=True)
class Geometry:
    """What is done to one picture of known width and height."""

    box: Box
    """The part of the upright picture that is resized."""
    size: tuple[int, int]
    """Height and width that this part gets."""
    corner: tuple[int, int]
    """Top and left of this part in the result. Below 0: what is above and left of it is cut off.
    The rest of the result is padding."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What is done to each picture for one model."""

    size: tuple[int, int]
    """Height and width of the result, in pixels."""
    resize: str = "squash"
    """``squash``: to the size, whatever the sides of the picture were. ``crop``: the sides keep
    their ratio, and the middle is cut out. ``pad``: all of it fits in, with bars beside it."""
    resize_to: int | None = None
    """With ``crop``: what the shorter side is resized to before the middle is cut out, as
    ``Resize`` and ``CenterCrop`` of torchvision do. None: as much of the picture as has the right
    shape is cut out first, as ``keras.utils.load_img(keep_aspect_ratio=True)`` does. With
    ``squash``: what both sides are resized to before the middle is cut out."""
    interpolation: str = DEFAULT_INTERPOLATION
    antialias: bool = True
    """False: only the nearest pixels count, as in ``tf.image.resize``."""
    colour: str = "rgb"
    """A key of `COLOURS`."""
    pad: int = 0
    """With ``pad``: the value of all colours of the bars, 0 to 255."""
    crop_rounding: str = "even"
    """With ``resize_to``: where the middle begins if an odd number of pixels is cut away. ``even``:
    half of it, rounded to the even number, as torchvision does. ``down``: rounded down, as the
    image processors of transformers do."""

    def __post_init__(self) -> None:
        """Raise ValueError unless the fields fit together."""
        if self.resize_to is not None and self.resize == "pad":
            raise ValueError(
                "'resize_to' is for 'resize: crop' and 'resize: squash': leave it out, or choose "
                "one of these"
            )
        if self.resize_to is not None and self.resize_to < max(self.size):
            raise ValueError(
                f"'resize_to' is {self.resize_to} and a side of the input {max(self.size)}: make "
                "'resize_to' at least as large, or leave it out"
            )
        if self.crop_rounding != "even" and self.resize_to is None:
            raise ValueError("'crop_rounding' is for 'resize_to': set this, or leave both out")
        if self.pad and self.resize != "pad":
            raise ValueError("'pad' is for 'resize: pad': choose this, or leave 'pad' out")
        if not self.antialias and self.interpolation not in INTERPOLATIONS_WITHOUT_ANTIALIAS:
            able = " or ".join(INTERPOLATIONS_WITHOUT_ANTIALIAS)
            raise ValueError(
                f"'antialias: false' does not go with 'interpolation: {self.interpolation}': "
                f"choose {able}, or leave 'antialias' out"
            )

    @property
    def shape(self) -> tuple[int, int, int]:
        """Height, width and bytes a pixel of the result."""
        return (*self.size, COLOURS[self.colour])

    @property
    def bytes(self) -> int:
        """Bytes of the result."""
        height, width, colours = self.shape
        return height * width * colours

    @property
    def fingerprint(self) -> str:
        """Twelve hexadecimal digits; two preparations that differ have different ones."""
        return _fingerprint(self)

    def geometry(self, width: int, height: int) -> Geometry:
        """Return what is done to an upright picture of ``width`` x ``height`` pixels."""
        if self.resize == "pad":
            return _padded(width, height, self.size)
        if self.resize_to is not None:
            return self._centred(width, height, self.resize_to)
        if self.resize == "squash":
            return Geometry((0, 0, width, height), self.size, (0, 0))
        return Geometry(_largest_box(width, height, self.size), self.size, (0, 0))

    def jpeg_scale(self, size: tuple[int, int]) -> int:
        """Return what FAST_JPEG divides the sides of a JPEG of this size by: 1, 2, 4 or 8."""
        # Not where single pixels are picked: it would pick averages.
        if self.interpolation == "nearest" or not self.antialias:
            return 1
        # Both sides are large enough for the longer one: the picture may still be turned.
        longest = self.resize_to or max(self.size)
        times = min(size) // (FAST_FACTOR * longest)
        return next((scale for scale in (8, 4, 2) if times >= scale), 1)

    def _centred(self, width: int, height: int, resize_to: int) -> Geometry:
        """Return how the middle is cut out of the resized picture.

        The whole numbers are those of ``torchvision.transforms.Resize``.
        """
        short, long = sorted((width, height))
        longer = resize_to if self.resize == "squash" else resize_to * long // short
        down, across = (longer, resize_to) if width <= height else (resize_to, longer)
        top, left = self._cut_off(down, self.size[0]), self._cut_off(across, self.size[1])
        if self.antialias and longer <= _WHOLE_UP_TO * resize_to:
            return Geometry((0, 0, width, height), (down, across), (-top, -left))
        bottom, right = top + self.size[0], left + self.size[1]
        x, y = width / across, height / down
        return Geometry((left * x, top * y, right * x, bottom * y), self.size, (0, 0))

    def _cut_off(self, resized: int, kept: int) -> int:
        """Return how many pixels are cut off before those that are kept."""
        half = (resized - kept) / 2
        return round(half) if self.crop_rounding == "even" else int(half)


@dataclass(frozen=True, slots=True)
class Pixels:
    """A picture that its sender has prepared: one byte a colour, row by row."""

    shape: tuple[int, int, int]
    """As `Preparation.shape` has it."""
    data: bytes


def plain(preparation: Preparation) -> Preparation:
    """Return what a program from before preparations does for a model of this size."""
    return Preparation(preparation.size, interpolation=preparation.interpolation)


@functools.lru_cache(maxsize=256)
def _fingerprint(preparation: Preparation) -> str:
    return hashlib.sha256(json.dumps(encode_preparation(preparation)).encode()).hexdigest()[:12]


# -- geometry -------------------------------------------------------------------------------------


def _largest_box(width: int, height: int, size: tuple[int, int]) -> Box:
    """Return the largest part in the middle that has the shape of the result, as Keras does."""
    across = max(1, min(width, height * size[1] // size[0]))
    down = max(1, min(height, width * size[0] // size[1]))
    left, top = (width - across) // 2, (height - down) // 2
    return left, top, left + across, top + down


def _padded(width: int, height: int, size: tuple[int, int]) -> Geometry:
    """Return how a picture fits in as a whole, as ``PIL.ImageOps.pad`` does it."""
    down, across = size
    if width / height > across / down:
        down = max(1, round(height / width * across))
    else:
        across = max(1, round(width / height * down))
    corner = round((size[0] - down) / 2), round((size[1] - across) / 2)
    return Geometry((0, 0, width, height), (down, across), corner)


# -- as JSON --------------------------------------------------------------------------------------


def encode_preparation(preparation: Preparation) -> dict[str, Any]:
    """Return the fields as JSON has them, without those that have their default."""
    told = {each.name: getattr(preparation, each.name) for each in fields(preparation)}
    defaults = {each.name: each.default for each in fields(preparation)}
    kept = {name: value for name, value in told.items() if value != defaults[name]}
    return {**kept, "size": list(preparation.size)}


def decode_preparation(told: Any) -> Preparation:
    """Read what `encode_preparation` wrote.

    Strictly: what a later release adds would change the pixels, so it is no preparation here.
    Raises ValueError.
    """
    if not isinstance(told, dict):
        raise ValueError("the preparation is no object")
    for name, value in told.items():
        if name not in _IS_RIGHT or not _IS_RIGHT[name](value):
            raise ValueError(f"the preparation has a field {name!r:.40} that is not known here")
    if "size" not in told:
        raise ValueError("the preparation has no 'size'")
    return Preparation(**{**told, "size": tuple(told["size"])})


def _is_whole(value: Any, low: int, high: int) -> bool:
    return type(value) is int and low <= value <= high


_IS_RIGHT = {
    "size": lambda value: (
        isinstance(value, list)
        and len(value) == 2
        and all(_is_whole(side, 1, LONGEST_SIDE) for side in value)
    ),
    "resize": lambda value: value in RESIZES,
    "resize_to": lambda value: _is_whole(value, 1, LONGEST_SIDE),
    "interpolation": lambda value: value in INTERPOLATIONS,
    "antialias": lambda value: isinstance(value, bool),
    "colour": lambda value: isinstance(value, str) and value in COLOURS,
    "pad": lambda value: _is_whole(value, 0, 255),
    "crop_rounding": lambda value: value in CROP_ROUNDINGS,
}
