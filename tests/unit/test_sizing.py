"""How many pods: plain examples, one rule at a time."""

from collections.abc import Mapping
from dataclasses import fields, replace
from typing import Any, cast

import pytest

from imageserve.autoscaler.decision import Action, Cause, Decision, Foreseen, Observation
from imageserve.autoscaler.load import Arrivals, capacity_per_s, demand
from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.sizing import State, size
from imageserve.errors import SettingsError

TEN_A_SECOND = {1: 200.0, 8: 800.0, 16: 1600.0}
"""A pod does ten pictures a second, in batches of 16 or of 8."""

POLICY = Policy(
    min_replicas=0, max_replicas=20, target_utilization=0.5, target_wait_s=2.0, batch_size=16
)
"""With it, one pod per five pictures a second."""


class Watched:
    """A model that is sized every five seconds; each decision is carried out at once."""

    def __init__(self, policy: Policy = POLICY, **seen: Any) -> None:
        self.policy = policy
        self.state = State()
        self.seen = Observation(
            now_s=0.0,
            known=True,
            run="a",
            waiting=0,
            in_flight=0,
            accepted=0,
            rejected=0,
            oldest_s=0.0,
            bucket_ms=TEN_A_SECOND,
        )
        self.seen = replace(self.seen, **seen)
        self.decision = self._size()

    def _size(self) -> Decision:
        decision, self.state = size(self.policy, self.state, self.seen)
        return decision

    def after(self, seconds: float, per_second: float = 0.0, **seen: Any) -> Decision:
        """Let jobs arrive at this rate for this long; ``seen`` holds from now on."""
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
            self.decision = self._size()
        return self.decision


@pytest.mark.parametrize(
    ("per_second", "replicas"),
    [
        pytest.param(0, 1, id="nothing: one pod stays until it is idle for long"),
        pytest.param(1, 1, id="little"),
        pytest.param(2.5, 1, id="half a pod"),
        pytest.param(2.6, 2, id="more than half: a second one against jumps"),
        pytest.param(10, 2, id="the target of two pods"),
        pytest.param(10.2, 2, id="a little more is not worth a pod"),
        pytest.param(11, 3, id="too much for two"),
        pytest.param(49, 10, id="ten pods"),
        pytest.param(1000, 20, id="more than is allowed"),
    ],
)
def test_there_are_as_many_pods_as_the_arrivals_need(per_second: float, replicas: int) -> None:
    watched = Watched(replicas=1, ready=1)
    assert watched.after(600, per_second).replicas == replicas


@pytest.mark.parametrize(
    ("waiting", "pods"),
    [
        pytest.param(0, 4.0, id="arrivals alone"),
        pytest.param(40, 4.0, id="as many as may wait"),
        pytest.param(640, 5.0, id="one pod more works them off in a minute"),
        pytest.param(40 + 1200, 6.0, id="two pods more do"),
    ],
)
def test_excess_jobs_need_pods_beside_those_for_arrivals(waiting: int, pods: float) -> None:
    asked = demand(POLICY, 20.0, waiting, capacity=10.0, pod_start_s=60.0)
    assert asked.exact == pytest.approx(pods)


def test_excess_jobs_are_worked_off_within_the_start_of_a_pod() -> None:
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
        pytest.param({8: 0.0, 1: 500.0}, 2.0, id="a time of 0 is ignored"),
        pytest.param({}, None, id="nothing is known"),
    ],
)
def test_a_pod_is_as_fast_as_the_largest_batch_that_fits_the_wait(
    bucket_ms: Mapping[int, float], per_second: float | None
) -> None:
    assert capacity_per_s(bucket_ms, POLICY) == per_second


def test_the_configured_rate_is_used_until_a_worker_has_published_its_speed() -> None:
    policy = replace(POLICY, service_rate_per_replica=4.0)
    assert capacity_per_s({}, policy) == 4.0
    assert capacity_per_s(TEN_A_SECOND, policy) == 10.0


def test_a_burst_counts_before_the_long_window_is_over() -> None:
    watched = Watched(replicas=1, ready=1)
    watched.after(300, per_second=5)
    decision = watched.after(15, per_second=50)
    assert decision.arrivals_per_s == 50
    assert decision.raw == 10


def test_arrivals_that_are_not_known_yet_are_not_called_zero() -> None:
    watched = Watched(replicas=1, ready=1)
    first = watched.decision
    soon = watched.after(10, per_second=20)
    later = watched.after(120, per_second=20)

    assert (first.arrivals_per_s, first.reason.partition(",")[0]) == (
        None,
        "the arrivals are not known yet",
    )
    assert soon.reason.startswith("at least ")
    assert (later.arrivals_per_s, later.reason[:4]) == (20.0, "20.0")


def test_a_lull_counts_only_over_the_long_window() -> None:
    watched = Watched(replicas=10, ready=10)
    watched.after(300, per_second=50)
    assert watched.after(15).arrivals_per_s == pytest.approx(50 * 105 / 120)


def test_refused_jobs_are_arrivals() -> None:
    watched = Watched(replicas=1, ready=1)
    for second in range(0, 300, 5):
        watched.after(5, rejected=50 * second)
    assert watched.decision.replicas == 10


def test_the_second_pod_stays_until_the_load_is_half_of_what_brought_it() -> None:
    watched = Watched(replicas=1, ready=1)
    decision = watched.after(600, per_second=3)
    assert (decision.raw, decision.replicas) == (2, 2)
    assert "0.60 pods of load, and one more for a jump" in decision.reason
    decision = watched.after(1200, per_second=1.4)
    assert (decision.raw, decision.replicas) == (1, 2)
    assert "for a jump" not in decision.reason
    assert watched.after(1200, per_second=1.2).replicas == 1


def test_pods_are_added_at_once_in_limited_steps() -> None:
    watched = Watched(replicas=1, ready=1)
    watched.after(120, per_second=1)
    counts = [watched.after(5, per_second=500).replicas for _ in range(9)]
    assert counts == [7, 7, 7, 14, 14, 14, 20, 20, 20]  # Periods of 15 s.


def test_pods_are_removed_after_the_window_in_limited_steps() -> None:
    watched = Watched(replicas=12, ready=12)
    watched.after(600, per_second=60)
    counts = [watched.after(60).replicas for _ in range(14)]
    assert counts[:5] == [12] * 5  # The window of 300 s.
    assert counts[5:9] == [6, 3, 2, 1]


def test_pods_that_are_expected_to_be_needed_stay_and_are_started() -> None:
    jump = Foreseen(5, "the forecast expects 50/s")
    watched = Watched(replicas=12, ready=12)
    watched.after(600)
    decision = watched.after(300, foreseen=jump)
    assert (decision.replicas, decision.raw, decision.cause) == (5, 0, Cause.FORECAST)
    assert decision.reason.endswith("; the forecast expects 50/s")
    assert watched.after(1200, foreseen=None).replicas == 0
    assert watched.after(5, foreseen=jump).replicas == 5


def test_a_pod_is_removed_only_with_a_margin() -> None:
    watched = Watched(replicas=3, ready=3)
    assert watched.after(1200, per_second=9.8).replicas == 3
    assert watched.after(1200, per_second=8).replicas == 2


def test_many_pods_tolerate_a_small_difference() -> None:
    watched = Watched(replicas=10, ready=10)
    decision = watched.after(600, per_second=54)
    assert (decision.raw, decision.replicas, decision.cause) == (11, 10, Cause.TOLERANCE)
    assert watched.after(600, per_second=80).replicas == 16


def test_the_last_pod_is_removed_after_the_idle_time() -> None:
    watched = Watched(replicas=1, ready=1)
    watched.after(60, per_second=1)
    assert watched.after(895).replicas == 1
    decision = watched.after(5)
    assert (decision.replicas, decision.cause) == (0, Cause.IDLE)
    assert decision.reason.endswith("no job came for 900 s")


def test_zero_is_reached_only_from_one() -> None:
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
        pytest.param({"waiting": 1}, id="a job waits"),
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


def test_a_model_with_a_known_speed_wakes_with_all_the_pods_it_needs() -> None:
    watched = Watched(replicas=1, ready=1)
    watched.after(1000)
    assert watched.decision.replicas == 0
    assert watched.after(5, waiting=1800, bucket_ms={}).replicas == 3


def test_a_model_without_a_known_speed_wakes_with_one_pod() -> None:
    watched = Watched(replicas=0, bucket_ms={})
    decision = watched.after(5, waiting=1000)
    assert (decision.replicas, decision.raw, decision.cause) == (1, None, Cause.WAKE)
    decision = watched.after(60, waiting=1000)
    assert (decision.replicas, decision.cause) == (1, Cause.UNKNOWN)


def test_a_queue_that_cannot_be_read_holds_the_replicas_and_restarts_the_window() -> None:
    watched = Watched(replicas=4, ready=4)
    watched.after(290)
    decision = watched.after(60, known=False)
    assert (decision.replicas, decision.raw, decision.cause) == (4, None, Cause.UNKNOWN)
    assert watched.after(295, known=True).replicas == 4
    assert watched.after(10).replicas == 2


@pytest.mark.parametrize(
    "change",
    [
        pytest.param({"run": "b"}, id="another run of Redis"),
        pytest.param({"accepted": 0, "rejected": 0}, id="counters that are lower than before"),
        pytest.param({"now_s": 100_000.0}, id="a clock that jumps"),
        pytest.param({"replicas": 6}, id="replicas that another client has set"),
    ],
)
def test_what_makes_the_history_invalid_restarts_the_window(change: dict[str, Any]) -> None:
    watched = Watched(replicas=4, ready=4)
    watched.after(100, per_second=1)
    watched.after(190)
    watched.seen = replace(watched.seen, **{"now_s": watched.seen.now_s + 5, **change})
    there = watched.seen.replicas
    watched.decision = watched._size()
    assert watched.after(295).replicas == there
    assert watched.after(60).replicas < there


def test_late_jobs_add_a_pod_although_there_should_be_enough() -> None:
    watched = Watched(replicas=2, ready=2)
    watched.after(120, per_second=8, waiting=12)
    late = [watched.after(5, per_second=8, waiting=12, oldest_s=5.0) for _ in range(3)]
    assert [each.replicas for each in late] == [2, 2, 3]
    assert late[-1].cause is Cause.LATE
    assert watched.after(290, per_second=8, waiting=0, oldest_s=0.0).replicas == 3
    assert watched.after(60, per_second=8).replicas == 2


def test_the_pod_for_late_jobs_is_requested_until_it_is_there() -> None:
    watched = Watched(replicas=2, ready=2)
    watched.after(120, per_second=8, waiting=12)
    late = {"waiting": 12, "oldest_s": 5.0}
    watched.after(15, per_second=8, **late)
    # The write failed: there are still two.
    assert watched.after(5, per_second=8, **late, replicas=2, ready=2).replicas == 3
    assert watched.after(5, per_second=8, **late, ready=2).replicas == 3


def test_late_jobs_that_get_fewer_add_no_pod() -> None:
    watched = Watched(replicas=2, ready=2)
    watched.after(120, per_second=8, waiting=60)
    late = [watched.after(5, per_second=8, waiting=60 - n, oldest_s=5.0) for n in range(1, 30)]
    assert {each.replicas for each in late} == {2}


def test_a_rollout_that_finds_no_room_gets_no_more_pods_than_there_is_room_for() -> None:
    policy = replace(POLICY, min_replicas=2, scale_down_window_s=3600)
    watched = Watched(policy, replicas=4)
    watched.after(60, per_second=20)

    begins = watched.after(5, per_second=20, rollout=True)
    stuck = watched.after(5, per_second=20, rollout=True, unschedulable=1, can_run=3)
    moves = watched.after(60, per_second=20, rollout=True, unschedulable=0, can_run=None)
    ended = watched.after(60, per_second=20, rollout=False)

    assert begins.replicas == 4
    # Neither the window nor the step size delays it.
    assert (stuck.replicas, stuck.action, stuck.cause) == (3, Action.DOWN, Cause.ROLLOUT)
    assert "a rollout is on, and there is no room for more pods" in stuck.reason
    assert (stuck.raw, stuck.capacity_per_s) == (4, 10.0)
    assert (moves.replicas, ended.replicas) == (3, 4)


@pytest.mark.parametrize(
    ("seen", "replicas"),
    [
        pytest.param({"can_run": 0}, 1, id="one at least, also below the minimum"),
        pytest.param({"can_run": 1, "bucket_ms": {}}, 1, id="no pod has told its speed"),
        pytest.param({"can_run": 1, "known": False}, 4, id="the queue cannot be read"),
        pytest.param({"can_run": 1, "rollout": False}, 4, id="no rollout"),
        pytest.param({"can_run": 9}, 4, id="room enough"),
    ],
)
def test_the_room_for_a_rollout_is_a_limit_only_of_what_is_known(
    seen: dict[str, Any], replicas: int
) -> None:
    policy = replace(POLICY, min_replicas=4, max_replicas=4)
    now = Observation(0.0, True, "a", replicas=4, ready=1, unschedulable=3, rollout=True)

    decision, _ = size(policy, State(), replace(now, **{"bucket_ms": TEN_A_SECOND, **seen}))

    assert decision.replicas == replicas


def test_while_pods_are_unschedulable_only_a_few_more_are_requested() -> None:
    watched = Watched(replicas=4, ready=4)
    watched.after(5, ready=2, unschedulable=2)
    decision = watched.after(60, per_second=120, ready=2, unschedulable=2)
    assert (decision.replicas, decision.cause) == (4, Cause.UNSCHEDULABLE)
    assert watched.after(60, per_second=120, unschedulable=0).replicas == 20


def test_pods_with_jobs_in_work_stay() -> None:
    watched = Watched(replicas=8, ready=8)
    decision = watched.after(900, in_flight=7 * 2 * 16)
    assert (decision.replicas, decision.cause) == (7, Cause.IN_FLIGHT)


def test_a_lower_maximum_applies_at_once() -> None:
    watched = Watched(replicas=18, ready=18)
    watched.policy = replace(POLICY, max_replicas=3)
    decision = watched.after(5, per_second=90)
    assert (decision.replicas, decision.cause) == (3, Cause.BOUNDS)


def test_the_reason_has_the_numbers() -> None:
    watched = Watched(replicas=1, ready=1)
    assert watched.after(300, per_second=2, waiting=3).reason == (
        "2.0 pictures/s arrive, 3 wait, a pod does 10.0/s: 0.40 pods of load"
    )


def test_the_rate_is_unknown_before_half_a_window() -> None:
    arrivals = Arrivals().add(0, 100, 120).add(5, 150, 120)
    assert arrivals.per_second(120) is None
    assert arrivals.per_second(10) == 10
    assert arrivals.expected_per_second(120, 10) == 7  # 100, less what may be chance.
    assert Arrivals().expected_per_second(120, 10) is None


@pytest.mark.parametrize(
    ("last_10_s", "is_burst"),
    [(20, False), (28, False), (60, True)],
    ids=["twice the rate may be chance", "so may nearly three times", "six times is a burst"],
)
def test_a_few_pictures_more_than_usual_are_no_burst(last_10_s: int, is_burst: bool) -> None:
    arrivals = Arrivals().add(0, 0, 120).add(110, 100, 120).add(120, 100 + last_10_s, 120)
    usual = (100 + last_10_s) / 120
    expected = last_10_s / 10 if is_burst else usual
    assert arrivals.expected_per_second(120, 10) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("given", "message"),
    [
        pytest.param(
            {"min_replicas": -1}, "min_replicas: must be a whole number from 0", id="negative"
        ),
        pytest.param(
            {"max_replicas": 0}, "max_replicas: must be a whole number from 1", id="no pods at all"
        ),
        pytest.param({"min_replicas": 5}, "max_replicas: must not be below", id="crossed"),
        pytest.param({"max_replicas": 2.5}, "max_replicas: must be a whole number", id="half"),
        pytest.param({"max_replicas": True}, "max_replicas: must be a whole number", id="yes"),
        pytest.param({"target_wait_s": "2s"}, "target_wait_s: must be a number", id="text"),
        pytest.param({"target_wait_s": float("nan")}, "target_wait_s: must be a number", id="nan"),
        pytest.param({"target_utilization": 1.1}, "target_utilization: must be", id="above all"),
        pytest.param({"burst_window_s": 500}, "burst_window_s: must not be above", id="long burst"),
    ],
)
def test_an_invalid_policy_is_refused_by_the_name_of_its_field(
    given: dict[str, Any], message: str
) -> None:
    with pytest.raises(SettingsError, match=message):
        Policy(**given)


def test_every_field_of_a_policy_has_limits() -> None:
    for each in fields(Policy):
        with pytest.raises(SettingsError, match=each.name):
            Policy(**cast(Any, {each.name: 10**9}))
