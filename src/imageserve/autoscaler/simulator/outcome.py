"""What came of a run: pods paid for, and requests answered in time."""

import math
from dataclasses import dataclass
from itertools import pairwise

from imageserve.autoscaler.simulator.jobs import Jobs

SAMPLE_S = 10.0
"""How often the queue is looked at for the record."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """One trace under one rule."""

    requests: int
    in_time: int
    replica_hours: float
    """Of pods that start, serve or stop: what is paid for."""
    p99_wait_s: float
    """Of those that were answered: from arrival to the start of the batch."""
    direction_changes: int
    zero_s: float
    """How long there was no pod at all."""
    replicas: tuple[tuple[float, int], ...]
    """``(second, pods)``: what was asked for, and when."""
    waiting: tuple[tuple[float, int], ...]
    """``(second, jobs)``: how many waited, every ``SAMPLE_S``."""

    @property
    def in_time_share(self) -> float:
        """Answered within the deadline, of all that came; those refused count as not answered."""
        return self.in_time / self.requests if self.requests else 1.0


class Timeline:
    """Notes pods and decisions while a run goes on."""

    def __init__(self, replicas: int) -> None:
        self._pods = [(0.0, 0)]
        self._replicas = [(0.0, replicas)]
        self._waiting: list[tuple[float, int]] = []

    def counted(self, now_s: float, pods: int) -> None:
        """Note how many pods exist."""
        self._pods.append((now_s, pods))

    def scaled(self, now_s: float, replicas: int) -> None:
        """Note how many are asked for."""
        self._replicas.append((now_s, replicas))

    def sampled(self, now_s: float, waiting: int) -> None:
        """Note how many jobs wait."""
        self._waiting.append((now_s, waiting))

    def outcome(self, length_s: float, requests: int, jobs: Jobs) -> Outcome:
        """Add it all up; what happens after the trace is not paid for."""
        return Outcome(
            requests=requests,
            in_time=jobs.in_time,
            replica_hours=_integral(self._pods, length_s) / 3600,
            p99_wait_s=_percentile(jobs.waits_s.tolist(), 0.99),
            direction_changes=_direction_changes([pods for _, pods in self._replicas]),
            zero_s=length_s - _integral([(s, min(n, 1)) for s, n in self._pods], length_s),
            replicas=tuple(self._replicas),
            waiting=tuple(self._waiting),
        )


def _integral(steps: list[tuple[float, int]], end_s: float) -> float:
    total = 0.0
    for (start, value), (end, _) in zip(steps, [*steps[1:], (end_s, 0)], strict=True):
        total += value * max(0.0, min(end, end_s) - start)
    return total


def _percentile(values: list[float], share: float) -> float:
    """Return the smallest value that ``share`` of all do not exceed."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)] if values else 0.0


def _direction_changes(counts: list[int]) -> int:
    """Count how often an increase follows a decrease, or the other way round."""
    moves = [after > before for before, after in pairwise(counts)]
    return sum(before != after for before, after in pairwise(moves))
