"""The plot of a comparison."""

from collections.abc import Sequence

from imageserve.autoscaler.simulator.comparison import Results
from imageserve.autoscaler.simulator.traces import Trace
from imageserve.plots import Panel, Series, panels_chart


def draw(results: Results) -> str:
    """Return load and pods of every trace, side by side, as SVG."""
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
