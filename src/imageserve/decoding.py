"""Turn the bytes of a picture into the pixels a model takes. The only door to Pillow.

It recognises the format, checks the limits against the header before a single pixel is decoded,
and gives raw RGB. It is not a validator: a picture that decodes is good, whatever else its file
holds. It does no I/O, reads no settings and does not scale numbers the way a model wants them.

The bytes come from anyone. Whatever they are, the answer is pixels or a ``RequestError``.
"""

import re
import struct
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from io import BytesIO

from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from imageserve.errors import (
    CorruptImage,
    ImageTooLarge,
    NoImage,
    NotAnImage,
    TruncatedImage,
    UnsupportedFormat,
)

#: Every format that can be switched on.
FORMATS = ("jpeg", "png", "webp", "gif", "bmp")

#: The interpolations of ``keras.utils.load_img`` that Pillow has.
INTERPOLATIONS = ("nearest", "bilinear", "bicubic", "hamming", "box", "lanczos")

# DecodingPolicy.max_pixels is the limit. Pillow's own would refuse what a larger one allows, and
# warn, which no thread can silence for itself alone.
Image.MAX_IMAGE_PIXELS = None
# An animated PNG with a senseless frame count: its first picture is all we want.
warnings.filterwarnings("ignore", message="Invalid APNG", module=r"PIL\.")

# The formats we decode, and those only recognised to be able to name them.
_SIGNATURES = re.compile(
    rb"""
      (?P<jpeg> \xff\xd8\xff )
    | (?P<png>  \x89PNG\r\n\x1a\n )
    | (?P<webp> RIFF.{4}WEBP )
    | (?P<gif>  GIF8[79]a )
    | (?P<bmp>  BM.{13}\0\0\0 )                        # "BM" alone also begins much text
    | (?P<tiff> II[*+]\0 | MM\0[*+] )
    | (?P<avif> .{4}ftypavi[fs] )
    | (?P<heic> .{4}ftyp(?:he[iv][cxms]|mif1|msf1) )
    | (?P<jpeg_2000> \0{3}\x0cjP\x20\x20\r\n\x87\n | \xff\x4f\xff\x51 )
    | (?P<jpeg_xl>   \0{3}\x0cJXL\x20\r\n\x87\n | \xff\x0a )
    | (?P<ico>  \0\0[\1\2]\0[^\0]\0 )
    | (?P<psd>  8BPS\0[\1\2] )
    | (?P<pdf>  %PDF- )
    | (?P<svg>  (?:\xef\xbb\xbf)?\s*<(?:svg|[?!].{1,2000}?<svg)[\s>] )
    """,
    re.DOTALL | re.VERBOSE,
)

# Pillow reads headers step by step, so a picture in a million pieces would keep it busy. A JPEG
# has up to a few hundred segments of four steps each; ten thousand of EXIF, which Pillow joins one
# by one, cost a minute. A PNG comes in chunks of three steps each, seldom below 8 KB.
_LEAST_READS = 2_000
_BYTES_PER_READ = {"jpeg": 2**14}
_BYTES_PER_READ_OF_OTHERS = 2**7
# A JPEG may come in any number of scans, each over all pixels and a few bytes long: ten MB can
# cost half an hour. Encoders make about ten; a picture of the largest size may have this many.
_JPEG_SCANS = 40

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


class Picture:
    """A picture whose header is read and allowed; its pixels are still encoded.

    Made by ``open_picture``, for one thread at a time.
    """

    def __init__(self, kind: str, source: "_Source", image: ImageFile.ImageFile) -> None:
        self.kind = kind
        self._source = source
        self._image = image

    @property
    def pixels(self) -> int:
        """Width times height: a measure of what ``to_rgb`` will cost."""
        return self._image.width * self._image.height

    def to_rgb(self, size: tuple[int, int], interpolation: str) -> bytes:
        """Decode, turn upright, lay on white, resize to (height, width).

        The result is row by row, three bytes a pixel.

        Raises:
            TruncatedImage: the bytes end before the picture does.
            CorruptImage: the bytes cannot be decoded.
        """
        height, width = size
        resampling = Image.Resampling[interpolation.upper()]
        with _pillow_errors(self.kind, self._source):
            self._image.load()
            image = _rgb(_upright(self._image))
            if image.size != (width, height):
                image = image.resize((width, height), resampling)
            return image.tobytes()


def decode(
    data: bytes | memoryview, size: tuple[int, int], interpolation: str, policy: DecodingPolicy
) -> bytes:
    """Turn a picture into raw RGB of (height, width): row by row, three bytes a pixel.

    Equal to ``keras.utils.load_img`` where the picture has no orientation, transparency or 16
    bits. 16-bit colour keeps its high byte, as there; 16-bit grey is divided by 257.

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
    source = _Source(data, _reads(kind, len(data)))
    with _pillow_errors(kind, source):
        image = _PLUGINS[kind](source)
    _check_pixels(image.size, policy)
    if isinstance(image, _Jpeg):
        _check_scans(image, data, source, policy)
    return Picture(kind, source, image)


class _Source(BytesIO):
    """The bytes, as a file that knows how it was read."""

    ran_out = False
    """More was wanted than there is."""
    last = b""
    """What the latest read gave."""

    def __init__(self, data: bytes, reads: int) -> None:
        super().__init__(data)
        self._reads_left = reads

    def read(self, size: int | None = -1, /) -> bytes:
        self._count()
        self.last = chunk = super().read(size)
        # Decoders read on in large blocks, of which the last is short. That is no sign of anything.
        if size and len(chunk) < size and (not chunk or size != ImageFile.MAXBLOCK):
            self.ran_out = True
        return chunk

    def _count(self) -> None:
        self._reads_left -= 1
        if self._reads_left < 0:
            raise OSError("the picture is in too many pieces")


class _Jpeg(JpegImageFile):
    """A JPEG, or the first one of an MPO."""

    def _read_dpi_from_exif(self) -> None:
        """Do nothing: nobody wants the dpi, and EXIF that makes no sense would raise or warn."""


class _Gif(GifImageFile):
    """The first frame of a GIF."""

    @property
    def disposal_method(self) -> int:
        """Always "leave it". Others prepare the next frame, whose size nobody has checked yet."""
        return 0

    @disposal_method.setter
    def disposal_method(self, method: int) -> None:
        pass


class _Png(PngImageFile):
    """A PNG whose transparent colour has the range of its pixels."""

    def _open(self) -> None:
        super()._open()
        key = self.info.get("transparency")
        rawmode = self.tile[0][3] if self.tile else None
        # Pillow spreads the pixels to eight bits and leaves the colour at two, four or sixteen.
        if isinstance(key, int) and rawmode in {"L;2", "L;4"}:
            self.info["transparency"] = key * {"L;2": 85, "L;4": 17}[rawmode]
        elif isinstance(key, tuple) and rawmode == "RGB;16B":
            self.info["transparency"] = tuple(value >> 8 for value in key)


# Image.open() would run the first plugin that says yes, and tells less of what went wrong.
_PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": _Jpeg,
    "png": _Png,
    "webp": WebPImageFile,
    "gif": _Gif,
    "bmp": BmpImageFile,
}


@contextmanager
def _pillow_errors(kind: str, source: _Source) -> Iterator[None]:
    """Callers know our errors only; the original stays attached as the cause."""
    try:
        yield
    # Pillow raises nearly everything on hostile bytes: SyntaxError, struct.error, MemoryError...
    except Exception as error:
        if source.ran_out or "truncated" in str(error).lower():
            raise _truncated(kind) from error
        raise _corrupt(kind) from error


def _truncated(kind: str) -> TruncatedImage:
    return TruncatedImage(f"the {_name(kind)} ends before it is complete")


def _corrupt(kind: str) -> CorruptImage:
    return CorruptImage(f"the bytes begin like a {_name(kind)} and cannot be decoded")


def _name(kind: str) -> str:
    return kind.upper().replace("_", " ")


def _names(policy: DecodingPolicy) -> str:
    return ", ".join(_name(kind) for kind in FORMATS if kind in policy.formats)


def _check_bytes(count: int, policy: DecodingPolicy) -> None:
    if count == 0:
        raise NoImage("the picture is empty")
    if count > policy.max_bytes:
        raise ImageTooLarge(f"the picture has {count} bytes, allowed are {policy.max_bytes}")


def _kind(data: bytes, policy: DecodingPolicy) -> str:
    match = _SIGNATURES.match(data, 0, 4_000)
    if match is None:
        raise NotAnImage(f"the bytes are no known kind of picture, accepted are {_names(policy)}")
    kind = str(match.lastgroup)
    if kind not in policy.formats:
        raise UnsupportedFormat(
            f"the picture is of the format {_name(kind)}, accepted are {_names(policy)}"
        )
    return kind


def _check_pixels(size: tuple[int, int], policy: DecodingPolicy) -> None:
    width, height = size
    if width * height > policy.max_pixels:
        raise ImageTooLarge(
            f"the picture has {width} x {height} = {width * height} pixels, "
            f"allowed are {policy.max_pixels}"
        )


def _reads(kind: str, count: int) -> int:
    return _LEAST_READS + count // _BYTES_PER_READ.get(kind, _BYTES_PER_READ_OF_OTHERS)


def _check_webp(data: bytes, policy: DecodingPolicy) -> None:
    """A WebP's canvas is allocated as soon as Pillow opens it, so look before."""
    if len(data) < max(25, 8 + int.from_bytes(data[4:8], "little")):
        raise _truncated("webp")
    _check_pixels(_webp_size(data), policy)


def _webp_size(data: bytes) -> tuple[int, int]:
    def number(start: int, stop: int) -> int:
        return int.from_bytes(data[start:stop], "little")

    match data[12:16]:
        case b"VP8X":
            return number(24, 27) + 1, number(27, 30) + 1
        case b"VP8L" if data[20] == 0x2F:
            return (number(21, 25) & 0x3FFF) + 1, (number(21, 25) >> 14 & 0x3FFF) + 1
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":
            return number(26, 28) & 0x3FFF, number(28, 30) & 0x3FFF
    raise _corrupt("webp")


def _check_scans(image: _Jpeg, data: bytes, source: _Source, policy: DecodingPolicy) -> None:
    """Counting takes a while, so not where one scan holds all colours and the decoder ends."""
    colours_of_first_scan = source.last[:1]
    if "progressive" not in image.info and colours_of_first_scan == bytes([image.layers]):
        return
    scans = 1 + data.count(b"\xff\xda", source.tell())
    if scans * image.width * image.height > _JPEG_SCANS * policy.max_pixels:
        raise ImageTooLarge(
            f"the picture has {scans} scans of {image.width} x {image.height} pixels, "
            f"allowed are {_JPEG_SCANS * policy.max_pixels} pixels in all scans"
        )


def _upright(image: Image.Image) -> Image.Image:
    method = _UPRIGHT_BY.get(_orientation(image.info.get("exif")))
    return image if method is None else image.transpose(method)


def _orientation(exif: object) -> int:
    """Find the orientation in EXIF; 1, upright, where there is none or it makes no sense.

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
