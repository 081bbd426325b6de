"""How fast a web process is: whether it takes one more picture, and how many a second it could.

Pure: the caller has clocks and counters.

A process that is asked for more than it can decode gets later and later: each picture waits for all
that came before. Here it is known how long that is, because the process has measured how long a
picture takes it. A picture that would wait too long is refused at once, at a small part of the cost
of an answer; those that are taken are answered in good time. Waiting for Redis or for a model costs
a web process nothing, and does not make it late.

What it could do is reckoned from processor time, not from what came: an idle process has done
nothing, and could do much.
"""

import math
from collections import defaultdict
from dataclasses import dataclass

from imageserve.queue.snapshot import retry_after_s

LATE_S = 1.0
"""A picture is refused that would be decoded later than this after its request came."""

LATE_READ_S = 1.5
"""The same, once it was read: to refuse it now would waste what that has cost."""

NEVER_REFUSED = 8
"""With fewer pictures ahead none is refused for that. So some always wait, and the pace is always
measured: a process that was slow for a while finds out that it is no more."""

NEVER_TOO_LATE = 2
"""With fewer pictures in the whole line none is refused by its own deadline: one always waits."""

FIRST_PACE_S = 0.01
"""Supposed before anything is measured. The first pictures of a process take far longer than those
that follow, because it connects to Redis meanwhile."""

SUPPOSED_PICTURES = 16
"""How many pictures that supposition counts for."""

WINDOW_S = 1.0
"""The pace is that of about the last second: shorter, and one halt of the process would make it
look slow; longer, and a burst would come before the process knows how slow it is."""

MOST_TIMES, LEAST_HALT_S = 4.0, 0.25
"""A measurement counts for no more than this multiple of the pace, or these seconds if they are
more: the process was halted, perhaps."""


class Pace:
    """How long one picture takes a busy process, with all that is done between two pictures.

    It is measured by the clock on the wall: another process on the same core makes both slower.
    """

    def __init__(self, seconds: float = FIRST_PACE_S) -> None:
        self._pictures = float(SUPPOSED_PICTURES)
        self._busy_s = SUPPOSED_PICTURES * seconds

    @property
    def seconds(self) -> float:
        return self._busy_s / self._pictures

    def measured(self, seconds: float) -> None:
        """Add the time from the end of one picture to the end of the next, which was waiting."""
        seconds = min(seconds, max(MOST_TIMES * self.seconds, LEAST_HALT_S))
        kept = math.exp(-seconds / WINDOW_S)
        self._busy_s = kept * self._busy_s + seconds
        self._pictures = kept * self._pictures + 1


LEARNING = 1 / 16
"""Weight of the newest answer in what is known of the time after decoding."""

DEVIATIONS = 2.0
"""So many mean deviations above the mean few answers take longer."""


class Spread:
    """A time that varies: its mean, and what nearly all measurements stay below.

    Both are 0 where nothing was measured yet.
    """

    def __init__(self) -> None:
        self._mean_s: float | None = None
        self._deviation_s = 0.0

    @property
    def mean_s(self) -> float:
        return self._mean_s or 0.0

    @property
    def most_s(self) -> float:
        return self.mean_s + DEVIATIONS * self._deviation_s

    def measured(self, seconds: float) -> None:
        if self._mean_s is None:
            self._mean_s = seconds
        off_s = seconds - self._mean_s
        self._mean_s += LEARNING * off_s
        self._deviation_s += LEARNING * (abs(off_s) - self._deviation_s)


class Gate:
    """Refuses what would be late, and says when to come again."""

    def __init__(self) -> None:
        self.pace = Pace()
        self._after: defaultdict[str | None, Spread] = defaultdict(Spread)
        """Model, as clients name it -> time from a decoded picture to its answer, without the wait
        in the queue."""
        self.refusals = 0
        """All of them, since the process began."""
        self._refused = 0.0
        """Pictures that were refused and will come again, less those that there was time for."""
        self._refused_at = 0.0

    def lateness_s(self, ahead: int) -> float:
        """Return how long a picture waits that has ``ahead`` others before it."""
        return ahead * self.pace.seconds

    def refusal(self, ahead: int, age_s: float, now: float, *, is_read: bool = False) -> int | None:
        """Return None where a picture is taken, else the seconds after which to send it again.

        ``ahead``: pictures that wait to be decoded. ``age_s``: how long ago its request came.
        ``is_read``: it was taken once, and others have come while it was read. A picture with few
        ahead of it is never refused.
        """
        if ahead < NEVER_REFUSED:
            return None
        if age_s + self.lateness_s(ahead) <= (LATE_READ_S if is_read else LATE_S):
            return None
        return self.refused(ahead, now)

    def answered(self, model: str | None, seconds: float) -> None:
        """Add the time from a decoded picture to its answer, without the wait in the queue."""
        self._after[model].measured(seconds)

    def unanswered(self, model: str | None, seconds: float) -> None:
        """Add the time after which a decoded picture had no answer, where that says something.

        Without it only what was in time would be known, and what takes too long always would be
        taken again and again. Outages are not to be learnt: it counts up to `LATE_S`.
        """
        seconds = min(seconds, LATE_S)
        if seconds > self._after[model].mean_s:
            self._after[model].measured(seconds)

    def needed_s(self, pictures: int, model: str | None, *, surely: bool) -> float:
        """Return the time until so many pictures are decoded and the last of them is answered.

        ``surely``: nearly always within that time; else about every second time.
        """
        after = self._after.get(model) or Spread()  # Clients may name any model.
        return self.lateness_s(pictures) + (after.most_s if surely else after.mean_s)

    def refused(self, ahead: int, now: float) -> int:
        """Count a picture that is refused; return the seconds after which to send it again."""
        self.refusals += 1
        per_s = 1 / self.pace.seconds
        self._refused = max(0.0, self._refused - (now - self._refused_at) * per_s) + 1
        self._refused_at = now
        return retry_after_s(ahead + round(self._refused), per_s)


# -- how many pictures a second it could decode ----------------------------------------------------


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
