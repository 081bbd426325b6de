"""How many pictures a second a web process could decode. Pure: the caller has clocks and counters.

It is reckoned from processor time, not from what came: an idle process has done nothing, and could
do much.
"""

from dataclasses import dataclass

REMEMBERED = 1000
"""Pictures after which half of what was measured before is forgotten."""

LEAST_SHARE = 0.1
"""At least this part of the processor time is put down to pictures, where there were some."""

SHARE_OF_NEW = 0.2
"""Weight of the newest idle interval."""


@dataclass(slots=True)
class Used:
    """What the pictures took that were decoded on the event loop, or were looked at there."""

    pictures: int = 0
    wall_s: float = 0.0
    cpu_s: float = 0.0

    def add(self, wall_s: float, cpu_s: float) -> None:
        self.pictures += 1
        self.wall_s += wall_s
        self.cpu_s += cpu_s

    def since(self, before: "Used") -> "Used":
        return Used(
            self.pictures - before.pictures,
            self.wall_s - before.wall_s,
            self.cpu_s - before.cpu_s,
        )


class Throughput:
    """Adds up intervals: what the process did in each, and the processor time that it took."""

    def __init__(self) -> None:
        self._idle_share: float | None = None
        """Processor time a second without any picture: probes, heartbeats, metrics."""
        self._cost_s = 0.0
        self._used = Used()

    def add(self, seconds: float, cpu_s: float, used: Used) -> None:
        """Add an interval; ``cpu_s``: of this process and its children, for whatever."""
        if not used.pictures:
            share = cpu_s / seconds
            if self._idle_share is None:
                self._idle_share = share
            self._idle_share += SHARE_OF_NEW * (share - self._idle_share)
            return
        idle_s = (self._idle_share or 0.0) * seconds
        self._cost_s += max(cpu_s - idle_s, LEAST_SHARE * cpu_s)
        self._used.pictures += used.pictures
        self._used.wall_s += used.wall_s
        self._used.cpu_s += used.cpu_s
        if self._used.pictures > REMEMBERED:
            self._forget_half()

    def _forget_half(self) -> None:
        used = self._used
        self._cost_s /= 2
        self._used = Used(used.pictures // 2, used.wall_s / 2, used.cpu_s / 2)

    def per_s(self, processors: float) -> float:
        """Return the pictures per second; 0 where none was decoded yet.

        ``processors``: what the process may have at most. It gets less where others want the same:
        that shows while it decodes, in less processor time than time.
        """
        if not self._used.pictures or self._cost_s <= 0:
            return 0.0
        got = self._used.cpu_s / self._used.wall_s if self._used.wall_s > 0 else 1.0
        return min(1.0, processors, got) * self._used.pictures / self._cost_s
