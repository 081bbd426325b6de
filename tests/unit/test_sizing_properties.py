"""What always holds of sizing, with any load, failures, restarts, other writers and clocks."""

import math
from dataclasses import dataclass, replace
from itertools import pairwise

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from imageserve.autoscaler.decision import Action, Decision, Foreseen, Observation
from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.sizing import State, size

TABLE = {1: 100.0, 8: 380.0, 32: 1340.0}

policies = st.builds(
    Policy,
    min_replicas=st.integers(0, 3),
    max_replicas=st.integers(3, 30),
    target_utilization=st.sampled_from([0.3, 0.8, 1.0]),
    target_wait_s=st.sampled_from([0.5, 2.0, 20.0]),
    tolerance=st.sampled_from([0.0, 0.1, 0.5]),
    scale_up_max_pods=st.integers(1, 5),
    scale_up_max_factor=st.sampled_from([1.0, 2.0]),
    scale_down_window_s=st.sampled_from([10.0, 60.0, 300.0]),
    scale_down_max_fraction=st.sampled_from([0.25, 1.0]),
    scale_to_zero_after_s=st.sampled_from([0.0, 30.0, 900.0]),
)


@dataclass(frozen=True)
class Tick:
    """What happens between two steps, and the second one's observation."""

    after_s: float
    known: bool
    restarts: bool
    arrivals: int
    waiting: int
    in_flight: int
    oldest_s: float
    share_ready: float
    unschedulable: int
    is_written: bool
    """Whether the decision before was carried out."""
    foreign: int | None
    """What another client has set since."""


def ticks(*, calm: bool = False) -> st.SearchStrategy[Tick]:
    """Generate ticks; calm ones keep the history valid."""
    return st.builds(
        Tick,
        after_s=st.sampled_from([1.0, 5.0, 7.5, 30.0] if calm else [1.0, 5.0, 30.0, 1000.0, -50.0]),
        known=st.just(True) if calm else st.sampled_from([True] * 5 + [False]),
        restarts=st.just(False) if calm else st.sampled_from([False] * 7 + [True]),
        arrivals=st.one_of(st.just(0), st.integers(0, 3000)),
        waiting=st.one_of(st.just(0), st.integers(0, 3000)),
        in_flight=st.one_of(st.just(0), st.integers(0, 300)),
        oldest_s=st.floats(0, 60),
        share_ready=st.sampled_from([0.0, 0.5, 1.0, 1.0]),
        unschedulable=st.sampled_from([0, 0, 0, 2]),
        is_written=st.booleans(),
        foreign=st.none() if calm else st.one_of(st.none(), st.none(), st.integers(0, 12)),
    )


histories = st.lists(ticks(), min_size=1, max_size=40)
calm_histories = st.lists(ticks(calm=True), min_size=1, max_size=40)

Step = tuple[Observation, Decision]


class Play:
    """Passes ticks to ``size`` and keeps its decisions."""

    def __init__(self, policy: Policy, replicas: int) -> None:
        self.policy = policy
        self.state = State()
        self.steps: list[Step] = []
        self.seen = Observation(0.0, True, "run-0", 0, 0, 0, 0, 0.0, TABLE, replicas, replicas)
        self.step()

    def step(self) -> Decision:
        decision, self.state = size(self.policy, self.state, self.seen)
        self.steps.append((self.seen, decision))
        return decision

    def tick(self, tick: Tick) -> Decision:
        self.seen = self.after(tick)
        return self.step()

    def after(self, tick: Tick) -> Observation:
        seen, decision = self.steps[-1]
        replicas = decision.replicas if tick.is_written else seen.replicas
        replicas = replicas if tick.foreign is None else tick.foreign
        return replace(
            seen,
            now_s=seen.now_s + tick.after_s,
            known=tick.known,
            run=f"{seen.run}'" if tick.restarts else seen.run,
            accepted=tick.arrivals if tick.restarts else seen.accepted + tick.arrivals,
            waiting=tick.waiting,
            in_flight=tick.in_flight,
            oldest_s=tick.oldest_s if tick.waiting else 0.0,
            replicas=replicas,
            ready=int(replicas * tick.share_ready),
            unschedulable=min(tick.unschedulable, replicas),
        )


def played(policy: Policy, replicas: int, history: list[Tick]) -> Play:
    play = Play(policy, replicas)
    for tick in history:
        play.tick(tick)
    return play


starts = st.integers(0, 12)


@given(policies, starts, histories)
def test_decisions_on_a_known_queue_are_within_the_bounds(
    policy: Policy, replicas: int, history: list[Tick]
) -> None:
    for seen, decision in played(policy, replicas, history).steps:
        if seen.known:
            assert policy.min_replicas <= decision.replicas <= policy.max_replicas


@given(policies, starts, histories)
def test_an_unknown_queue_changes_nothing(
    policy: Policy, replicas: int, history: list[Tick]
) -> None:
    for seen, decision in played(policy, replicas, history).steps:
        if not seen.known:
            assert (decision.action, decision.replicas) == (Action.HOLD, seen.replicas)


@given(policies, starts, histories)
def test_the_action_is_the_direction_of_the_change(
    policy: Policy, replicas: int, history: list[Tick]
) -> None:
    for seen, decision in played(policy, replicas, history).steps:
        change = decision.replicas - seen.replicas
        expected = {1: Action.UP, -1: Action.DOWN, 0: Action.HOLD}
        assert decision.action is expected[(change > 0) - (change < 0)]
        assert decision.reason


@given(policies, starts, histories)
def test_no_pod_is_removed_within_the_window_of_a_higher_number(
    policy: Policy, replicas: int, history: list[Tick]
) -> None:
    steps = played(policy, replicas, history).steps
    for i, (seen, decision) in enumerate(steps):
        if decision.action is not Action.DOWN or seen.replicas > policy.max_replicas:
            continue
        for earlier, its in _since_the_clock_went_back(steps[: i + 1]):
            age_s = seen.now_s - earlier.now_s
            if its.raw is not None and age_s < policy.scale_down_window_s:
                assert min(its.raw, policy.max_replicas) <= decision.replicas


def _since_the_clock_went_back(steps: list[Step]) -> list[Step]:
    """Leave out the steps before: how long ago they were is not known."""
    jumps = [i + 1 for i, ((a, _), (b, _)) in enumerate(pairwise(steps)) if b.now_s < a.now_s]
    return steps[max(jumps, default=0) :]


@given(policies, starts, histories)
def test_zero_is_reached_only_from_one_idle_pod(
    policy: Policy, replicas: int, history: list[Tick]
) -> None:
    for seen, decision in played(policy, replicas, history).steps:
        if decision.replicas == 0 and decision.action is Action.DOWN:
            assert seen.replicas == 1
            assert seen.ready == 1
            assert seen.waiting + seen.in_flight == 0


@given(policies, st.integers(1, 12), st.integers(0, 900), calm_histories)
def test_the_last_pod_stays_for_the_idle_time(
    policy: Policy, replicas: int, quiet_s: int, history: list[Tick]
) -> None:
    play = played(policy, replicas, history)
    worked_s = max(
        (seen.now_s for seen, _ in play.steps if seen.waiting + seen.in_flight), default=0.0
    )
    last = play.steps[-1][0]
    seen = replace(last, now_s=last.now_s + quiet_s, waiting=0, in_flight=0, oldest_s=0.0)
    decision, _ = size(policy, play.state, seen)
    if decision.replicas == 0 and seen.replicas > 0:
        assert seen.now_s - worked_s >= policy.scale_to_zero_after_s


@given(policies, starts, calm_histories, ticks(calm=True), st.integers(0, 3000))
@pytest.mark.parametrize("what", ["waiting", "in_flight", "accepted", "rejected"])
def test_more_load_never_needs_fewer_pods(
    what: str, policy: Policy, replicas: int, history: list[Tick], tick: Tick, more: int
) -> None:
    play = played(policy, replicas, history)
    less_load = play.after(tick)
    more_load = replace(less_load, **{what: getattr(less_load, what) + more})
    (few, _), (many, _) = (size(policy, play.state, each) for each in (less_load, more_load))
    assert few.raw is not None
    assert many.raw is not None
    assert few.raw <= many.raw
    assert few.replicas <= many.replicas


@given(policies, starts, histories, ticks())
def test_a_second_step_right_after_a_decision_changes_nothing(
    policy: Policy, replicas: int, history: list[Tick], tick: Tick
) -> None:
    play = played(policy, replicas, history)
    first = play.tick(tick)
    assume(play.seen.replicas <= policy.max_replicas)
    play.seen = replace(play.seen, replicas=first.replicas)
    assert play.step().replicas == first.replicas


@given(policies, starts, histories, ticks())
def test_the_same_observation_twice_gives_the_same_number(
    policy: Policy, replicas: int, history: list[Tick], tick: Tick
) -> None:
    play = played(policy, replicas, history)
    assert play.tick(tick).replicas == play.step().replicas


@given(policies, starts, calm_histories)
def test_steps_upwards_are_limited_within_every_period(
    policy: Policy, replicas: int, history: list[Tick]
) -> None:
    steps = played(policy, replicas, history).steps
    for i, (seen, decision) in enumerate(steps):
        if decision.action is not Action.UP or decision.replicas == policy.min_replicas:
            continue
        least = min(_replicas_within(steps[: i + 1], seen.now_s - policy.scale_up_period_s))
        most = max(math.ceil(least * policy.scale_up_max_factor), least + policy.scale_up_max_pods)
        assert decision.replicas <= most


@given(policies, starts, calm_histories)
def test_steps_downwards_are_limited_within_every_period(
    policy: Policy, replicas: int, history: list[Tick]
) -> None:
    steps = played(policy, replicas, history).steps
    for i, (seen, decision) in enumerate(steps):
        if decision.action is not Action.DOWN or seen.replicas > policy.max_replicas:
            continue
        most = max(_replicas_within(steps[: i + 1], seen.now_s - policy.scale_down_period_s))
        step = max(1, int(most * policy.scale_down_max_fraction))
        assert decision.replicas >= most - step


def _replicas_within(steps: list[Step], since_s: float) -> list[int]:
    """Return the replicas since then, the number at that instant included."""
    first = steps[0][0]
    counts = [(-math.inf, first.replicas)]
    for (seen, decision), (after, _) in pairwise(steps):
        # Carried out at once, or set by somebody else and seen at the next step.
        is_own = after.replicas == decision.replicas
        counts.append((seen.now_s if is_own else after.now_s, after.replicas))
    before = [pods for second, pods in counts if second <= since_s][-1:]
    return before + [pods for second, pods in counts if second > since_s]


@given(policies, st.integers(0, 3), calm_histories, st.floats(0, 1))
def test_after_a_restart_of_redis_no_pod_is_removed_for_a_window(
    policy: Policy, replicas: int, history: list[Tick], share: float
) -> None:
    play = played(policy, replicas, history)
    last = play.steps[-1][0]
    again = replace(last, run="another", accepted=0, rejected=0, waiting=0, in_flight=0)
    for passed_s in (0.0, share * policy.scale_down_window_s * 0.999):
        play.seen = replace(again, now_s=last.now_s + 1 + passed_s)
        assert play.step().replicas >= last.replicas


@given(policies, st.integers(0, 3), calm_histories)
def test_a_new_autoscaler_does_not_start_by_removing_pods(
    policy: Policy, replicas: int, history: list[Tick]
) -> None:
    last = played(policy, replicas, history).steps[-1][0]
    decision, _ = size(policy, State(), last)
    assert decision.replicas >= min(last.replicas, policy.max_replicas)


jumps = st.one_of(st.floats(-1e6, -1), st.floats(2 * Policy().arrivals_window_s, 1e6))


@given(policies, st.integers(0, 3), calm_histories, jumps)
def test_a_jump_of_the_clock_removes_no_pod(
    policy: Policy, replicas: int, history: list[Tick], jump_s: float
) -> None:
    play = played(policy, replicas, history)
    last = play.steps[-1][0]
    play.seen = replace(last, now_s=last.now_s + jump_s, waiting=0, in_flight=0)
    assert play.step().replicas >= last.replicas


@given(policies, st.integers(1, 12), calm_histories, st.integers(0, 300), st.floats(0.1, 1000))
def test_smaller_batches_never_need_more_pods(
    policy: Policy, replicas: int, history: list[Tick], in_flight: int, small_ms: float
) -> None:
    play = played(policy, replicas, history)
    large = play.steps[-1][0]
    # Fewer are in hand, and it shows in the times of small batches, those that now run.
    small = replace(
        large,
        now_s=large.now_s + 5,
        in_flight=min(in_flight, large.in_flight),
        bucket_ms={**TABLE, 1: small_ms},
    )
    same = replace(large, now_s=large.now_s + 5)
    (before, _), (after, _) = (size(policy, play.state, each) for each in (same, small))
    assert before.raw is not None
    assert after.raw is not None
    assert after.raw <= before.raw


@given(policies, starts, histories, ticks(), st.integers(1, 40))
def test_a_forecast_only_adds_pods(
    policy: Policy, replicas: int, history: list[Tick], tick: Tick, pods: int
) -> None:
    play = played(policy, replicas, history)
    seen = play.after(tick)
    (without, its), (with_one, state) = (
        size(policy, play.state, replace(seen, foreseen=foreseen))
        for foreseen in (None, Foreseen(pods, "expected"))
    )
    assert with_one.replicas >= without.replicas
    assert with_one.raw == without.raw
    assert with_one.replicas <= max(without.replicas, min(pods, policy.max_replicas))
    if seen.known:
        assert with_one.replicas >= min(pods, seen.replicas, policy.max_replicas)
    # Nothing of it stays in the state: pods that were foreseen have no window of their own.
    assert replace(state, decided=None) == replace(its, decided=None)


@settings(max_examples=30)
@given(policies, st.integers(0, 12), calm_histories)
def test_state_stays_small(policy: Policy, replicas: int, history: list[Tick]) -> None:
    play = played(policy, replicas, history * 5)
    assert len(play.state.arrivals.counts) <= 2 + policy.arrivals_window_s
    assert len(play.state.history.replicas) <= 2 + 60
    assert len(play.state.history.recommended) <= 1 + policy.max_replicas * 100
