"""The Kubernetes cluster as the autoscaler sees it: its values, pauses and pods. Pure."""

import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field

from imageserve.autoscaler.pod_start import HOST_CHARACTERS, PodStart, StartStamps, StartWatch
from imageserve.queue.snapshot import Snapshot, WorkerInfo

PAUSED = "imageserve.dev/autoscaler-paused"
PAUSED_REPLICAS = "imageserve.dev/paused-replicas"

UNSCHEDULABLE_S = 60.0
"""A pod counts as unschedulable after this long: a new node may be on its way."""


@dataclass(frozen=True, slots=True)
class Deployment:
    """One model's Deployment."""

    name: str
    uid: str
    version: str
    """Its resourceVersion: a write that names it is refused once anything has changed."""
    replicas: int
    """``spec.replicas``."""
    ready: int
    rollout: bool = False
    """Whether pods of an older template still exist beside those of the current one."""
    max_surge: int | str = "25%"
    max_unavailable: int | str = "25%"
    """Of its strategy: numbers of pods, or shares of the replicas."""
    annotations: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Pod:
    """One pod of a Deployment."""

    name: str
    uid: str
    stamps: StartStamps
    unschedulable: bool
    """The scheduler has found no node for it."""
    deletion_cost: int
    """Among otherwise equal pods, a scale-down deletes the one with the lowest cost; default 0."""
    placed: bool = True
    """It is on a node and takes room there."""
    leaving: bool = False
    """It is about to end, and takes its room until it has ended."""


@dataclass(frozen=True, slots=True)
class LeaseRecord:
    """The content of a Lease. While it is held, only its holder writes it."""

    version: str
    """Its resourceVersion; "" in one that is to be written."""
    holder: str = ""
    duration_s: int | None = None
    """How long others wait after the last renewal they saw; None in a Lease never held."""
    acquired: str | None = None
    renewed: str | None = None
    transitions: int = 0


# -- pause --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Pause:
    """A Deployment that is not to be sized."""

    replicas: int | None
    """The number to set instead; None keeps the current one."""
    annotation: str
    """The annotation that pauses it, with its value."""


def pause_of(annotations: Mapping[str, str]) -> Pause | None:
    """Return how the annotations pause a Deployment; None where they do not.

    An invalid value pauses too, as its author wanted the Deployment left alone.
    """
    count = annotations.get(PAUSED_REPLICAS)
    if count is not None and count.strip().isdecimal():
        return Pause(int(count), f"{PAUSED_REPLICAS}: {count}")
    if count is not None:
        return Pause(None, f"{PAUSED_REPLICAS}: {count!r} is not a number")
    flag = annotations.get(PAUSED)
    if flag is None or flag.strip().lower() == "false":
        return None
    return Pause(None, f"{PAUSED}: {flag}")


# -- rollouts -----------------------------------------------------------------------------------


def room_in_rollout(deployment: Deployment, places: int) -> int:
    """Return the most replicas with which a rollout goes on where ``places`` pods find a node.

    A new pod needs the place of a ready one, which goes only while enough others are ready. With a
    strategy that lets no pod go first, no number of replicas helps but fewer than there is room
    for: the rollout waits for room.
    """
    if not _may_be_unavailable(deployment, deployment.replicas):
        return max(1, places)
    going_on = (n for n in range(places, 1, -1) if n - _may_be_unavailable(deployment, n) < places)
    return next(going_on, 1)


def _may_be_unavailable(deployment: Deployment, replicas: int) -> int:
    """Return how many pods of so many a rollout may take away before new ones are ready."""
    unavailable = math.floor(_pods_of(deployment.max_unavailable, replicas))
    surge = math.ceil(_pods_of(deployment.max_surge, replicas))
    return unavailable or int(surge == 0)


def _pods_of(number: int | str, replicas: int) -> float:
    text = str(number)
    return replicas * int(text[:-1]) / 100 if text.endswith("%") else int(text)


# -- pods ---------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class PodSummary:
    """What sizing needs to know of a model's pods."""

    unschedulable: int = 0
    """Pods without a node for ``UNSCHEDULABLE_S`` or longer."""
    start: PodStart | None = None
    """How long the last starts took; None where none was seen."""
    new_starts_s: tuple[float, ...] = ()
    """Starts first seen in this update."""
    can_run: int | None = None
    """The pods that there is room for: those on nodes, while for ``UNSCHEDULABLE_S`` others have
    found none and no pod has come to a node or left one; None in any other case."""


class PodWatch:
    """Follows one model's pods over time."""

    def __init__(self) -> None:
        self._starts = StartWatch()
        self._unschedulable_since: dict[str, float] = {}
        self._placed = 0
        self._placed_since_s = 0.0

    def start(self, workers: Iterable[WorkerInfo]) -> PodStart | None:
        """Return how long starts took, with what heartbeats have told since the last update."""
        return self._starts.usual(workers)

    def update(
        self, pods: Sequence[Pod], now_s: float, workers: Iterable[WorkerInfo] = ()
    ) -> PodSummary:
        """Take the current list of pods; ``now_s`` is of a monotonic clock of this process.

        A start is the difference of two times of the cluster's clock. How long a pod has been
        unschedulable is measured by ``now_s``: clocks of two machines may differ.
        """
        new = self._starts.note_pods((pod.name, pod.uid, pod.stamps) for pod in pods)
        known = self._unschedulable_since
        waiting = [pod for pod in pods if pod.unschedulable and not pod.leaving]
        since = {pod.uid: known.get(pod.uid, now_s) for pod in waiting}
        self._unschedulable_since = since
        unschedulable = sum(now_s - since_s >= UNSCHEDULABLE_S for since_s in since.values())
        is_still = self._note_placed(sum(pod.placed for pod in pods), now_s)
        return PodSummary(
            unschedulable=unschedulable,
            start=self.start(workers),
            new_starts_s=new,
            can_run=self._placed if unschedulable and is_still else None,
        )

    def _note_placed(self, placed: int, now_s: float) -> bool:
        """Return whether as many pods as now have been on nodes for ``UNSCHEDULABLE_S``."""
        if placed != self._placed:
            self._placed, self._placed_since_s = placed, now_s
        return now_s - self._placed_since_s >= UNSCHEDULABLE_S


GONE, IDLE, BUSY = -1, 0, 1
"""Deletion cost of a pod without a worker that takes jobs, with an idle worker, with a busy one."""


def deletion_costs(pods: Sequence[Pod], snapshot: Snapshot) -> dict[str, int]:
    """Return the deletion cost of each pod, by name, where it differs from the current one.

    A worker's host name is its pod's. Heartbeats are seconds old, so the cost is only a hint to
    the controller that deletes pods: a busy pod that it deletes finishes its batch.
    """
    live = {
        worker.host: BUSY if worker.state == "busy" else IDLE for worker in snapshot.live_workers
    }
    costs = [(pod, live.get(pod.name[:HOST_CHARACTERS], GONE)) for pod in pods if not pod.leaving]
    return {pod.name: cost for pod, cost in costs if cost != pod.deletion_cost}
