"""Rules that set the number of pods, as the simulation calls them."""

from dataclasses import dataclass
from typing import Protocol

from imageserve.autoscaler.sizing import Observation, Policy, State, size
from imageserve.queue.snapshot import BucketMs

LOOK_S = 5.0
"""``interval_s`` of the autoscaler."""

WAKE_S = 0.1
"""From the first job to the end of the blocking read, and the look that follows. Generous: on one
machine it is a few milliseconds."""


@dataclass(frozen=True, slots=True)
class Glance:
    """What can be seen from outside at one instant."""

    now_s: float
    waiting: int
    in_flight: int
    accepted: int
    rejected: int
    oldest_s: float
    replicas: int
    ready: int
    bucket_ms: BucketMs
    """Of live workers; empty where there are none."""
    pod_start_s: float | None
    """Measured; None before the first pod has started."""


class Scaler(Protocol):
    """One rule with its memory; good for one run."""

    @property
    def interval_s(self) -> float:
        """How often it looks."""

    @property
    def wake_s(self) -> float | None:
        """How long after the first job at zero pods it looks; None where it does not wake."""

    def look(self, glance: Glance) -> int:
        """Return how many replicas there are to be."""


class Imageserve:
    """The autoscaler of this project: the code of ``sizing`` itself."""

    interval_s = LOOK_S
    wake_s = WAKE_S

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self._state = State()

    def look(self, glance: Glance) -> int:
        decision, self._state = size(
            self._policy,
            self._state,
            Observation(
                now_s=glance.now_s,
                known=True,
                run="simulated",
                waiting=glance.waiting,
                in_flight=glance.in_flight,
                accepted=glance.accepted,
                rejected=glance.rejected,
                oldest_s=glance.oldest_s,
                bucket_ms=glance.bucket_ms,
                replicas=glance.replicas,
                ready=glance.ready,
                pod_start_s=glance.pod_start_s,
            ),
        )
        return decision.replicas


class FixedFleet:
    """As many pods as somebody has written down."""

    interval_s = 3600.0
    wake_s = None

    def __init__(self, replicas: int) -> None:
        self._replicas = replicas

    def look(self, glance: Glance) -> int:
        del glance
        return self._replicas
