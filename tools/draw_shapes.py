"""Draws labelled pictures of simple shapes and textures, the training data of the bundled model.

Everything is derived from the numpy generator that the caller hands in, so one seed always gives
the same pictures. Shapes are built as polygons and lines in unit coordinates, about (-1, -1) to
(1, 1), and moved onto the picture by one affine matrix; textures use a repeat period of 1 instead.
"""

from __future__ import annotations

import io
import itertools
import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

FloatArray = npt.NDArray[np.float64]
PixelArray = npt.NDArray[np.float32]
Colour = npt.NDArray[np.float64]

MIN_SIDE_PX = 160
MAX_SIDE_PX = 640
MAX_ASPECT_RATIO = 2.2
MIN_COLOUR_DISTANCE = 110.0
INK = 255
HOLE = 0

CLEAN_SHARE = 0.3
"""How often a picture is left flat-coloured and undisturbed, as a drawing program saves it."""

OUTLINED_SHARE = 0.12

PLAIN_COLOURS = (
    (255, 255, 255), (0, 0, 0), (255, 0, 0), (0, 128, 0), (0, 0, 255), (255, 255, 0),
    (255, 165, 0), (128, 0, 128), (255, 192, 203), (128, 128, 128), (0, 255, 255), (165, 42, 42),
)  # fmt: skip


@dataclass(frozen=True)
class Part:
    """One polygon, or one line when `line_width` (in unit coordinates) is above zero."""

    points: FloatArray
    ink: int = INK
    line_width: float = 0.0


def _polygon(angles_rad: FloatArray, radii: FloatArray | float) -> FloatArray:
    return np.stack([np.cos(angles_rad) * radii, np.sin(angles_rad) * radii], axis=1)


def _disc(radius: float = 1.0, centre: tuple[float, float] = (0.0, 0.0)) -> FloatArray:
    angles_rad = np.linspace(0.0, 2.0 * math.pi, 72, endpoint=False)
    disc: FloatArray = _polygon(angles_rad, radius) + np.array(centre)
    return disc


def _maybe_hollow(outline: FloatArray, rng: np.random.Generator) -> list[Part]:
    """Fill the outline, or now and then leave only its rim, as people draw with a pen."""
    parts = [Part(outline)]
    if rng.random() < 0.2:
        centre = outline.mean(axis=0)
        parts.append(Part(centre + (outline - centre) * rng.uniform(0.66, 0.88), HOLE))
    return parts


def _circle(_rng: np.random.Generator) -> list[Part]:
    return [Part(_disc())]


def _square(rng: np.random.Generator) -> list[Part]:
    corners = np.array([[-1.0, -1.0], [1.0, -1.0], [1.0, 1.0], [-1.0, 1.0]]) * 0.85
    return _maybe_hollow(corners, rng)


def _triangle(rng: np.random.Generator) -> list[Part]:
    angles_rad = -math.pi / 2 + np.arange(3) * 2.0 * math.pi / 3
    jitter_rad = rng.uniform(-0.3, 0.3, 3) if rng.random() < 0.5 else np.zeros(3)
    return _maybe_hollow(_polygon(angles_rad + jitter_rad, 1.0), rng)


def _star(rng: np.random.Generator) -> list[Part]:
    tips = 5 if rng.random() < 0.75 else 6
    radii = np.ones(2 * tips)
    radii[1::2] = rng.uniform(0.36, 0.52)
    angles_rad = -math.pi / 2 + np.arange(2 * tips) * math.pi / tips
    return _maybe_hollow(_polygon(angles_rad, radii), rng)


def _cross(rng: np.random.Generator) -> list[Part]:
    half = rng.uniform(0.04, 0.36)
    bar = np.array([[-1.0, -half], [1.0, -half], [1.0, half], [-1.0, half]])
    return [Part(bar), Part(bar[:, ::-1])]


def _ring(rng: np.random.Generator) -> list[Part]:
    return [Part(_disc()), Part(_disc(rng.uniform(0.45, 0.9)), HOLE)]


def _heart(rng: np.random.Generator) -> list[Part]:
    t = np.linspace(0.0, 2.0 * math.pi, 90, endpoint=False)
    x = 16.0 * np.sin(t) ** 3
    y = -(13.0 * np.cos(t) - 5.0 * np.cos(2 * t) - 2.0 * np.cos(3 * t) - np.cos(4 * t))
    return _maybe_hollow(np.stack([x, y - 2.0], axis=1) / 16.5, rng)


def _crescent(rng: np.random.Generator) -> list[Part]:
    bite_radius = rng.uniform(0.78, 1.0)
    return [Part(_disc()), Part(_disc(bite_radius, (rng.uniform(0.4, 0.62), 0.0)), HOLE)]


def _arrow(rng: np.random.Generator) -> list[Part]:
    shaft = rng.uniform(0.08, 0.26)
    head = rng.uniform(max(0.42, 2.0 * shaft), 0.8)
    neck = rng.uniform(-0.1, 0.4)
    points = [(-1, -shaft), (neck, -shaft), (neck, -head), (1, 0)]
    points += [(neck, head), (neck, shaft), (-1, shaft)]
    if rng.random() < 0.25:
        tip = np.array([[neck, -head], [1.0, 0.0], [neck, head]])
        return [Part(np.array([[-1.0, 0.0], [1.0, 0.0]]), INK, shaft), Part(tip, INK, shaft)]
    return [Part(np.array(points, dtype=np.float64))]


def _spiral(rng: np.random.Generator) -> list[Part]:
    turns = rng.uniform(2.0, 3.6)
    angles_rad = np.linspace(0.3, turns * 2.0 * math.pi, 160)
    gap = 1.0 / turns
    mirrored = np.array([1.0, rng.choice([-1.0, 1.0])])
    line = _polygon(angles_rad, angles_rad / angles_rad[-1]) * mirrored
    return [Part(line, INK, gap * rng.uniform(0.25, 0.5))]


def _zigzag(rng: np.random.Generator) -> list[Part]:
    corners = int(rng.integers(5, 10))
    height = rng.uniform(0.25, 0.5)
    x = np.linspace(-1.0, 1.0, corners)
    y = np.where(np.arange(corners) % 2 == 0, -height, height)
    return [Part(np.stack([x, y], axis=1), INK, rng.uniform(0.4, 0.8) / corners)]


def _stripes(rng: np.random.Generator, reach: int) -> list[Part]:
    width = rng.uniform(0.32, 0.68)
    bar = np.array([[0.0, -reach], [width, -reach], [width, reach], [0.0, reach]])
    return [Part(bar + np.array([float(x), 0.0])) for x in range(-reach, reach)]


def _checkerboard(_rng: np.random.Generator, reach: int) -> list[Part]:
    cell = np.array([[0.0, 0.0], [0.5, 0.0], [0.5, 0.5], [0.0, 0.5]])
    corners = [(x, y) for x in range(-reach, reach) for y in range(-reach, reach)]
    shifts = [(x + half, y + half) for x, y in corners for half in (0.0, 0.5)]
    return [Part(cell + np.array(shift)) for shift in shifts]


def _dots(rng: np.random.Generator, reach: int) -> list[Part]:
    radius = rng.uniform(0.18, 0.36)
    # Only as much jitter as keeps neighbours apart: merged dots no longer look like dots.
    jitter = (0.5 - radius) * 0.8 * float(rng.random() < 0.5)
    staggered = 0.5 * float(rng.random() < 0.5)
    parts = []
    for x in range(-reach, reach):
        for y in range(-reach, reach):
            centre = np.array([x + staggered * (y % 2), float(y)])
            shift = centre + rng.uniform(-jitter, jitter, 2)
            parts.append(Part(_disc(radius)[::3] + shift))
    return parts


SHAPES: dict[str, Callable[[np.random.Generator], list[Part]]] = {
    "arrow": _arrow,
    "circle": _circle,
    "crescent": _crescent,
    "cross": _cross,
    "heart": _heart,
    "ring": _ring,
    "spiral": _spiral,
    "square": _square,
    "star": _star,
    "triangle": _triangle,
    "zigzag": _zigzag,
}
TEXTURES: dict[str, Callable[[np.random.Generator, int], list[Part]]] = {
    "checkerboard": _checkerboard,
    "dots": _dots,
    "stripes": _stripes,
}
# Periods along the longer side: fewer no longer read as a texture, more vanish at 96 x 96.
TEXTURE_PERIODS = {"checkerboard": (2.0, 8.0), "dots": (4.0, 10.0), "stripes": (4.0, 13.0)}
LABELS: tuple[str, ...] = tuple(sorted([*SHAPES, *TEXTURES]))


def _rotation(angle_rad: float) -> FloatArray:
    cos, sin = math.cos(angle_rad), math.sin(angle_rad)
    return np.array([[cos, -sin], [sin, cos]])


def _random_angle_rad(rng: np.random.Generator, clean: bool) -> float:
    """Any angle; clean drawings are often upright, since that is how people draw them."""
    if clean and rng.random() < 0.5:
        return float(rng.integers(4)) * math.pi / 2
    return float(rng.uniform(0.0, 2.0 * math.pi))


def _wobbled(points: FloatArray, amplitude: float, phases_rad: FloatArray) -> FloatArray:
    """Bend unit coordinates a little, as an unsteady hand would."""
    x, y = points[:, 0], points[:, 1]
    bend = [np.sin(3.0 * y + phases_rad[0]), np.sin(3.0 * x + phases_rad[1])]
    return points + amplitude * np.stack(bend, axis=1)


def _densified(part: Part) -> FloatArray:
    """Add points along every edge, so that bending turns straight edges into curves."""
    if len(part.points) > 60:
        return part.points
    ends = part.points if part.line_width else np.vstack([part.points, part.points[:1]])
    steps = np.linspace(0.0, 1.0, 8, endpoint=False)[:, None]
    edges = [a + (b - a) * steps for a, b in itertools.pairwise(ends)]
    return np.vstack([*edges, ends[-1:]])


def _with_wobble(parts: list[Part], rng: np.random.Generator) -> list[Part]:
    amplitude = rng.uniform(0.01, 0.06)
    phases_rad = rng.uniform(0.0, 2.0 * math.pi, 2)
    return [
        Part(_wobbled(_densified(part), amplitude, phases_rad), part.ink, part.line_width)
        for part in parts
    ]


def _mask(
    parts: list[Part], matrix: FloatArray, centre_px: FloatArray, size: tuple[int, int]
) -> Image.Image:
    """Rasterise parts into an antialiased coverage mask of the given size."""
    # Large pictures are shrunk before anyone looks closely; they need less supersampling.
    factor = 2 if max(size) > 320 else 3
    canvas = Image.new("L", (size[0] * factor, size[1] * factor), HOLE)
    pen = ImageDraw.Draw(canvas)
    unit_px = math.sqrt(abs(float(np.linalg.det(matrix))))
    for part in parts:
        points_px = (part.points @ matrix.T + centre_px) * factor
        flat = [(float(x), float(y)) for x, y in points_px]
        if part.line_width:
            width_px = max(round(part.line_width * unit_px * factor), 1)
            pen.line(flat, fill=part.ink, width=width_px, joint="curve")
        else:
            pen.polygon(flat, fill=part.ink)
    return canvas.resize(size, Image.Resampling.BOX)


def _random_radius_share(parts: list[Part], rng: np.random.Generator) -> float:
    """Pick the shape's radius as a share of the picture's shorter side."""
    drawn_with_lines = any(part.line_width for part in parts)
    # Thin lines are lost at 96 x 96 when the shape is small; filled shapes can still be told.
    if rng.random() < 0.25 and not drawn_with_lines:
        return float(rng.uniform(0.08, 0.25))
    return float(rng.uniform(0.25, 0.52))


def _placement(
    parts: list[Part], rng: np.random.Generator, size: tuple[int, int], clean: bool
) -> tuple[FloatArray, FloatArray]:
    """Pick an affine matrix and a centre that keep the shape inside the picture."""
    squash = np.diag([1.0, rng.uniform(0.7, 1.0) if rng.random() < 0.6 else 1.0])
    turn = _rotation(_random_angle_rad(rng, clean))
    tilt = _rotation(rng.uniform(-0.6, 0.6) if not clean else 0.0)
    matrix = turn @ squash @ tilt * (min(size) * _random_radius_share(parts, rng))
    corners_px = np.vstack([part.points for part in parts]) @ matrix.T
    low, high = corners_px.min(axis=0), corners_px.max(axis=0)
    sides = np.array(size, dtype=np.float64)
    shrink = min(1.0, 0.96 * float((sides / (high - low)).min()))
    first, last = -low * shrink, sides - high * shrink
    spread = rng.uniform(0.0, 1.0, 2)
    if rng.random() < 0.4:
        spread = rng.uniform(0.4, 0.6, 2)
    return matrix * shrink, first + (last - first) * spread


def _shape_mask(
    label: str, rng: np.random.Generator, size: tuple[int, int], clean: bool
) -> Image.Image:
    parts = SHAPES[label](rng)
    if rng.random() < 0.25:
        parts = _with_wobble(parts, rng)
    matrix, centre_px = _placement(parts, rng, size, clean)
    return _mask(parts, matrix, centre_px, size)


def _with_margin(mask: Image.Image, rng: np.random.Generator) -> Image.Image:
    """Blank the edges of a texture, as on a chessboard photographed with its frame."""
    width, height = mask.size
    left, right = sorted(rng.uniform(0.02, 0.14, 2) * width)
    top, bottom = sorted(rng.uniform(0.02, 0.14, 2) * height)
    box = (int(left), int(top), int(width - right), int(height - bottom))
    framed = Image.new("L", mask.size, HOLE)
    framed.paste(mask.crop(box), box)
    return framed


def _texture_mask(
    label: str, rng: np.random.Generator, size: tuple[int, int], clean: bool
) -> Image.Image:
    period_px = max(size) / rng.uniform(*TEXTURE_PERIODS[label])
    squash = np.diag([1.0, rng.uniform(0.8, 1.0)])
    matrix = _rotation(_random_angle_rad(rng, clean)) @ squash * period_px
    # Far enough from the centre that the pattern covers the corners at any angle.
    reach = math.ceil(math.hypot(*size) / 2 / (period_px * squash[1, 1])) + 1
    parts = TEXTURES[label](rng, reach)
    centre_px = np.array(size) / 2 + rng.uniform(-0.5, 0.5, 2) * period_px
    mask = _mask(parts, matrix, centre_px, size)
    return _with_margin(mask, rng) if rng.random() < 0.25 else mask


def _random_colour(rng: np.random.Generator, clean: bool) -> Colour:
    if clean and rng.random() < 0.7:
        return np.array(PLAIN_COLOURS[int(rng.integers(len(PLAIN_COLOURS)))], dtype=np.float64)
    return rng.uniform(0.0, 255.0, 3)


def _contrasting_colours(rng: np.random.Generator, clean: bool) -> tuple[Colour, Colour]:
    """Pick background and foreground far enough apart to be told from each other."""
    while True:
        back, fore = _random_colour(rng, clean), _random_colour(rng, clean)
        if clean and rng.random() < 0.4:
            back = np.full(3, 255.0 if rng.random() < 0.75 else 0.0)
        if float(np.linalg.norm(back - fore)) >= MIN_COLOUR_DISTANCE:
            return back, fore


def _gradient(rng: np.random.Generator, size: tuple[int, int], reach: float) -> PixelArray:
    """Shade smoothly across the picture by at most `reach` levels either way."""
    x = np.linspace(-1.0, 1.0, size[0], dtype=np.float32)[None, :, None]
    y = np.linspace(-1.0, 1.0, size[1], dtype=np.float32)[:, None, None]
    slopes = rng.uniform(-0.5, 0.5, (2, 3)).astype(np.float32) * np.float32(reach)
    shade: PixelArray = x * slopes[0] + y * slopes[1]
    return shade


def _clouds(rng: np.random.Generator, size: tuple[int, int], reach: float) -> PixelArray:
    """Vary the background in soft blots of at most `reach` levels either way."""
    cells = int(rng.integers(3, 14))
    coarse = rng.uniform(-reach, reach, (cells, cells)).astype(np.float32)
    blots = Image.fromarray(coarse).resize(size, Image.Resampling.BICUBIC)
    return np.asarray(blots, dtype=np.float32)[:, :, None]


def _flat(colour: Colour, size: tuple[int, int]) -> PixelArray:
    return np.broadcast_to(colour.astype(np.float32), (size[1], size[0], 3))


def _laid_over(below: PixelArray, above: PixelArray, mask: Image.Image) -> PixelArray:
    cover = np.asarray(mask, dtype=np.float32)[:, :, None] / np.float32(255.0)
    return below * (1.0 - cover) + above * cover


def _with_outline(below: PixelArray, mask: Image.Image, rng: np.random.Generator) -> PixelArray:
    """Put a rim of another colour around the shape, the default of many drawing programs."""
    rim_px = max(1, round(min(mask.size) * rng.uniform(0.005, 0.015)))
    rim = mask.filter(ImageFilter.MaxFilter(2 * rim_px + 1))
    dark = rng.random() < 0.5
    colour = np.zeros(3) if dark else rng.uniform(0.0, 255.0, 3)
    return _laid_over(below, _flat(colour, mask.size), rim)


def _coloured(
    mask: Image.Image, rng: np.random.Generator, clean: bool, outlined: bool
) -> PixelArray:
    """Lay the foreground over the background through the coverage mask."""
    back_colour, fore_colour = _contrasting_colours(rng, clean)
    # Shading is held well under the contrast, or it could hide the shape.
    reach = 0.3 * float(np.linalg.norm(back_colour - fore_colour)) / math.sqrt(3.0)
    back, fore = _flat(back_colour, mask.size), _flat(fore_colour, mask.size)
    if not clean and rng.random() < 0.6:
        back = back + _gradient(rng, mask.size, reach)
    if not clean and rng.random() < 0.4:
        back = back + _clouds(rng, mask.size, reach)
    if not clean and rng.random() < 0.4:
        fore = fore + _gradient(rng, mask.size, reach)
    if outlined:
        back = _with_outline(back, mask, rng)
    return _laid_over(back, fore, mask)


def _as_image(pixels: PixelArray) -> Image.Image:
    return Image.fromarray(np.clip(np.rint(pixels), 0, 255).astype(np.uint8))


def _through_jpeg(image: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    image.save(buffer, format="JPEG", quality=quality)
    with Image.open(buffer) as decoded:
        return decoded.convert("RGB")


def _disturbed(pixels: PixelArray, rng: np.random.Generator) -> Image.Image:
    """Add the blur, noise and compression that cameras and the web leave behind."""
    image = _as_image(pixels)
    if rng.random() < 0.5:
        radius_px = max(image.size) / 100.0 * rng.uniform(0.1, 1.0)
        image = image.filter(ImageFilter.GaussianBlur(radius_px))
    if rng.random() < 0.6:
        noise = rng.standard_normal((image.height, image.width, 3), dtype=np.float32)
        strength = np.float32(rng.uniform(2.0, 28.0))
        image = _as_image(np.asarray(image, dtype=np.float32) + noise * strength)
    if rng.random() < 0.7:
        image = _through_jpeg(image, int(rng.integers(15, 96)))
    return image


def random_size(rng: np.random.Generator) -> tuple[int, int]:
    """Pick a picture size in pixels, spread as real uploads are."""
    longer = math.exp(rng.uniform(math.log(MIN_SIDE_PX), math.log(MAX_SIDE_PX)))
    shorter = longer / math.exp(rng.uniform(0.0, math.log(MAX_ASPECT_RATIO)))
    sides = (round(longer), max(round(shorter), MIN_SIDE_PX // 2))
    return sides if rng.random() < 0.6 else (sides[1], sides[0])


def draw(
    label: str,
    rng: np.random.Generator,
    size: tuple[int, int] | None = None,
    *,
    clean: bool | None = None,
) -> Image.Image:
    """Draw one RGB picture of `label`; `size` (pixels) and `clean` are random when left out."""
    size = size or random_size(rng)
    clean = bool(rng.random() < CLEAN_SHARE) if clean is None else clean
    outlined = label in SHAPES and rng.random() < OUTLINED_SHARE
    make_mask = _shape_mask if label in SHAPES else _texture_mask
    pixels = _coloured(make_mask(label, rng, size, clean), rng, clean, outlined)
    return _as_image(pixels) if clean else _disturbed(pixels, rng)
