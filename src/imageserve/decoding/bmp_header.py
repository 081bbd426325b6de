"""The header of a BMP. One that is run-length encoded is unpacked here: Pillow does it slowly."""

import struct
from functools import partial

from imageserve.decoding.header import Header, corrupt, truncated

_HEADER_SIZES = (12, 40, 52, 56, 64, 108, 124)
_RLE = {1: 8, 2: 4}
"""Bits of a pixel by the compression."""
_NS_PER_PIXEL = 2.5
_NS_PER_RUN = 800.0
_MOST_COLOURS = 256


def read_bmp(data: bytes) -> Header:
    """Read the header.

    Raises TruncatedImage and CorruptImage.
    """
    (header_size,) = struct.unpack_from("<I", data, 14) if len(data) >= 18 else (0,)
    if len(data) < 26 or len(data) < 14 + header_size <= 14 + max(_HEADER_SIZES):
        raise truncated("bmp")
    if header_size not in _HEADER_SIZES:
        raise corrupt("bmp")
    compression = colours = 0
    if header_size == 12:
        width, height, _, bits = struct.unpack_from("<HHHH", data, 18)
    else:
        width, height, _, bits, compression = struct.unpack_from("<IIHHI", data, 18)
        (colours,) = struct.unpack_from("<I", data, 46)
        if data[25] == 0xFF:  # Rows from the top.
            height = 2**32 - height
    if not width or not height:
        raise corrupt("bmp")
    entry = 3 if header_size == 12 else 4
    layout = _Layout(data, header_size, (width, height), bits, entry, colours or 1 << bits)
    if compression in _RLE:
        if bits != _RLE[compression]:
            raise corrupt("bmp")
        return _run_length_header(layout)
    return Header(
        "bmp",
        (width, height),
        layout.parts() if bits <= 8 else (data,),
        width * height * _NS_PER_PIXEL / 1e9,
        bytes_per_pixel=1 if bits <= 8 else 4,
        is_rgb=bits in (16, 24),
        is_transparent=bits == 32,
    )


class _Layout:
    """Where the palette and the pixels of a BMP are."""

    def __init__(
        self,
        data: bytes,
        header_size: int,
        size: tuple[int, int],
        bits: int,
        entry: int,
        colours: int,
    ) -> None:
        self.data = data
        self.size = size
        self.bits = bits
        self.palette_at = 14 + header_size
        self.entry = entry
        self.colours = colours
        (offset,) = struct.unpack_from("<I", data, 10)
        if offset in (0, self.palette_at):
            offset = self.palette_at + entry * colours
        self.pixels_at = offset

    def parts(self) -> tuple[bytes | memoryview, ...]:
        """Return the picture, with no more colours in its palette than a pixel can name."""
        if self.colours <= _MOST_COLOURS:
            return (self.data,)
        head = bytearray(self.data[: self.palette_at])
        struct.pack_into("<I", head, 10, self.pixels_at)
        struct.pack_into("<I", head, 46, 1 << self.bits)
        return bytes(head), memoryview(self.data)[self.palette_at :]


def _run_length_header(layout: _Layout) -> Header:
    width, height = layout.size
    runs = (len(layout.data) - layout.pixels_at) // 2
    return Header(
        "bmp",
        layout.size,
        (),
        (width * height * _NS_PER_PIXEL + max(0, runs) * _NS_PER_RUN) / 1e9,
        bytes_per_pixel=1,
        working_bytes_per_pixel=3,
        unpacked=partial(_unpacked, layout),
    )


def _unpacked(layout: _Layout) -> bytes:
    """Return the same picture without compression, at eight bits."""
    width, height = layout.size
    runs = layout.data[layout.pixels_at :]
    rows = unpacked_rows(runs, width, height, layout.bits == 4)
    colours = min(layout.colours, _MOST_COLOURS)
    palette = layout.data[layout.palette_at :][: 4 * colours].ljust(4 * _MOST_COLOURS, b"\0")
    at = 14 + 40 + len(palette)
    (stored_height,) = struct.unpack_from("<I", layout.data, 22)
    head = b"BM" + struct.pack("<IHHI", at + len(rows), 0, 0, at)
    info = struct.pack("<IIIHHIIIIII", 40, width, stored_height, 1, 8, 0, 0, 0, 0, _MOST_COLOURS, 0)
    return b"".join((head, info, palette, rows))


# -- run-length encoded pixels ---------------------------------------------------------------------


_RUNS = [bytes([value]) * 255 for value in range(256)]
_PAIRS = [bytes([value >> 4, value & 15]) for value in range(256)]
_PAIR_RUNS = [pair * 128 for pair in _PAIRS]
"""The longest run of each byte: at eight bits a pixel, and at four."""
_END_OF_LINE, _END_OF_PICTURE, _MOVE = range(3)


def unpacked_rows(runs: bytes, width: int, height: int, has_pairs: bool) -> bytearray:
    """Return the rows, one byte for each pixel, each row padded to a multiple of four.

    What no run fills is colour 0. ``has_pairs``: a byte of ``runs`` holds two pixels.

    Raises TruncatedImage where the runs end before the last row.
    """
    canvas = _Canvas(width, height, has_pairs)
    patterns = _PAIR_RUNS if has_pairs else _RUNS
    at, last = 0, len(runs) - 1
    while canvas.row < len(canvas.rows):
        if at >= last:
            if canvas.is_full:
                break
            raise truncated("bmp")
        count, value = runs[at], runs[at + 1]
        at += 2
        if count:
            canvas.put(patterns[value], count)
        elif value == _END_OF_PICTURE:
            break
        else:
            at += canvas.follow(value, runs, at)
    return canvas.rows


class _Canvas:
    """The rows, and the place of the next pixel."""

    def __init__(self, width: int, height: int, has_pairs: bool) -> None:
        self.stride = width + 3 & ~3
        self.rows = bytearray(self.stride * height)
        self.row = self.x = 0
        self._width = width
        self._has_pairs = has_pairs

    @property
    def is_full(self) -> bool:
        return self.row + self.stride == len(self.rows) and self.x >= self._width

    def put(self, pixels: bytes, count: int) -> None:
        """Put the first pixels; what does not fit into the row is left out."""
        at, room = self.row + self.x, min(count, self._width - self.x)
        self.rows[at : at + room] = pixels[:room]
        self.x += room

    def follow(self, order: int, runs: bytes, at: int) -> int:
        """Do what stands behind a zero; return how many more bytes it takes."""
        if order == _END_OF_LINE:
            self.x, self.row = 0, self.row + self.stride
            return 0
        size = (order + 1) // 2 if self._has_pairs else order
        content = runs[at : at + size] if order != _MOVE else runs[at : at + 2]
        if len(content) < (size if order != _MOVE else 2):
            raise truncated("bmp")
        if order == _MOVE:
            self.x = min(self._width, self.x + content[0])
            self.row += self.stride * content[1]
            return 2
        pixels = b"".join(map(_PAIRS.__getitem__, content)) if self._has_pairs else content
        self.put(pixels, order)
        return size + (size & 1)
