"""Turns the bytes of a picture into the pixels that a model takes. The only door to Pillow.

It recognises the format, checks the limits against the header before it decodes a single pixel,
and returns raw pixels. It is not a validator: a picture that decodes is good, whatever else its
file holds. It does no I/O and does not scale numbers for the model.

The bytes come from anyone. For any bytes the result is pixels or a ``RequestError``.
"""

from imageserve.decoding.header import too_much_memory
from imageserve.decoding.picture import (
    Cost,
    DecodingPolicy,
    Picture,
    decode,
    open_picture,
    resizer_in_use,
)

__all__ = [
    "Cost",
    "DecodingPolicy",
    "Picture",
    "decode",
    "open_picture",
    "resizer_in_use",
    "too_much_memory",
]
