"""Turn the bytes of a picture into the pixels a model takes. The only door to Pillow.

It recognises the format, checks the limits against the header before a single pixel is decoded,
and gives raw RGB. It is not a validator: a picture that decodes is good, whatever else its file
holds. It does no I/O, reads no settings and does not scale numbers the way a model wants them.

The bytes come from anyone. Whatever they are, the answer is pixels or a ``RequestError``.
"""

from imageserve.decoding.formats import FORMATS
from imageserve.decoding.picture import (
    INTERPOLATIONS,
    DecodingPolicy,
    Picture,
    decode,
    open_picture,
)

__all__ = [
    "FORMATS",
    "INTERPOLATIONS",
    "DecodingPolicy",
    "Picture",
    "decode",
    "open_picture",
]
