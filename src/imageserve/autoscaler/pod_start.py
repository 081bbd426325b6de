"""How long a pod takes to start, phase by phase, from the starts that were seen. Pure.

A start has four phases. Each has causes of its own, so each is measured by itself:

* scheduled: from its creation until it has a node; minutes where a node has to be added
* image: until its container runs, without the init containers; seconds where the node has the image
* model: what init containers fetch, and until the worker has loaded its model
* warm: until Kubernetes counts it as ready: warm-up, times of batches, Redis, the readiness probe
"""

import math
from collections import deque
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from imageserve.autoscaler.policy import Policy
from imageserve.queue.snapshot import WorkerInfo

STARTS_REMEMBERED = 20

LONGEST_START_S = 3600.0
"""A longer start is none: the pod was ready before, and Kubernetes keeps the last time only."""

USUAL_SHARE = 0.75
"""A phase counts with the time that this share of the remembered starts did not exceed. So a pull
of an image, or a new node, counts from the moment that more than a quarter of the starts had it."""

HOST_CHARACTERS = 63
"""A pod's host name is its name, cut to this."""


@dataclass(frozen=True, slots=True)
class StartStamps:
    """When a pod got how far: seconds since the epoch by the cluster's clock; None: not known."""

    created_s: float
    scheduled_s: float | None = None
    running_s: float | None = None
    """When the container of the model began to run."""
    ready_s: float | None = None
    """When it first became ready; None where it is not ready or was restarted."""
    init_s: float = 0.0
    """How long its init containers ran."""

    @property
    def total_s(self) -> float | None:
        """From creation to readiness; None where it is not ready, or that was no start."""
        if self.ready_s is None or self.ready_s - self.created_s > LONGEST_START_S:
            return None
        return max(0.0, self.ready_s - self.created_s)

    def phases(self, load_s: float | None) -> Mapping[str, float]:
        """Return the seconds of each phase of a whole start; together they are ``total_s``.

        ``load_s``: how long its worker took until its model was loaded; None where it does not say.
        What cannot be told apart counts to the next phase that can.
        """
        running_s = self._between(self.running_s)
        loaded_s = self._between(running_s + load_s) if running_s and load_s else None
        marks = {
            "scheduled": self._between(self.scheduled_s),
            "image": running_s and running_s - self.init_s,
            "model": loaded_s,
            "warm": self.ready_s,
        }
        if loaded_s is None:
            del marks["warm"]
            marks["model"] = self.ready_s
        phases, before_s = {}, self.created_s
        for phase, mark_s in marks.items():
            if mark_s is not None:
                phases[phase] = max(0.0, mark_s - before_s)
                before_s = max(before_s, mark_s)
        return phases

    def _between(self, second: float | None) -> float | None:
        """Return an instant within the start: stamps are whole seconds, of several clocks."""
        if second is None or self.ready_s is None:
            return None
        return min(max(second, self.created_s), self.ready_s)


@dataclass(frozen=True, slots=True)
class Phase:
    """One phase of the remembered starts, in seconds."""

    usual_s: float
    """What counts: ``USUAL_SHARE`` of the starts took no longer."""
    longest_s: float


@dataclass(frozen=True, slots=True)
class PodStart:
    """How long a pod of a model takes to start."""

    starts: int
    """How many were seen."""
    phases: Mapping[str, Phase] = field(default_factory=dict)

    @property
    def total_s(self) -> float:
        """What a model is sized with: the usual times of all phases together."""
        return sum(phase.usual_s for phase in self.phases.values())


def pod_start(starts: Sequence[Mapping[str, float]]) -> PodStart | None:
    """Return what these starts, as ``StartStamps.phases``, tell of the next; None for none."""
    if not starts:
        return None
    names = dict.fromkeys(name for start in starts for name in start)
    # One without a phase has its time in another: it is 0 here, so that it does not count twice.
    seconds = {name: sorted(start.get(name, 0.0) for start in starts) for name in names}
    rank = math.ceil(USUAL_SHARE * len(starts)) - 1
    return PodStart(
        len(starts), {name: Phase(each[rank], each[-1]) for name, each in seconds.items()}
    )


class StartWatch:
    """Remembers the last starts of one model's pods."""

    def __init__(self) -> None:
        self._starts: deque[tuple[str, StartStamps]] = deque(maxlen=STARTS_REMEMBERED)
        """Host name of the pod, and its stamps."""
        self._load_s: dict[str, float] = {}
        self._timed: set[str] = set()

    def note_pods(self, pods: Iterable[tuple[str, str, StartStamps]]) -> tuple[float, ...]:
        """Take name, uid and stamps of all pods; return the seconds of starts not seen before."""
        known = {uid: (name, stamps) for name, uid, stamps in pods}
        ready = {uid for uid, (_, stamps) in known.items() if stamps.ready_s is not None}
        new = [known[uid] for uid in ready - self._timed if known[uid][1].total_s is not None]
        # A pod stays timed while it is not ready: its next readiness is no start.
        self._timed = known.keys() & (self._timed | ready)
        new.sort(key=lambda start: (start[1].ready_s, start[0]))
        self._starts.extend((name[:HOST_CHARACTERS], stamps) for name, stamps in new)
        return tuple(stamps.total_s or 0.0 for _, stamps in new)

    def usual(self, workers: Iterable[WorkerInfo] = ()) -> PodStart | None:
        """Return how long a start takes, with what these workers tell; None where none was seen."""
        told = {worker.host: worker.load_s for worker in workers if worker.load_s}
        hosts = [host for host, _ in self._starts]
        # The first number counts: after a restart of its container a worker tells another one.
        known = {**told, **self._load_s}
        self._load_s = {host: known[host] for host in hosts if host in known}
        return pod_start([stamps.phases(self._load_s.get(host)) for host, stamps in self._starts])


def start_facts(start: PodStart | None, policy: Policy) -> dict[str, Any]:
    """Return how long a pod's start counts, and why, for JSON."""
    if start is None:
        why = "podStartSeconds, as no start was seen"
        return {"usual_s": policy.pod_start_s, "starts": 0, "why": why}
    return {
        "usual_s": start.total_s,
        "phases_s": {name: phase.usual_s for name, phase in start.phases.items()},
        "longest_s": {name: phase.longest_s for name, phase in start.phases.items()},
        "starts": start.starts,
        "why": f"in each phase {USUAL_SHARE:.0%} of these starts took no longer",
    }
