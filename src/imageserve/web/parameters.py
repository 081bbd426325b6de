"""What a client asks for beside its pictures: parameters and headers of /predict. Pure.

Each is described once, in `PARAMETERS`: the functions that read them check those bounds, and the
description of the API (`web.openapi`) prints them.
"""

import math
import re
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Any, Literal
from urllib.parse import parse_qsl

from imageserve.errors import BadParameter, told
from imageserve.inference.request import InferRequest
from imageserve.predictions import LABELS, VECTORS
from imageserve.queue.wire import BACKGROUND
from imageserve.web.decode_order import Asked
from imageserve.web.edge import infer_path
from imageserve.web.options import ClassifyOptions

DEFAULT_TOP = 5
"""Labels of an answer."""

MOST_TOP = 100_000
"""What ``?top=all`` asks workers for; no model has as many labels."""

OUTPUTS = (LABELS, *VECTORS)

INTERACTIVE = "interactive"


@dataclass(frozen=True, slots=True)
class Parameter:
    """What a client may say beside its pictures."""

    name: str
    place: Literal["query", "header"]
    meaning: str
    schema: Mapping[str, Any]
    """Its values, as JSON Schema has it. All others are refused; but a request id and a trace
    context are never."""


TOP = Parameter(
    "top",
    "query",
    "Number of labels, at most the classes of the model. `all`: all of them.",
    {
        "anyOf": [{"type": "integer", "minimum": 1, "maximum": MOST_TOP}, {"const": "all"}],
        "default": DEFAULT_TOP,
    },
)
MIN = Parameter(
    "min",
    "query",
    "Only labels of this probability or a higher one: at most `top` of them where that is given, "
    "else all. There may be none.",
    {"type": "number", "minimum": 0, "maximum": 1},
)
OUTPUT = Parameter(
    "output",
    "query",
    "Labels; or the probabilities of all labels in the order of the labels file; or the vector of "
    "the inner layer that the model names. The last two take no `top` and no `min`.",
    {"enum": list(OUTPUTS), "default": LABELS},
)
MODEL = Parameter("model", "query", "The model; by default the first.", {"type": "string"})
TIMEOUT = Parameter(
    "X-Request-Timeout",
    "header",
    "Seconds until an answer must be there. Shortens the deadline of the server, never lengthens "
    "it. The earliest deadline goes first.",
    {"type": "number", "exclusiveMinimum": 0},
)
PRIORITY = Parameter(
    "X-Priority",
    "header",
    "Background pictures get a tenth while interactive ones wait.",
    {"enum": [INTERACTIVE, BACKGROUND], "default": INTERACTIVE},
)
REQUEST_ID = Parameter(
    "X-Request-Id",
    "header",
    "Comes back in the answer and stands in the log, if it has 1 to 128 letters, digits and "
    "`._:/+=@-`; else the server makes one.",
    {"type": "string"},
)
TRACEPARENT = Parameter(
    "traceparent",
    "header",
    "Where the request stands in a trace of its caller (W3C Trace Context). Its trace id stands in "
    "the log. Where it is sampled, and the server sends spans, they are parts of that trace. One "
    "that is malformed counts as left out.",
    {"type": "string"},
)
TRACESTATE = Parameter(
    "tracestate",
    "header",
    "What vendors add to `traceparent`. It is passed on.",
    {"type": "string"},
)
INFERENCE_HEADER = "Inference-Header-Content-Length"
"""Of the Open Inference Protocol: the bytes of JSON before the tensors of a body."""

PARAMETERS = (TOP, MIN, OUTPUT, MODEL, TIMEOUT, PRIORITY, REQUEST_ID, TRACEPARENT, TRACESTATE)

_NUMBER = re.compile(r"[0-9]+(\.[0-9]+)?([eE][+-]?[0-9]+)?")
"""A number that is not negative, as programs write it: 0.3, 1, 1e-05."""


def read_options(parameters: Mapping[str, str], head: ClassifyOptions) -> ClassifyOptions:
    """Read the query; ``head``: what any head says. Raises BadParameter."""
    if not parameters:
        return head
    top, least, output = (parameters.get(each.name) for each in (TOP, MIN, OUTPUT))
    return replace(
        head,
        model=parameters.get(MODEL.name),
        top=checked_top(top, "all" if least else str(DEFAULT_TOP)),
        least=checked_min(least),
        output=checked_output(output, has_labels=top is not None or least is not None),
    )


def infer_options(request: InferRequest, head: ClassifyOptions) -> ClassifyOptions:
    """Return what a request of the inference protocol asks for.

    ``head``: what is known without its tensors, the model and the longest time, say.
    """
    shortest_s = head.timeout_s if request.timeout_s is None else request.timeout_s
    return replace(
        head,
        top=request.classes or 1,
        timeout_s=min(shortest_s, head.timeout_s),
        output=request.want,
        priority=BACKGROUND if request.is_background else head.priority,
        classes=request.classes > 0,
        together=len(request.pictures),
    )


def asked_by_head(
    headers: Mapping[str, str], path: str, query: str, longest_s: float, arrived: float
) -> Asked:
    """Return what the head of a request says of its place in the line.

    ``headers``: with names in capitals, as gunicorn has them. What cannot be read counts as left
    out: the application will say so.
    """
    timeout_s, priority = longest_s, ""
    with suppress(BadParameter):
        timeout_s = checked_timeout_s(headers.get(TIMEOUT.name.upper()), longest_s)
    with suppress(BadParameter):
        priority = checked_priority(headers.get(PRIORITY.name.upper()))
    if found := infer_path(path):
        model: str | None = found[0]
    else:
        model = dict(parse_qsl(query)).get(MODEL.name) if query else None
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

    Raises BadParameter where it is no probability, written as 0.3, 1 or 1e-05.
    """
    if text is None:
        return 0.0
    if len(text) > 32 or not _NUMBER.fullmatch(text) or float(text) > 1:
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
