"""The header of a JPEG: its segments up to the first scan."""

import re
import struct

from imageserve.decoding.header import (
    MOST_PIECES,
    Header,
    corrupt,
    orientation,
    too_many_pieces,
    truncated,
)
from imageserve.errors import ImageTooLarge

_FILL = re.compile(rb"\xff++")
_FRAMES = frozenset(
    {0xC0, 0xC1, 0xC2, 0xC3, *range(0xC5, 0xC8), *range(0xC9, 0xCC), *range(0xCD, 0xD0)}
)
_PROGRESSIVE = frozenset({0xC2, 0xC6, 0xCA, 0xCE})
_ARITHMETIC = range(0xC9, 0xD0)
_TABLES = frozenset({0xC4, 0xCC, 0xDB, 0xDC, 0xDD, 0xDF})
_MARK, _DQT, _SOS, _COMMENT = 0xFF, 0xDB, 0xDA, 0xFE
_APP1 = 0xE1
_COLOURS = {0xE0: b"JFIF\0", 0xEE: b"Adobe"}
"""How the segments begin that say what the colours are."""
_SKIPPED = frozenset({_COMMENT, *range(0xE0, 0xF0)} - {_APP1, *_COLOURS})
_SEGMENT_HEAD = struct.Struct(">BBH")
_MOST_TABLES = 1_000
"""A JPEG has eight; Pillow reads them in Python."""
_STANDALONE = frozenset({0x00, 0x01, *range(0xD0, 0xD9)})
"""Bytes behind FF that begin no segment: a stuffed zero, restarts, another start."""
_MOST_EXIF = 64
"""Segments: EXIF of more than 64 KiB is in several."""
_EXIF, _XMP = b"Exif\0\0", b"http://ns.adobe.com/xap/1.0/\0"

_NS_PER_PIXEL, _NS_PER_BYTE = 5.0, 8.0
_NS_PER_PIXEL_OF_A_SCAN, _NS_PER_BYTE_IN_SCANS = 4.0, 40.0
_ARITHMETIC_FACTOR = 5.0
_NS_PER_TABLE = 10_000.0


class _Segments:
    """What the segments before the first scan say."""

    def __init__(self) -> None:
        self.kept: list[bytes] = [b"\xff\xd8"]
        self.frame = b""
        self.frame_code = 0
        self.colours: dict[int, bytes] = {}
        self.exif: list[bytes] = []
        self.xmp = b""
        self.tables = 0

    def add(self, code: int, body: bytes) -> None:
        if code in _FRAMES:
            self._add_frame(code, body)
        elif code in _TABLES:
            self.kept.append(_segment(code, body))
            self.tables += 1 + (len(body) // 65 if code == _DQT else 0)
            if self.tables > _MOST_TABLES:
                raise ImageTooLarge(f"the JPEG has more than {_MOST_TABLES} tables")
        elif code in _COLOURS and body.startswith(_COLOURS[code]):
            self.colours[code] = _segment(code, body)
        elif code == _APP1:
            self._add_metadata(body)
        elif code not in _COLOURS:
            raise corrupt("jpeg")

    def _add_metadata(self, body: bytes) -> None:
        if body.startswith(_EXIF) and len(self.exif) < _MOST_EXIF:
            self.exif.append(body[6:] if self.exif else body)
        elif body.startswith(_XMP):
            self.xmp = body[len(_XMP) :]

    def _add_frame(self, code: int, body: bytes) -> None:
        if self.frame or len(body) < 9 or len(body) != 6 + 3 * body[5]:
            raise corrupt("jpeg")
        self.frame, self.frame_code = body, code
        self.kept.append(_segment(code, body))


def _segment(code: int, body: bytes) -> bytes:
    return b"\xff" + bytes([code]) + (len(body) + 2).to_bytes(2, "big") + body


def read_jpeg(data: bytes) -> Header:
    """Read the segments before the first scan.

    Raises TruncatedImage, CorruptImage, and ImageTooLarge where there are too many.
    """
    segments = _Segments()
    at, last = 2, len(data) - 4
    for _ in range(MOST_PIECES):
        if at <= last and (data[at] != _MARK or data[at + 1] == _MARK):
            at = _next_marker(data, at)
        if at > last:
            raise truncated("jpeg")
        _, code, length = _SEGMENT_HEAD.unpack_from(data, at)
        if code in _STANDALONE:
            at += 2
            continue
        if code == _SOS and segments.frame:
            return _header(data, at, segments)
        stop = at + 2 + length
        if stop > len(data):
            raise truncated("jpeg")
        if code not in _SKIPPED:
            segments.add(code, data[at + 4 : stop])
        at = max(stop, at + 4)
    raise too_many_pieces("jpeg", "segments before its first scan")


def _next_marker(data: bytes, at: int) -> int:
    """Pass over what is no marker, and over the bytes that may fill the space before one."""
    at = data.find(b"\xff", at)
    if at < 0:
        return len(data)
    fill = _FILL.match(data, at)
    return fill.end() - 1 if fill else at


def _header(data: bytes, scan: int, segments: _Segments) -> Header:
    frame, code = segments.frame, segments.frame_code
    height, width = int.from_bytes(frame[1:3], "big"), int.from_bytes(frame[3:5], "big")
    if not width or not height:
        raise corrupt("jpeg")
    colours = frame[5]
    # The decoder reads one scan only where the first holds all colours and nothing is refined.
    in_scans = code in _PROGRESSIVE or data[scan + 4 : scan + 5] != bytes([colours])
    scans = 1 + data.count(b"\xff\xda", scan + 2) if in_scans else 1
    seconds = _seconds(width * height, len(data) - scan, scans if in_scans else 0)
    if code in _ARITHMETIC:
        seconds *= _ARITHMETIC_FACTOR
    segments.kept[1:1] = segments.colours.values()
    return Header(
        "jpeg",
        (width, height),
        (*segments.kept, memoryview(data)[scan:]),
        seconds + segments.tables * _NS_PER_TABLE / 1e9,
        bytes_per_pixel=1 if colours == 1 else 4,
        # Of several scans, the decoder keeps the coefficients of every pixel.
        working_bytes_per_pixel=2 * colours if in_scans else 0,
        is_rgb=colours == 3,
        orientation=orientation(b"".join(segments.exif), segments.xmp),
        scans=scans,
    )


def _seconds(pixels: int, count: int, scans: int) -> float:
    if not scans:
        return (pixels * _NS_PER_PIXEL + count * _NS_PER_BYTE) / 1e9
    all_pixels = pixels * (_NS_PER_PIXEL + scans * _NS_PER_PIXEL_OF_A_SCAN)
    return (all_pixels + count * _NS_PER_BYTE_IN_SCANS) / 1e9
