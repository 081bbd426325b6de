"""What the autoscaler sees of a model, and what it decides, with the reason for people. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum

from imageserve.autoscaler.load import Demand
from imageserve.autoscaler.policy import Policy


@dataclass(frozen=True, slots=True)
class Foreseen:
    """Pods for a jump that is expected soon."""

    pods: int
    reason: str


@dataclass(frozen=True, slots=True)
class Observation:
    """One queue and its Deployment at one instant; the defaults are those of an unread queue."""

    now_s: float
    """Seconds on a monotonic clock."""
    known: bool = False
    """Whether the queue could be read. While it cannot, the replicas stay unchanged."""
    run: str = ""
    """The run of Redis: another one means that counters and queue may have been lost."""
    waiting: int = 0
    """Waiting jobs, redelivered ones included."""
    in_flight: int = 0
    """Jobs leased to workers."""
    accepted: int = 0
    """Jobs accepted so far: within one run it only grows."""
    rejected: int = 0
    """Jobs refused so far for lack of capacity."""
    oldest_s: float = 0.0
    """Age of the oldest waiting job."""
    bucket_ms: Mapping[int, float] = field(default_factory=dict)
    """Time of one model call by batch size, as live workers publish it; empty where none does."""
    replicas: int = 0
    """``spec.replicas`` of the Deployment."""
    ready: int = 0
    """Pods that serve."""
    unschedulable: int = 0
    """Pods that the scheduler has found no node for, for a minute or longer."""
    pod_start_s: float | None = None
    """Measured time from a pod's creation to its readiness; None where none was seen."""
    rollout: bool = False
    """Whether pods of an older template still exist."""
    can_run: int | None = None
    """Replicas that a rollout has room for; None unless for a minute pods have found none."""
    foreseen: Foreseen | None = None
    """What the forecast wants there to be by now; None for nothing."""


class Action(StrEnum):
    """What a decision does to the replicas."""

    UP = "up"
    DOWN = "down"
    HOLD = "hold"


class Cause(StrEnum):
    """What determined a decision, as the label of a metric; ``reason`` is the text for people."""

    LOAD = "load"
    LATE = "late"
    """Jobs wait too long although there should be enough pods."""
    WAKE = "wake"
    IDLE = "idle"
    BOUNDS = "bounds"
    UNKNOWN = "unknown"
    """The queue cannot be read, or no worker has published its speed yet."""
    WINDOW = "window"
    """More pods were needed within the stabilization window."""
    TOLERANCE = "tolerance"
    STEPS = "steps"
    """The step size is limited."""
    FORECAST = "forecast"
    """More load than now is expected soon."""
    UNSCHEDULABLE = "unschedulable"
    ROLLOUT = "rollout"
    """There is no room for more pods, and a rollout waits for room."""
    IN_FLIGHT = "in_flight"
    BUDGET = "budget"
    """Several models together want more GPUs than there are."""


@dataclass(frozen=True, slots=True)
class Decision:
    """The number of replicas to set, and why."""

    replicas: int
    raw: int | None
    """What the load alone needs, before all limits; None where it is not known."""
    action: Action
    reason: str
    """One sentence with the numbers, for the event and the log."""
    arrivals_per_s: float | None = None
    capacity_per_s: float | None = None
    """Of one pod at full utilization."""
    cause: Cause = Cause.LOAD
    load: Demand | None = None
    """None where the load is not known."""


# -- the reason ---------------------------------------------------------------------------------

_WHY = {
    Cause.LOAD: "",
    Cause.LATE: "jobs wait too long although this should be enough",
    Cause.WAKE: "there is work and no pod",
    Cause.IDLE: "no job came for {0.scale_to_zero_after_s:g} s",
    Cause.BOUNDS: "limited to {0.min_replicas} to {0.max_replicas} replicas",
    Cause.UNKNOWN: "the replicas stay unchanged",
    Cause.WINDOW: "more pods were needed within the last {0.scale_down_window_s:g} s",
    Cause.TOLERANCE: "the difference is within the tolerance",
    Cause.STEPS: "the step size is limited",
    Cause.FORECAST: "{1}",
    Cause.UNSCHEDULABLE: "pods are unschedulable",
    Cause.ROLLOUT: "a rollout is on, and there is no room for more pods",
    Cause.IN_FLIGHT: "the other pods have jobs in work",
}


def facts_of(rate: float | None, load: Demand, seen: Observation, *, is_whole: bool) -> str:
    """Say what the decision is based on. The rate of a window that is not whole may be too low."""
    arrive = f"{'' if is_whole else 'at least '}{load.arrivals_per_s:.1f} pictures/s arrive"
    spare = ", and one more for a jump" if load.has_spare else ""
    return (
        f"{'the arrivals are not known yet' if rate is None else arrive}, {seen.waiting} wait, "
        f"a pod does {load.capacity_per_s:.1f}/s: {load.exact:.2f} pods of load{spare}"
    )


def decided(policy: Policy, seen: Observation, replicas: int, cause: Cause, facts: str) -> Decision:
    change = replicas - seen.replicas
    why = _WHY[cause].format(policy, seen.foreseen and seen.foreseen.reason)
    return Decision(
        replicas=replicas,
        raw=None,
        action=action_of(change),
        reason=f"{facts}; {why}" if why else facts,
        cause=cause,
    )


def action_of(change: int) -> Action:
    """Return what a change of the replicas by this many is."""
    return Action.UP if change > 0 else Action.DOWN if change < 0 else Action.HOLD
