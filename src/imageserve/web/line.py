"""The line of pictures that wait to be decoded on the event loop of a web process.

One picture is decoded in a turn of the loop. Between two of them the loop accepts connections,
reads, and answers: nothing of that ever waits for more than one picture.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import gevent
from gevent.hub import Waiter

from imageserve.errors import TimedOut
from imageserve.web.greenlets import in_server, silent_timeout

AFTER_IO = -2
"""Priority of the line's watcher, the lowest: what the loop has found ready goes first, and so do
the ends of gevent's timeouts."""


class DecodeLine:
    """First come, first decoded, first answered.

    The greenlet that has decoded its picture goes on, and sends it to Redis, before the next one
    gets its turn. Outside a web server (in unit tests, say) nobody ever waits.
    """

    def __init__(self) -> None:
        self._waiting: deque[Waiter[None]] = deque()
        self._busy = False
        """From the beginning of a turn until the loop has done its I/O after it."""
        self._after_io: Any = None

    @property
    def busy(self) -> bool:
        """Whether a picture is decoded in this turn of the loop, or waits for the next."""
        return self._busy

    def __len__(self) -> int:
        return len(self._waiting)

    @contextmanager
    def turn(self, seconds: float) -> Iterator[None]:
        """Wait in the line, at most for ``seconds``, and hold its head while decoding.

        Raises TimedOut where the turn does not come in time.
        """
        if not in_server():
            yield
            return
        self._join(seconds)
        try:
            yield
        finally:
            self._pass_on()

    def _join(self, seconds: float) -> None:
        if not self._busy:
            self._busy = True
            return
        waiter: Waiter[None] = Waiter()
        self._waiting.append(waiter)
        came = False
        try:
            with silent_timeout(seconds):
                waiter.get()
                came = True
        finally:
            if not came:
                self._leave(waiter)
        if not came:
            raise TimedOut("too many pictures are being decoded")

    def _leave(self, waiter: "Waiter[None]") -> None:
        """Give up a place in the line, or a turn that has just come."""
        try:
            self._waiting.remove(waiter)
        except ValueError:
            self._pass_on()

    def _pass_on(self) -> None:
        """Let the next one decode once the loop has done its I/O."""
        if self._after_io is None:
            # A timer that is due at once runs after the kernel was asked for I/O; a plain callback
            # of the loop would run before.
            self._after_io = gevent.get_hub().loop.timer(0, priority=AFTER_IO)
        self._after_io.start(self._begin_next)

    def _begin_next(self) -> None:
        if self._waiting:
            self._waiting.popleft().switch(None)
        else:
            self._busy = False
