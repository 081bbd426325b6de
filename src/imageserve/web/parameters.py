"""What a client asks for beside its pictures: parameters and headers of /predict. Pure."""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from urllib.parse import parse_qsl

from imageserve.errors import BadParameter, told
from imageserve.predictions import LABELS, VECTORS
from imageserve.queue.wire import BACKGROUND
from imageserve.web.decode_order import Asked
from imageserve.web.predict import ClassifyOptions

DEFAULT_TOP = 5
"""Labels of an answer."""

MOST_TOP = 100_000
"""What ``?top=all`` asks workers for; no model has as many labels."""

OUTPUTS = (LABELS, *VECTORS)

INTERACTIVE = "interactive"


def read_options(
    parameters: Mapping[str, str],
    timeout: str | None,
    longest_s: float,
    trace: str,
    priority: str = "",
) -> ClassifyOptions:
    """Read the query, and the header ``X-Request-Timeout``. Raises BadParameter."""
    top, least, output = (parameters.get(name) for name in ("top", "min", "output"))
    return ClassifyOptions(
        model=parameters.get("model"),
        top=checked_top(top, "all" if least else str(DEFAULT_TOP)),
        timeout_s=checked_timeout_s(timeout, longest_s),
        trace=trace,
        least=checked_min(least),
        output=checked_output(output, has_labels=top is not None or least is not None),
        priority=priority,
    )


def asked_by_head(
    headers: Mapping[str, str], query: str, longest_s: float, arrived: float
) -> Asked:
    """Return what the head of a request says of its place in the line.

    ``headers``: with names in capitals, as gunicorn has them. What cannot be read counts as left
    out: the application will say so.
    """
    timeout_s, priority = longest_s, ""
    with suppress(BadParameter):
        timeout_s = checked_timeout_s(headers.get("X-REQUEST-TIMEOUT"), longest_s)
    with suppress(BadParameter):
        priority = checked_priority(headers.get("X-PRIORITY"))
    model = dict(parse_qsl(query)).get("model") if query else None
    return Asked(arrived + timeout_s, priority == BACKGROUND, model)


def checked_top(text: str | None, default: str = str(DEFAULT_TOP)) -> int:
    """Read ``?top=``.

    Raises BadParameter where it is neither a whole number from 1 nor ``all``.
    """
    text = default if text is None else text
    if text == "all":
        return MOST_TOP
    # The length first: Python refuses to read numbers of thousands of digits.
    if len(text) > 9 or not re.fullmatch("[0-9]+", text) or not 1 <= int(text) <= MOST_TOP:
        raise BadParameter(f"top must be a whole number from 1, or all, not {told(text, 40)}")
    return int(text)


def checked_min(text: str | None) -> float:
    """Read ``?min=``.

    Raises BadParameter where it is no probability, written as 0.3 or 1.
    """
    if text is None:
        return 0.0
    if len(text) > 20 or not re.fullmatch(r"[0-9]+(\.[0-9]+)?", text) or float(text) > 1:
        raise BadParameter(f"min must be a probability from 0 to 1, not {told(text, 40)}")
    return float(text)


def checked_output(text: str | None, *, has_labels: bool = False) -> str:
    """Read ``?output=``; ``has_labels``: another parameter says which labels.

    Raises BadParameter where it is none of `OUTPUTS`, or something without labels together with
    that parameter.
    """
    if text is None:
        return LABELS
    if text not in OUTPUTS:
        raise BadParameter(f"output must be one of {', '.join(OUTPUTS)}, not {told(text, 40)}")
    if text != LABELS and has_labels:
        raise BadParameter(f"top and min choose labels, and output={text} has none: leave them out")
    return text


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
        raise BadParameter(f"X-Request-Timeout must be seconds above 0, not {told(text, 40)}")
    return min(seconds, longest_s)


def checked_priority(text: str | None) -> str:
    """Read ``X-Priority``: return `BACKGROUND`, or "" for interactive.

    Raises BadParameter where it is something else.
    """
    if text in (None, INTERACTIVE):
        return ""
    if text != BACKGROUND:
        known = f"{INTERACTIVE} or {BACKGROUND}"
        raise BadParameter(f"X-Priority must be {known}, not {told(str(text), 40)}")
    return BACKGROUND
