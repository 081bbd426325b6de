"""The line of pictures that wait to be decoded on the event loop of a web process.

One picture is decoded in a turn of the loop. Between two of them the loop accepts connections,
reads, and answers: nothing of that ever waits for more than one picture.
"""

import logging
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent.hub import Waiter

from imageserve.errors import Busy, TimedOut
from imageserve.web.greenlets import in_server, silent_timeout
from imageserve.web.pace import Gate, Used

log = logging.getLogger(__name__)

AFTER_IO = -2
"""Priority of the line's watcher, the lowest: what the loop has found ready goes first, and so do
the ends of gevent's timeouts."""


class _Place:
    """Who waits in the line, and for how many pictures after the next."""

    def __init__(self, later: int) -> None:
        self.later = later
        self.waiter: Waiter[None] = Waiter()


class DecodeLine:
    """First come, first decoded, first answered.

    The greenlet that has decoded its picture goes on, and sends it to Redis, before the next one
    gets its turn. Outside a web server (in unit tests, say) nobody ever waits.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._gate = Gate()
        self._reported = 0
        self._oldest_s = 0.0
        self.used = Used()
        """All turns together, since the process began."""
        self._waiting: deque[_Place] = deque()
        self._waiting_pictures = 0
        self._later = 0
        """Pictures that come after the one that is decoded now, in the same request."""
        self._busy = False
        """From the beginning of a turn until the loop has done its I/O after it."""
        self._ended_at = 0.0
        self._after_io: Any = None

    @property
    def pictures(self) -> int:
        """How many pictures are decoded before one that comes now."""
        return self._busy + self._later + self._waiting_pictures

    @property
    def lateness_s(self) -> float:
        """How long a picture that comes now waits for its turn."""
        return self._gate.lateness_s(self.pictures)

    def check(self, age_s: float = 0.0, *, is_read: bool = False) -> None:
        """Raise Busy where a picture would be decoded too late; see `Gate.refusal`."""
        self._oldest_s = max(self._oldest_s, age_s)
        retry_after_s = self._gate.refusal(self.pictures, age_s, self._clock(), is_read=is_read)
        if retry_after_s is not None:
            message = f"{self.pictures} pictures wait to be decoded, more than this process can do"
            raise Busy(message, retry_after_s=retry_after_s)

    def report(self) -> None:
        """Log what was refused since the last call; each refusal has no line of its own.

        ``late_ms``: how long a picture now waits to be decoded. ``oldest_ms``: the most that a
        request had waited for this process when its head was read.
        """
        refused, self._reported = self._gate.refusals - self._reported, self._gate.refusals
        oldest_s, self._oldest_s = self._oldest_s, 0.0
        if refused:
            fields = {
                "refused": refused,
                "late_ms": round(1000 * self.lateness_s),
                "oldest_ms": round(1000 * oldest_s),
            }
            log.warning("more pictures come than can be decoded", extra={"fields": fields})

    @contextmanager
    def turn(self, seconds: float, later: int = 0) -> Iterator[None]:
        """Wait in the line, at most for ``seconds``, and hold its head while decoding.

        ``later``: how many pictures come after this one in the same request. Raises TimedOut where
        the turn does not come in time.
        """
        if not in_server():
            yield
            return
        waited = self._join(seconds, later)
        self._later = later
        began_s, began_cpu_s = self._clock(), time.thread_time()
        try:
            yield
        finally:
            self._later = 0
            now = self._clock()
            self.used.add(now - began_s, time.thread_time() - began_cpu_s)
            if waited:
                self._gate.pace.measured(now - self._ended_at)
            self._ended_at = now
            self._pass_on()

    def _join(self, seconds: float, later: int) -> bool:
        """Return once it is this one's turn: True where others were before it."""
        if not self._busy:
            self._busy = True
            return False
        place = _Place(later)
        self._waiting.append(place)
        self._waiting_pictures += 1 + later
        came = False
        try:
            with silent_timeout(seconds):
                place.waiter.get()
                came = True
        finally:
            if not came:
                self._leave(place)
        if not came:
            raise TimedOut("too many pictures are being decoded")
        return True

    def _leave(self, place: _Place) -> None:
        """Give up a place in the line, or a turn that has just come."""
        try:
            self._waiting.remove(place)
        except ValueError:
            self._pass_on()
        else:
            self._waiting_pictures -= 1 + place.later

    def _pass_on(self) -> None:
        """Let the next one decode once the loop has done its I/O."""
        if self._after_io is None:
            # A timer that is due at once runs after the kernel was asked for I/O; a plain callback
            # of the loop would run before.
            self._after_io = gevent.get_hub().loop.timer(0, priority=AFTER_IO)
        self._after_io.start(self._begin_next)

    def _begin_next(self) -> None:
        if self._waiting:
            place = self._waiting.popleft()
            self._waiting_pictures -= 1 + place.later
            place.waiter.switch(None)
        else:
            self._busy = False
