"""What a client sends in one case, and what it may expect: plain data."""

from dataclasses import dataclass
from enum import Enum


class Ending(Enum):
    """What the client does after its last byte."""

    WAIT = "waits until the server closes, or all expected answers have come"
    HALF_CLOSE = "closes its sending side, which counts as gone"
    RESET = "breaks the connection"


@dataclass(frozen=True, slots=True)
class Expected:
    """One answer: its status, and the label of the picture; None where any will do."""

    status: int | None = None
    label: str | None = None


@dataclass(frozen=True, slots=True)
class Script:
    """One connection of a client."""

    name: str
    sends: tuple[bytes, ...]
    pause_s: float = 0.0
    """Between two sends."""
    ending: Ending = Ending.WAIT
    expected: tuple[Expected, ...] | None = None
    """Every answer, in order, where the requests are right; None where they are broken."""
    head: bool = False
    """Whether the one request is a HEAD, whose answer has no body."""

    @property
    def sent(self) -> bytes:
        return b"".join(self.sends)

    @property
    def must_be_answered(self) -> bool:
        """Whether there is a whole head, and a client that waits for its answer."""
        return self.ending is Ending.WAIT and b"\r\n\r\n" in self.sent.lstrip(b"\r\n")
