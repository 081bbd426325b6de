"""The traces of seven days, and what is said of a memory of the week on them."""

from collections import Counter
from dataclasses import replace

import pytest

from imageserve.autoscaler.policy import Policy
from imageserve_loadtest.simulator.clairvoyant import Best
from imageserve_loadtest.simulator.comparison import KEDA_SUM, Rule
from imageserve_loadtest.simulator.scalers import FixedFleet, Imageserve
from imageserve_loadtest.simulator.simulated_queue import STEP_S
from imageserve_loadtest.simulator.simulation import Outcome, Setting, Simulation
from imageserve_loadtest.simulator.trace import Trace
from imageserve_loadtest.simulator.week_report import (
    OFF,
    OWN,
    Judged,
    _of_day,
    judged_table,
    share,
    week_table,
    week_targets,
)
from imageserve_loadtest.simulator.weeks import (
    BASE,
    BURST,
    BURST_AT_S,
    BURST_S,
    DAY_S,
    DAYS,
    days,
    third_bursts,
    third_lunches,
    weeks,
)

SETTING = Setting({1: 450.0, 2: 850.0, 4: 1650.0})
"""A tenth of the usual pods, for a tenth of the usual load."""


def hourly(hours: int) -> Trace:
    """Return the job alone, at a tenth of its load."""
    rows = []
    for hour in range(hours):
        start = 3600 * hour + BURST_AT_S
        rows += [(3600.0 * hour, BASE / 10), (start, BURST / 10), (start + BURST_S, BASE / 10)]
    seconds, rates = zip(*rows, (3600.0 * hours, 0.0), strict=True)
    return Trace("hourly", seconds, rates)


def run(trace: Trace, foresight: str) -> Outcome:
    policy = Policy(min_replicas=0, max_replicas=20, batch_size=4, foresight=foresight)
    return Simulation(SETTING, trace, trace.requests(1), Imageserve(policy)).run()


def test_bursts_of_every_hour_are_in_time_from_the_third_on() -> None:
    trace = hourly(6)
    came = Counter(int(second // STEP_S) for second in trace.requests(1))
    own, off = run(trace, "auto"), run(trace, "off")
    bursts = [int((3600 * hour + BURST_AT_S) // STEP_S) for hour in range(6)]

    assert share(own, came, bursts[2:]) >= 0.99
    assert share(own, came, bursts[:2]) == share(off, came, bursts[:2]) < 0.5
    assert share(off, came, bursts[2:]) < 0.5
    assert own.replica_hours <= 1.25 * off.replica_hours
    assert own.direction_changes == off.direction_changes


def test_the_weeks_are_seven_days_and_repeatable() -> None:
    traces = weeks()
    assert [each.name for each in traces] == ["week-jobs", "week-walk", "week-noise"]
    assert all(each.length_s == DAYS * DAY_S for each in traces)
    assert traces == weeks()
    jobs = traces[0]
    assert max(jobs.rates) >= 100 * BASE
    bursts = {
        int(s // STEP_S) for s, rate in zip(jobs.seconds, jobs.rates, strict=True) if rate > 150
    }
    assert third_bursts() <= bursts
    assert len(third_bursts()) == DAYS * 24 - 2
    assert min(third_lunches()) == 2 * DAY_S // STEP_S + 12 * 12 - 1


def test_a_week_is_the_sum_of_its_days() -> None:
    week = weeks(0.01)[0]
    expected = [
        sum(
            (end - start) * rate
            for start, end, rate in zip(d.seconds, d.seconds[1:], d.rates, strict=False)
        )
        for d in [week, *days(week)]
    ]
    assert len(expected) == 1 + DAYS
    assert sum(expected[1:]) == pytest.approx(expected[0])


@pytest.fixture
def outcome() -> Outcome:
    trace = Trace("short", (0.0, 60.0), (1.0, 0.0))
    return Simulation(SETTING, trace, trace.requests(1), FixedFleet(1)).run()


def test_what_is_in_time_is_counted_by_five_minutes(outcome: Outcome) -> None:
    assert sum(outcome.in_time_by_step.values()) == outcome.in_time
    assert share(outcome, Counter({0: 2 * outcome.in_time, 1: 5}), [0]) == 0.5
    assert share(outcome, Counter({0: 2 * outcome.in_time, 1: 5}), [1]) == 0


def test_the_targets_of_the_week_are_met_and_missed(outcome: Outcome) -> None:
    keda = Rule(KEDA_SUM, 4)
    traces = weeks(0.01)
    came = {trace: Counter(range(7 * 288)) for trace in traces}
    whole = replace(outcome, in_time_by_step=came[traces[0]], replica_hours=100.0)
    good = {(t, rule): whole for t in traces for rule in (OWN, OFF, keda)}
    best = Best(300.0, 70.0, (75.0,), replace(whole, replica_hours=80.0))
    judged = Judged(whole, whole, best)

    assert [each.is_met for each in week_targets(good, came, judged)] == [True] * 5
    assert "| week-walk  | imageserve, foresight off " in week_table(good, came)
    assert "1.25 x" in judged_table(judged)

    late = replace(whole, in_time_by_step={}, in_time=0, replica_hours=103.0)
    bad = {key: late if key[1] == OWN else each for key, each in good.items()}
    far = replace(judged, own=replace(whole, replica_hours=101.0))
    missed = week_targets(bad, came, far)
    assert [each.is_met for each in missed] == [False] * 5
    assert missed[0].measured == "0.00 %"
    assert missed[1].measured == "+3.00 %"


def test_one_day_of_a_week_has_the_pods_of_that_day(outcome: Outcome) -> None:
    day = next(days(weeks(0.01)[0]))
    pods = ((0.0, 9), (3 * DAY_S - 100.0, 2), (3 * DAY_S + 3600.0, 4), (5.0 * DAY_S, 1))
    came = Counter({3 * 288: 4})
    found = _of_day(replace(outcome, replicas=pods, in_time_by_step={3 * 288: 3}), came, day, 1)
    assert found.replica_hours == pytest.approx(2 + 4 * 23)
    assert found.in_time == int(0.75 * found.requests)
