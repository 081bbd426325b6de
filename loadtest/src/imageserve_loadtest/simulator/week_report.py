"""What a memory of the week is worth: the traces of seven days, with and without it."""

from collections import Counter
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace

from imageserve_loadtest.simulator.clairvoyant import Best, BestCase
from imageserve_loadtest.simulator.comparison import (
    IMAGESERVE,
    KEDA_SUM,
    NO_FORESIGHT,
    Conditions,
    Progress,
    Results,
    Rule,
    compare,
    run_all,
)
from imageserve_loadtest.simulator.comparison_report import (
    Target,
    percent,
    table,
    targets_table,
)
from imageserve_loadtest.simulator.simulated_queue import STEP_S
from imageserve_loadtest.simulator.simulation import Outcome
from imageserve_loadtest.simulator.trace import Trace
from imageserve_loadtest.simulator.weeks import (
    DAY_S,
    JOBS,
    days,
    third_bursts,
    third_lunches,
    weeks,
)

HEADER = ("trace", "rule", "replica-hours", "more", "in time", "bursts", "lunches", "turns")

JUDGED_DAY = 3
"""The best possible is computed for one day, counted from 0: a week in fine steps takes an hour."""

STEPS_OF_A_DAY = DAY_S // 15

OWN, OFF = Rule(IMAGESERVE), Rule(NO_FORESIGHT)


@dataclass(frozen=True, slots=True)
class Judged:
    """One day, and the fewest pods for it under the scale-down window."""

    own: Outcome
    off: Outcome
    best: Best


def week_parts(
    conditions: Conditions, keda: Rule, seed: int, progress: Progress, *, is_judged: bool
) -> list[str]:
    """Run the traces of seven days; return the tables."""
    traces = weeks()
    results = compare(conditions, traces, [OWN, OFF, keda], seed, progress)
    came = {trace: _came(trace, seed) for trace in traces}
    judged = _judged(conditions, results, came, progress, seed) if is_judged else None
    parts = [week_table(results, came), targets_table(week_targets(results, came, judged))]
    return [parts[0], judged_table(judged), parts[1]] if judged else parts


def _came(trace: Trace, seed: int) -> Counter[int]:
    return Counter(int(second // STEP_S) for second in trace.requests(seed))


def share(outcome: Outcome, came: Counter[int], steps: Collection[int]) -> float:
    """Return the share in time of the requests of these steps."""
    in_time = sum(outcome.in_time_by_step.get(step, 0) for step in steps)
    return in_time / max(1, sum(came[step] for step in steps))


def week_table(results: Results, came: dict[Trace, Counter[int]]) -> str:
    """Return one row per trace and rule."""
    rows = []
    for (trace, rule), each in results.items():
        more = each.replica_hours / results[trace, OFF].replica_hours - 1
        parts = [third_bursts(), third_lunches()] if trace.name == JOBS else []
        shares = [percent(share(each, came[trace], part)) for part in parts] or ["", ""]
        hours = [f"{each.replica_hours:.1f}", f"{100 * more:+.1f} %", percent(each.in_time_share)]
        rows.append([trace.name, rule.name, *hours, *shares, str(each.direction_changes)])
    return table(HEADER, rows, texts=2)


def week_targets(
    results: Results, came: dict[Trace, Counter[int]], judged: Judged | None
) -> list[Target]:
    """Compare with what a memory of the week is to be worth."""
    found, fewer = [], []
    for trace, counts in came.items():
        own, off = results[trace, OWN], results[trace, OFF]
        if trace.name == JOBS:
            least = min(share(own, counts, each) for each in (third_bursts(), third_lunches()))
            text = "bursts and lunches: from the third one on at least 95 % in time"
            found.append(Target(text, percent(least), least >= 0.95))
        else:
            more = own.replica_hours / off.replica_hours - 1
            text = f"{trace.name}: foresight takes at most 2 % more replica-hours"
            found.append(Target(text, f"{100 * more:+.2f} %", more <= 0.02))
        keda = [each for (of, rule), each in results.items() if of is trace if _is_keda(rule)]
        fewer += [trace.name for each in keda if own.in_time < each.in_time]
    measured = f"not on {', '.join(fewer)}" if fewer else "on all"
    found.append(Target("in time: as many as KEDA, list + in flight", measured, not fewer))
    if judged:
        times = judged.own.replica_hours / judged.best.found.replica_hours
        text = "replica-hours: at most 1.25 x those of the clairvoyant under the same window"
        found.append(Target(text, f"{times:.2f} x", times <= 1.25))
    return found


def _is_keda(rule: Rule) -> bool:
    return rule.kind == KEDA_SUM


# -- one day beside the best possible -----------------------------------------------------------


def _judged(
    conditions: Conditions,
    results: Results,
    came: dict[Trace, Counter[int]],
    progress: Progress,
    seed: int,
) -> Judged:
    trace = next(each for each in came if each.name == JOBS)
    day = list(days(trace))[JUDGED_DAY]
    own, off = (_of_day(results[trace, rule], came[trace], day, seed) for rule in (OWN, OFF))
    case = BestCase(conditions, day, seed, own, has_window=True, most_steps=STEPS_OF_A_DAY)
    return Judged(own, off, run_all([case], progress)[0])


def _of_day(outcome: Outcome, came: Counter[int], day: Trace, seed: int) -> Outcome:
    """Return what a rule did on the judged day, with as large a share of the day's own draw."""
    start_s = JUDGED_DAY * DAY_S
    steps = range(int(start_s // STEP_S), int((start_s + DAY_S) // STEP_S))
    inside = [(max(0.0, second - start_s), pods) for second, pods in outcome.replicas]
    ends = [second for second, _ in inside[1:]] + [float(DAY_S)]
    pod_s = sum(
        pods * (min(end, DAY_S) - min(start, DAY_S))
        for (start, pods), end in zip(inside, ends, strict=True)
    )
    requests = len(day.requests(seed))
    in_time = int(share(outcome, came, steps) * requests)
    return replace(outcome, requests=requests, in_time=in_time, replica_hours=pod_s / 3600)


def judged_table(judged: Judged) -> str:
    """Return the day's replica-hours beside the best possible."""
    best = judged.best
    hours = best.found.replica_hours
    header = ("day 4 of week-jobs", "replica-hours", "of the best found", "in time")
    rows: Sequence[Sequence[str]] = [
        ["at least, for as many in time as imageserve", f"{best.least_hours:.2f}", "", ""],
        [best.name, f"{hours:.2f}", "1.00 x", percent(best.found.in_time_share)],
        *(
            [rule.name, f"{each.replica_hours:.2f}", f"{each.replica_hours / hours:.2f} x",
             percent(each.in_time_share)]
            for rule, each in ((OFF, judged.off), (OWN, judged.own))
        ),
    ]  # fmt: skip
    return table(header, rows, texts=1)
