"""The header of a BMP. One that is run-length encoded is unpacked here: Pillow does it slowly."""

import struct
from functools import partial

from imageserve.decoding.bmp_rle import unpacked_rows
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
        self.header_size = header_size
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
