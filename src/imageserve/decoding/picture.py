"""A picture from its bytes to its pixels: check what the header tells, then decode and resize."""

from dataclasses import dataclass

from PIL import Image, ImageFile

from imageserve.decoding.formats import FORMATS, kind_of, name_of, truncated, webp_size
from imageserve.decoding.plugins import PLUGINS, Jpeg, Source, allowed_reads, pillow_errors
from imageserve.decoding.rgb import rgb, upright
from imageserve.errors import ImageTooLarge, NoImage, NotAnImage, UnsupportedFormat

#: The interpolations of ``keras.utils.load_img`` that Pillow has.
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "hamming", "box", "lanczos")

FAST_FACTOR = 2
"""FAST_JPEG: a JPEG is decoded at a half, a quarter or an eighth of its size where what comes out
still has this many times the model's height and width. The decoder averages what it leaves out, and
resizing does the rest from at least four pixels for each: close to what all pixels would give."""

# A JPEG may come in any number of scans, each over all pixels and a few bytes long: ten MB can
# cost half an hour. Encoders make about ten; a picture of the largest size may have this many.
_JPEG_SCANS = 40
_MOST_JPEG_SCANS = 100


@dataclass(frozen=True, slots=True)
class DecodingPolicy:
    """What is accepted."""

    max_bytes: int = 10 * 2**20
    """The most bytes of one encoded picture."""
    max_pixels: int = 50_000_000
    """The most pixels, width times height, as the header has them. Decoding takes about four
    bytes of memory for each, eight for a picture with transparency or to be turned, and up to
    sixteen for a WebP."""
    formats: frozenset[str] = frozenset(FORMATS)
    """The formats switched on, some of ``FORMATS``."""
    fast_jpeg: bool = False
    """Whether large JPEGs may be decoded at a reduced size (``FAST_FACTOR``): a third of the time
    and less, for pixels that differ a little. Off, they equal ``keras.utils.load_img``."""


class Picture:
    """A picture whose header is read and allowed; its pixels are still encoded.

    Made by ``open_picture``, for one thread at a time.
    """

    def __init__(
        self,
        kind: str,
        source: "Source",
        image: ImageFile.ImageFile,
        *,
        scans: int = 1,
        fast: bool = False,
    ) -> None:
        self.kind = kind
        self._source = source
        self._image = image
        self._scans = scans
        self._fast = fast

    @property
    def pixels(self) -> int:
        """Width times height, as often as each is drawn: a measure of what ``to_rgb`` costs."""
        return self._image.width * self._image.height * self._scans

    def to_rgb(self, size: tuple[int, int], interpolation: str) -> bytes:
        """Decode, turn upright, lay on white, resize to (height, width).

        The result is row by row, three bytes a pixel.

        Raises:
            TruncatedImage: the bytes end before the picture does.
            CorruptImage: the bytes cannot be decoded.
        """
        height, width = size
        resampling = Image.Resampling[interpolation.upper()]
        with pillow_errors(self.kind, self._source):
            if self._fast and interpolation != "nearest":
                _reduce(self._image, height, width)
            self._image.load()
            image = rgb(upright(self._image))
            if image.size != (width, height):
                image = image.resize((width, height), resampling)
            return image.tobytes()


def _reduce(image: ImageFile.ImageFile, height: int, width: int) -> None:
    """Have a JPEG decoded at the smallest size that is large enough for (height, width).

    Not for ``nearest``, which picks single pixels: it would pick averages. Whatever way the picture
    is to be turned, both sides are large enough.
    """
    side = FAST_FACTOR * max(height, width)
    image.draft(None, (side, side))


def decode(
    data: bytes | memoryview, size: tuple[int, int], interpolation: str, policy: DecodingPolicy
) -> bytes:
    """Turn a picture into raw RGB of (height, width): row by row, three bytes a pixel.

    Equal to ``keras.utils.load_img`` where the picture has no orientation, transparency or 16
    bits, and ``policy.fast_jpeg`` is off. 16-bit colour keeps its high byte, as there; 16-bit grey
    is divided by 257.

    Raises:
        RequestError: what ``open_picture`` and ``Picture.to_rgb`` raise, and nothing else.
    """
    return open_picture(data, policy).to_rgb(size, interpolation)


def open_picture(data: bytes | memoryview, policy: DecodingPolicy) -> Picture:
    """Check all that can be checked without decoding pixels.

    Raises:
        NoImage: there are no bytes.
        ImageTooLarge: too many bytes or pixels.
        NotAnImage: the bytes are no picture of any known kind.
        UnsupportedFormat: they are, of a kind that is not accepted.
        TruncatedImage: the bytes end within the header.
        CorruptImage: the header makes no sense.
    """
    data = bytes(data)
    _check_bytes(len(data), policy)
    kind = _kind(data, policy)
    if kind == "webp":
        _check_webp(data, policy)
    source = Source(data, allowed_reads(kind, len(data)))
    with pillow_errors(kind, source):
        image = PLUGINS[kind](source)
    _check_pixels(image.size, policy)
    scans = _checked_scans(image, data, source, policy) if isinstance(image, Jpeg) else 1
    return Picture(kind, source, image, scans=scans, fast=policy.fast_jpeg and kind == "jpeg")


def _names(policy: DecodingPolicy) -> str:
    return ", ".join(name_of(kind) for kind in FORMATS if kind in policy.formats)


def _check_bytes(count: int, policy: DecodingPolicy) -> None:
    if count == 0:
        raise NoImage("the picture is empty")
    if count > policy.max_bytes:
        raise ImageTooLarge(f"the picture has {count} bytes, allowed are {policy.max_bytes}")


def _kind(data: bytes, policy: DecodingPolicy) -> str:
    kind = kind_of(data)
    if kind is None:
        raise NotAnImage(f"the bytes are no known kind of picture, accepted are {_names(policy)}")
    if kind not in policy.formats:
        raise UnsupportedFormat(
            f"the picture is of the format {name_of(kind)}, accepted are {_names(policy)}"
        )
    return kind


def _check_pixels(size: tuple[int, int], policy: DecodingPolicy) -> None:
    width, height = size
    if width * height > policy.max_pixels:
        raise ImageTooLarge(
            f"the picture has {width} x {height} = {width * height} pixels, "
            f"allowed are {policy.max_pixels}"
        )


def _check_webp(data: bytes, policy: DecodingPolicy) -> None:
    """A WebP's canvas is allocated as soon as Pillow opens it, so look before."""
    if len(data) < max(25, 8 + int.from_bytes(data[4:8], "little")):
        raise truncated("webp")
    _check_pixels(webp_size(data), policy)


def _checked_scans(image: Jpeg, data: bytes, source: Source, policy: DecodingPolicy) -> int:
    """Count the scans.

    That takes a while, so not where one scan holds all colours and the decoder ends.
    """
    colours_of_first_scan = source.last[:1]
    if "progressive" not in image.info and colours_of_first_scan == bytes([image.layers]):
        return 1
    scans = 1 + data.count(b"\xff\xda", source.tell())
    most_pixels = _JPEG_SCANS * policy.max_pixels
    if scans > _MOST_JPEG_SCANS or scans * image.width * image.height > most_pixels:
        raise ImageTooLarge(
            f"the picture has {scans} scans of {image.width} x {image.height} pixels, allowed are "
            f"{_MOST_JPEG_SCANS} scans and {most_pixels} pixels in all of them"
        )
    return scans
