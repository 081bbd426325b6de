"""One picture whose job is queued, and whether it must be queued again.

A job may meet a worker that needs another preparation, as in a rollout, or be lost by Redis.
"""

from dataclasses import dataclass, field

from imageserve.backoff import Backoff
from imageserve.preparation import Pixels, Preparation
from imageserve.queue.listener import Ticket
from imageserve.queue.wire import ENCODING, LOST, UNREADABLE, encoding_of

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
"""Between the submissions of one picture, from the second repetition on, but for those that adopt
what a worker wants. While workers that need different preparations serve side by side, it may meet
the wrong one many times."""

Picture = bytes | Pixels
"""What a client sends: a file, or the pixels that its model takes."""

_MET_ANOTHER = ("model_changed", "unsupported_job")
"""What workers answer to jobs that are not for them."""


@dataclass(slots=True)
class Submission:
    """One picture whose job is queued."""

    picture: Picture
    ticket: Ticket
    decode_ms: float
    model: str
    preparation: Preparation
    decoded_at: float
    """By the clock `time.monotonic`."""
    submissions: int = 1
    pauses: Backoff = field(default_factory=lambda: Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S))
    again_at: float | None = None
    """When it is to be queued again; None where it is not known yet that it must be."""

    @property
    def other_model(self) -> str:
        """The name of the model that its job has met, where that is not the one asked for."""
        result = self.ticket.result
        if result is None or result.model == self.model:
            return ""
        has_met_it = result.error is None or result.error.code in _MET_ANOTHER
        return (result.model or "of no name") if has_met_it else ""

    @property
    def code(self) -> str:
        """That of the error that its job has met; "" for none."""
        result = self.ticket.result
        return result.error.code if result is not None and result.error is not None else ""

    @property
    def must_go_again(self) -> bool:
        """Whether its job met another preparation or was lost, and another try makes sense."""
        if self.other_model:
            return False
        if self.code == "unsupported_job":
            # What a worker of 0.1.0 says of pixels that are prepared otherwise than it knows.
            return encoding_of(self.preparation) != ENCODING
        return self.code in ("model_changed", LOST, UNREADABLE)

    @property
    def goes_at_once(self) -> bool:
        """Whether it is queued again without a pause.

        The first time: after a rollout, no picture should wait for nothing. And whenever it is
        prepared for the worker that it has met: of two that take turns, each has had its turn only
        after the second.
        """
        is_adopted = self.submissions % 2 == 1 and self.met not in (None, self.preparation)
        return self.submissions == 1 or is_adopted

    @property
    def met(self) -> Preparation | None:
        """What the worker needs that its job has met; None where it does not say."""
        result = self.ticket.result
        if result is None or result.preparation or not result.shape:
            return result.preparation if result else None
        # A worker of 0.1.0: it takes squeezed pictures.
        return Preparation(result.shape[:2], interpolation=self.preparation.interpolation)
