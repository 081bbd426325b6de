"""How many pods a model needs: an observation and the state before in, a decision out. Pure.

``size`` uses no clock, no Redis and no Kubernetes; the loop and the simulator call the same
function. docs/autoscaling.md explains the rule.
"""

import math
from dataclasses import dataclass, field, replace
from operator import itemgetter

from imageserve.autoscaler.decision import Cause, Decision, Observation, decided, facts_of
from imageserve.autoscaler.load import Arrivals, Series, capacity_per_s, demand, since
from imageserve.autoscaler.policy import Policy

LATE_STEPS = 3
"""After this many steps in a row with late jobs the measured capacity is not trusted."""

BATCHES_PER_WORKER = 2
"""Batches that a worker holds: the one that runs, and the next one."""

MANY = 10
"""From this many replicas on, ``tolerance`` applies to steps upwards too."""


# -- state --------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class StabilizationHistory:
    """Recent replicas and recent recommendations."""

    replicas: Series = ()
    """Changes within the longest period, and the last one before it."""
    recommended: Series = ()
    """Recommendations that no later and higher one has replaced: the first is the highest."""

    @property
    def latest(self) -> int | None:
        """The last known replicas."""
        return self.replicas[-1][1] if self.replicas else None

    def with_replicas(self, since_s: float, replicas: int, keep_s: float) -> "StabilizationHistory":
        """Add the replicas that there are ``since_s``; drop those ``keep_s`` older than that."""
        entries = self.replicas
        if self.latest != replicas:
            entries = (*entries, (since_s, replicas))
        return replace(self, replicas=since(entries, since_s - keep_s))

    def with_recommended(self, now_s: float, pods: int, window_s: float) -> "StabilizationHistory":
        """Add a recommendation; drop the lower ones and those older than ``window_s``."""
        kept = [
            (second, each)
            for second, each in self.recommended
            if each > pods and second > now_s - window_s
        ]
        return replace(self, recommended=(*kept, (now_s, pods)))

    def replicas_within(self, now_s: float, period_s: float) -> list[int]:
        """Return all numbers of replicas that there were within the period."""
        return [pods for _, pods in since(self.replicas, now_s - period_s)]


@dataclass(frozen=True, slots=True)
class State:
    """What ``size`` remembers of one model from step to step.

    Start with ``State()``, then pass the state that ``size`` returned, whether its decision was
    carried out or not.
    """

    updated_s: float | None = None
    run: str = ""
    decided: int | None = None
    arrivals: Arrivals = field(default_factory=Arrivals)
    history: StabilizationHistory = field(default_factory=StabilizationHistory)
    busy_s: float = 0.0
    """When there was last a job."""
    capacity_per_s: float | None = None
    """The last known one: without a pod nobody publishes it."""
    sized_s: float | None = None
    """When a decision was last based on the load ..."""
    waiting: int = 0
    """... and how many jobs waited then."""
    late: int = 0
    """Steps in a row with late jobs."""
    room: int | None = None
    """In a rollout that has found too little room: the pods that there was room for."""


def update_state(policy: Policy, state: State, seen: Observation) -> State:
    """Add an observation, and drop what it makes invalid."""
    if _is_unrelated(policy, state, seen):
        kept = State(capacity_per_s=state.capacity_per_s, room=state.room)
        state = replace(kept, run=seen.run, busy_s=seen.now_s)
    if state.updated_s is None or seen.replicas not in (state.decided, state.history.latest):
        # The first step, or another client has set the replicas: start again from its number.
        # For a whole window nothing lower is recommended.
        current = ((seen.now_s, seen.replicas),)
        state = replace(state, history=StabilizationHistory(current, current))
    keep_s = max(policy.scale_up_period_s, policy.scale_down_period_s)
    # Its own decision was carried out when it was made, not when it is seen: else a period of 15 s
    # would last 20.
    is_own = seen.replicas == state.decided
    since_s = state.updated_s if is_own and state.updated_s is not None else seen.now_s
    history = state.history.with_replicas(since_s, seen.replicas, keep_s)
    if not seen.known:
        return replace(state, updated_s=seen.now_s, history=history)
    came = seen.accepted + seen.rejected
    arrivals = state.arrivals.add(seen.now_s, came, policy.arrivals_window_s)
    busy = seen.waiting + seen.in_flight + arrivals.newest > 0
    return replace(
        state,
        updated_s=seen.now_s,
        run=seen.run,
        history=history,
        arrivals=arrivals,
        busy_s=seen.now_s if busy else state.busy_s,
        capacity_per_s=capacity_per_s(seen.bucket_ms, policy) or state.capacity_per_s,
    )


def _is_unrelated(policy: Policy, state: State, seen: Observation) -> bool:
    """Whether the clock has jumped, or Redis may have lost its counters, since the last step."""
    if state.updated_s is None or not 0 <= seen.now_s - state.updated_s <= policy.arrivals_window_s:
        return True
    if not seen.known or state.arrivals.latest is None:
        return False
    return seen.run != state.run or seen.accepted + seen.rejected < state.arrivals.latest


# -- the rule -----------------------------------------------------------------------------------


def size(policy: Policy, state: State, seen: Observation) -> tuple[Decision, State]:
    """Return how many replicas there should be, and the state for the next step."""
    state = update_state(policy, state, seen)
    state = replace(state, room=_room(state, seen))
    if seen.known and state.capacity_per_s is not None:
        decision, state = _by_load(policy, state, seen)
    else:
        # The window starts again: nothing lower is recommended before the load was known for one.
        history = state.history.with_recommended(
            seen.now_s, seen.replicas, policy.scale_down_window_s
        )
        state = replace(state, history=history, late=0)
        decision = _without_load(policy, state, seen)
    if state.room is not None and seen.known and decision.replicas > state.room:
        limited = decided(policy, seen, state.room, Cause.ROLLOUT, decision.reason)
        decision = replace(
            decision,
            replicas=limited.replicas,
            action=limited.action,
            reason=limited.reason,
            cause=limited.cause,
        )
    return decision, replace(state, decided=decision.replicas)


def _room(state: State, seen: Observation) -> int | None:
    """Return the most replicas during a rollout; None where there is no such limit.

    A rollout without surge replaces pods that are ready only while enough others are. One that
    finds no node is never ready, so with too many replicas the rollout waits for it for ever. The
    first limit stays until the end. More replicas would only stop the rollout again; and if it is
    stuck for another reason, such as a new template that fits on no node, each lower limit would
    take one more pod that serves.
    """
    if not seen.rollout:
        return None
    if state.room is not None or seen.can_run is None:
        return state.room
    return max(1, seen.can_run)


def _without_load(policy: Policy, state: State, seen: Observation) -> Decision:
    """Keep the replicas, but start one for waiting jobs: its worker will publish its speed."""
    if not seen.known:
        return decided(policy, seen, seen.replicas, Cause.UNKNOWN, "the queue cannot be read")
    least = max(policy.min_replicas, int(_has_work(state, seen)))
    desired = min(max(seen.replicas, least), policy.max_replicas)
    cause = Cause.UNKNOWN
    if desired != seen.replicas:
        cause = Cause.WAKE if seen.replicas == 0 < least else Cause.BOUNDS
    return decided(policy, seen, desired, cause, "no worker has published its speed yet")


def _by_load(policy: Policy, state: State, seen: Observation) -> tuple[Decision, State]:
    rate = state.arrivals.expected_per_second(policy.arrivals_window_s, policy.burst_window_s)
    capacity = state.capacity_per_s or 0.0
    load = demand(policy, rate or 0.0, seen.waiting, capacity, seen.pod_start_s)
    raw = max(load.pods, int(_has_work(state, seen)))
    late = _late(policy, state, seen, raw)
    if late >= LATE_STEPS:
        raw = seen.replicas + 1 + int(seen.replicas * policy.tolerance)
    recommended = max(raw, load.pods_with_margin(policy.tolerance))
    history = state.history.with_recommended(seen.now_s, recommended, policy.scale_down_window_s)
    state = replace(state, history=history, sized_s=seen.now_s, waiting=seen.waiting, late=late)
    foreseen = seen.foreseen.pods if seen.foreseen else 0
    desired, cause = _limited(policy, state, seen, max(raw, foreseen))
    if foreseen > raw and cause in (Cause.LOAD, Cause.WAKE):
        cause = Cause.FORECAST
    elif late >= LATE_STEPS and cause is Cause.LOAD:
        cause = Cause.LATE
    is_whole = state.arrivals.per_second(policy.arrivals_window_s) is not None
    facts = facts_of(rate, load, seen, is_whole=is_whole)
    decision = decided(policy, seen, desired, cause, facts)
    return replace(
        decision,
        raw=raw,
        arrivals_per_s=rate,
        capacity_per_s=load.capacity_per_s,
        load=load,
    ), state


def _has_work(state: State, seen: Observation) -> bool:
    # A job that arrived and was refused counts too.
    return seen.waiting + seen.in_flight + state.arrivals.newest > 0


def _late(policy: Policy, state: State, seen: Observation, raw: int) -> int:
    """Count the steps in a row with late jobs although there should be enough pods."""
    if not raw <= seen.replicas == seen.ready:
        return 0
    if seen.now_s == state.sized_s:
        return state.late  # The same observation once more.
    is_late = seen.oldest_s > 2 * policy.target_wait_s and seen.waiting >= max(1, state.waiting)
    return state.late + 1 if is_late else 0


def _limited(policy: Policy, state: State, seen: Observation, raw: int) -> tuple[int, Cause]:
    """Apply bounds, stabilization window and step sizes to what the load needs."""
    floor = _floor(policy, state, seen)
    if seen.replicas > policy.max_replicas:
        return policy.max_replicas, Cause.BOUNDS
    desired = min(max(raw, floor), policy.max_replicas)
    if desired > seen.replicas:
        return _upwards(policy, state, seen, desired, floor)
    stabilized = min(max(state.history.recommended[0][1], desired), policy.max_replicas)
    if stabilized < seen.replicas:
        return _downwards(policy, state, seen, stabilized)
    if raw > policy.max_replicas or raw < desired == seen.replicas:
        return seen.replicas, Cause.BOUNDS
    return seen.replicas, Cause.WINDOW if desired < seen.replicas else Cause.LOAD


def _floor(policy: Policy, state: State, seen: Observation) -> int:
    """Return the lowest allowed number of replicas."""
    if policy.min_replicas > 0:
        return policy.min_replicas
    if _has_work(state, seen) or seen.replicas == 0:
        return int(_has_work(state, seen))
    is_idle = seen.now_s - state.busy_s >= policy.scale_to_zero_after_s
    # A pod that still starts was asked for: it stays until it is ready.
    return 0 if is_idle and seen.ready > 0 else 1


def _upwards(
    policy: Policy, state: State, seen: Observation, desired: int, floor: int
) -> tuple[int, Cause]:
    now = seen.replicas
    if now >= max(MANY, floor) and desired <= now * (1 + policy.tolerance):
        return now, Cause.TOLERANCE
    before = min(state.history.replicas_within(seen.now_s, policy.scale_up_period_s))
    by_factor = math.ceil(before * policy.scale_up_max_factor)
    limits = [
        (desired, Cause.WAKE if now == 0 else Cause.LOAD),
        (max(by_factor, before + policy.scale_up_max_pods), Cause.STEPS),
    ]
    if seen.unschedulable:
        limits.append((seen.ready + policy.max_unschedulable, Cause.UNSCHEDULABLE))
    pods, cause = min(limits, key=itemgetter(0))
    least = max(now, floor)
    return (pods, cause) if pods >= least else (least, Cause.BOUNDS if least > now else cause)


def _downwards(
    policy: Policy, state: State, seen: Observation, stabilized: int
) -> tuple[int, Cause]:
    pods, cause = max(
        (stabilized, Cause.LOAD if stabilized else Cause.IDLE),
        (after_a_step_down(policy, state, seen), Cause.STEPS),
        (busy_pods(policy, seen), Cause.IN_FLIGHT),
        key=itemgetter(0),
    )
    return min(pods, seen.replicas), cause


def after_a_step_down(policy: Policy, state: State, seen: Observation) -> int:
    """Return the pods that the largest allowed step leaves."""
    before = max(state.history.replicas_within(seen.now_s, policy.scale_down_period_s))
    step = max(1, int(before * policy.scale_down_max_fraction))
    return max(before - step, int(before > 1))  # To zero only from one.


def busy_pods(policy: Policy, seen: Observation) -> int:
    """Return the pods that the jobs in flight need."""
    return math.ceil(seen.in_flight / (BATCHES_PER_WORKER * policy.batch_size))
