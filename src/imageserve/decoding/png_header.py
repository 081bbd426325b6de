"""The header of a PNG: its chunks. The pieces of its pixels are joined into one."""

import struct

from imageserve.decoding.header import (
    MOST_PIECES,
    Bytes,
    Header,
    corrupt,
    inflated,
    orientation,
    raw_profile,
    too_many_pieces,
    truncated,
)

_SIGNATURE = b"\x89PNG\r\n\x1a\n"
_END = struct.pack(">I", 0) + b"IEND\xae\x42\x60\x82"
_CHUNK_HEAD = struct.Struct(">I4s")
_CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}
"""Samples of a pixel by the type of colour."""
_TEXTS = (b"tEXt", b"zTXt", b"iTXt")
_WANTED = frozenset((b"IDAT", b"IHDR", b"PLTE", b"tRNS", b"eXIf", b"IEND", *_TEXTS))
_EXIF, _XMP = b"exif", b"XML:com.adobe.xmp"
_RAW_PROFILES = (b"Raw profile type exif", b"Raw profile type APP1")
"""Keywords of texts that may hold an orientation."""
_KEYWORDS = tuple(keyword + b"\0" for keyword in (_EXIF, _XMP, *_RAW_PROFILES))

_NS_PER_BYTE = 10.0
"""Of the rows before they are compressed: the slowest filter on noise."""
_NS_PER_ROW = 300.0
_DEEP_GREY_S = 0.005
"""To make grey of 16 bits one of eight, a table of 65,536 numbers is looked through."""


class _Chunks:
    """The chunks of a PNG that say something of its pixels."""

    def __init__(self) -> None:
        self.kept: dict[bytes, Bytes] = {}
        self.data: list[Bytes] = []
        self.texts: dict[bytes, tuple[bytes, Bytes]] = {}
        """By keyword: the name of the chunk, and what stands behind the keyword."""
        self.exif: bytes | None = None
        self.is_cut = False
        self._data_ended = False

    def add(self, name: bytes, chunk: memoryview) -> None:
        body = chunk[8:-4]
        if name == b"IDAT":
            if not self._data_ended:
                self.data.append(body)
            return
        self._data_ended = bool(self.data)
        if name == b"eXIf":
            self.exif = bytes(body)
        elif name in _TEXTS:
            keyword = bytes(body[:40]).partition(b"\0")[0]
            self.texts[keyword] = name, body[len(keyword) + 1 :]
        elif not self.data and (name != b"IHDR" or name not in self.kept):
            self.kept[name] = chunk

    def orientation(self) -> int:
        exif = self.exif or (self._text(_EXIF) if _EXIF in self.texts else None)
        for keyword in _RAW_PROFILES:
            if exif is None and keyword in self.texts:
                exif = raw_profile(self._text(keyword))
        return orientation(exif, self._text(_XMP) if _XMP in self.texts else None)

    def _text(self, keyword: bytes) -> bytes:
        name, content = self.texts[keyword]
        text = bytes(content)
        if name == b"zTXt":
            return inflated(text[1:])
        if name == b"iTXt":
            is_compressed, last = text[:1] == b"\1", text[2:].split(b"\0", 2)[-1]
            return inflated(last) if is_compressed else last
        return text


def read_png(data: bytes) -> Header:
    """Read all chunks.

    Raises TruncatedImage, CorruptImage, and ImageTooLarge where there are too many.
    """
    chunks = _read_chunks(data)
    head = bytes(chunks.kept.get(b"IHDR", b""))[8:-4]
    if not chunks.data and chunks.is_cut:
        raise truncated("png")
    if len(head) < 13 or not chunks.data:
        raise corrupt("png")
    width, height, depth, colour = struct.unpack_from(">IIBB", head)
    if not width or not height or colour not in _CHANNELS:
        raise corrupt("png")
    row_bytes = width * depth * _CHANNELS[colour] / 8 + 1
    length = struct.pack(">I", sum(map(len, chunks.data)))
    is_deep_grey = (depth, colour) == (16, 0)
    return Header(
        "png",
        (width, height),
        (_SIGNATURE, *chunks.kept.values(), length, b"IDAT", *chunks.data, bytes(4), _END),
        height * (row_bytes * _NS_PER_BYTE + _NS_PER_ROW) / 1e9 + is_deep_grey * _DEEP_GREY_S,
        bytes_per_pixel=4 if _CHANNELS[colour] > 1 else 1 + is_deep_grey,
        # Grey of 16 bits becomes grey of 32, then of 8.
        working_bytes_per_pixel=5 * is_deep_grey,
        is_rgb=colour == 2 and b"tRNS" not in chunks.kept,
        orientation=chunks.orientation(),
        is_transparent=colour in (4, 6) or b"tRNS" in chunks.kept,
        is_cut=chunks.is_cut,
    )


def _read_chunks(data: bytes) -> _Chunks:
    chunks = _Chunks()
    view = memoryview(data)
    at, last = len(_SIGNATURE), len(data) - 8
    for _ in range(MOST_PIECES):
        if at > last:
            chunks.is_cut = True
            return chunks
        length, name = _CHUNK_HEAD.unpack_from(data, at)
        stop = at + 12 + length
        if name not in _WANTED:
            if not name.isalpha():
                if chunks.data:
                    return chunks
                raise corrupt("png")
        elif name == b"IEND":
            return chunks
        elif name not in _TEXTS or data.startswith(_KEYWORDS, at + 8):
            chunks.is_cut = stop > len(data)
            # A chunk that is cut still has room for its checksum.
            chunks.add(
                name, view[at:stop] if stop <= len(data) else memoryview(data[at:] + bytes(4))
            )
        at = stop
    raise too_many_pieces("png", "chunks")
