"""What may stand in a field of JSON that came from outside, and reading it as nothing else. Pure.

Python's JSON is wider than what the queue speaks: True is an int, NaN a number, half a character a
text. No error here quotes a value, which may be long and may be a client's.
"""

import json
import math
from collections.abc import Mapping
from typing import Any

from imageserve.preparation import COLOURS, LONGEST_SIDE

LARGEST = 2**53
"""Numbers below this are the same in Python, in Lua and in Redis."""


def json_object(text: str | bytes) -> dict[str, Any]:
    """Return the fields of a JSON object. Raises ValueError where it is anything else."""
    try:
        # Given bytes, Python would look for UTF-16 and UTF-32 first.
        fields = json.loads(str(text, "utf-8", "surrogatepass") if type(text) is bytes else text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    except ValueError as error:
        raise ValueError("no JSON") from error
    if not isinstance(fields, dict):
        raise ValueError("no JSON object")
    return fields


def is_text(value: Any) -> bool:
    """Tell whether it is a string that can be sent: half a character cannot."""
    if not isinstance(value, str):
        return False
    if value.isascii():
        return True
    try:
        return value.encode() is not None
    except UnicodeEncodeError:
        return False


def is_number(value: Any) -> bool:
    """Tell whether it is a number of this world: neither endless, nor none, nor a truth."""
    if type(value) is int:
        return abs(value) < LARGEST
    return type(value) is float and math.isfinite(value)


def is_amount(value: Any) -> bool:
    """Tell whether it is a number from 0: milliseconds, say."""
    return type(value) in (int, float) and 0 <= value < LARGEST


def is_count(value: Any) -> bool:
    """Tell whether it is a whole number from 1."""
    # A TTL that Redis refuses would abort the FINISH of its batch.
    return type(value) is int and 0 < value < LARGEST


def is_shape(value: Any) -> bool:
    """Tell whether it is ``[height, width, colours]``."""
    if not isinstance(value, list) or len(value) != 3:
        return False
    height, width, colours = value
    return is_side(height) and is_side(width) and is_side(colours) and colours in COLOURS.values()


def is_side(value: Any) -> bool:
    """Tell whether it is a number of pixels in a row or column."""
    return type(value) is int and 0 < value <= LONGEST_SIDE


def text_of(fields: Mapping[str, Any], name: str, default: str | None = None) -> str:
    """Return a text; without ``default`` it must be there. Raises ValueError."""
    value: Any = fields.get(name, default)
    if not is_text(value):
        raise ValueError(f"{name!r} is no text")
    return value  # type: ignore[no-any-return]


def amount_of(fields: Mapping[str, Any], name: str) -> float:
    """Return a number from 0, by default 0. Raises ValueError."""
    value: float = fields.get(name, 0)
    if not is_amount(value):
        raise ValueError(f"{name!r} is no number from 0")
    return value


def shape_of(fields: Mapping[str, Any], name: str) -> tuple[int, int, int]:
    """Return height, width and colours. Raises ValueError."""
    value = fields.get(name)
    if not is_shape(value):
        raise ValueError(f"{name!r} is not [height, width, colours]")
    height, width, colours = value  # type: ignore[misc]
    return height, width, colours


def object_of(fields: Mapping[str, Any], name: str) -> dict[str, Any]:
    """Return an object within an object. Raises ValueError."""
    value = fields.get(name)
    if not isinstance(value, dict):
        raise ValueError(f"{name!r} is no object")
    return value
