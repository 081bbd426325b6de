"""What sizing remembers from one look to the next, and when it forgets. Pure."""

from dataclasses import dataclass, field, replace

from imageserve.autoscaler.arrivals import Arrivals
from imageserve.autoscaler.demand import capacity_per_s
from imageserve.autoscaler.observation import Observation
from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.steps import Steps


@dataclass(frozen=True, slots=True)
class State:
    """What sizing remembers of one model from tick to tick.

    Begin with ``State()``, and hand back what ``size`` returned, whether its decision was carried
    out or not.
    """

    seen_s: float | None = None
    """When it last looked."""
    run: str = ""
    decided: int | None = None
    arrivals: Arrivals = field(default_factory=Arrivals)
    steps: Steps = field(default_factory=Steps)
    busy_s: float = 0.0
    """When there was last something to do."""
    capacity_per_s: float | None = None
    """The last one known: with no pod left, nobody publishes it."""
    sized_s: float | None = None
    """When it last sized by load, and ..."""
    backlog: int = 0
    """... how many jobs waited then."""
    late: int = 0
    """How often in a row jobs were late where they should not have been."""


def looked(policy: Policy, state: State, seen: Observation) -> State:
    """Take in what was seen, and forget what can no longer be relied on."""
    if _is_strange(policy, state, seen):
        state = State(run=seen.run, busy_s=seen.now_s, capacity_per_s=state.capacity_per_s)
    if state.seen_s is None or seen.replicas not in (state.decided, state.steps.latest):
        # The first look, or somebody else has set the replicas: theirs is the new beginning.
        state = replace(state, steps=Steps.begin(seen.now_s, seen.replicas))
    keep_s = max(policy.scale_up_period_s, policy.scale_down_period_s)
    steps = state.steps.see(seen.now_s, seen.replicas, keep_s)
    if not seen.known:
        return replace(state, seen_s=seen.now_s, steps=steps)
    came = seen.accepted + seen.rejected
    arrivals = state.arrivals.read(seen.now_s, came, policy.arrivals_window_s)
    busy = seen.backlog + seen.in_flight + arrivals.newest > 0
    return replace(
        state,
        seen_s=seen.now_s,
        run=seen.run,
        steps=steps,
        arrivals=arrivals,
        busy_s=seen.now_s if busy else state.busy_s,
        capacity_per_s=capacity_per_s(seen.bucket_ms, policy) or state.capacity_per_s,
    )


def _is_strange(policy: Policy, state: State, seen: Observation) -> bool:
    """Whether what is remembered does not belong to what is seen."""
    if state.seen_s is None or not 0 <= seen.now_s - state.seen_s <= policy.arrivals_window_s:
        return True
    readings = state.arrivals.readings
    is_other = bool(readings) and (
        seen.run != state.run or seen.accepted + seen.rejected < readings[-1][1]
    )
    return seen.known and is_other
