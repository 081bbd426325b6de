"""What one request asks for, for all its pictures, whatever its door."""

from dataclasses import dataclass

from imageserve.predictions import LABELS
from imageserve.queue.wire import BACKGROUND
from imageserve.trace_context import TraceContext, log_ids
from imageserve.web.decode_order import Asked
from imageserve.web.keys_file import ANYBODY, Caller


@dataclass(frozen=True, slots=True)
class ClassifyOptions:
    """What a client asks for, besides its pictures."""

    model: str | None
    top: int
    timeout_s: float
    request_id: str
    context: TraceContext | None = None
    """Its span."""
    least: float = 0.0
    """Labels of a lower probability are not asked for."""
    output: str = LABELS
    """One of `LABELS` and `VECTORS`."""
    priority: str = ""
    """`BACKGROUND`, or ""."""
    version: str = ""
    """The only version of the model that may answer, by `version_name`; "" for any."""
    classes: bool = False
    """Whether the labels must come with the numbers of their classes; with a vector, too."""
    together: int = 1
    """How many pictures are answered together or not at all; 1 where each is by itself."""
    caller: Caller = ANYBODY

    @property
    def ids(self) -> dict[str, str]:
        """What every line of the log about it says."""
        return log_ids(self.request_id, self.context)

    def asked(self, arrived: float) -> Asked:
        """Return the place in the line of one that came at this time of `time.monotonic`."""
        return Asked(arrived + self.timeout_s, self.priority == BACKGROUND, self.model)
