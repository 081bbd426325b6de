"""What sizing is told of a model, and what it answers. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum


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


class Cause(StrEnum):
    """What settled a decision: one word for a metric's label, where ``reason`` is for people."""

    LOAD = "load"
    LATE = "late"
    """Jobs wait too long although there should be enough pods."""
    WAKE = "wake"
    IDLE = "idle"
    BOUNDS = "bounds"
    UNKNOWN = "unknown"
    """The queue could not be read, or its numbers say nothing yet."""
    WINDOW = "window"
    """More was wanted a while ago."""
    TOLERANCE = "tolerance"
    STEPS = "steps"
    """Only so much at once."""
    UNSCHEDULABLE = "unschedulable"
    IN_FLIGHT = "in_flight"


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
    cause: Cause = Cause.LOAD
