"""The picture that is posted: drawn from a seed, with about the bytes and detail of a photo."""

from io import BytesIO
from random import Random

from PIL import Image, ImageDraw, ImageFilter

WIDTH, HEIGHT = 500, 375
_QUALITY = 85


def photo_jpeg(seed: int = 1) -> bytes:
    """Draw a landscape-like JPEG of 500 x 375 pixels."""
    drawn = Random(seed)
    # Detail at every scale, coarse to fine, is what makes a photo cost what it costs to decode.
    image = _noise(drawn, 5)
    for cells, weight in ((20, 0.4), (80, 0.25), (WIDTH, 0.25)):
        image = Image.blend(image, _noise(drawn, cells), weight)
    _draw_things(image, drawn)
    file = BytesIO()
    image.filter(ImageFilter.GaussianBlur(0.5)).save(file, "JPEG", quality=_QUALITY)
    return file.getvalue()


def _noise(drawn: Random, cells: int) -> Image.Image:
    size = (cells, cells * HEIGHT // WIDTH)
    noise = Image.frombytes("RGB", size, drawn.randbytes(3 * size[0] * size[1]))
    return noise.resize((WIDTH, HEIGHT), Image.Resampling.BICUBIC)


def _draw_things(image: Image.Image, drawn: Random) -> None:
    draw = ImageDraw.Draw(image)
    for _ in range(12):
        x, y = drawn.randrange(WIDTH), drawn.randrange(HEIGHT)
        box = (x, y, x + drawn.randrange(20, 120), y + drawn.randrange(20, 90))
        colour = (drawn.randrange(256), drawn.randrange(256), drawn.randrange(256))
        draw.ellipse(box, outline=colour, width=drawn.randrange(1, 5))
