"""Traces of seven days, to see what a memory of the week is worth. Made up, like the others.

They are drawn from random numbers with a fixed seed: as files they would be large.
"""

import math
import random
from collections.abc import Callable, Iterator

from imageserve_loadtest.simulator.simulated_queue import STEP_S
from imageserve_loadtest.simulator.trace import Trace

DAYS = 7
DAY_S = 86_400
SEED = 7

JOBS = "week-jobs"

BASE, BURST = 2.0, 200.0
"""Requests a second: usually, and for a minute of every hour, a hundred times as many."""

BURST_AT_S, BURST_S = 1380.0, 60.0
LATE_S = 10.0
"""The job starts up to so much later."""

LUNCH_AT_S, LUNCH_S, LUNCH = 12 * 3600.0, 3600.0, 120.0
LUNCH_JITTER_S, LUNCH_JITTER = 60.0, 0.1
"""Lunch begins up to so much sooner or later, with so much less or more."""

Rows = list[tuple[float, float]]


def weeks(scale: float = 1.0) -> list[Trace]:
    """Return the traces of seven days, with ``scale`` times the usual load."""
    kinds: dict[str, Callable[[random.Random], Rows]] = {
        JOBS: _jobs,
        "week-walk": _walk,
        "week-noise": _noise,
    }
    return [_trace(name, draw(random.Random(SEED)), scale) for name, draw in kinds.items()]


def _trace(name: str, rows: Rows, scale: float) -> Trace:
    seconds, rates = zip(*rows, (float(DAYS * DAY_S), 0.0), strict=True)
    return Trace(name, seconds, tuple(rate * scale for rate in rates))


def _jobs(random_: random.Random) -> Rows:
    """Every hour a minute of a hundred times the load, and every day a lunch."""
    lunches = [
        (
            day * DAY_S + LUNCH_AT_S + random_.uniform(-LUNCH_JITTER_S, LUNCH_JITTER_S),
            LUNCH * random_.uniform(1 - LUNCH_JITTER, 1 + LUNCH_JITTER),
        )
        for day in range(DAYS)
    ]
    bursts = [hour * 3600 + BURST_AT_S + random_.uniform(0, LATE_S) for hour in range(DAYS * 24)]

    def rate(second: float) -> float:
        at_lunch = sum(more for start, more in lunches if start <= second < start + LUNCH_S)
        in_burst = any(start <= second < start + BURST_S for start in bursts)
        return BASE + at_lunch + (BURST - BASE) * in_burst

    edges = {0.0, *(e for start, _ in lunches for e in (start, start + LUNCH_S))}
    edges |= {e for start in bursts for e in (start, start + BURST_S)}
    return [(second, rate(second)) for second in sorted(edges)]


def _walk(random_: random.Random) -> Rows:
    """A random walk: every minute up to a fifth more or less, between 2 and 100."""
    rows, now = [], 10.0
    for minute in range(DAYS * 1440):
        now = min(100.0, max(2.0, now * math.exp(random_.uniform(-0.2, 0.2))))
        rows.append((minute * 60.0, now))
    return rows


def _noise(random_: random.Random) -> Rows:
    """White noise: for every five minutes another number, mostly small."""
    return [(step * 300.0, min(100.0, random_.expovariate(0.1))) for step in range(DAYS * 288)]


def days(trace: Trace) -> Iterator[Trace]:
    """Return each day of a trace as one of its own."""
    rows = list(zip(trace.seconds, trace.rates, strict=True))
    for start in range(0, int(trace.length_s), DAY_S):
        first = [rate for second, rate in rows if second <= start][-1]
        inside = [(s - start, rate) for s, rate in rows if start < s < start + DAY_S]
        seconds, rates = zip((0.0, first), *inside, (float(DAY_S), 0.0), strict=True)
        yield Trace(f"{trace.name}, day {start // DAY_S + 1}", seconds, rates)


def third_bursts() -> set[int]:
    """Return the steps of five minutes that have a burst of the job, from the third one on."""
    return {int((hour * 3600 + BURST_AT_S) // STEP_S) for hour in range(2, DAYS * 24)}


def third_lunches() -> set[int]:
    """Return the steps of the lunches, from the third one on."""
    first, last = int(LUNCH_AT_S // STEP_S) - 1, int((LUNCH_AT_S + LUNCH_S) // STEP_S)
    return {int(day * DAY_S // STEP_S) + n for day in range(2, DAYS) for n in range(first, last)}
