"""The orientation of a picture, from its EXIF or XMP: as Pillow's ``exif_transpose`` reads it.

Pillow's own reader warns, and takes longer than decoding a small picture.
"""

import re
import struct
import zlib

_TAG = 0x0112
_INTEGERS = {3: "H", 4: "I", 8: "h", 9: "i"}
"""EXIF's types of whole numbers that can hold it: short and long, without and with a sign."""
_XMP_ORIENTATION = re.compile(rb'tiff:Orientation(?:="|>)([0-9])')
_MOST_BYTES = 2**20
"""Most bytes of metadata that are looked at; those of a camera are a tenth of it."""

_MOST_ENTRIES = 1_000


def orientation(exif: bytes | None, xmp: bytes | None) -> int:
    """Return 1 to 8; 1 (upright) where nothing valid is said."""
    number = _from_exif(exif) if exif else None
    if number is None and xmp:
        found = _XMP_ORIENTATION.search(xmp, 0, _MOST_BYTES)
        number = int(found[1]) if found else None
    return number if number is not None and 1 <= number <= 8 else 1


def _from_exif(exif: bytes) -> int | None:
    while exif.startswith(b"Exif\0\0"):
        exif = exif[6:]
    order = {b"II": "<", b"MM": ">"}.get(exif[:2])
    number = None
    try:
        if order is not None:
            (directory,) = struct.unpack_from(order + "I", exif, 4)
            (entries,) = struct.unpack_from(order + "H", exif, directory)
            for start in range(directory + 2, directory + 2 + 12 * min(entries, _MOST_ENTRIES), 12):
                tag, kind, count = struct.unpack_from(order + "HHI", exif, start)
                if tag == _TAG and count == 1 and kind in _INTEGERS:
                    (number,) = struct.unpack_from(order + _INTEGERS[kind], exif, start + 8)
    except struct.error:
        pass
    return number


def raw_profile(text: bytes) -> bytes | None:
    """Read a profile as ImageMagick writes it into a PNG: a name, a length, and hexadecimal."""
    try:
        return bytes.fromhex(text[:_MOST_BYTES].split(b"\n", 3)[-1].decode("ascii"))
    except ValueError:
        return None


def inflated(data: bytes) -> bytes:
    """Return a compressed text, its first megabyte where it is longer; nothing if it is invalid."""
    try:
        return zlib.decompressobj().decompress(data, _MOST_BYTES)
    except zlib.error:
        return b""
