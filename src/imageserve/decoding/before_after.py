"""A picture beside what a model gets of it, as one PNG: to see what its preparation does."""

import io

from PIL import Image, ImageDraw

from imageserve.decoding.picture import DecodingPolicy, open_picture
from imageserve.preparation import Box, Preparation

_SIDE = 448
"""The longer side of both pictures, in pixels. What a model gets is enlarged by a whole number, so
that its pixels can be seen."""
_GAP = 16
_FRAME = (230, 0, 90)
_GROUND = (128, 128, 128)
_MODES = {1: "L", 3: "RGB", 4: "RGBA"}


def before_and_after(data: bytes, preparation: Preparation, policy: DecodingPolicy) -> bytes:
    """Return a PNG: left the upright picture, with a frame around what counts; right the pixels.

    Raises RequestError where the picture cannot be decoded; see `decode`.
    """
    picture = open_picture(data, policy)
    picture.cost(preparation)
    width, height = picture.upright_size
    part = _SIDE / max(width, height)
    small = Preparation((max(1, round(height * part)), max(1, round(width * part))))
    before = _image(picture.to_pixels(small), small)
    after = _image(picture.to_pixels(preparation), preparation)
    times = max(1, round(_SIDE / max(after.size)))
    after = after.resize((after.width * times, after.height * times), Image.Resampling.NEAREST)

    left, top, right, bottom = (side * part for side in _what_counts(preparation, width, height))
    frame = (left, top, max(left, right - 1), max(top, bottom - 1))
    ImageDraw.Draw(before).rectangle(frame, outline=_FRAME, width=3)
    return _png_of(before, after)


def drawn_picture() -> bytes:
    """Return a drawn PNG of 640x400 that shows what is squeezed, cut away or turned.

    A circle in the middle, squares of 40 pixels, another colour along each edge, and an arrow up.
    """
    card = Image.new("RGB", (640, 400), (250, 246, 236))
    draw = ImageDraw.Draw(card)
    for x in range(0, 640, 40):
        for y in range(x % 80, 400, 80):
            draw.rectangle((x, y, x + 39, y + 39), fill=(206, 216, 220))
    draw.rectangle((0, 0, 639, 19), fill=(200, 40, 40))
    draw.rectangle((0, 380, 639, 399), fill=(40, 140, 60))
    draw.rectangle((0, 20, 19, 379), fill=(40, 80, 190))
    draw.rectangle((620, 20, 639, 379), fill=(230, 170, 0))
    draw.ellipse((170, 50, 470, 350), outline=(30, 30, 30), width=8)
    arrow = ((320, 90), (390, 200), (345, 200), (345, 310), (295, 310), (295, 200), (250, 200))
    draw.polygon(arrow, fill=(30, 30, 30))
    file = io.BytesIO()
    card.save(file, "PNG")
    return file.getvalue()


def _what_counts(preparation: Preparation, width: int, height: int) -> Box:
    """Return the part of an upright picture of which the result has pixels."""
    within = preparation.geometry(width, height)
    left, top, right, bottom = within.box
    x, y = (right - left) / within.size[1], (bottom - top) / within.size[0]
    above, before = (max(0, -corner) for corner in within.corner)
    down, across = (min(sides) for sides in zip(preparation.size, within.size, strict=True))
    return (
        left + before * x,
        top + above * y,
        left + (before + across) * x,
        top + (above + down) * y,
    )


def _image(pixels: bytes, preparation: Preparation) -> Image.Image:
    height, width, colours = preparation.shape
    return Image.frombytes(_MODES[colours], (width, height), pixels)


def _png_of(left: Image.Image, right: Image.Image) -> bytes:
    size = (left.width + _GAP + right.width, max(left.height, right.height))
    both = Image.new("RGB", size, _GROUND)
    both.paste(left, (0, 0))
    # What is transparent shows the ground.
    both.paste(right, (left.width + _GAP, 0), right if right.mode == "RGBA" else None)
    file = io.BytesIO()
    both.save(file, "PNG")
    return file.getvalue()
