"""What the pods of one model tell: how long a start takes, and how many find no node."""

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from imageserve.autoscaler.cluster import Pod
from imageserve.queue.queue import LIVE_MS, Snapshot, WorkerInfo

UNSCHEDULABLE_S = 60.0
"""The scheduler's first tries fail while a node is on its way; a pod counts after this long."""

STARTS_REMEMBERED = 20

LONGEST_START_S = 3600.0
"""A pod that took longer was ready before, and away for a moment: the API tells the last time."""


@dataclass(frozen=True, slots=True)
class PodFacts:
    """What sizing wants to know of the pods."""

    unschedulable: int = 0
    start_s: float | None = None
    """Median of the last starts, from a pod's creation to its readiness; None where none was."""
    new_starts_s: tuple[float, ...] = ()
    """Those that this look has found."""


class PodWatch:
    """Remembers one model's pods from look to look."""

    def __init__(self) -> None:
        self._starts_s: deque[float] = deque(maxlen=STARTS_REMEMBERED)
        self._timed: set[str] = set()
        self._homeless: dict[str, float] = {}

    def look(self, pods: Sequence[Pod], now_s: float) -> PodFacts:
        """Take in a list of the pods; ``now_s`` is of a steady clock of this process.

        A start is the difference of two stamps of the cluster's clock. How long a pod has found no
        node is measured here: the clocks of two machines need not agree.
        """
        new = self._new_starts(pods)
        self._starts_s.extend(new)
        seen = {pod.uid: self._homeless.get(pod.uid, now_s) for pod in pods if pod.unschedulable}
        self._homeless = seen
        return PodFacts(
            unschedulable=sum(now_s - since_s >= UNSCHEDULABLE_S for since_s in seen.values()),
            start_s=median(self._starts_s) if self._starts_s else None,
            new_starts_s=new,
        )

    def _new_starts(self, pods: Sequence[Pod]) -> tuple[float, ...]:
        starts_s = {pod.uid: pod.ready_s - pod.created_s for pod in pods if pod.ready_s is not None}
        new = [start_s for uid, start_s in starts_s.items() if uid not in self._timed]
        # One that is not ready just now is not timed again when it will be.
        self._timed = {pod.uid for pod in pods} & (self._timed | starts_s.keys())
        return tuple(max(0.0, start_s) for start_s in new if start_s <= LONGEST_START_S)


GONE, IDLE, BUSY = -1, 0, 1
"""What the end of a pod costs that takes no work, that waits for some, that has some."""


def deletion_costs(pods: Sequence[Pod], snapshot: Snapshot) -> dict[str, int]:
    """Return the cost of each pod that is not marked with it yet, by name.

    A worker's host is its pod. It says what it does every few seconds, so this is a hint to the
    controller that picks the pods, not a promise: a busy pod that is picked finishes its batch.
    """
    workers = {worker.host: worker for worker in snapshot.workers}
    costs = {pod.name: _cost(workers.get(pod.name[:63]), snapshot.now) for pod in pods}
    marked = {pod.name: pod.deletion_cost for pod in pods}
    return {name: cost for name, cost in costs.items() if cost != marked[name]}


def _cost(worker: WorkerInfo | None, now_ms: int) -> int:
    if worker is None or worker.state == "stopping" or now_ms - worker.last_seen > LIVE_MS:
        return GONE
    return BUSY if worker.state == "busy" else IDLE
