"""Requests of the Open Inference Protocol, as Triton's client makes them."""

import json
import struct
from typing import Any

LENGTH = "Inference-Header-Content-Length"


def files(*pictures: bytes) -> bytes:
    """Return the contents of the input ``image``: before each file stands its length."""
    return b"".join(struct.pack("<I", len(each)) + each for each in pictures)


def binary_request(*pictures: bytes, **more: Any) -> tuple[bytes, dict[str, str]]:
    """Return a body, pictures as bytes after its JSON, and its headers; ``more``: fields of it."""
    raw = files(*pictures)
    tensor = {
        "name": "image",
        "datatype": "BYTES",
        "shape": [len(pictures), 1],
        "parameters": {"binary_data_size": len(raw)},
    }
    text = json.dumps({"inputs": [tensor], **more}).encode()
    return text + raw, {LENGTH: str(len(text))}
