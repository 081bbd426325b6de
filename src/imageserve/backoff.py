"""How long to wait before the next try: longer each time, with jitter. Pure."""

import random


class Backoff:
    """The pauses between tries that fail in a row."""

    def __init__(self, first_s: float, longest_s: float) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._pause_s = first_s

    def next(self) -> float:
        """Return the seconds to wait now, 50 to 100 % of a pause that doubles with each call."""
        pause_s = self._pause_s
        self._pause_s = min(self._longest_s, 2 * pause_s)
        return pause_s * random.uniform(0.5, 1.0)

    def reset(self) -> None:
        """Begin again with the first pause, after a success."""
        self._pause_s = self._first_s
