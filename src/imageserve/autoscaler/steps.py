"""What was asked for lately: the patience before pods go, and the limits of steps. Pure."""

from dataclasses import dataclass, replace


@dataclass(frozen=True, slots=True)
class Steps:
    """The replicas that were there and those that were wanted, as ``(second, pods)``."""

    replicas: tuple[tuple[float, int], ...] = ()
    """Changes of the replicas, the last one before the longest period included."""
    wanted: tuple[tuple[float, int], ...] = ()
    """What was wanted, without what later and higher numbers have made irrelevant."""

    @classmethod
    def begin(cls, now_s: float, replicas: int) -> "Steps":
        """Begin with what is there: for a whole window nothing lower will be believed."""
        return cls(((now_s, replicas),), ((now_s, replicas),))

    @property
    def latest(self) -> int | None:
        """How many replicas were seen last."""
        return self.replicas[-1][1] if self.replicas else None

    def see(self, now_s: float, replicas: int, keep_s: float) -> "Steps":
        """Note how many replicas there are."""
        entries = self.replicas
        if self.latest != replicas:
            entries = (*entries, (now_s, replicas))
        old = sum(second <= now_s - keep_s for second, _ in entries)
        return replace(self, replicas=entries[max(0, old - 1) :])

    def want(self, now_s: float, pods: int, window_s: float) -> "Steps":
        """Note how many are wanted."""
        kept = [
            (second, each)
            for second, each in self.wanted
            if each > pods and second > now_s - window_s
        ]
        return replace(self, wanted=(*kept, (now_s, pods)))

    @property
    def most_wanted(self) -> int:
        """The highest number wanted within the window."""
        return self.wanted[0][1] if self.wanted else 0

    def lowest(self, now_s: float, period_s: float) -> int:
        """Return the fewest replicas there were within the period."""
        return min(self._within(now_s, period_s))

    def highest(self, now_s: float, period_s: float) -> int:
        """Return the most replicas there were within the period."""
        return max(self._within(now_s, period_s))

    def _within(self, now_s: float, period_s: float) -> list[int]:
        start = sum(second <= now_s - period_s for second, _ in self.replicas)
        return [pods for _, pods in self.replicas[max(0, start - 1) :]]
