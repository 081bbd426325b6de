"""How much is measured, and progress messages."""

import sys
from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Plan:
    """The size of a run."""

    rounds: int = 3
    seconds: float = 5.0
    """How long one measurement lasts; some last until a number of batches is done instead."""
    is_quick: bool = False
    least_warm_up_s: float = 0.0

    @property
    def warm_up_s(self) -> float:
        return max(self.least_warm_up_s, min(1.0, self.seconds / 4))

    @property
    def in_small_slices(self) -> "Plan":
        """Return a plan of the same total time in more and shorter rounds.

        For numbers so close that other load on the machine could decide.
        """
        return (
            self
            if self.is_quick
            else replace(self, rounds=2 * self.rounds + 1, seconds=0.6 * self.seconds)
        )


def say(text: str) -> None:
    """Report progress."""
    print(f"bench: {text}", file=sys.stderr, flush=True)
