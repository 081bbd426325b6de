"""The simulator: its queue, its pods, and the rules that are compared."""

from dataclasses import replace

import pytest

from imageserve.autoscaler.policy import Policy
from imageserve_loadtest.simulator.comparison import (
    FIXED,
    IMAGESERVE,
    KEDA_LIST,
    KEDA_SUM,
    Case,
    Conditions,
    Rule,
    compare,
)
from imageserve_loadtest.simulator.comparison_report import drained_after_s, targets
from imageserve_loadtest.simulator.scalers import FixedFleet, Imageserve, Keda, Snapshot
from imageserve_loadtest.simulator.simulate_command import BUCKET_MS
from imageserve_loadtest.simulator.simulated_queue import SimulatedQueue
from imageserve_loadtest.simulator.simulation import Outcome, Setting, Simulation
from imageserve_loadtest.simulator.trace import Trace, shipped_traces

TABLE = {1: 100.0, 2: 150.0, 4: 250.0}
"""Four pictures take a quarter of a second."""

SETTING = Setting(TABLE, pod_start_s=10.0, timeout_s=2.0, queue_limit=100)


def trace(length_s: float = 60.0, rate: float = 0.0) -> Trace:
    return Trace("made up", (0.0, length_s), (rate, 0.0))


def fixed(requests: list[float], setting: Setting = SETTING, pods: int = 1) -> Outcome:
    return Simulation(setting, trace(), requests, FixedFleet(pods)).run()


@pytest.mark.parametrize(
    ("requests", "waits_s"),
    [
        pytest.param([1.0], [0.0], id="a job finds an idle worker"),
        pytest.param([1.0, 1.02], [0.0, 0.08], id="the second waits for the first batch"),
        pytest.param([1.0, 1.01, 1.02, 1.03], [0.0, 0.09, 0.08, 0.07], id="three in one batch"),
        pytest.param([1.0, 2.0], [0.0, 0.0], id="each alone"),
    ],
)
def test_a_worker_takes_the_waiting_jobs(requests: list[float], waits_s: list[float]) -> None:
    outcome = fixed(requests)
    assert outcome.in_time == len(requests)
    assert outcome.p99_wait_s == pytest.approx(max(waits_s))


def test_a_batch_is_padded_to_the_next_size_that_was_timed() -> None:
    # The last one waits for the first batch and for one of three, which takes as long as four.
    outcome = fixed([1.0, 1.01, 1.02, 1.03, 1.2])
    assert outcome.p99_wait_s == pytest.approx(1.1 + 0.25 - 1.2)


def test_a_request_that_could_not_be_answered_in_time_is_refused() -> None:
    # 16 a second for 2 s minus half a batch: 30 are accepted, and all of them are in time.
    outcome = fixed([1 + n / 1000 for n in range(60)])
    assert outcome.in_time == 30
    assert outcome.p99_wait_s < 2


def test_without_pods_all_requests_are_accepted_and_none_answered() -> None:
    outcome = fixed([1 + n / 1000 for n in range(60)], replace(SETTING, replicas=0), pods=0)
    assert (outcome.in_time, outcome.replica_hours, outcome.zero_s) == (0, 0.0, 60.0)
    assert max(jobs for _, jobs in outcome.waiting) == 60


def test_a_pod_costs_from_the_first_moment_and_serves_later() -> None:
    outcome = fixed([9.5, 10.5], replace(SETTING, replicas=0), pods=1)
    assert outcome.replica_hours == pytest.approx(60 / 3600)
    assert outcome.in_time == 2
    assert outcome.p99_wait_s == pytest.approx(0.5)


def test_a_pod_that_stops_finishes_its_batch_and_gives_the_next_one_back() -> None:
    queue = SimulatedQueue(timeout_s=30.0, limit=100)
    queue.arrive([1.0, 2.0, 3.0, 4.0], 0)
    first, second = queue.claim(5.0, 2), queue.claim(5.0, 1)
    queue.give_back(second)
    queue.give_back(first)
    assert (queue.waiting, queue.in_flight, queue.oldest_s(5.0)) == (4, 0, 4.0)
    assert queue.claim(5.0, 10) == [1.0, 2.0, 3.0, 4.0]


def test_a_job_past_its_deadline_is_dropped_at_the_claim() -> None:
    queue = SimulatedQueue(timeout_s=2.0, limit=100)
    queue.arrive([1.0, 2.0, 3.0], 0)
    assert queue.claim(4.0, 10) == [2.0, 3.0]
    queue.finish(4.5, [2.0, 3.0])
    assert (queue.in_time, queue.waiting, queue.in_flight) == (1, 0, 0)


def test_a_full_queue_first_drops_expired_jobs() -> None:
    queue = SimulatedQueue(timeout_s=2.0, limit=2)
    queue.arrive([1.0, 1.5, 2.0, 3.2], 0)
    assert (queue.accepted, queue.rejected, queue.waiting) == (3, 1, 2)


def test_a_run_is_repeatable_and_a_seed_makes_another_one() -> None:
    conditions = Conditions(SETTING, Policy(batch_size=4))
    cases = [Case(conditions, trace(600, rate=5), Rule(IMAGESERVE), seed) for seed in (1, 1, 2)]
    first, again, other = (case.run() for case in cases)
    assert first == again
    assert first != other


def snapshot(now_s: float, waiting: int, replicas: int, in_flight: int = 0) -> Snapshot:
    return Snapshot(now_s, waiting, in_flight, 0, 0, 0.0, replicas, replicas, {}, None)


def keda(list_length: int = 10, *, count_in_flight: bool = False, min_replicas: int = 0) -> Keda:
    return Keda(
        list_length,
        count_in_flight=count_in_flight,
        min_replicas=min_replicas,
        max_replicas=20,
        cooldown_s=60.0,
    )


@pytest.mark.parametrize(
    ("waiting", "replicas", "wanted"),
    [
        pytest.param(100, 8, 10, id="the list over its target"),
        pytest.param(101, 8, 11, id="rounded up"),
        pytest.param(87, 8, 8, id="ten percent more is tolerated"),
        pytest.param(89, 8, 9, id="more than that is not"),
        pytest.param(10_000, 2, 6, id="four pods at once"),
        pytest.param(10_000, 8, 16, id="or twice as many"),
        pytest.param(10_000, 15, 20, id="but not more than allowed"),
        pytest.param(0, 8, 8, id="down only after five minutes"),
    ],
)
def test_the_hpa_does_what_its_documentation_says(waiting: int, replicas: int, wanted: int) -> None:
    assert keda().decide(snapshot(0.0, waiting, replicas)) == wanted


def test_the_hpa_goes_down_to_the_highest_of_the_last_five_minutes() -> None:
    scaler, replicas, counts = keda(), 8, []
    for tick in range(45):
        replicas = scaler.decide(snapshot(tick * 15.0, 25 if tick < 5 else 5, replicas))
        counts.append(replicas)
    assert counts[:20] == [8] * 20
    assert counts[20:24] == [3] * 4
    assert counts[24:] == [1] * 21


def test_keda_counts_what_is_in_flight_where_it_is_told_to() -> None:
    assert keda().decide(snapshot(0.0, 10, 1, in_flight=40)) == 1
    assert keda(count_in_flight=True).decide(snapshot(0.0, 10, 1, in_flight=40)) == 5


def test_keda_goes_to_zero_after_its_cooldown_and_comes_back_at_a_poll() -> None:
    scaler = keda()
    counts = [scaler.decide(snapshot(t * 15.0, 0 if t else 1, 1)) for t in range(6)]
    assert counts == [1, 1, 1, 1, 0, 1]  # It polls every other time.
    assert scaler.decide(snapshot(90.0, 0, 0)) == 0
    assert [scaler.decide(snapshot(s, 1, 0)) for s in (105.0, 120.0)] == [0, 1]


def test_keda_keeps_its_minimum() -> None:
    scaler = keda(min_replicas=2)
    assert {scaler.decide(snapshot(t * 15.0, 0, 2)) for t in range(60)} == {2}


STEADY_TABLES = [
    pytest.param({1: 10.0, 8: 40.0, 32: 130.0}, id="a fast model"),
    pytest.param({1: 100.0, 8: 380.0, 32: 1340.0}, id="a slow model"),
    pytest.param({1: 1000.0}, id="one picture a second"),
]


@pytest.mark.parametrize("table", STEADY_TABLES)
@pytest.mark.parametrize("pods_of_load", [0.5, 1.96, 2.0, 2.04, 5.0, 12.3])
def test_a_steady_load_is_met_without_going_back_and_forth(
    table: dict[int, float], pods_of_load: float
) -> None:
    # At most 20 requests a second: what matters is how many pods they need.
    slower = max(1.0, max(n * 1000 / ms for n, ms in table.items()) * pods_of_load / 20)
    table = {n: ms * slower for n, ms in table.items()}
    policy = Policy(max_replicas=20, batch_size=max(table), target_wait_s=2 * slower)
    rate = pods_of_load * policy.target_utilization * max(n * 1000 / table[n] for n in table)
    steady = Trace("steady", (0.0, 7200.0), (rate, 0.0))
    setting = Setting(table, pod_start_s=30.0, replicas=max(1, int(pods_of_load)))
    outcome = Simulation(setting, steady, steady.requests(seed=1), Imageserve(policy)).run()
    assert outcome.direction_changes == 0
    assert outcome.replicas[-1][1] <= pods_of_load + 2


def test_more_pods_make_smaller_batches_and_no_more_pods() -> None:
    """A rule on the throughput of the moment would see pods get slower, and add more."""
    table = {1: 100.0, 8: 170.0, 32: 410.0}
    steady = Trace("steady", (0.0, 3600.0), (50.0, 0.0))
    setting = Setting(table, pod_start_s=30.0, replicas=4)
    policy = Policy(max_replicas=20, min_replicas=4)
    outcome = Simulation(setting, steady, steady.requests(seed=1), Imageserve(policy)).run()
    assert outcome.replicas == ((0.0, 4),)


def test_from_zero_the_first_pod_is_asked_for_within_a_second() -> None:
    setting = replace(SETTING, replicas=0)
    scaler = Imageserve(Policy(min_replicas=0, batch_size=4))
    outcome = Simulation(setting, trace(120.0), [63.2], scaler).run()
    asleep, (woken_s, pods) = outcome.replicas[:2]
    assert asleep == (0.0, 0)
    assert 63.2 <= woken_s < 64.2
    assert pods == 1


def test_how_long_a_step_takes_to_be_worked_off_is_read_from_the_queue() -> None:
    step = Trace("step", (0.0, 100.0, 400.0, 500.0), (1.0, 10.0, 1.0, 0.0))
    waiting = tuple((s * 10.0, 500 if 11 <= s <= 20 else 19) for s in range(60))
    outcome = replace(fixed([]), waiting=waiting)
    assert drained_after_s(step, outcome, target_wait_s=2.0) == 110.0
    assert drained_after_s(step, replace(outcome, waiting=()), target_wait_s=2.0) == 0.0


def test_the_targets_hold_on_a_quick_trace_and_say_where_they_do_not() -> None:
    step = next(each for each in shipped_traces() if each.name == "step")
    quick = replace(step, rates=tuple(rate / 4 for rate in step.rates))
    table = {1: 400.0, 2: 560.0, 4: 880.0, 8: 1520.0}
    conditions = Conditions(Setting(table), Policy(max_replicas=20, batch_size=8))
    rules = [Rule(IMAGESERVE), Rule(KEDA_LIST, 8), Rule(KEDA_SUM, 2), Rule(FIXED, 6)]
    lines: list[str] = []
    results = compare(conditions, [quick], rules, 1, lines.append)
    found = {each.text.split(":")[0]: each for each in targets(results, conditions)}
    assert lines[-1] == "4/4 step: fixed fleet of 6"
    assert found["step"].is_met
    worse = {
        key: replace(each, in_time=0, replica_hours=1e3) if key[1] == rules[0] else each
        for key, each in results.items()
    }
    missed = [each for each in targets(worse, conditions) if not each.is_met]
    assert [each.measured for each in missed[:2]] == ["not on step", "not on step"]


def test_after_a_jump_as_many_are_in_time_as_with_keda() -> None:
    conditions = Conditions(Setting(BUCKET_MS), Policy(min_replicas=0, max_replicas=20))
    jump = next(each for each in shipped_traces() if each.name == "flash-crowd")
    own, keda = (
        Case(conditions, jump, rule, 1).run() for rule in (Rule(IMAGESERVE), Rule(KEDA_SUM, 4))
    )
    assert own.in_time >= keda.in_time
    assert own.replica_hours <= 1.1 * keda.replica_hours
    assert own.direction_changes <= 1
