"""Whether a picture that got no answer is sent again, and when. No I/O."""

from imageserve.backoff import Backoff
from imageserve.client.errors import ClientError, TimedOut

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.1, 2.0


class Patience:
    """How long one call goes on trying. Sending a picture again is safe: it changes nothing."""

    def __init__(self, timeout_s: float, request_id: str) -> None:
        self._timeout_s, self._request_id = timeout_s, request_id
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        self.last: ClientError | None = None
        """What the last attempt failed with that was followed by another."""

    def pause_s(self, error: ClientError, left_s: float) -> float:
        """Return how long to wait before the next attempt, at least what the server asked.

        Raises the error where another attempt would not help, or not come in time.
        """
        pause_s = (error.retry_after_s or 0.0) + self._backoff.next()
        if not error.passes or pause_s >= left_s:
            raise error
        self.last = error
        return pause_s

    def ran_out(self) -> TimedOut:
        """Return what to raise at the deadline."""
        before = f"; before: {self.last.message}" if self.last else ""
        said = f"no answer within {self._timeout_s:g} s{before}"
        return TimedOut(said, "timed_out", request_id=self._request_id)
