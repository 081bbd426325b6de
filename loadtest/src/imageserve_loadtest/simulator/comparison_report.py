"""The report of a comparison: Markdown tables and a plot. Pure."""

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from statistics import fmean

from imageserve_loadtest.plots import Panel, Series, panels_chart
from imageserve_loadtest.simulator.clairvoyant import Best, Bests, share_of_time
from imageserve_loadtest.simulator.comparison import (
    DAILY,
    FIXED,
    IMAGESERVE,
    KEDA_SUM,
    Conditions,
    Results,
    Rule,
    SweepResult,
)
from imageserve_loadtest.simulator.simulation import SAMPLE_S, Outcome
from imageserve_loadtest.simulator.trace import Trace

Row = Sequence[str]

RESULT = ("trace", "rule", "replica-hours", "in time", "p99 wait", "turns", "at zero")

STEP = "step"
"""The trace with one step upwards."""


def table(header: Row, rows: Sequence[Row], *, texts: int) -> str:
    """Return a Markdown table with aligned columns; the first ``texts`` ones are left-aligned."""
    widths = [max(len(row[i]) for row in (header, *rows)) for i in range(len(header))]
    pads = [str.ljust] * texts + [str.rjust] * (len(header) - texts)

    def line(cells: Row) -> str:
        padded = [pad(cell, width) for pad, cell, width in zip(pads, cells, widths, strict=True)]
        return f"| {' | '.join(padded)} |"

    rule = [":" + "-" * (width - 1) for width in widths[:texts]]
    rule += ["-" * (width - 1) + ":" for width in widths[texts:]]
    return "\n".join([line(header), line(rule), *map(line, rows)])


def percent(share: float) -> str:
    return f"{100 * share:.2f} %"


def results_table(results: Results, bests: Bests) -> str:
    """Return one row per trace and rule; where known, with the fewest hours possible."""
    rows: list[list[str]] = []
    for trace in dict.fromkeys(trace for trace, _ in results):
        own = [(rule, each) for (of, rule), each in results.items() if of is trace]
        lines = [result_row(trace, rule.name, outcome) for rule, outcome in own]
        if bests:
            found = bests[trace]
            # A fixed fleet is there from the start, which no other rule can have.
            equal = [line for line, (rule, _) in zip(lines, own, strict=True) if rule.kind != FIXED]
            for line, hours in zip(equal, found[0].whole_hours[1:], strict=True):
                line.append(f"{hours:.2f}")
            lines = [[*line, ""][: len(RESULT) + 1] for line in lines]
            lines += [
                [*result_row(trace, each.name, each.found), f"{each.least_hours:.2f}"]
                for each in found
            ]
        rows += lines
    return table([*RESULT, *(["at least"] if bests else [])], rows, texts=2)


def result_row(trace: Trace, name: str, outcome: Outcome) -> list[str]:
    """Return the cells of one run."""
    return [
        trace.name,
        name,
        f"{outcome.replica_hours:.2f}",
        percent(outcome.in_time_share),
        f"{outcome.p99_wait_s:.1f} s",
        str(outcome.direction_changes),
        f"{outcome.zero_s / 60:.0f} min",
    ]


def sweep_table(sweep: Sequence[SweepResult], taken: Collection[Rule]) -> str:
    """Return one row per rule that was tried, and which ones were taken."""
    header = ["rule", "", "replica-hours", "in time", "p99 wait", "turns"]
    rows = [
        [
            each.rule.name,
            "taken" if each.rule in taken else "",
            f"{each.replica_hours:.2f}",
            percent(each.in_time_share),
            f"{each.p99_wait_s:.1f} s",
            f"{each.direction_changes:.1f}",
        ]
        for each in sweep
    ]
    return table(header, rows, texts=2)


def bests_table(results: Results, bests: Bests) -> str:
    """Return one row per trace, without and with the window, and how often imageserve was best."""
    header = ["trace", "window", "linear relaxation", "whole pods", "found", "gap", "imageserve"]
    rows: list[Row] = []
    for trace, pair in bests.items():
        own = results[trace, Rule(IMAGESERVE)]
        rows += [[trace.name, *_best_cells(best), _times(own, best)] for best in pair]
    return "\n\n".join([table(header, rows, texts=1), *_sentences(results, bests)])


def _best_cells(best: Best) -> Row:
    hours = best.found.replica_hours
    gap = percent(hours / best.least_hours - 1) if best.least_hours else "none"
    bounds = [f"{each:.2f}" for each in (best.linear_hours, best.whole_hours[0], hours)]
    return [f"{best.window_s:g} s", *bounds, gap]


def _times(own: Outcome, best: Best) -> str:
    hours = best.found.replica_hours
    return f"{own.replica_hours / hours:.2f} x found" if hours else "no pods needed"


def _sentences(results: Results, bests: Bests) -> Iterator[str]:
    for index, condition in enumerate(("", " under the same scale-down window")):
        few = [
            [share_of_time(trace, results[trace, Rule(IMAGESERVE)], pair[index].found, more)
             for trace, pair in bests.items()]
            for more in (0, 1)
        ]  # fmt: skip
        lengths = [trace.length_s for trace in bests]
        none, one = (percent(fmean(each, lengths)) for each in few)
        yield (
            f"In {none} of the steps imageserve had no more pods than the best schedule "
            f"found{condition}, in {one} at most one more."
        )


@dataclass(frozen=True, slots=True)
class Target:
    """Something that should hold, and whether it does."""

    text: str
    measured: str
    is_met: bool


def targets_table(targets: Sequence[Target]) -> str:
    """Return one row per target."""
    rows = [[each.text, each.measured, "met" if each.is_met else "missed"] for each in targets]
    return table(["target", "measured", ""], rows, texts=2)


def targets(results: Results, conditions: Conditions) -> list[Target]:
    """Compare imageserve with calibrated KEDA and with its own promises."""
    own = {trace: outcome for (trace, rule), outcome in results.items() if rule.kind == IMAGESERVE}
    keda = {trace: outcome for (trace, rule), outcome in results.items() if rule.kind == KEDA_SUM}
    found = [_turns(outcome) for trace, outcome in own.items() if trace.name == DAILY]
    found += [_drain(trace, each, conditions) for trace, each in own.items() if trace.name == STEP]
    pairs = [(trace.name, own[trace], keda[trace]) for trace in own if trace in keda]
    return ([*_beside_keda(pairs)] if pairs else []) + found


def _beside_keda(pairs: Sequence[tuple[str, Outcome, Outcome]]) -> list[Target]:
    fewer = [name for name, own, keda in pairs if own.in_time < keda.in_time]
    dearer = [name for name, own, keda in pairs if own.replica_hours > 1.1 * keda.replica_hours]
    mean = fmean(own.replica_hours / keda.replica_hours for _, own, keda in pairs)
    return [
        Target("in time: on every trace as many as KEDA, list + in flight", _all(fewer), not fewer),
        Target("replica-hours: on no trace more than 110 % of it", _all(dearer), not dearer),
        Target("replica-hours: on average at most 75 % of it", percent(mean), mean <= 0.75),
    ]


def _all(exceptions: Sequence[str]) -> str:
    return f"not on {', '.join(exceptions)}" if exceptions else "on all"


def _turns(outcome: Outcome) -> Target:
    turns = outcome.direction_changes
    return Target("day: at most 8 turns in four hours", str(turns), turns <= 8)


def _drain(trace: Trace, outcome: Outcome, conditions: Conditions) -> Target:
    limit_s = 2 * conditions.setting.pod_start_s + conditions.policy.target_drain_s
    took_s = drained_after_s(trace, outcome, conditions.policy.target_wait_s)
    text = f"step: worked off within 2 x pod start + target drain = {limit_s:g} s"
    return Target(text, f"{took_s:g} s", took_s <= limit_s)


def drained_after_s(trace: Trace, outcome: Outcome, target_wait_s: float) -> float:
    """Return how long after the largest step upwards too many jobs waited."""
    steps = [after - before for before, after in zip(trace.rates, trace.rates[1:], strict=False)]
    row = 1 + max(range(len(steps)), key=steps.__getitem__)
    start_s = trace.seconds[row]
    end_s = trace.seconds[row + 1] if row + 1 < len(trace.seconds) else trace.length_s
    too_many = trace.rates[row] * target_wait_s
    late = [s for s, jobs in outcome.waiting if start_s <= s < end_s and jobs > too_many]
    return max(late) + SAMPLE_S - start_s if late else 0.0


# -- the plot -----------------------------------------------------------------------------------


def draw(results: Results) -> str:
    """Return load and pods of each trace, side by side, as SVG."""
    panels: list[Panel] = []
    for trace in dict.fromkeys(trace for trace, _ in results):
        panels += [_load(trace), _pods(trace, results)]
    return panels_chart("Requests, and the pods that each rule asks for", panels, columns=2)


def _load(trace: Trace) -> Panel:
    minutes = [second / 60 for second in trace.seconds]
    rates = [*trace.rates[:-1], trace.rates[-2]]  # The last row is only the end.
    series = Series("requests/s", minutes, rates, steps=True)
    return Panel("requests/s", [series], trace.name, "minutes")


def _pods(trace: Trace, results: Results) -> Panel:
    series = [
        _steps(rule.name, outcome.replicas, trace.length_s)
        for (of, rule), outcome in results.items()
        if of is trace
    ]
    return Panel("pods", series, "", "minutes")


def _steps(name: str, changes: Sequence[tuple[float, int]], end_s: float) -> Series:
    inside = [(second, pods) for second, pods in changes if second <= end_s]
    inside.append((end_s, inside[-1][1]))
    return Series(name, [s / 60 for s, _ in inside], [pods for _, pods in inside], steps=True)
