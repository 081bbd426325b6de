"""Resizing: by Pillow, or where it gives nearly the same, by a library for vector units.

Pillow adds up one pixel after the other. `cykooz-resizer` adds up many at once, with the same
weights but rounded to 15 bits. It is used for ``bilinear`` only: there each byte is within 1 of
Pillow's, but for one in a hundred million of photographs, which is 2 off. Of the others ``box``
counts a pixel at an edge on the other side (up to 138 off), and ``bicubic`` and ``lanczos``
multiply a difference in one direction by more than 1 in the other. With transparency the colours
are divided by it at the end, which makes much of a difference of 1.
"""

import math
import struct
from typing import Final

import PIL
from PIL import Image

from imageserve.preparation import Box, Preparation

try:
    from cykooz_resizer import CropBox, FilterType, ResizeAlg, ResizeOptions, Resizer
except ImportError:  # There is no wheel for this machine.
    _IS_INSTALLED = False
else:
    _IS_INSTALLED = True
    _BILINEAR: Final = ResizeAlg.convolution(FilterType.bilinear)
    _WHOLE: Final = ResizeOptions(_BILINEAR)

_KNOWN_PILLOW = range(11, 14)
"""Its major versions whose pictures in memory the library knows: it reads and writes there."""
_PILLOW = int(PIL.__version__.partition(".")[0])
_PILLOW_WITH_ORDERS = 13
"""Older ones begin with the width, always."""
IS_FAST: Final = _IS_INSTALLED and _PILLOW in _KNOWN_PILLOW
"""Whether there is another way than Pillow's on this machine."""
_FLOATS = struct.Struct("4f")


def described(fast: bool) -> str:
    """Return what resizes pictures on this machine, and why."""
    if not fast:
        return "Pillow resizes pictures (FAST_RESIZE=0)"
    if not _IS_INSTALLED:
        return "Pillow resizes pictures: cykooz-resizer is not installed"
    if not IS_FAST:
        return f"Pillow resizes pictures: cykooz-resizer is not known to work with Pillow {_PILLOW}"
    units = Resizer().cpu_extensions.name
    return f"cykooz-resizer ({units}) resizes pictures where the interpolation is bilinear"


def is_fast(preparation: Preparation) -> bool:
    """Return whether pictures for this model need not be resized by Pillow."""
    return (
        IS_FAST
        and preparation.antialias
        and preparation.interpolation == "bilinear"
        and preparation.colour != "rgba"
    )


def resized(
    image: Image.Image, size: tuple[int, int], box: Box, preparation: Preparation, fast: bool
) -> Image.Image:
    """Return the part in ``box`` of a picture as one of ``size``, its width and height."""
    resampling = Image.Resampling[preparation.interpolation.upper()]
    if not preparation.antialias:
        return _between_nearest(image, size, box, resampling)
    whole: Box = (0, 0, *size)
    if image.size == size and box == whole:
        return image
    if fast and is_fast(preparation):
        return _fast(image, size, box)
    return image.resize(size, resampling, box)


def _fast(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    """Resize in one direction, then in the other, in the order that Pillow takes.

    In another order an eighth of all bytes would differ instead of a five-hundredth: the picture in
    between is rounded to bytes.
    """
    # Pillow keeps it in float32.
    left, top, right, bottom = _FLOATS.unpack(_FLOATS.pack(*box))
    right, bottom = min(right, image.width), min(bottom, image.height)
    if _begins_with_height(image, size):  # So does the library.
        return _pass(image, size, (left, top, right, bottom))
    width, height = size
    radius = max(1.0, (bottom - top) / height)
    first, last = max(0, math.floor(top - radius)), min(image.height, math.ceil(bottom + radius))
    narrow = _pass(image, (width, last - first), (left, first, right, last))
    return _pass(narrow, size, (0, top - first, width, bottom - first))


def _begins_with_height(image: Image.Image, size: tuple[int, int]) -> bool:
    fewer_columns, fewer_rows = image.width - size[0], image.height - size[1]
    return _PILLOW >= _PILLOW_WITH_ORDERS and fewer_rows > max(0, 2 * fewer_columns)


def _pass(image: Image.Image, size: tuple[int, int], box: Box) -> Image.Image:
    # No pixels of it are set yet.
    result = Image.new(image.mode, size, None)
    left, top, right, bottom = box
    whole: Box = (0, 0, *image.size)
    options = _WHOLE
    if box != whole:
        part = CropBox(left, top, right - left, bottom - top)
        options = ResizeOptions(_BILINEAR, crop_box=part)
    # A resizer of its own: another would keep the memory of the largest picture.
    Resizer().resize_pil(image, result, options)
    return result


def _between_nearest(
    image: Image.Image, size: tuple[int, int], box: Box, resampling: Image.Resampling
) -> Image.Image:
    """Resize without antialiasing. Pillow would round bytes down, so it gets floats."""
    if resampling == Image.Resampling.NEAREST:
        return image.transform(size, Image.Transform.EXTENT, box, resampling)
    bands = []
    for band in range(len(image.getbands())):
        numbers = image.getchannel(band).convert("F")
        numbers = numbers.transform(size, Image.Transform.EXTENT, box, resampling)
        bands.append(numbers.point(lambda value: value * 1 + 0.5).convert("L"))
    return Image.merge(image.mode, bands)
