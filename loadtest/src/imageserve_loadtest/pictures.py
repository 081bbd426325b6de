"""The pictures that are sent, each with the answer that it must get.

The answers of real pictures are in a ``labels.csv`` beside them. The label of the stand-in model is
a hash of the pixels. For it, pictures are generated in the model's own size in lossless formats, so
that the model sees exactly the pixels that were hashed here. Each has a label of its own.
"""

import csv
import hashlib
import struct
import zlib
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
from io import BytesIO
from itertools import cycle, islice
from pathlib import Path
from random import Random
from typing import Any

from PIL import Image

from imageserve.errors import ImageserveError
from imageserve_loadtest.scenario import Scenario

LABELS_FILE = "labels.csv"
STAND_IN = "stand-in"
_BMP_EVERY = 16
"""One picture in 16 is a BMP. It is not compressed; more of them would need too much memory."""
_ANY_SIZE = (224, 224)
"""Size of broken pictures where the model's input size is unknown."""


class PicturesError(ImageserveError):
    """The pictures cannot be used. The message names the file."""


@dataclass(frozen=True, slots=True)
class Picture:
    """An encoded picture and its expected answer: a label, or one of some error codes."""

    name: str
    data: bytes
    label: str | None = None
    """The expected best label; None for a picture that is broken on purpose."""
    codes: frozenset[str] = frozenset()
    """The error codes that a broken picture may get."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What ``GET /models`` says about one model; empty where the target has no such page."""

    name: str = ""
    input_size: tuple[int, ...] = ()
    """Height and width in pixels."""
    stand_in: bool | None = None
    """Whether it is the stand-in; None where the target does not say, as old ones do."""

    @property
    def is_stand_in(self) -> bool:
        said = self.name == STAND_IN if self.stand_in is None else self.stand_in
        return said and len(self.input_size) == 2


# -- which pictures -----------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PictureSource:
    """The pictures of a scenario for one model: generated, from a folder, or learnt."""

    scenario: Scenario
    model: ModelFacts
    images: Path | None
    """The folder of real pictures, if there is one."""

    @property
    def kind(self) -> str:
        """``generated`` or ``files``."""
        source = self.scenario.pictures.source
        if source == "auto":
            return "generated" if self.model.is_stand_in else "files"
        return source

    async def good(self, learn: Callable[[Picture], Awaitable[Picture]] | None) -> list[Picture]:
        """Return the pictures that must get a label.

        Args:
            learn: asks the target for its answer to a real picture; None: use ``labels.csv``.

        Raises:
            PicturesError: there are no pictures, or they cannot be used.
        """
        if self.kind == "generated":
            return self._generated()
        if self.images is None:
            raise PicturesError(
                "there are no pictures to send: name a folder by --images DIR, with a labels.csv "
                "or with --learn; the source code of imageserve has one, loadtest/images"
            )
        if learn is None:
            return labelled(self.images)
        return [await learn(picture) for picture in unlabelled(self.images)]

    def broken(self) -> list[Picture]:
        """Return the pictures that must get an error."""
        mix = self.scenario.pictures
        kinds = mix.broken if mix.broken_share else ()
        return broken(kinds, self._size or _ANY_SIZE, self.scenario.seed)

    @property
    def _size(self) -> tuple[int, int] | None:
        """Height and width of the model's input."""
        size = self.model.input_size
        return (size[0], size[1]) if len(size) == 2 else None

    def _generated(self) -> list[Picture]:
        if self._size is None:
            raise PicturesError("the target does not tell its input size; use real pictures")
        return generated(self.scenario.pictures.distinct, self._size, self.scenario.seed)


class PictureSampler:
    """Draws the pictures of each request: all in turn, in a seeded order, some of them broken."""

    def __init__(
        self,
        good: Sequence[Picture],
        broken: Sequence[Picture] = (),
        *,
        broken_share: float = 0.0,
        per_request: int = 1,
        seed: str = "",
    ) -> None:
        self._random = Random(f"deck/{seed}")
        self._good = self._endless(good)
        self._broken = self._endless(broken)
        self._broken_share = broken_share
        self._per_request = per_request

    def draw(self) -> tuple[Picture, ...]:
        """Return the pictures of one request; at most one of them is broken."""
        pictures = list(islice(self._good, self._per_request))
        if self._broken_share and self._random.random() < self._broken_share:
            pictures[self._random.randrange(len(pictures))] = next(self._broken)
        return tuple(pictures)

    def _endless(self, pictures: Sequence[Picture]) -> Iterator[Picture]:
        # Each pod has its own order, so that they do not all send the same picture at once.
        return cycle(self._random.sample(pictures, len(pictures)))


# -- real pictures ------------------------------------------------------------------------------


def labelled(folder: Path) -> list[Picture]:
    """Read the pictures in a folder's ``labels.csv``.

    Its columns are ``file`` and ``label``. An optional column ``error`` has the code that a picture
    must get that is broken on purpose; its ``label`` is then empty.

    Raises:
        PicturesError: the file is missing, or a row or picture cannot be used.
    """
    path = folder / LABELS_FILE
    try:
        with path.open(newline="", encoding="utf-8") as file:
            rows = list(csv.DictReader(file))
    except FileNotFoundError as error:
        raise PicturesError(
            f"there is no {path} with the expected answer of each picture in the columns "
            "file,label; --learn asks the target itself before the load"
        ) from error
    except (OSError, UnicodeDecodeError) as error:
        raise PicturesError(f"{path}: cannot be read: {error}") from error
    if not rows:
        raise PicturesError(f"{path}: names no picture; it needs the columns file,label")
    return [_labelled(folder, row, f"{path}: line {i}") for i, row in enumerate(rows, start=2)]


def _labelled(folder: Path, row: dict[str, Any], where: str) -> Picture:
    name, label, code = (row.get(key) or "" for key in ("file", "label", "error"))
    if not name or bool(label) == bool(code):
        raise PicturesError(f"{where}: needs a file, and either a label or an error")
    try:
        data = (folder / name).read_bytes()
    except OSError as error:
        raise PicturesError(f"{where}: {name} cannot be read: {error}") from error
    return Picture(name, data, label or None, frozenset([code] if code else []))


def unlabelled(folder: Path) -> list[Picture]:
    """Read all files of a folder as pictures without an expected answer, for ``--learn``.

    Raises:
        PicturesError: there are none, or one cannot be read.
    """
    try:
        files = sorted(f for f in folder.iterdir() if f.is_file() and f.name != LABELS_FILE)
        pictures = [Picture(file.name, file.read_bytes()) for file in files]
    except OSError as error:
        raise PicturesError(f"{folder}: cannot be read: {error}") from error
    if not pictures:
        raise PicturesError(f"{folder}: has no files")
    return pictures


# -- pictures for the stand-in ------------------------------------------------------------------


def generated(count: int, size: tuple[int, int], seed: int) -> list[Picture]:
    """Return distinct pictures of (height, width) with the labels that the stand-in gives them."""
    drawn = Random(seed)
    formats = islice(cycle(_FORMATS), count)
    return [_generated(f"{STAND_IN}-{i}", fmt, size, drawn) for i, fmt in enumerate(formats)]


def stand_in_label(pixels: bytes) -> str:
    """Return the stand-in's label: the first 12 hexadecimal digits of the pixels' BLAKE2b."""
    return hashlib.blake2b(pixels).hexdigest()[:12]


_PNG: tuple[str, dict[str, Any]] = ("PNG", {"compress_level": 1})
_GIF: tuple[str, dict[str, Any]] = ("GIF", {})
_WEBP: tuple[str, dict[str, Any]] = ("WEBP", {"lossless": True, "quality": 0, "method": 0})
_BMP: tuple[str, dict[str, Any]] = ("BMP", {})
_FORMATS = (*((_PNG, _GIF, _WEBP) * (_BMP_EVERY // 3)), _BMP)
_SIDE = 8


def _generated(
    name: str, fmt: tuple[str, dict[str, Any]], size: tuple[int, int], drawn: Random
) -> Picture:
    """Draw 8 x 8 squares of random colours: quickly drawn, and small when encoded."""
    squares = Image.frombytes("P", (_SIDE, _SIDE), bytes(range(_SIDE * _SIDE)))
    # No colour reaches 255, so none of these is one of the stand-in's poison pictures.
    squares.putpalette(bytes(value % 255 for value in drawn.randbytes(3 * _SIDE * _SIDE)))
    height, width = size
    image = squares.resize((width, height), Image.Resampling.NEAREST)
    pixels = image.convert("RGB")
    name_of_format, options = fmt
    has_palette = name_of_format in ("PNG", "GIF")
    data = _encoded(image if has_palette else pixels, name_of_format, **options)
    return Picture(f"{name}.{name_of_format.lower()}", data, stand_in_label(pixels.tobytes()))


def _encoded(image: Image.Image, fmt: str, **options: Any) -> bytes:
    buffer = BytesIO()
    image.save(buffer, fmt, **options)
    return buffer.getvalue()


# -- pictures that are broken on purpose --------------------------------------------------------


def broken(kinds: Sequence[str], size: tuple[int, int], seed: int) -> list[Picture]:
    """Return some pictures of each kind, with the error codes that they may get.

    ``scenario.BROKEN_KINDS`` lists the kinds. ``poison`` makes a stand-in fail that was started
    with ``poison=1``; for any other model it is a normal picture.
    """
    drawn = Random(f"broken/{seed}")
    makers = [(kind, *_BROKEN[kind]) for kind in kinds]
    return [
        Picture(f"broken-{kind}-{i}", maker(drawn, size), None, frozenset(codes))
        for i in range(_BROKEN_EACH)
        for kind, codes, maker in makers
    ]


_BROKEN_EACH = 8
_CUT_CODES = ("truncated_image", "corrupt_image")


def _cut(drawn: Random, size: tuple[int, int]) -> bytes:
    """A JPEG that ends in the middle."""
    height, width = (max(side, 32) for side in size)
    noise = Image.frombytes("L", (width, height), drawn.randbytes(width * height))
    complete = _encoded(noise, "JPEG")
    return complete[: len(complete) * drawn.randrange(50, 90) // 100]


def _text(drawn: Random, size: tuple[int, int]) -> bytes:
    del size
    return f"<!DOCTYPE html><title>{drawn.randrange(10**9)}</title>".encode()


def _noise(drawn: Random, size: tuple[int, int]) -> bytes:
    del size
    return b"\x01" + drawn.randbytes(2_000)


def _empty(drawn: Random, size: tuple[int, int]) -> bytes:
    del drawn, size
    return b""


def _huge(drawn: Random, size: tuple[int, int]) -> bytes:
    """A small PNG whose header claims more pixels than any limit allows."""
    del size
    side = drawn.randrange(50_000, 60_000)
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    chunks = ((b"IHDR", header), (b"IDAT", zlib.compress(bytes(100))), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(_png_chunk(name, content) for name, content in chunks)


def _png_chunk(name: bytes, content: bytes) -> bytes:
    checksum = zlib.crc32(name + content)
    return struct.pack(">I", len(content)) + name + content + struct.pack(">I", checksum)


def _tiff(drawn: Random, size: tuple[int, int]) -> bytes:
    del size
    return _encoded(Image.frombytes("RGB", (8, 8), drawn.randbytes(192)), "TIFF")


def _poison(drawn: Random, size: tuple[int, int]) -> bytes:
    del drawn
    height, width = size
    return _encoded(Image.new("RGB", (width, height), (255, 0, 255)), "PNG")


_BROKEN: dict[str, tuple[Sequence[str], Callable[[Random, tuple[int, int]], bytes]]] = {
    "cut": (_CUT_CODES, _cut),
    "text": (("not_an_image",), _text),
    "noise": (("not_an_image",), _noise),
    "empty": (("no_image",), _empty),
    "huge": (("image_too_large",), _huge),
    "tiff": (("unsupported_format",), _tiff),
    "poison": (("model_failed",), _poison),
}
