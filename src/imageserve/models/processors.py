"""How many processors this process may use: what the container got, not what the machine has."""

import math
import os
from pathlib import Path

_CGROUP = Path("/sys/fs/cgroup")


def usable_processors(cgroup: Path = _CGROUP) -> int:
    """Return the processors that affinity and the container's CPU limit leave, at least 1.

    A limit of 1.5 gives 2: one thread would leave a third of what was granted unused.
    """
    granted = len(os.sched_getaffinity(0))
    limit = _limit_v2(cgroup / "cpu.max") or _limit_v1(cgroup / "cpu")
    return max(1, min(granted, math.ceil(limit))) if limit else granted


def _limit_v2(path: Path) -> float | None:
    """Read ``QUOTA PERIOD``, both in microseconds; the quota may be ``max``."""
    quota, _, period = _read(path).partition(" ")
    return _ratio(quota, period)


def _limit_v1(folder: Path) -> float | None:
    return _ratio(_read(folder / "cpu.cfs_quota_us"), _read(folder / "cpu.cfs_period_us"))


def _ratio(quota: str, period: str) -> float | None:
    # cgroup v1 says -1 where there is no limit, v2 says max.
    return int(quota) / int(period) if quota.isdigit() and period.isdigit() else None


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""
