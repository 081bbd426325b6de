"""A drawn JPEG of any size, with about the bytes and detail of a photo: to measure decoding."""

import hashlib
from io import BytesIO

from PIL import Image, ImageFilter

_QUALITY = 85
_FINEST = 0.25
_COARSER = ((20, 0.4), (80, 0.25))
"""Cells across, and their share of what is drawn so far. Detail at every scale makes a photo cost
what it costs to decode."""


def drawn_jpeg(width: int, height: int) -> bytes:
    """Draw it. The same sides give the same picture."""
    image = _noise(width, height, 5)
    for cells, share in (*_COARSER, (width, _FINEST)):
        image = Image.blend(image, _noise(width, height, cells), share)
    file = BytesIO()
    image.filter(ImageFilter.GaussianBlur(0.5)).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _noise(width: int, height: int, cells: int) -> Image.Image:
    size = cells, max(1, cells * height // width)
    noise = hashlib.shake_256(bytes([cells % 256])).digest(3 * size[0] * size[1])
    return Image.frombytes("RGB", size, noise).resize((width, height), Image.Resampling.BICUBIC)
