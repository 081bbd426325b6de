"""Draws the simulator's built-in load traces, as CSV: ``second,requests_per_second``.

Each row holds until the next one; the last row ends the trace. The shapes are made up, not
recorded: each is the plainest form of something that happens to a service.
"""

import argparse
import math
import random
import sys
from collections.abc import Callable
from pathlib import Path

FOLDER = Path(__file__).parents[1] / "loadtest/src/imageserve_loadtest/simulator/traces"
SEED = 7
STEP_S = 10

Rate = Callable[[float], float]


def _between(second: float, start: float, end: float, low: float, high: float) -> float:
    """Go straight from ``low`` at ``start`` to ``high`` at ``end``."""
    share = min(1.0, max(0.0, (second - start) / (end - start)))
    return low + share * (high - low)


def _step(second: float) -> float:
    """Ten times the load at once, for forty minutes."""
    return 160.0 if 1200 <= second < 3600 else 16.0


def _ramp(second: float) -> float:
    """Up within an hour, and down again."""
    if second < 4800:
        return _between(second, 0, 3600, 10, 240)
    return _between(second, 4800, 8400, 240, 10)


def _flash_crowd(second: float) -> float:
    """Twenty times the load within seconds; over after five minutes."""
    if second < 1200:
        return 10.0
    return 200.0 if second < 1500 else 10 + 190 * math.exp(-(second - 1500) / 300)


def _on_off(second: float) -> float:
    """Another team's batch job: ten minutes on, ten minutes off."""
    return 120.0 if second % 1200 < 600 else 0.0


def _slow_leak(second: float) -> float:
    """A little more all the time, as when clients try again and again."""
    return _between(second, 0, 14_400, 12, 180)


def _long_idle(second: float) -> float:
    """Nothing for most of the time, one request now and then, and half an hour of work."""
    if second < 600 or 9000 <= second < 10_800:
        return 40.0
    return 0.1 if 5400 <= second < 5500 else 0.0


def _day(random_: random.Random) -> Rate:
    """A day in four hours: a quiet night, a busy day with a dent at noon, and bursts."""
    bursts = [
        (random_.uniform(1800, 13_800), random_.uniform(60, 240), random_.uniform(0.3, 1.0))
        for _ in range(6)
    ]

    def rate(second: float) -> float:
        hour = second / 600
        base = 16 + 124 * math.exp(-(((hour - 10) / 3.2) ** 2))
        base += 100 * math.exp(-(((hour - 16.5) / 3.0) ** 2))
        more = sum(share for at, length, share in bursts if at <= second < at + length)
        return base * (1 + more)

    return rate


def _csv(length_s: int, rate: Rate) -> str:
    rows = ["second,requests_per_second"]
    last = None
    for second in range(0, length_s + 1, STEP_S):
        value = f"{rate(second):.1f}"
        if value != last or second == length_s:
            rows.append(f"{second},{value}")
        last = value
    return "\n".join(rows) + "\n"


def drawn() -> dict[str, str]:
    """Return the text of each file by its name."""
    return {
        "day.csv": _csv(14_400, _day(random.Random(SEED))),
        "flash-crowd.csv": _csv(4800, _flash_crowd),
        "long-idle.csv": _csv(14_400, _long_idle),
        "on-off.csv": _csv(7200, _on_off),
        "ramp.csv": _csv(9000, _ramp),
        "slow-leak.csv": _csv(14_400, _slow_leak),
        "step.csv": _csv(6000, _step),
    }


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--check", action="store_true", help="change nothing; fail if it would")
    options = parser.parse_args()
    there = {path.name: path.read_text() for path in FOLDER.glob("*.csv")}
    if options.check:
        return int(there != drawn())
    for name, text in drawn().items():
        (FOLDER / name).write_text(text)
    return 0


if __name__ == "__main__":
    sys.exit(main())
