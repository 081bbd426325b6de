"""The formats of pictures: how each is recognised, the reader of its header, and its decoder."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BytesIO

from PIL import Image, ImageFile
from PIL.BmpImagePlugin import BmpImageFile
from PIL.GifImagePlugin import GifImageFile
from PIL.JpegImagePlugin import JpegImageFile
from PIL.PngImagePlugin import PngImageFile
from PIL.WebPImagePlugin import WebPImageFile

from imageserve.decoding.bmp_header import read_bmp
from imageserve.decoding.gif_header import read_gif
from imageserve.decoding.header import Header, corrupt, too_much_memory, truncated
from imageserve.decoding.jpeg_header import read_jpeg
from imageserve.decoding.png_header import read_png
from imageserve.decoding.webp_header import read_webp
from imageserve.errors import RequestError

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


# DecodingPolicy.max_pixels is the limit. Pillow's own limit could be lower, and it warns, which no
# thread can silence for itself alone.
Image.MAX_IMAGE_PIXELS = None


class Source(BytesIO):
    """The bytes as a file that records whether a read went past the end."""

    ran_out = False

    def read(self, size: int | None = -1, /) -> bytes:
        chunk = super().read(size)
        # Decoders read large blocks, and the last block is short: that alone means nothing.
        if size and len(chunk) < size and (not chunk or size != ImageFile.MAXBLOCK):
            self.ran_out = True
        return chunk


class Jpeg(JpegImageFile):
    """A JPEG whose dpi is not looked for."""

    def _read_dpi_from_exif(self) -> None:
        """Do nothing: the dpi is not used, and the header that is left has no EXIF."""


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
    "gif": GifImageFile,
    "bmp": BmpImageFile,
}


READERS: dict[str, Callable[[bytes], Header]] = {
    "jpeg": read_jpeg,
    "png": read_png,
    "webp": read_webp,
    "gif": read_gif,
    "bmp": read_bmp,
}


@contextmanager
def format_errors(kind: str, is_cut: Callable[[], bool]) -> Iterator[None]:
    """Turn whatever is raised on hostile bytes into a RequestError, with the original as its cause.

    Raises ImageTooLarge where there was too little memory.
    """
    try:
        yield
    except RequestError:
        raise
    except MemoryError as error:
        raise too_much_memory() from error
    # Pillow raises nearly anything: SyntaxError, struct.error, ...
    except Exception as error:
        if is_cut() or "truncated" in str(error).lower():
            raise truncated(kind) from error
        raise corrupt(kind) from error
