"""The line of pictures that wait to be decoded on the event loop of a web process.

One picture is decoded in a turn of the loop. Between two of them the loop accepts connections,
reads, and answers: nothing of that ever waits for more than one picture.
"""

import logging
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import gevent
from gevent.hub import Waiter

from imageserve.errors import Busy, TimedOut, WouldTimeOut, rounded_up
from imageserve.web.decode_order import Asked, DecodeOrder, Place
from imageserve.web.greenlets import in_server, silent_timeout
from imageserve.web.pace import NEVER_TOO_LATE, Gate, Used

log = logging.getLogger(__name__)

AFTER_IO = -2
"""Priority of the line's watcher, the lowest: what the loop has found ready goes first, and so do
the ends of gevent's timeouts."""


class LinePlace(Place):
    """Who waits in the line: a greenlet."""

    def __init__(self, asked: Asked, pictures: int) -> None:
        super().__init__(asked, pictures)
        self._waiter: Waiter[None] = Waiter()

    def wait(self, seconds: float) -> bool:
        """Wait for the turn; False where it has not come within ``seconds``."""
        with silent_timeout(seconds):
            self._waiter.get()
            return True
        return False

    def begin(self) -> None:
        """Give it its turn."""
        self._waiter.switch(None)


class DecodeLine:
    """Decodes in the order of `DecodeOrder`; a picture that has begun is never interrupted.

    The greenlet that has decoded its picture goes on, and sends it to Redis, before the next one
    gets its turn. Outside a web server (in unit tests, say) nobody ever waits.
    """

    place_class: type[LinePlace] = LinePlace

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._gate = Gate()
        self._reported = 0
        self._oldest_s = 0.0
        self.used = Used()
        """All turns together, since the process began."""
        self._order: DecodeOrder[LinePlace] = DecodeOrder()
        self._decoding: Asked | None = None
        self._later = 0
        """Pictures that come after the one that is decoded now, in the same request."""
        self._busy = False
        """From the beginning of a turn until the loop has done its I/O after it."""
        self._ended_at = 0.0
        self._after_io: Any = None

    @property
    def pictures(self) -> int:
        """How many pictures are decoded, or wait for it."""
        return self._busy + self._later + self._order.pictures

    @property
    def is_short(self) -> bool:
        """Whether it refuses nothing."""
        return self.pictures < NEVER_TOO_LATE

    @property
    def lateness_s(self) -> float:
        """How long a picture waits for its turn that is the last of all."""
        return self._gate.lateness_s(self.pictures)

    def check(
        self, asked: Asked, age_s: float = 0.0, pictures: int = 1, *, is_read: bool = False
    ) -> None:
        """Refuse a request of which some picture would be too late.

        ``age_s``: how long ago its head came. ``is_read``: all of it is here, with so many
        pictures. Raises WouldTimeOut where it would miss its own deadline, and Busy where a picture
        would be decoded later than any should be; see `Gate.refusal`.
        """
        self._oldest_s = max(self._oldest_s, age_s)
        if self.is_short:
            return
        ahead, now = self._ahead(asked), self._clock()
        # What would be the next one gets the benefit of the doubt: to refuse it helps nobody.
        surely = self._order.ahead(asked) > 0
        needed_s = self._gate.needed_s(ahead + pictures, asked.model, surely=surely)
        if now + needed_s > asked.deadline:
            raise self._would_time_out(asked, ahead, pictures, now)
        retry_after_s = self._gate.refusal(ahead, age_s, now, is_read=is_read)
        if retry_after_s is not None:
            message = f"{ahead} pictures wait to be decoded, more than this process can do"
            raise Busy(message, retry_after_s=retry_after_s)

    def until_decoded_s(self, asked: Asked) -> float:
        """Return how long a picture that comes now takes to be decoded; 0 where it waits for few.

        In doubt it is too short, because callers refuse by it.
        """
        return 0.0 if self.is_short else self._gate.lateness_s(self._ahead(asked) + 1)

    def answered(self, model: str | None, seconds: float) -> None:
        """Note how long after its turn a picture was answered, its wait in the queue left out."""
        self._gate.answered(model, seconds)

    def unanswered(self, model: str | None, seconds: float) -> None:
        """Note how long after its turn a picture had no answer, when its client left or gave up."""
        self._gate.unanswered(model, seconds)

    def _ahead(self, asked: Asked) -> int:
        """Return how many pictures are decoded before one that comes now."""
        decoding = self._decoding
        later = self._later if decoding is not None and decoding.is_before(asked) else 0
        return self._busy + later + self._order.ahead(asked)

    def _would_time_out(self, asked: Asked, ahead: int, pictures: int, now: float) -> WouldTimeOut:
        """Return the error with the shortest timeout of a request that comes at this moment.

        One with a longer timeout has more pictures before it, and so needs a longer one: until the
        number does not change.
        """
        retry_after_s = self._gate.refused(ahead, now)
        while True:
            needed_s = rounded_up(self._gate.needed_s(ahead + pictures, asked.model, surely=True))
            more = self._ahead(replace(asked, deadline=now + needed_s))
            if more <= ahead:
                return WouldTimeOut(needed_s, retry_after_s=retry_after_s)
            ahead = more

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
    def turn(self, asked: Asked, later: int = 0) -> Iterator[None]:
        """Wait in the line until the deadline at most, and hold its head while decoding.

        ``later``: how many pictures come after this one in the same request. Raises TimedOut where
        the turn does not come in time, and WouldTimeOut where it comes too late for the rest.
        """
        if not self._is_served():
            yield
            return
        waited = self._join(asked, later)
        began_s, began_cpu_s = self._begin(asked, later), time.thread_time()
        try:
            yield
        finally:
            self._end(began_s, time.thread_time() - began_cpu_s, waited=waited)

    def _is_served(self) -> bool:
        """Whether others may want to decode meanwhile."""
        return in_server()

    def _begin(self, asked: Asked, later: int) -> float:
        self._decoding, self._later = asked, later
        return self._clock()

    def _end(self, began_s: float, cpu_s: float, *, waited: bool) -> None:
        self._decoding, self._later = None, 0
        now = self._clock()
        self.used.add(now - began_s, cpu_s)
        if waited:
            self._gate.pace.measured(now - self._ended_at)
        self._ended_at = now
        self._pass_on()

    def _join(self, asked: Asked, later: int) -> bool:
        """Return once it is this one's turn: True where others were before it."""
        place = self._come(asked, later)
        if place is None:
            return False
        came = False
        try:
            came = place.wait(max(0.0, asked.deadline - self._clock()))
        finally:
            if not came:
                self._leave(place)
        if not came:
            raise TimedOut("too many pictures are being decoded")
        self._check_at_turn(asked)
        return True

    def _come(self, asked: Asked, later: int) -> LinePlace | None:
        """Return a place in the line; None where it is this one's turn at once."""
        if not self._busy:
            self._busy = True
            return None
        place = self.place_class(asked, 1 + later)
        self._order.add(place)
        return place

    def _leave(self, place: LinePlace) -> None:
        if not self._order.remove(place):
            self._pass_on()  # Its turn has just come.

    def _check_at_turn(self, asked: Asked) -> None:
        """Give the turn to the next one where it is too late for this one, and another waits.

        What goes before it may have come after it, and the process may have got slower.
        """
        now = self._clock()
        if self._order and now + self._gate.needed_s(1, asked.model, surely=False) > asked.deadline:
            self._pass_on()
            raise self._would_time_out(asked, 0, 1, now)

    def _pass_on(self) -> None:
        """Let the next one decode once the loop has done its I/O."""
        if self._after_io is None:
            # A timer that is due at once runs after the kernel was asked for I/O; a plain callback
            # of the loop would run before.
            self._after_io = gevent.get_hub().loop.timer(0, priority=AFTER_IO)
        # Twice: whoever is woken by what the loop has read (the request of a result, say) runs only
        # in the loop's next iteration, and is to answer before the next picture is decoded.
        self._after_io.start(self._after_io.start, self._begin_next)

    def _begin_next(self) -> None:
        place = self._order.take()
        if place is None:
            self._busy = False
        else:
            place.begin()
