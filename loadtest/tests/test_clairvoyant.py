"""The fewest pods possible: bounds, the best schedule found, and what the rules are beside them."""

import os
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imageserve.autoscaler.policy import Policy
from imageserve.errors import ImageserveError
from imageserve_loadtest.simulator import clairvoyant
from imageserve_loadtest.simulator.clairvoyant import BestCase, share_of_time
from imageserve_loadtest.simulator.comparison import IMAGESERVE, KEDA_SUM, Case, Conditions, Rule
from imageserve_loadtest.simulator.dynamic_program import DynamicProgram, Problem
from imageserve_loadtest.simulator.linear_bound import linear_bound_s
from imageserve_loadtest.simulator.scalers import FixedFleet, Schedule
from imageserve_loadtest.simulator.simulate_command import main
from imageserve_loadtest.simulator.simulation import Outcome, Setting, Simulation
from imageserve_loadtest.simulator.trace import Trace

SETTING = Setting({1: 100.0, 10: 1000.0}, pod_start_s=20.0, timeout_s=10.0)
"""Ten pictures a second and pod, in batches of any size."""

POLICY = Policy(min_replicas=0, max_replicas=6, batch_size=10, scale_down_window_s=60.0)
CONDITIONS = Conditions(SETTING, POLICY)
EPSILON = 1e-6


def problem(requests: list[float], length_s: float, window_s: float = 0.0) -> Problem:
    return Problem(SETTING, requests, length_s, 0, 6, window_s)


@settings(max_examples=5, deadline=None)
@given(st.lists(st.sampled_from([0.0, 2.0, 8.0, 30.0]), min_size=3, max_size=5), st.booleans())
def test_no_rule_does_with_less_than_the_bound_and_the_best_is_between(
    rates: list[float], has_window: bool
) -> None:
    rows = tuple(60.0 * row for row in range(len(rates) + 1))
    trace = Trace("made up", rows, (*rates, 0.0))
    own = Case(CONDITIONS, trace, Rule(IMAGESERVE), 1).run()
    keda = Case(CONDITIONS, trace, Rule(KEDA_SUM, 4), 1).run()

    found = BestCase(CONDITIONS, trace, 1, own, (keda,), has_window=has_window).run()

    assert found.found.in_time >= own.in_time
    assert found.linear_hours <= found.found.replica_hours + EPSILON
    assert found.whole_hours[0] <= found.found.replica_hours + EPSILON
    assert found.least_hours <= own.replica_hours + EPSILON
    assert found.found.replica_hours <= own.replica_hours + EPSILON
    if not has_window:
        assert keda.in_time < own.in_time or (
            found.found.replica_hours <= keda.replica_hours + EPSILON
        )
        assert found.whole_hours[1] <= keda.replica_hours + EPSILON


@pytest.mark.parametrize("pods", [1, 3])
def test_the_bound_of_a_constant_load_is_exact(pods: int) -> None:
    # Pods are there from the start, the load is what they can do, and all of it is wanted.
    setting = replace(SETTING, replicas=pods)
    length_s = 1200.0
    requests = [n / (10.0 * pods) for n in range(round(length_s * 10 * pods))]
    whole = replace(problem(requests, length_s), setting=setting)
    exact = pods * length_s

    outcome = Simulation(
        setting, Trace("flat", (0.0, length_s), (10.0 * pods, 0)), requests, FixedFleet(pods)
    ).run()
    bounds = [
        DynamicProgram(whole, 5.0, is_bound=True).least_s(p, [len(requests)])[0] for p in (1, 9)
    ]

    assert outcome.in_time == len(requests)
    assert outcome.replica_hours * 3600 == pytest.approx(exact)
    # The last ten seconds of pictures may be answered after the trace, at no cost.
    edge_s = pods * (SETTING.timeout_s + 10.0)
    assert exact - edge_s <= max(bounds) <= exact
    assert exact - edge_s <= linear_bound_s(whole, 5.0, len(requests)) <= exact


def test_whole_pods_are_a_better_bound_where_half_a_pod_would_do() -> None:
    requests = [n / 5.0 for n in range(6000)]
    half = problem(requests, 1200.0)
    linear_s = linear_bound_s(half, 5.0, 6000)
    whole_s = max(DynamicProgram(half, 5.0, is_bound=True).least_s(p, [6000])[0] for p in (1, 9))
    assert linear_s == pytest.approx(600, abs=30)
    assert whole_s == pytest.approx(1200, rel=0.3)
    assert whole_s > 1.3 * linear_s


def test_pods_start_before_a_burst_and_leave_after_it() -> None:
    burst = [300 + n / 50 for n in range(3000)]
    schedule = DynamicProgram(problem(burst, 600.0), 5.0, is_bound=False).schedule(10.0)
    assert schedule[0] == 0
    assert max(schedule[(300 - 20) // 5 :]) >= 4
    assert max(schedule[: (300 - 20) // 5]) == 0
    assert schedule[200 // 5] == 0
    assert schedule[-1] == 0


def test_under_the_window_pods_stay() -> None:
    bursts = [at + n / 30 for at in (200, 400) for n in range(300)]
    held = DynamicProgram(problem(bursts, 600.0, 120.0), 5.0, is_bound=False).schedule(10.0)
    free = DynamicProgram(problem(bursts, 600.0), 5.0, is_bound=False).schedule(10.0)
    risen = next(step for step in range(1, len(held)) if held[step] > held[step - 1])
    assert min(held[risen : risen + 24]) == held[risen]
    assert sum(free) < sum(held)


def test_a_schedule_is_what_it_says_at_each_step() -> None:
    trace = Trace("still", (0.0, 60.0), (0.0, 0.0))
    outcome = Simulation(SETTING, trace, [], Schedule([2, 3, 0], 5.0)).run()
    assert outcome.replicas == ((0.0, 1), (0.0, 2), (5.0, 3), (10.0, 0))
    assert outcome.replica_hours == pytest.approx(25 / 3600)


def test_how_often_a_rule_had_the_fewest() -> None:
    def of(*replicas: tuple[float, int]) -> Outcome:
        return Outcome(0, 0, 0.0, 0.0, 0, 0.0, replicas, ())

    trace = Trace("still", (0.0, 100.0), (0.0, 0.0))
    rule, least = of((0.0, 1), (40.0, 3), (130.0, 9)), of((0.0, 1), (60.0, 2), (90.0, 3))
    assert share_of_time(trace, rule, least) == pytest.approx(0.5)
    assert share_of_time(trace, rule, least, more=1) == pytest.approx(0.8)


def test_the_command_prints_bounds_schedule_and_share(
    tmp_path: Path, capfd: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "cpu_count", lambda: 1)
    file = tmp_path / "quick.csv"
    file.write_text("second,requests_per_second\n0,2\n100,20\n200,0\n300,0\n")
    assert main([str(file), "--clairvoyant"], {}) == 0
    printed = capfd.readouterr().out
    assert printed.startswith("| trace ")
    rules = [line.split("|")[2].strip() for line in printed.splitlines() if "| quick" in line]
    assert rules[4:6] == ["clairvoyant", "clairvoyant, 300 s window"]
    assert rules[6:] == ["0 s", "300 s"]
    assert " % of the steps imageserve had no more pods than the best schedule found" in printed


def test_without_the_solver_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    module = "imageserve_loadtest.simulator.linear_bound"
    monkeypatch.setitem(__import__("sys").modules, module, None)
    with pytest.raises(ImageserveError, match=r"pip install 'imageserve-loadtest\[clairvoyant\]'"):
        clairvoyant.require_solver()
