"""The header of a GIF: its blocks up to the pixels of the first frame."""

import struct

from imageserve.decoding.header import MOST_PIECES, Header, corrupt, too_many_pieces, truncated

_NS_PER_PIXEL, _NS_PER_BYTE = 5.0, 8.0
_EXTENSION, _FRAME, _END = b"!,;"
_GRAPHIC_CONTROL = 0xF9


def read_gif(data: bytes) -> Header:
    """Read the blocks before the pixels of the first frame.

    Raises TruncatedImage, CorruptImage, and ImageTooLarge where there are too many.
    """
    if len(data) < 13:
        raise truncated("gif")
    width, height = struct.unpack_from("<HH", data, 6)
    start = 13 + _palette_bytes(data[10])
    frame, control = _find_frame(data, start)
    x, y, frame_width, frame_height, flags = struct.unpack_from("<HHHHB", data, frame + 1)
    size = max(width, x + frame_width), max(height, y + frame_height)
    if not min(size) or not frame_width or not frame_height:
        raise corrupt("gif")
    if frame + 10 + _palette_bytes(flags) >= len(data):
        raise truncated("gif")
    return Header(
        "gif",
        size,
        (data[:start], control, memoryview(data)[frame:]),
        (size[0] * size[1] * _NS_PER_PIXEL + len(data) * _NS_PER_BYTE) / 1e9,
        bytes_per_pixel=1,
        is_transparent=bool(control),
    )


def _palette_bytes(flags: int) -> int:
    return 3 << (flags & 7) + 1 if flags & 0x80 else 0


def _find_frame(data: bytes, at: int) -> tuple[int, bytes]:
    """Return where the first frame begins, and the block that names its transparent colour."""
    control = b""
    is_inside = False
    for _ in range(MOST_PIECES):
        if at + 10 >= len(data):  # No frame is shorter.
            raise truncated("gif")
        piece = data[at]
        if is_inside:
            is_inside = piece != 0
            at += piece
        elif piece == _EXTENSION:
            control = _control(data[at : at + 7]) or control
            is_inside = True
            at += 1
        elif piece == _FRAME:
            return at, control
        elif piece == _END:
            raise corrupt("gif")
        at += 1
    raise too_many_pieces("gif", "blocks before its first frame")


def _control(block: bytes) -> bytes:
    """Return an extension if it names a transparent colour, without what it says of a film."""
    if block[1] == _GRAPHIC_CONTROL and block[3] & 1:
        return bytes([_EXTENSION, _GRAPHIC_CONTROL, 4, 1, 0, 0, block[6], 0])
    return b""
