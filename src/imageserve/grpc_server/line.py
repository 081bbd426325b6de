"""The line of pictures that wait to be decoded, in a process whose requests are threads.

One picture is decoded at a time here too: Python runs one thread at a time, so more would only get
in each other's way, and what each of them takes could not be measured.
"""

import threading
import time
from collections.abc import Callable
from functools import wraps
from typing import Any, TypeVar, cast

from imageserve.web.decode_order import Asked
from imageserve.web.line import DecodeLine, LinePlace

M = TypeVar("M", bound=Callable[..., Any])


def _locked(method: M) -> M:
    """Return a method of the line that one thread at a time is in."""

    @wraps(method)
    def locked(line: "ThreadLine", *args: Any, **kwargs: Any) -> Any:
        with line.lock:
            return method(line, *args, **kwargs)

    return cast(M, locked)


class _Place(LinePlace):
    """Who waits in the line: a thread."""

    def __init__(self, asked: Asked, pictures: int) -> None:
        super().__init__(asked, pictures)
        self._turn = threading.Event()

    def wait(self, seconds: float) -> bool:
        return self._turn.wait(seconds)

    def begin(self) -> None:
        self._turn.set()


class ThreadLine(DecodeLine):
    """The same order and the same refusals. The turn passes on as soon as a picture is decoded."""

    place_class = _Place

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__(clock)
        self.lock = threading.RLock()

    def _is_served(self) -> bool:
        return True

    def _pass_on(self) -> None:
        self._begin_next()

    check = _locked(DecodeLine.check)
    until_decoded_s = _locked(DecodeLine.until_decoded_s)
    answered = _locked(DecodeLine.answered)
    unanswered = _locked(DecodeLine.unanswered)
    report = _locked(DecodeLine.report)
    _begin = _locked(DecodeLine._begin)
    _end = _locked(DecodeLine._end)
    _come = _locked(DecodeLine._come)
    _leave = _locked(DecodeLine._leave)
    _check_at_turn = _locked(DecodeLine._check_at_turn)
