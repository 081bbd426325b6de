"""Pillow's decoders, made safe for bytes from anyone: one for each format, called by its name."""

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

from imageserve.decoding.formats import corrupt, truncated

# DecodingPolicy.max_pixels is the limit. Pillow's own would refuse what a larger one allows, and
# warn, which no thread can silence for itself alone.
Image.MAX_IMAGE_PIXELS = None
# An animated PNG with a senseless frame count: its first picture is all we want.
warnings.filterwarnings("ignore", message="Invalid APNG", module=r"PIL\.")

# Pillow reads headers step by step, so a picture in a million pieces would keep it busy. A JPEG
# has up to a few hundred segments of four steps each; ten thousand of EXIF, which Pillow joins one
# by one, cost a minute. A PNG comes in chunks of three steps each, seldom below 8 KB.
_LEAST_READS = 2_000
_BYTES_PER_READ = {"jpeg": 2**14}
_BYTES_PER_READ_OF_OTHERS = 2**7


class Source(BytesIO):
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


class Jpeg(JpegImageFile):
    """A JPEG, or the first one of an MPO."""

    def _read_dpi_from_exif(self) -> None:
        """Do nothing: nobody wants the dpi, and EXIF that makes no sense would raise or warn."""


class Gif(GifImageFile):
    """The first frame of a GIF."""

    @property
    def disposal_method(self) -> int:
        """Always "leave it". Others prepare the next frame, whose size nobody has checked yet."""
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
        # Pillow spreads the pixels to eight bits and leaves the colour at two, four or sixteen.
        if isinstance(key, int) and rawmode in {"L;2", "L;4"}:
            self.info["transparency"] = key * {"L;2": 85, "L;4": 17}[rawmode]
        elif isinstance(key, tuple) and rawmode == "RGB;16B":
            self.info["transparency"] = tuple(value >> 8 for value in key)


# Image.open() would run the first plugin that says yes, and tells less of what went wrong.
PLUGINS: dict[str, type[ImageFile.ImageFile]] = {
    "jpeg": Jpeg,
    "png": Png,
    "webp": WebPImageFile,
    "gif": Gif,
    "bmp": BmpImageFile,
}


@contextmanager
def pillow_errors(kind: str, source: Source) -> Iterator[None]:
    """Callers know our errors only; the original stays attached as the cause."""
    try:
        yield
    # Pillow raises nearly everything on hostile bytes: SyntaxError, struct.error, MemoryError...
    except Exception as error:
        if source.ran_out or "truncated" in str(error).lower():
            raise truncated(kind) from error
        raise corrupt(kind) from error


def allowed_reads(kind: str, count: int) -> int:
    return _LEAST_READS + count // _BYTES_PER_READ.get(kind, _BYTES_PER_READ_OF_OTHERS)
