"""How far a long command is: a bar on a terminal, a line now and then elsewhere; on stderr."""

import shutil
import sys
import time
from collections.abc import Callable
from typing import TextIO

_WIDTH = 20
_BAR_EVERY_S, _LINE_EVERY_S = 0.1, 10.0


class Progress:
    """Of a command that works through ``total`` things."""

    def __init__(
        self,
        total: int,
        things: str,
        stream: TextIO | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``things``: what they are called, in the plural."""
        self._total, self._things, self._clock = total, things, clock
        self._stream = stream or sys.stderr
        self._is_terminal = self._stream.isatty()
        self._began = self._shown = clock()

    def show(self, done: int, note: str) -> None:
        """Say how many are done, if some time has passed since it was last said, or all are."""
        now = self._clock()
        every_s = _BAR_EVERY_S if self._is_terminal else _LINE_EVERY_S
        if now - self._shown < every_s and done < self._total:
            return
        self._shown = now
        text = f"{done} of {self._total} {self._things}, {note}{self._left(done, now)}"
        if self._is_terminal:
            full = _WIDTH * done // max(1, self._total)
            bar = f"[{'#' * full}{'.' * (_WIDTH - full)}] {text}"
            # A line that wraps would stay, and be printed again and again.
            self._write(f"\r\x1b[K{bar[: shutil.get_terminal_size().columns - 1]}")
        else:
            self._write(f"{text}\n")

    def say(self, line: str) -> None:
        """Print a line that stays."""
        self._write(f"\r\x1b[K{line}\n" if self._is_terminal else f"{line}\n")

    def end(self) -> None:
        """Let what is printed next begin on a line of its own."""
        if self._is_terminal:
            self._write("\n")

    def _left(self, done: int, now: float) -> str:
        if not done or done >= self._total:
            return ""
        left_s = (now - self._began) * (self._total - done) / done
        return f", {left_s:.0f} s left" if left_s < 100 else f", {left_s / 60:.0f} min left"

    def _write(self, text: str) -> None:
        self._stream.write(text)
        self._stream.flush()
