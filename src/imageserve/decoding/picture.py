"""A picture from its bytes to its pixels: check the header, then decode, turn upright, resize."""

import struct
from dataclasses import dataclass

from PIL import Image, ImageFile

from imageserve.config.choices import IMAGE_FORMATS, MAX_IMAGE_BYTES, MAX_IMAGE_PIXELS
from imageserve.decoding.formats import (
    PLUGINS,
    Jpeg,
    Source,
    allowed_reads,
    kind_of,
    name_of,
    pillow_errors,
    webp_size,
)
from imageserve.errors import ImageTooLarge, NoImage, NotAnImage, UnsupportedFormat

FAST_FACTOR = 2
"""FAST_JPEG: a JPEG is decoded at a half, a quarter or an eighth of its size if the result still
has this many times the model's height and width. The decoder averages the pixels that it leaves
out, and resizing has at least four pixels for each of the model's: close to the full result."""

# A JPEG may have any number of scans, each over all pixels and only a few bytes long: ten MB can
# take half an hour. Encoders write about ten. A picture of the largest size may have this many.
_JPEG_SCANS = 40
_MOST_JPEG_SCANS = 100


@dataclass(frozen=True, slots=True)
class DecodingPolicy:
    """Which pictures are accepted, and how they are decoded."""

    max_bytes: int = MAX_IMAGE_BYTES
    """Most bytes of one encoded picture."""
    max_pixels: int = MAX_IMAGE_PIXELS
    """Most pixels, width times height as in the header. Decoding takes about four bytes of memory
    for each; eight for a picture that is transparent or turned, and up to sixteen for a WebP."""
    formats: frozenset[str] = frozenset(IMAGE_FORMATS)
    """The formats that are accepted."""
    fast_jpeg: bool = False
    """Whether large JPEGs may be decoded at a reduced size (``FAST_FACTOR``), in a third of the
    time or less; the pixels differ a little. Off, they equal those of ``keras.utils.load_img``."""


@dataclass(eq=False, slots=True)
class Picture:
    """A picture whose header has been read and accepted; its pixels are still encoded.

    Made by ``open_picture``. One thread at a time may use it.
    """

    kind: str
    _source: Source
    _image: ImageFile.ImageFile
    _scans: int
    _fast: bool

    @property
    def pixels(self) -> int:
        """Width times height times scans: a measure of the cost of ``to_rgb``."""
        return self._image.width * self._image.height * self._scans

    def to_rgb(self, size: tuple[int, int], interpolation: str) -> bytes:
        """Decode, turn upright, lay on white, resize to (height, width).

        The result is row by row, three bytes for each pixel.

        Raises:
            TruncatedImage: the bytes end before the picture is complete.
            CorruptImage: the bytes cannot be decoded.
        """
        height, width = size
        resampling = Image.Resampling[interpolation.upper()]
        with pillow_errors(self.kind, self._source):
            # Not for "nearest", which picks single pixels: it would pick averages.
            if self._fast and interpolation != "nearest":
                # Both sides are large enough for the longer one: the picture may still be turned.
                side = FAST_FACTOR * max(height, width)
                self._image.draft(None, (side, side))
            self._image.load()
            image = _rgb(_upright(self._image))
            if image.size != (width, height):
                image = image.resize((width, height), resampling)
            return image.tobytes()


def decode(
    data: bytes | memoryview, size: tuple[int, int], interpolation: str, policy: DecodingPolicy
) -> bytes:
    """Turn a picture into raw RGB of (height, width): row by row, three bytes a pixel.

    Equal to ``keras.utils.load_img`` where the picture has no orientation, no transparency and no
    16 bits, and ``policy.fast_jpeg`` is off. 16-bit colour keeps its high byte, as in Keras; 16-bit
    grey is divided by 257.

    Raises:
        RequestError: see ``open_picture`` and ``Picture.to_rgb``; nothing else is raised.
    """
    return open_picture(data, policy).to_rgb(size, interpolation)


def open_picture(data: bytes | memoryview, policy: DecodingPolicy) -> Picture:
    """Check everything that can be checked before pixels are decoded.

    Raises:
        NoImage: there are no bytes.
        ImageTooLarge: too many bytes or pixels.
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
    if kind == "webp":  # Pillow allocates the whole canvas when it opens one.
        _check_pixels(webp_size(data), policy)
    source = Source(data, allowed_reads(kind, len(data)))
    with pillow_errors(kind, source):
        image = PLUGINS[kind](source)
    _check_pixels(image.size, policy)
    scans = _checked_scans(image, data, source, policy) if isinstance(image, Jpeg) else 1
    return Picture(kind, source, image, scans, policy.fast_jpeg and kind == "jpeg")


def _kind(data: bytes, policy: DecodingPolicy) -> str:
    kind = kind_of(data)
    if kind is not None and kind in policy.formats:
        return kind
    accepted = ", ".join(name_of(each) for each in IMAGE_FORMATS if each in policy.formats)
    if kind is None:
        raise NotAnImage(f"the bytes are no picture of a known format; accepted: {accepted}")
    raise UnsupportedFormat(f"the picture has the format {name_of(kind)}; accepted: {accepted}")


def _check_pixels(size: tuple[int, int], policy: DecodingPolicy) -> None:
    width, height = size
    if width * height > policy.max_pixels:
        raise ImageTooLarge(
            f"the picture has {width} x {height} = {width * height} pixels; "
            f"at most {policy.max_pixels} are allowed"
        )


def _checked_scans(image: Jpeg, data: bytes, source: Source, policy: DecodingPolicy) -> int:
    """Return the number of scans, which the policy limits.

    Counting takes time. It is left out for a JPEG that is not progressive and whose first scan
    holds all colours: the decoder reads no other scan.
    """
    colours_of_first_scan = source.last[:1]
    if "progressive" not in image.info and colours_of_first_scan == bytes([image.layers]):
        return 1
    scans = 1 + data.count(b"\xff\xda", source.tell())
    most_pixels = _JPEG_SCANS * policy.max_pixels
    if scans > _MOST_JPEG_SCANS or scans * image.width * image.height > most_pixels:
        raise ImageTooLarge(
            f"the picture has {scans} scans of {image.width} x {image.height} pixels; at most "
            f"{_MOST_JPEG_SCANS} scans are allowed, and {most_pixels} pixels in all of them"
        )
    return scans


# -- pixels ---------------------------------------------------------------------------------------

_ORIENTATION_TAG = 0x0112
_SHORT = 3
_UPRIGHT_BY = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def _upright(image: Image.Image) -> Image.Image:
    method = _UPRIGHT_BY.get(_orientation(image.info.get("exif")))
    return image if method is None else image.transpose(method)


def _orientation(exif: object) -> int:
    """Return the orientation in EXIF; 1 (upright) where there is none or it is invalid.

    Pillow's own reader warns, and takes longer than decoding a small picture.
    """
    if not isinstance(exif, bytes):
        return 1
    tiff = exif.removeprefix(b"Exif\0\0")
    order = {b"II": "<", b"MM": ">"}.get(tiff[:2], "<")
    try:
        (directory,) = struct.unpack_from(order + "I", tiff, 4)
        (entries,) = struct.unpack_from(order + "H", tiff, directory)
        for start in range(directory + 2, directory + 2 + 12 * entries, 12):
            tag, kind, _, value = struct.unpack_from(order + "HHIH", tiff, start)
            if (tag, kind) == (_ORIENTATION_TAG, _SHORT):
                return int(value)
    except struct.error:
        pass
    return 1


def _rgb(image: Image.Image) -> Image.Image:
    if image.mode == "I;16":
        image = _eight_bits(image)
    if image.has_transparency_data:
        return _on_white(image)
    return image if image.mode == "RGB" else image.convert("RGB")


def _eight_bits(image: Image.Image) -> Image.Image:
    table = [(value + 128) // 257 for value in range(2**16)]
    transparent = image.info.pop("transparency", None)
    if transparent is not None:
        table[transparent] = 255
    return image.convert("I").point(table, "L")


def _on_white(image: Image.Image) -> Image.Image:
    if image.mode not in {"RGBA", "LA"}:
        image = image.convert("RGBA")
    white = Image.new("RGB", image.size, "white")
    white.paste(image, mask=image)
    return white
