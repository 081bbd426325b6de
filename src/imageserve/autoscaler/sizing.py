"""How many model pods a queue needs: numbers in, a number and its reason out.

No clock, no Redis, no Kubernetes: ``size`` is a function of what was observed and of what it
remembered itself. The loop and the simulator call the same function. docs/autoscaling.md explains
the rule.
"""

import math
from dataclasses import replace
from operator import itemgetter

from imageserve.autoscaler.demand import Demand, demand
from imageserve.autoscaler.memory import State, looked
from imageserve.autoscaler.observation import Action, Cause, Decision, Observation
from imageserve.autoscaler.policy import Policy

__all__ = ["Action", "Cause", "Decision", "Observation", "Policy", "State", "size"]

LATE_TICKS = 3
"""So often in a row must jobs be late before the measured capacity is no longer believed."""

BATCHES_IN_HAND = 2
"""Of one worker: the batch that runs, and the next one."""

MANY = 10
"""From so many replicas on, ``tolerance`` applies to steps upwards."""


def size(policy: Policy, state: State, seen: Observation) -> tuple[Decision, State]:
    """Decide how many replicas are wanted; returns what to remember for the next time."""
    state = looked(policy, state, seen)
    if seen.known and state.capacity_per_s is not None:
        decision, state = _by_load(policy, state, seen)
    else:
        # Until a whole window is known again, nothing lower will be believed.
        steps = state.steps.want(seen.now_s, seen.replicas, policy.scale_down_window_s)
        state = replace(state, steps=steps, late=0)
        decision = _without_load(policy, state, seen)
    return decision, replace(state, decided=decision.replicas)


def _without_load(policy: Policy, state: State, seen: Observation) -> Decision:
    """Keep what is there, but at least one pod for work that waits: it will tell its capacity."""
    if not seen.known:
        return _decision(policy, seen, seen.replicas, Cause.UNKNOWN, "the queue cannot be read")
    least = max(policy.min_replicas, int(_has_work(state, seen)))
    wanted = min(max(seen.replicas, least), policy.max_replicas)
    cause = Cause.UNKNOWN
    if wanted != seen.replicas:
        cause = Cause.WAKE if seen.replicas == 0 < least else Cause.BOUNDS
    return _decision(policy, seen, wanted, cause, "no worker has told yet how fast it is")


def _by_load(policy: Policy, state: State, seen: Observation) -> tuple[Decision, State]:
    asked = _demand(policy, state, seen)
    working = int(_has_work(state, seen))
    raw = max(asked.pods, working)
    late = _late(policy, state, seen, raw)
    if late >= LATE_TICKS:
        raw = _late_pods(policy, seen)
    lasting = max(raw, asked.pods_with_margin(policy.tolerance))
    steps = state.steps.want(seen.now_s, lasting, policy.scale_down_window_s)
    state = replace(state, steps=steps, sized_s=seen.now_s, backlog=seen.backlog, late=late)
    wanted, cause = _shaped(policy, state, seen, raw)
    if late >= LATE_TICKS and cause is Cause.LOAD:
        cause = Cause.LATE
    decision = _decision(policy, seen, wanted, cause, _facts(asked, seen))
    return replace(
        decision,
        raw=raw,
        arrivals_per_s=asked.arrivals_per_s,
        capacity_per_s=asked.capacity_per_s,
    ), state


def _demand(policy: Policy, state: State, seen: Observation) -> Demand:
    rate = state.arrivals.expected_per_second(policy.arrivals_window_s, policy.burst_window_s)
    return demand(policy, rate or 0.0, seen.backlog, state.capacity_per_s or 0.0, seen.pod_start_s)


def _has_work(state: State, seen: Observation) -> bool:
    # One that came and was refused is work too.
    return seen.backlog + seen.in_flight + state.arrivals.newest > 0


def _late(policy: Policy, state: State, seen: Observation, raw: int) -> int:
    """Count how often in a row jobs were late although there should be enough pods for them."""
    if not raw <= seen.replicas == seen.ready:
        return 0
    if seen.now_s == state.sized_s:
        return state.late  # The same look again.
    is_late = seen.oldest_s > 2 * policy.target_wait_s and seen.backlog >= max(1, state.backlog)
    return state.late + 1 if is_late else 0


def _late_pods(policy: Policy, seen: Observation) -> int:
    return seen.replicas + 1 + int(seen.replicas * policy.tolerance)


def _shaped(policy: Policy, state: State, seen: Observation, raw: int) -> tuple[int, Cause]:
    """Bring what the load asks for within bounds, patience and steps."""
    floor = _floor(policy, state, seen)
    if seen.replicas > policy.max_replicas:
        return policy.max_replicas, Cause.BOUNDS
    wanted = min(max(raw, floor), policy.max_replicas)
    if wanted > seen.replicas:
        return _upwards(policy, state, seen, wanted, floor)
    held = min(max(state.steps.most_wanted, floor), policy.max_replicas)
    if held < seen.replicas:
        return _downwards(policy, state, seen, held)
    if raw > policy.max_replicas or raw < wanted == seen.replicas:
        return seen.replicas, Cause.BOUNDS
    return seen.replicas, Cause.WINDOW if wanted < seen.replicas else Cause.LOAD


def _floor(policy: Policy, state: State, seen: Observation) -> int:
    """Return the fewest replicas that may be wanted."""
    if policy.min_replicas > 0:
        return policy.min_replicas
    if _has_work(state, seen) or seen.replicas == 0:
        return int(_has_work(state, seen))
    is_idle = seen.now_s - state.busy_s >= policy.scale_to_zero_after_s
    # A pod that does not serve yet was asked for by somebody: let it start.
    return 0 if is_idle and seen.ready > 0 else 1


def _upwards(
    policy: Policy, state: State, seen: Observation, wanted: int, floor: int
) -> tuple[int, Cause]:
    now = seen.replicas
    if now >= max(MANY, floor) and wanted <= now * (1 + policy.tolerance):
        return now, Cause.TOLERANCE
    before = state.steps.lowest(seen.now_s, policy.scale_up_period_s)
    by_factor = math.ceil(before * policy.scale_up_max_factor)
    limits = [
        (wanted, Cause.WAKE if now == 0 else Cause.LOAD),
        (max(by_factor, before + policy.scale_up_max_pods), Cause.STEPS),
    ]
    if seen.unschedulable:
        limits.append((seen.ready + policy.max_unschedulable, Cause.UNSCHEDULABLE))
    pods, cause = min(limits, key=itemgetter(0))
    least = max(now, floor)
    return (pods, cause) if pods >= least else (least, Cause.BOUNDS if least > now else cause)


def _downwards(policy: Policy, state: State, seen: Observation, held: int) -> tuple[int, Cause]:
    before = state.steps.highest(seen.now_s, policy.scale_down_period_s)
    step = max(1, int(before * policy.scale_down_max_fraction))
    pods, cause = max(
        (held, Cause.LOAD if held else Cause.IDLE),
        (max(before - step, int(before > 1)), Cause.STEPS),  # To zero only from one.
        (math.ceil(seen.in_flight / (BATCHES_IN_HAND * policy.batch_size)), Cause.IN_FLIGHT),
        key=itemgetter(0),
    )
    return min(pods, seen.replicas), cause


_WHY = {
    Cause.LOAD: "",
    Cause.LATE: "jobs are late all the same",
    Cause.WAKE: "there is work and no pod",
    Cause.IDLE: "nothing came for {0.scale_to_zero_after_s:g} s",
    Cause.BOUNDS: "from {0.min_replicas} to {0.max_replicas} are allowed",
    Cause.UNKNOWN: "replicas stay as they are",
    Cause.WINDOW: "more were wanted within {0.scale_down_window_s:g} s",
    Cause.TOLERANCE: "the difference is not worth a change",
    Cause.STEPS: "only so many at once",
    Cause.UNSCHEDULABLE: "pods find no node",
    Cause.IN_FLIGHT: "the others are at work",
}


def _facts(asked: Demand, seen: Observation) -> str:
    return (
        f"{asked.arrivals_per_s:.1f} pictures/s arrive, {seen.backlog} wait, "
        f"a pod does {asked.capacity_per_s:.1f}/s: {asked.for_arrivals + asked.for_excess:.2f} "
        "pods of load"
    )


def _decision(
    policy: Policy, seen: Observation, replicas: int, cause: Cause, facts: str
) -> Decision:
    """Put a number and its reason into words."""
    change = replicas - seen.replicas
    action = Action.UP if change > 0 else Action.DOWN if change < 0 else Action.HOLD
    why = _WHY[cause].format(policy)
    reason = f"{facts}; {why}" if why else facts
    return Decision(replicas=replicas, raw=None, action=action, reason=reason, cause=cause)
