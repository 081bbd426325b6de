"""A tracer that keeps its spans in a list."""

from imageserve.trace_context import Span, TraceContext
from imageserve.tracing import RecordingTracer

CALLER = TraceContext("a" * 32, "b" * 16, sampled=True, state="v=1")
UNSAMPLED = TraceContext("a" * 32, "b" * 16, sampled=False)


class KeptSpans:
    """Keeps spans; see `Keeper`."""

    def __init__(self) -> None:
        self.spans: list[Span] = []

    def keep(self, span: Span) -> None:
        self.spans.append(span)

    def close(self, within_s: float) -> None:
        del within_s

    def tracer(self, share: float = 0.0) -> RecordingTracer:
        return RecordingTracer(share, self)

    def named(self, name: str) -> list[Span]:
        return [span for span in self.spans if span.name == name]

    def one(self, name: str) -> Span:
        (span,) = self.named(name)
        return span
