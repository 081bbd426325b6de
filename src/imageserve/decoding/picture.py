"""A picture from bytes to pixels: read the header, reckon, decode, turn upright, prepare."""

import functools
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from PIL import Image, ImageFile

from imageserve.config.choices import (
    DECODE_MEMORY_BYTES,
    IMAGE_FORMATS,
    MAX_IMAGE_BYTES,
    MAX_IMAGE_PIXELS,
    MAX_IMAGE_SIDE,
)
from imageserve.decoding.formats import PLUGINS, READERS, Jpeg, Source, format_errors, kind_of
from imageserve.decoding.header import Header, corrupt, name_of
from imageserve.decoding.resizing import described, is_fast, resized
from imageserve.errors import ImageTooLarge, NoImage, NotAnImage, UnsupportedFormat
from imageserve.preparation import Box, Preparation

if TYPE_CHECKING:
    from imageserve.config.settings import Settings

# A JPEG may have any number of scans, each over all pixels and only a few bytes long: ten MB can
# take half an hour. Encoders write about ten. A picture of the largest size may have this many.
_JPEG_SCANS = 40
_MOST_JPEG_SCANS = 100

_RGB_BYTES = 4
"""Bytes of a pixel of three colours, as Pillow keeps it."""
_FLOAT_BYTES = 4
_SUPPORT = {"nearest": 0.0, "box": 0.5, "bilinear": 1.0, "hamming": 1.0, "bicubic": 2.0}
_SUPPORT_OF_LANCZOS = 3.0
"""Radius of each way to resize, in pixels of the result."""
_CONVERT_NS_PER_PIXEL = 5.0
_RESIZE_NS_PER_PIXEL = 4.0
"""To resize by ``bilinear``; others in proportion to their radius."""
_FAST_RESIZE_NS_PER_PIXEL = 1.0
_FLOAT_NS_PER_PIXEL = 20.0
"""To resize without antialiasing."""
_RESULT_NS_PER_PIXEL = 6.0
_NS_PER_COEFFICIENT = 30.0
_LEAST_S = 0.0005


@dataclass(frozen=True, slots=True)
class DecodingPolicy:
    """Which pictures are accepted, and how they are decoded."""

    max_bytes: int = MAX_IMAGE_BYTES
    """Most bytes of one encoded picture."""
    max_pixels: int = MAX_IMAGE_PIXELS
    """Most pixels, width times height as in the header."""
    formats: frozenset[str] = frozenset(IMAGE_FORMATS)
    """The formats that are accepted."""
    fast_jpeg: bool = False
    """Whether large JPEGs may be decoded at a reduced size (`Preparation.jpeg_scale`), in a third
    of the time or less; the pixels differ a little. Off, they equal those of
    ``keras.utils.load_img``."""
    max_side: int = MAX_IMAGE_SIDE
    """Most pixels of one side: resizing takes memory in proportion to it."""
    max_memory: int = DECODE_MEMORY_BYTES
    """Most bytes of memory that decoding may take, as reckoned from the header."""
    fast_resize: bool = False
    """Whether vector units may resize where each byte is within 1 of Pillow's, in a fifth of the
    time. Off, or where there is none of it, Pillow resizes."""

    @classmethod
    def from_settings(cls, settings: "Settings") -> "DecodingPolicy":
        """Return that of a web server with these settings."""
        return cls(
            settings.max_image_bytes,
            settings.max_image_pixels,
            settings.image_formats,
            settings.fast_jpeg,
            settings.max_image_side,
            settings.decode_memory_bytes,
            settings.fast_resize,
        )


@dataclass(frozen=True, slots=True)
class Cost:
    """What decoding one picture takes at most, as far as its header tells."""

    seconds: float
    """Processor time, on a machine like the one it was measured on."""
    memory_bytes: int


@dataclass(frozen=True, slots=True)
class Picture:
    """A picture whose header has been read and accepted; its pixels are still encoded."""

    _header: Header
    _policy: DecodingPolicy

    @property
    def kind(self) -> str:
        return self._header.kind

    @property
    def pixels(self) -> int:
        return self._header.pixels

    @property
    def upright_size(self) -> tuple[int, int]:
        """Width and height when it has been turned upright."""
        return self._header.upright_size

    def cost(self, preparation: Preparation) -> Cost:
        """Reckon what ``to_pixels`` will take.

        Raises ImageTooLarge where that is more memory than allowed.
        """
        header = self._header
        scale, support = self._scale(preparation), _support(preparation)
        pixels = math.prod(_reduced(header.size, scale))
        within = preparation.geometry(*header.upright_size)
        left, top, right, bottom = within.box
        sides = (bottom - top, within.size[0]), (right - left, within.size[1])
        coefficients = sum(int(2 * support * max(pair)) + 2 * pair[1] for pair in sides)
        memory_bytes = (
            header.pixels * header.working_bytes_per_pixel
            + pixels * _bytes_per_pixel(header, preparation)
            + 2 * sum(map(len, header.parts))
            + 8 * coefficients
            # What is resized in one direction, in both, and the result.
            + _RGB_BYTES * int(bottom - top) * within.size[1]
            + _RGB_BYTES * (math.prod(within.size) + math.prod(preparation.size))
        )
        if memory_bytes > self._policy.max_memory:
            raise ImageTooLarge(
                f"decoding the picture takes {memory_bytes} bytes of memory; "
                f"at most {self._policy.max_memory} are allowed"
            )
        fast = self._policy.fast_resize
        before_ns = _ns_to_resize(preparation, max(1.0, support), fast=fast)
        after_ns = _ns_to_resize(preparation, support, fast=fast)
        rest_ns = (
            pixels * (_CONVERT_NS_PER_PIXEL + before_ns)
            + math.prod(within.size) * (_RESULT_NS_PER_PIXEL + after_ns)
            + coefficients * _NS_PER_COEFFICIENT
        )
        return Cost(_LEAST_S + header.decode_s + rest_ns / 1e9, memory_bytes)

    def to_pixels(self, preparation: Preparation) -> bytes:
        """Decode, turn upright, lay on white, and prepare.

        The result is row by row, a byte for each colour of each pixel. A picture is laid on white
        unless the model takes transparency.

        Raises:
            TruncatedImage: the bytes end before the picture is complete.
            CorruptImage: the bytes cannot be decoded.
            ImageTooLarge: there is too little memory.
        """
        header = self._header
        with format_errors(header.kind, lambda: header.is_cut):
            source = Source(header.encoded())
        with format_errors(header.kind, lambda: header.is_cut or source.ran_out):
            image: Image.Image = _opened(header, source)
            box = _draft(image, self._scale(preparation))
            image.load()
            box = _upright_box(box, image.size, header.orientation)
            image = _coloured(_upright(image, header.orientation), preparation.colour)
            fast = self._policy.fast_resize
            return _prepared(image, box, header.upright_size, preparation, fast=fast).tobytes()

    def _scale(self, preparation: Preparation) -> int:
        """Return what FAST_JPEG divides the sides by: 1, 2, 4 or 8."""
        if not self._policy.fast_jpeg or self.kind != "jpeg":
            return 1
        return preparation.jpeg_scale(self._header.size)


def decode(data: bytes | memoryview, preparation: Preparation, policy: DecodingPolicy) -> bytes:
    """Turn a picture into the pixels that a model takes: row by row, a byte for each colour.

    Equal to ``keras.utils.load_img`` with the same way to resize, where the picture has no
    orientation, no transparency and no 16 bits, and ``policy.fast_jpeg`` is off. 16-bit
    colour keeps its high byte, as in Keras; 16-bit grey is divided by 257.

    Raises:
        RequestError: see ``open_picture`` and ``Picture``; nothing else is raised.
    """
    picture = open_picture(data, policy)
    picture.cost(preparation)
    return picture.to_pixels(preparation)


def open_picture(data: bytes | memoryview, policy: DecodingPolicy) -> Picture:
    """Check everything that can be checked before pixels are decoded.

    It takes at most some milliseconds, whatever the bytes.

    Raises:
        NoImage: there are no bytes.
        ImageTooLarge: too many bytes, pixels or pieces.
        NotAnImage: the bytes are no picture of a known format.
        UnsupportedFormat: the picture is of a format that is not accepted.
        TruncatedImage: the bytes end within the header.
        CorruptImage: the header is invalid.
    """
    data = bytes(data)
    if not data:
        raise NoImage("the picture is empty")
    if len(data) > policy.max_bytes:
        raise ImageTooLarge(
            f"the picture has {len(data)} bytes; at most {policy.max_bytes} are allowed"
        )
    kind = _kind(data, policy)
    with format_errors(kind, lambda: False):
        header = READERS[kind](data)
    _check_limits(header, policy)
    return Picture(header, policy)


def resizer_in_use(policy: DecodingPolicy) -> str:
    """Return a sentence: what resizes pictures on this machine, and why."""
    return described(policy.fast_resize)


def _kind(data: bytes, policy: DecodingPolicy) -> str:
    kind = kind_of(data)
    if kind is not None and kind in policy.formats:
        return kind
    accepted = ", ".join(name_of(each) for each in IMAGE_FORMATS if each in policy.formats)
    if kind is None:
        raise NotAnImage(f"the bytes are no picture of a known format; accepted: {accepted}")
    raise UnsupportedFormat(f"the picture has the format {name_of(kind)}; accepted: {accepted}")


def _check_limits(header: Header, policy: DecodingPolicy) -> None:
    width, height = header.size
    if header.pixels > policy.max_pixels:
        raise ImageTooLarge(
            f"the picture has {width} x {height} = {header.pixels} pixels; "
            f"at most {policy.max_pixels} are allowed"
        )
    if max(width, height) > policy.max_side:
        raise ImageTooLarge(
            f"the picture has {width} x {height} pixels; a side may have at most {policy.max_side}"
        )
    most_pixels = _JPEG_SCANS * policy.max_pixels
    if header.scans > _MOST_JPEG_SCANS or header.scans * header.pixels > most_pixels:
        raise ImageTooLarge(
            f"the picture has {header.scans} scans of {width} x {height} pixels; at most "
            f"{_MOST_JPEG_SCANS} scans are allowed, and {most_pixels} pixels in all of them"
        )


# -- what it costs ---------------------------------------------------------------------------------


def _reduced(size: tuple[int, int], scale: int) -> tuple[int, int]:
    return -(-size[0] // scale), -(-size[1] // scale)


def _support(preparation: Preparation) -> float:
    return _SUPPORT.get(preparation.interpolation, _SUPPORT_OF_LANCZOS)


def _ns_to_resize(preparation: Preparation, support: float, *, fast: bool) -> float:
    """Return the time for each pixel before and after resizing."""
    if fast and is_fast(preparation):
        return _FAST_RESIZE_NS_PER_PIXEL
    return _RESIZE_NS_PER_PIXEL * support if preparation.antialias else _FLOAT_NS_PER_PIXEL


def _bytes_per_pixel(header: Header, preparation: Preparation) -> int:
    """Return the memory of all the pictures between the decoder and the resized one."""
    turned = header.bytes_per_pixel if header.orientation > 1 else 0
    # Also to grey after it was laid on white; with alpha, multiplied by it to be resized.
    steps = (
        (not header.is_rgb) + (preparation.colour == "grey") + (preparation.colour == "rgba") * 2
    )
    with_alpha = _RGB_BYTES if header.is_transparent and header.bytes_per_pixel < _RGB_BYTES else 0
    one_colour = 0 if preparation.antialias else 1 + _FLOAT_BYTES
    return header.bytes_per_pixel + turned + with_alpha + steps * _RGB_BYTES + one_colour


# -- pixels ---------------------------------------------------------------------------------------

_MODES = {"rgb": "RGB", "grey": "L", "rgba": "RGBA"}

_UPRIGHT_BY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _opened(header: Header, source: Source) -> ImageFile.ImageFile:
    image = PLUGINS[header.kind](source)
    if image.size != header.size:  # What is decoded must be what was reckoned with.
        raise corrupt(header.kind)
    return image


def _draft(image: Image.Image, scale: int) -> Box:
    """Make a JPEG decode at a reduced size; return the part of the result that is picture.

    Where the sides do not divide, the last row and column stand for less than a whole pixel.
    """
    width, height = image.size
    if isinstance(image, Jpeg) and scale > 1:
        drafted = image.draft(None, (width // scale, height // scale))
        if drafted is not None:
            return drafted[1]
    return 0, 0, width, height


def _upright_box(box: Box, size: tuple[int, int], orientation: int) -> Box:
    (*_, right, bottom), (width, height) = box, size
    if orientation >= 5:
        right, bottom, width, height = bottom, right, height, width
    left = width - right if orientation in (2, 3, 6, 7) else 0
    top = height - bottom if orientation in (3, 4, 7, 8) else 0
    return left, top, left + right, top + bottom


def _upright(image: Image.Image, orientation: int) -> Image.Image:
    method = _UPRIGHT_BY.get(orientation)
    return image if method is None else image.transpose(method)


def _coloured(image: Image.Image, colour: str) -> Image.Image:
    mode = _MODES[colour]
    if image.mode == "I;16":
        image = _eight_bits(image)
    if image.has_transparency_data and mode != "RGBA":
        image = _on_white(image)
    return image if image.mode == mode else image.convert(mode)


def _prepared(
    image: Image.Image,
    part: Box,
    full_size: tuple[int, int],
    preparation: Preparation,
    *,
    fast: bool,
) -> Image.Image:
    """Resize and cut or pad a picture, of which only ``part`` counts.

    ``full_size`` is the width and height that this part has in the file: a JPEG may be reduced.
    """
    left, top, right, bottom = part
    across, down = (right - left) / full_size[0], (bottom - top) / full_size[1]
    within = preparation.geometry(*full_size)
    begin_x, begin_y, end_x, end_y = within.box
    box = (left + begin_x * across, top + begin_y * down, left + end_x * across, top + end_y * down)
    size = within.size[::-1]
    image = resized(image, size, box, preparation, fast)
    if within.size == preparation.size:
        return image
    bars = (preparation.pad,) * 3 + (255,)
    whole = Image.new(image.mode, preparation.size[::-1], bars[: len(image.getbands())])
    whole.paste(image, within.corner[::-1])
    return whole


def _eight_bits(image: Image.Image) -> Image.Image:
    table = _high_bytes()
    transparent = image.info.pop("transparency", None)
    if transparent is not None:
        table = [*table]
        table[transparent] = 255
    return image.convert("I").point(table, "L")


@functools.cache
def _high_bytes() -> list[int]:
    return [(value + 128) // 257 for value in range(2**16)]


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode not in {"RGBA", "LA"}:
        image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white
