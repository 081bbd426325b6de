"""How long to wait before something that failed is tried again."""

import random


class Backoff:
    """Pauses that double up to a limit. The caller does the waiting.

    With jitter a pause is shortened to between half and all of it, at random, so that many
    processes that failed together do not try again together.
    """

    def __init__(self, first_s: float, longest_s: float, *, jitter: bool = True) -> None:
        self._first_s = first_s
        self._longest_s = longest_s
        self._jitter = jitter
        self._next_s = first_s

    def next(self) -> float:
        """Return the pause after one more failure, in seconds."""
        pause_s = min(self._next_s, self._longest_s)
        self._next_s = 2 * pause_s
        # Not random.uniform(): after a fork, processes share the state of its generator.
        return pause_s * random.SystemRandom().uniform(0.5, 1.0) if self._jitter else pause_s

    def reset(self) -> None:
        """Begin with the first pause again: it worked."""
        self._next_s = self._first_s
