"""Where a request stands in the trace of its caller, by W3C Trace Context, and its spans. Pure.

The headers ``traceparent`` and ``tracestate`` carry it, and so do jobs. What is malformed counts as
absent: it is never an error of a request. https://www.w3.org/TR/trace-context-2/
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal, NamedTuple

MOST_STATE, MOST_MEMBERS = 512, 32
"""Most characters and members of a ``tracestate``; a longer one is dropped."""

MOST_TEXT = 256
"""Most characters of an attribute of a span: spans wait in memory, and an address may be long."""

_TRACEPARENT = re.compile(
    "(?!ff)([0-9a-f]{2})-(?!0{32})([0-9a-f]{32})-(?!0{16})([0-9a-f]{16})-([0-9a-f]{2})(-.*)?",
    re.DOTALL,
)
_SAMPLED, _RANDOM = 1, 2

_KEY = r"[a-z0-9][a-z0-9_\-*/@]{0,255}"
_VALUE = r"[\x20-\x2b\x2d-\x3c\x3e-\x7e]{0,255}[\x21-\x2b\x2d-\x3c\x3e-\x7e]"
_TRACESTATE = re.compile(
    rf"{_KEY}={_VALUE}(?:(?:[ \t]*,)+[ \t]*{_KEY}={_VALUE}){{0,{MOST_MEMBERS - 1}}}"
)


class TraceContext(NamedTuple):
    """A span, as other processes know it."""

    trace_id: str
    """32 hexadecimal digits in lower case, not all 0."""
    span_id: str
    """16 of them."""
    sampled: bool
    """Whether spans of this trace are recorded."""
    state: str = ""
    """What vendors say of it, a ``tracestate``."""
    random: bool = False
    """Whether the trace id is known to be random; passed on."""

    @property
    def traceparent(self) -> str:
        flags = _SAMPLED * self.sampled | _RANDOM * self.random
        return f"00-{self.trace_id}-{self.span_id}-{flags:02x}"

    def child(self, span_id: str) -> "TraceContext":
        """Return another span of the same trace."""
        return TraceContext(self.trace_id, span_id, self.sampled, self.state, self.random)


Value = str | int | float | bool
Kind = Literal["internal", "server", "consumer"]


@dataclass(frozen=True, slots=True)
class Span:
    """A finished span."""

    name: str
    context: TraceContext
    parent: TraceContext | None
    start_s: float
    """Seconds since 1970, and so is the next one."""
    end_s: float
    attributes: Mapping[str, Value]
    links: Sequence[TraceContext] = ()
    """Spans that it is linked to, of other traces too."""
    kind: Kind = "internal"
    error: str = ""
    """The code of the error that it ended with; empty where there is none."""


def log_ids(request_id: str, context: TraceContext | None) -> dict[str, str]:
    """Return the fields that every line of the log about a request has."""
    ids = {"request_id": request_id}
    return ids if context is None else {**ids, "trace_id": context.trace_id}


def read_context(traceparent: str | None, tracestate: str | None = None) -> TraceContext | None:
    """Return what the headers say; None where they say nothing, or nothing that can be read.

    Several headers ``tracestate`` are one, joined by commas; several ``traceparent`` are none.
    """
    if not traceparent:
        return None
    found = _TRACEPARENT.fullmatch(traceparent.strip(" \t"))
    if found is None:
        return None
    version, trace_id, span_id, flags, more = found.groups()
    if more is not None and version == "00":
        return None
    bits = int(flags, 16)
    state = _state(tracestate) if tracestate else ""
    return TraceContext(trace_id, span_id, bool(bits & _SAMPLED), state, bool(bits & _RANDOM))


def _state(tracestate: str) -> str:
    """Return a ``tracestate`` as it is passed on; "" where it is too long or malformed."""
    state = tracestate.strip(" \t,")
    return state if len(state) <= MOST_STATE and _TRACESTATE.fullmatch(state) else ""
