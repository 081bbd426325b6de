"""How many model pods a queue needs: numbers in, a number and its reason out.

No clock, no Redis, no Kubernetes: ``size`` is a function of what was observed and of what it
remembered itself. The loop and the simulator call the same function.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


@dataclass(frozen=True, slots=True)
class Policy:
    """How one model is to be sized; every field is a setting of the chart."""

    min_replicas: int = 1
    max_replicas: int = 4
    batch_size: int = 32
    """Most pictures that a worker takes at once."""


@dataclass(frozen=True, slots=True)
class Observation:
    """What was seen of one queue and its Deployment at one instant."""

    now_s: float
    """Seconds on a monotonic clock."""
    known: bool
    """Whether the queue's numbers are whole and fresh; False holds the replicas where they are."""
    run: str
    """Redis's run id: another one means that counters and queue may have been lost."""
    backlog: int
    """Jobs waiting, those to be tried again included."""
    in_flight: int
    """Jobs leased to workers."""
    accepted: int
    """Jobs ever accepted: a counter that only grows within one run."""
    rejected: int
    """Jobs ever refused for want of capacity."""
    oldest_s: float
    """Age of the longest-waiting job."""
    bucket_ms: Mapping[int, float] = field(default_factory=dict)
    """Time of one model call by batch size, as live workers publish it; empty where none has."""
    replicas: int = 0
    """What the Deployment asks for now."""
    ready: int = 0
    """Pods that serve."""
    unschedulable: int = 0
    """Pods that have found no node for a minute."""
    pod_start_s: float | None = None
    """Measured time from a pod's creation to its readiness; None where none was seen."""


class Action(StrEnum):
    """What a decision does to the replicas."""

    UP = "up"
    DOWN = "down"
    HOLD = "hold"


@dataclass(frozen=True, slots=True)
class Decision:
    """How many replicas are wanted, and why."""

    replicas: int
    raw: int | None
    """What the load alone asks for, before limits and patience; None where it is not known."""
    action: Action
    reason: str
    """One sentence with the numbers, for the event and the log."""
    arrivals_per_s: float | None = None
    capacity_per_s: float | None = None
    """Of one replica at the target utilisation's 100 %."""


@dataclass(frozen=True, slots=True)
class State:
    """What sizing remembers of one model from tick to tick."""


def size(policy: Policy, state: State, seen: Observation) -> tuple[Decision, State]:
    """Decide how many replicas are wanted."""
    raise NotImplementedError
