"""The formats of pictures: how they are recognised, and a safe Pillow decoder for each."""

import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from io import BytesIO

from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from imageserve.errors import CorruptImage, TruncatedImage

# The formats that can be decoded, and others that are only recognised, for the error message.
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


def kind_of(data: bytes) -> str | None:
    """Return the format by its signature: one of `IMAGE_FORMATS`, or one only recognised."""
    match = _SIGNATURES.match(data, 0, 4_000)
    return None if match is None else str(match.lastgroup)


def truncated(kind: str) -> TruncatedImage:
    return TruncatedImage(f"the {name_of(kind)} ends before it is complete")


def corrupt(kind: str) -> CorruptImage:
    return CorruptImage(f"the bytes begin like a {name_of(kind)} and cannot be decoded")


def name_of(kind: str) -> str:
    return kind.upper().replace("_", " ")


def webp_size(data: bytes) -> tuple[int, int]:
    """Read width and height from the header of a WebP."""
    if len(data) < max(25, 8 + int.from_bytes(data[4:8], "little")):
        raise truncated("webp")

    def number(start: int, stop: int) -> int:
        return int.from_bytes(data[start:stop], "little")

    match data[12:16]:
        case b"VP8X":
            return number(24, 27) + 1, number(27, 30) + 1
        case b"VP8L" if data[20] == 0x2F:
            return (number(21, 25) & 0x3FFF) + 1, (number(21, 25) >> 14 & 0x3FFF) + 1
        case b"VP8 " if data[23:26] == b"\x9d\x01\x2a":
            return number(26, 28) & 0x3FFF, number(28, 30) & 0x3FFF
    raise corrupt("webp")


# DecodingPolicy.max_pixels is the limit. Pillow's own limit could be lower, and it warns, which no
# thread can silence for itself alone.
Image.MAX_IMAGE_PIXELS = None
# An animated PNG with an invalid frame count: only its first picture is used.
warnings.filterwarnings("ignore", message="Invalid APNG", module=r"PIL\.")

# Pillow reads headers in small steps, so a picture in a million pieces would keep it busy. A usual
# JPEG has up to a few hundred segments of four reads each; ten thousand EXIF segments, which Pillow
# joins one by one, would take a minute. A PNG chunk takes three reads and is seldom below 8 KB.
_LEAST_READS = 2_000
_BYTES_PER_READ = {"jpeg": 2**14}
_BYTES_PER_READ_OF_OTHERS = 2**7


class Source(BytesIO):
    """The bytes as a file that records and limits its reads."""

    ran_out = False
    """Whether a read went past the end."""
    last = b""
    """The result of the latest read."""

    def __init__(self, data: bytes, reads: int) -> None:
        super().__init__(data)
        self._reads_left = reads

    def read(self, size: int | None = -1, /) -> bytes:
        self._reads_left -= 1
        if self._reads_left < 0:
            raise OSError("the picture is in too many pieces")
        self.last = chunk = super().read(size)
        # Decoders read large blocks, and the last block is short: that alone means nothing.
        if size and len(chunk) < size and (not chunk or size != ImageFile.MAXBLOCK):
            self.ran_out = True
        return chunk


class Jpeg(JpegImageFile):
    """A JPEG, or the first one of an MPO."""

    def _read_dpi_from_exif(self) -> None:
        """Do nothing: the dpi is not used, and invalid EXIF would raise or warn."""


class Gif(GifImageFile):
    """The first frame of a GIF."""

    @property
    def disposal_method(self) -> int:
        """Always "leave it": the others prepare the next frame, whose size is not checked."""
        return 0

    @disposal_method.setter
    def disposal_method(self, method: int) -> None:
        pass


class Png(PngImageFile):
    """A PNG whose transparent colour has the range of its pixels."""

    def _open(self) -> None:
        super()._open()
        key = self.info.get("transparency")
        rawmode = self.tile[0][3] if self.tile else None
        # Pillow converts the pixels to eight bits, but leaves this colour at two, four or sixteen.
        if isinstance(key, int) and rawmode in {"L;2", "L;4"}:
            self.info["transparency"] = key * {"L;2": 85, "L;4": 17}[rawmode]
        elif isinstance(key, tuple) and rawmode == "RGB;16B":
            self.info["transparency"] = tuple(value >> 8 for value in key)


# Image.open() would take the first plugin that accepts the bytes, and hides why one failed.
PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": Jpeg,
    "png": Png,
    "webp": WebPImageFile,
    "gif": Gif,
    "bmp": BmpImageFile,
}


@contextmanager
def pillow_errors(kind: str, source: Source) -> Iterator[None]:
    """Turn whatever Pillow raises into a RequestError, with the original as its cause."""
    try:
        yield
    # On hostile bytes Pillow raises nearly anything: SyntaxError, struct.error, MemoryError...
    except Exception as error:
        if source.ran_out or "truncated" in str(error).lower():
            raise truncated(kind) from error
        raise corrupt(kind) from error


def allowed_reads(kind: str, count: int) -> int:
    return _LEAST_READS + count // _BYTES_PER_READ.get(kind, _BYTES_PER_READ_OF_OTHERS)
