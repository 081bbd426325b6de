"""How many pods: plain examples, one rule at a time."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any

import pytest

from imageserve.autoscaler.load import Arrivals, capacity_per_s, demand
from imageserve.autoscaler.sizing import (
    Action,
    Cause,
    Decision,
    Observation,
    Policy,
    State,
    size,
)
from imageserve.errors import SettingsError

TEN_A_SECOND = {1: 200.0, 8: 800.0, 16: 1600.0}
"""A pod does ten pictures a second, in batches of 16 or of 8."""

POLICY = Policy(
    min_replicas=0, max_replicas=20, target_utilization=0.5, target_wait_s=2.0, batch_size=16
)
"""With it, a pod is there for five pictures a second."""


class Watched:
    """A model that is looked at every five seconds; what it is told is done at once."""

    def __init__(self, policy: Policy = POLICY, **seen: Any) -> None:
        self.policy = policy
        self.state = State()
        self.seen = Observation(
            now_s=0.0,
            known=True,
            run="a",
            backlog=0,
            in_flight=0,
            accepted=0,
            rejected=0,
            oldest_s=0.0,
            bucket_ms=TEN_A_SECOND,
        )
        self.seen = replace(self.seen, **seen)
        self.decision = self._look()

    def _look(self) -> Decision:
        decision, self.state = size(self.policy, self.state, self.seen)
        return decision

    def after(self, seconds: float, per_second: float = 0.0, **seen: Any) -> Decision:
        """Let so many arrive a second for so long; what else is seen holds from now on."""
        for _ in range(round(seconds / 5)):
            replicas = self.decision.replicas
            self.seen = replace(
                self.seen,
                now_s=self.seen.now_s + 5,
                accepted=self.seen.accepted + round(5 * per_second),
                replicas=replicas,
                ready=replicas,
            )
            self.seen = replace(self.seen, **seen)
            self.decision = self._look()
        return self.decision


@pytest.mark.parametrize(
    ("per_second", "replicas"),
    [
        pytest.param(0, 1, id="nothing: one pod stays until it is idle for long"),
        pytest.param(1, 1, id="little"),
        pytest.param(5, 1, id="as much as one pod is there for"),
        pytest.param(5.2, 1, id="a little more is not worth a pod"),
        pytest.param(6, 2, id="too much for one"),
        pytest.param(49, 10, id="ten pods"),
        pytest.param(1000, 20, id="more than is allowed"),
    ],
)
def test_there_are_as_many_pods_as_the_arrivals_need(per_second: float, replicas: int) -> None:
    watched = Watched(replicas=1, ready=1)
    assert watched.after(600, per_second).replicas == replicas


@pytest.mark.parametrize(
    ("backlog", "pods"),
    [
        pytest.param(0, 4.0, id="arrivals alone"),
        pytest.param(40, 4.0, id="what may wait"),
        pytest.param(640, 5.0, id="what is worked off by one pod in a minute"),
        pytest.param(40 + 1200, 6.0, id="by two"),
    ],
)
def test_what_waits_too_long_is_worked_off_beside_what_arrives(backlog: int, pods: float) -> None:
    asked = demand(POLICY, 20.0, backlog, capacity=10.0, pod_start_s=60.0)
    assert asked.exact == pytest.approx(pods)


def test_what_waits_is_not_worked_off_faster_than_a_pod_starts() -> None:
    slow, fast = (
        demand(POLICY, 0.0, 3000, capacity=10.0, pod_start_s=start_s) for start_s in (300.0, 1.0)
    )
    assert slow.pods == 1
    assert fast.pods == 10  # Within target_drain_s.


@pytest.mark.parametrize(
    ("bucket_ms", "per_second"),
    [
        pytest.param(TEN_A_SECOND, 10.0, id="the largest batch"),
        pytest.param({1: 100.0, 8: 400.0, 16: 2100.0}, 20.0, id="the largest within the wait"),
        pytest.param({1: 5000.0, 8: 9000.0}, 0.2, id="none is: the smallest"),
        pytest.param({16: 1600.0, 32: 1601.0}, 10.0, id="none above the batch size"),
        pytest.param({8: 0.0, 1: 500.0}, 2.0, id="a time of nothing is not believed"),
        pytest.param({}, None, id="nothing is known"),
    ],
)
def test_a_pod_is_as_fast_as_the_largest_batch_that_fits_the_wait(
    bucket_ms: Mapping[int, float], per_second: float | None
) -> None:
    assert capacity_per_s(bucket_ms, POLICY) == per_second


def test_until_a_worker_has_told_its_times_the_given_rate_is_believed() -> None:
    policy = replace(POLICY, service_rate_per_replica=4.0)
    assert capacity_per_s({}, policy) == 4.0
    assert capacity_per_s(TEN_A_SECOND, policy) == 10.0


def test_the_arrivals_of_a_burst_are_believed_before_the_window_is_over() -> None:
    watched = Watched(replicas=1, ready=1)
    watched.after(300, per_second=5)
    decision = watched.after(15, per_second=50)
    assert decision.arrivals_per_s == 50
    assert decision.raw == 10


def test_a_lull_is_not_believed_before_the_window_is_over() -> None:
    watched = Watched(replicas=10, ready=10)
    watched.after(300, per_second=50)
    assert watched.after(15).arrivals_per_s == pytest.approx(50 * 105 / 120)


def test_what_was_refused_has_arrived_too() -> None:
    watched = Watched(replicas=1, ready=1)
    for second in range(0, 300, 5):
        watched.after(5, rejected=50 * second)
    assert watched.decision.replicas == 10


def test_pods_come_at_once_but_only_so_many() -> None:
    watched = Watched(replicas=1, ready=1)
    watched.after(120, per_second=1)
    counts = [watched.after(5, per_second=500).replicas for _ in range(9)]
    assert counts == [5, 5, 5, 5, 10, 10, 10, 10, 20]


def test_pods_go_late_and_little_by_little() -> None:
    watched = Watched(replicas=12, ready=12)
    watched.after(600, per_second=60)
    counts = [watched.after(60).replicas for _ in range(14)]
    assert counts[:5] == [12] * 5  # The window of 300 s.
    assert counts[5:] == [9, 7, 6, 5, 4, 3, 2, 1, 1]


def test_a_pod_goes_only_when_the_others_would_do_for_more() -> None:
    watched = Watched(replicas=3, ready=3)
    assert watched.after(1200, per_second=9.8).replicas == 3
    assert watched.after(1200, per_second=8).replicas == 2


def test_among_many_pods_a_small_difference_is_not_worth_a_change() -> None:
    watched = Watched(replicas=10, ready=10)
    decision = watched.after(600, per_second=54)
    assert (decision.raw, decision.replicas, decision.cause) == (11, 10, Cause.TOLERANCE)
    assert watched.after(600, per_second=80).replicas == 16


def test_the_last_pod_goes_when_nothing_came_for_long() -> None:
    watched = Watched(replicas=1, ready=1)
    watched.after(60, per_second=1)
    assert watched.after(895).replicas == 1
    decision = watched.after(5)
    assert (decision.replicas, decision.cause) == (0, Cause.IDLE)
    assert decision.reason.endswith("no job came for 900 s")


def test_several_pods_do_not_go_at_once_even_where_all_may() -> None:
    policy = replace(
        POLICY, scale_down_max_fraction=1.0, scale_down_window_s=10, scale_to_zero_after_s=10
    )
    watched = Watched(policy, replicas=4, ready=4)
    counts = [watched.after(5).replicas for _ in range(20)]
    assert counts[0] == 4
    assert counts[-1] == 0
    assert 1 in counts


def test_a_last_pod_that_still_starts_stays() -> None:
    watched = Watched(replicas=1, ready=0)
    for _ in range(300):
        watched.after(5, ready=0)
    assert watched.decision.replicas == 1


def test_a_minimum_keeps_idle_pods() -> None:
    watched = Watched(replace(POLICY, min_replicas=2), replicas=2, ready=2)
    decision = watched.after(3600)
    assert (decision.replicas, decision.raw, decision.cause) == (2, 0, Cause.BOUNDS)


@pytest.mark.parametrize(
    "work",
    [
        pytest.param({"backlog": 1}, id="a job waits"),
        pytest.param({"in_flight": 1}, id="a job is leased"),
        pytest.param({"accepted": 1}, id="a job came and is gone"),
        pytest.param({"rejected": 1}, id="a job came and was refused"),
    ],
)
def test_work_wakes_the_model(work: dict[str, int]) -> None:
    watched = Watched(replicas=0)
    assert watched.after(60).replicas == 0
    decision = watched.after(5, **work)
    assert (decision.replicas, decision.action, decision.cause) == (1, Action.UP, Cause.WAKE)


def test_a_model_that_was_fast_before_it_slept_is_woken_with_as_many_as_it_takes() -> None:
    watched = Watched(replicas=1, ready=1)
    watched.after(1000)
    assert watched.decision.replicas == 0
    assert watched.after(5, backlog=1800, bucket_ms={}).replicas == 3


def test_a_model_that_nobody_knows_is_woken_with_one_pod() -> None:
    watched = Watched(replicas=0, bucket_ms={})
    decision = watched.after(5, backlog=1000)
    assert (decision.replicas, decision.raw, decision.cause) == (1, None, Cause.WAKE)
    decision = watched.after(60, backlog=1000)
    assert (decision.replicas, decision.cause) == (1, Cause.UNKNOWN)


def test_while_the_queue_cannot_be_read_nothing_changes_and_no_patience_is_used_up() -> None:
    watched = Watched(replicas=4, ready=4)
    watched.after(290)
    decision = watched.after(60, known=False)
    assert (decision.replicas, decision.raw, decision.cause) == (4, None, Cause.UNKNOWN)
    assert watched.after(295, known=True).replicas == 4
    assert watched.after(10).replicas == 3


@pytest.mark.parametrize(
    "strange",
    [
        pytest.param({"run": "b"}, id="another run of Redis"),
        pytest.param({"accepted": 0, "rejected": 0}, id="counters that are lower than before"),
        pytest.param({"now_s": 100_000.0}, id="a clock that jumps"),
        pytest.param({"replicas": 6}, id="replicas that somebody else has set"),
    ],
)
def test_after_something_strange_the_window_begins_anew(strange: dict[str, Any]) -> None:
    watched = Watched(replicas=4, ready=4)
    watched.after(100, per_second=1)
    watched.after(190)
    watched.seen = replace(watched.seen, **{"now_s": watched.seen.now_s + 5, **strange})
    there = watched.seen.replicas
    watched.decision = watched._look()
    assert watched.after(295).replicas == there
    assert watched.after(60).replicas < there


def test_jobs_that_are_late_although_there_are_enough_pods_bring_one_more() -> None:
    watched = Watched(replicas=2, ready=2)
    watched.after(120, per_second=8, backlog=12)
    late = [watched.after(5, per_second=8, backlog=12, oldest_s=5.0) for _ in range(3)]
    assert [each.replicas for each in late] == [2, 2, 3]
    assert late[-1].cause is Cause.LATE
    assert watched.after(290, per_second=8, backlog=0, oldest_s=0.0).replicas == 3
    assert watched.after(60, per_second=8).replicas == 2


def test_one_more_for_late_jobs_is_asked_for_until_it_is_there() -> None:
    watched = Watched(replicas=2, ready=2)
    watched.after(120, per_second=8, backlog=12)
    late = {"backlog": 12, "oldest_s": 5.0}
    watched.after(15, per_second=8, **late)
    # The write failed: there are still two.
    assert watched.after(5, per_second=8, **late, replicas=2, ready=2).replicas == 3
    assert watched.after(5, per_second=8, **late, ready=2).replicas == 3


def test_jobs_that_are_late_but_get_fewer_bring_none() -> None:
    watched = Watched(replicas=2, ready=2)
    watched.after(120, per_second=8, backlog=60)
    late = [watched.after(5, per_second=8, backlog=60 - n, oldest_s=5.0) for n in range(1, 30)]
    assert {each.replicas for each in late} == {2}


def test_while_pods_find_no_node_only_a_few_more_are_asked_for() -> None:
    watched = Watched(replicas=4, ready=4)
    watched.after(5, ready=2, unschedulable=2)
    decision = watched.after(60, per_second=90, ready=2, unschedulable=2)
    assert (decision.replicas, decision.cause) == (4, Cause.UNSCHEDULABLE)
    assert watched.after(60, per_second=90, unschedulable=0).replicas == 18


def test_pods_that_are_at_work_stay() -> None:
    watched = Watched(replicas=8, ready=8)
    decision = watched.after(900, in_flight=7 * 2 * 16)
    assert (decision.replicas, decision.cause) == (7, Cause.IN_FLIGHT)


def test_a_lower_maximum_holds_at_once() -> None:
    watched = Watched(replicas=18, ready=18)
    watched.policy = replace(POLICY, max_replicas=3)
    decision = watched.after(5, per_second=90)
    assert (decision.replicas, decision.cause) == (3, Cause.BOUNDS)


def test_a_decision_tells_its_numbers() -> None:
    watched = Watched(replicas=1, ready=1)
    assert watched.after(300, per_second=2, backlog=3).reason == (
        "2.0 pictures/s arrive, 3 wait, a pod does 10.0/s: 0.40 pods of load"
    )


def test_arrivals_are_not_known_before_half_a_window_was_seen() -> None:
    arrivals = Arrivals().add(0, 100, 120).add(5, 150, 120)
    assert arrivals.per_second(120) is None
    assert arrivals.per_second(10) == 10
    assert arrivals.expected_per_second(120, 10) == 7  # 100, less what may be chance.
    assert Arrivals().expected_per_second(120, 10) is None


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param({"min_replicas": -1}, "min_replicas: must be from 0", id="negative"),
        pytest.param({"max_replicas": 0}, "max_replicas: must be from 1", id="no pods at all"),
        pytest.param({"min_replicas": 5}, "max_replicas: must not be below", id="crossed"),
        pytest.param({"max_replicas": 2.5}, "max_replicas: must be a whole number", id="half"),
        pytest.param({"max_replicas": True}, "max_replicas: must be a whole number", id="yes"),
        pytest.param({"target_wait_s": "2s"}, "target_wait_s: must be a number", id="text"),
        pytest.param({"target_wait_s": float("nan")}, "target_wait_s: must be a number", id="nan"),
        pytest.param({"target_utilization": 1.1}, "target_utilization: must be", id="above all"),
        pytest.param({"burst_window_s": 500}, "burst_window_s: must not be above", id="long burst"),
    ],
)
def test_a_policy_that_cannot_be_is_refused_by_the_name_of_its_field(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        Policy(**given)


def test_every_field_of_a_policy_has_limits() -> None:
    for each in fields(Policy):
        with pytest.raises(SettingsError, match=each.name):
            Policy(**{each.name: 10**9})
