"""Reads what a client asks for besides its pictures, and writes what it hears besides. Pure."""

import math
import re
from collections.abc import Iterable

from imageserve.errors import BadParameter

SANE_ID = re.compile(r"[A-Za-z0-9._:/+=@-]{1,128}")


def checked_top(text: str | None, default: int = 5) -> int:
    """Read ``?top=``.

    Raises BadParameter where it is not a whole number from 1.
    """
    if text is None:
        return default
    # The length first: Python refuses to read numbers of thousands of digits.
    if len(text) > 9 or not re.fullmatch("[0-9]+", text) or not 1 <= int(text) <= 100_000:
        raise BadParameter(f"top must be a whole number from 1, not {text[:40]!r}")
    return int(text)


def checked_timeout_s(text: str | None, longest_s: float) -> float:
    """Read ``X-Request-Timeout``: it may shorten the deadline, never lengthen it.

    Raises BadParameter where it is not a positive number of seconds.
    """
    if text is None:
        return longest_s
    try:
        seconds = float(text)
    except ValueError:
        seconds = math.nan
    if not seconds > 0:
        raise BadParameter(f"X-Request-Timeout must be seconds above 0, not {text[:40]!r}")
    return min(seconds, longest_s)


def sane_request_id(text: str | None) -> str | None:
    """Return the caller's ``X-Request-Id`` if it is harmless in a log and a header."""
    return text if text and SANE_ID.fullmatch(text) else None


def listed(versions: Iterable[str]) -> str:
    """Write ``X-Model-Version``: several, where the model was changed in between.

    Those that are no text for a header are left out: they come from outside, through Redis.
    """
    return ", ".join(version for version in dict.fromkeys(versions) if SANE_ID.fullmatch(version))
