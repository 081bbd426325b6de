"""Shows how a load test is going: one live line in a terminal, plain lines everywhere else."""

import shutil
from typing import TextIO

from imageserve.loadtest.tally import Glimpse, Tally

PLAIN_EVERY_S = 5.0
_BAR = 24
_SHORTEST_BAR = 4
_CLEAR = "\r\x1b[K"


class Progress:
    """Writes the progress of one load."""

    def __init__(self, out: TextIO, seconds: float, *, live: bool) -> None:
        self._out = out
        self._seconds = seconds
        self._live = live
        self._shown_s = 0.0
        self._seen = 0
        self._seen_s = 0.0

    def show(self, tally: Tally, elapsed_s: float) -> None:
        """Write a line, if it is time for one."""
        if not self._live and elapsed_s - self._shown_s < PLAIN_EVERY_S:
            return
        self._shown_s = elapsed_s
        glimpse = tally.glimpse()
        text = line(glimpse, self._rate(glimpse, elapsed_s), elapsed_s, self._seconds)
        if self._live:
            columns = shutil.get_terminal_size().columns - 1
            drawn = bar(elapsed_s, self._seconds, columns - len(text) - 1)
            self._write(f"{_CLEAR}{f'{drawn} {text}'.lstrip()[:columns]}")
        else:
            self._write(f"{text}\n")

    def end(self) -> None:
        """Take the live line away, so that what follows starts on an empty one."""
        if self._live:
            self._write(_CLEAR)

    def _rate(self, glimpse: Glimpse, elapsed_s: float) -> float:
        """Return the answers a second since the line before."""
        done = glimpse.sent - glimpse.in_flight
        seconds = max(elapsed_s - self._seen_s, 1e-9)
        rate = (done - self._seen) / seconds
        self._seen, self._seen_s = done, elapsed_s
        return rate

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def line(glimpse: Glimpse, rate_per_s: float, elapsed_s: float, seconds: float) -> str:
    """Write the numbers that matter while it runs."""
    p99 = "-" if glimpse.p99_ms is None else f"{glimpse.p99_ms:.0f} ms"
    return (
        f"{elapsed_s:.0f}/{seconds:.0f} s  {rate_per_s:.0f}/s  p99 {p99}  good {glimpse.good}  "
        f"refused {glimpse.refused}  bad {glimpse.bad}  open {glimpse.in_flight}"
    )


def bar(elapsed_s: float, seconds: float, columns: int) -> str:
    """Draw how much is done in at most so many columns: the numbers beside it come first."""
    width = min(_BAR, columns - 2)
    if width < _SHORTEST_BAR:
        return ""
    done = min(width, int(width * elapsed_s / seconds)) if seconds > 0 else width
    return f"[{'#' * done}{'-' * (width - done)}]"
