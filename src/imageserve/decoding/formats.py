"""Which kinds of pictures there are, and how their bytes begin. No Pillow in here."""

import re

from imageserve.errors import CorruptImage, TruncatedImage

#: Every format that can be switched on.
FORMATS = ("jpeg", "png", "webp", "gif", "bmp")

# The formats we decode, and those only recognised to be able to name them.
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
    """Return the kind of a picture by its signature: one of FORMATS, or one we only recognise."""
    match = _SIGNATURES.match(data, 0, 4_000)
    return None if match is None else str(match.lastgroup)


def webp_size(data: bytes) -> tuple[int, int]:
    """Read width and height from the header of a WebP of at least 30 bytes."""

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


def truncated(kind: str) -> TruncatedImage:
    return TruncatedImage(f"the {name_of(kind)} ends before it is complete")


def corrupt(kind: str) -> CorruptImage:
    return CorruptImage(f"the bytes begin like a {name_of(kind)} and cannot be decoded")


def name_of(kind: str) -> str:
    return kind.upper().replace("_", " ")
