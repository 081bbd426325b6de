"""The plots of a load test's report: which lines, and what they say in words."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from imageserve.loadtest.histogram import Histogram
from imageserve.loadtest.result import PERCENTILES, Outcome, Result, TimelinePoint
from imageserve.plots import Series, bar_chart, line_chart

SECONDS = "seconds since the load began"


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing and its text for those who do not see it."""

    name: str
    """Unique within the page; becomes part of the ids in the drawing."""
    says: str
    svg: str
    kind: str = "lines"

    def __str__(self) -> str:
        drawing = _embeddable(self.svg, self.name, self.says)
        attributes = f'class="{self.kind}" id="plot-{self.name}"'
        return f'<figure {attributes}><div class="scroll">{drawing}</div></figure>'


def _embeddable(svg: str, name: str, says: str) -> str:
    """Take a drawing out of its file: ids that no other drawing of the page has, and a label."""
    inner = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for before in ('id="', "url(#", 'xlink:href="#'):
        inner = inner.replace(before, f"{before}{name}-")
    return inner.replace("<svg ", f'<svg role="img" aria-label="{escape(says)}" ', 1)


def latency_plot(result: Result) -> Plot:
    """Bars: each percentile of the good answers, and of the refusals where there are any."""
    shown = [("good answers", result.latency.good), ("refusals", result.latency.refused)]
    shown = [(name, histogram) for name, histogram in shown if histogram.count]
    bars = [(name, _heights(histogram)) for name, histogram in shown]
    says = "; ".join(f"{name}: {_in_words(histogram)}" for name, histogram in shown)
    svg = bar_chart("", "ms", [*(f"p{p:g}" for p in PERCENTILES), "max"], bars)
    return Plot("latency", f"Latency by percentile. {says}", svg, "bars")


def _heights(histogram: Histogram) -> list[float]:
    found = histogram.percentiles_ms(PERCENTILES)
    return [*(found[percentile] for percentile in PERCENTILES), histogram.max_ms or 0.0]


def _in_words(histogram: Histogram) -> str:
    found = histogram.percentiles_ms((50.0, 99.0))
    return f"p50 {found[50.0]:.1f} ms, p99 {found[99.0]:.1f} ms"


def rate_plot(result: Result) -> Plot:
    ends: dict[str, Callable[[TimelinePoint], int]] = {
        "meant to be sent": lambda point: point.planned,
        "good": lambda point: point.outcomes.get(Outcome.GOOD, 0),
        "refused": lambda point: point.outcomes.get(Outcome.REFUSED, 0),
        "anything else": unwelcome,
    }
    lines = [_line(result, name, count) for name, count in ends.items()]
    says = (
        f"Requests a second over time: {result.offered_per_s:.1f} sent and "
        f"{result.goodput_per_s:.1f} good on average."
    )
    return Plot("rate", says, line_chart("", SECONDS, "requests/s", lines, steps=True))


def unwelcome(point: TimelinePoint) -> int:
    """Requests that ended in an interval and were neither good nor refused."""
    welcome = (Outcome.GOOD, Outcome.REFUSED)
    return sum(count for name, count in point.outcomes.items() if name not in welcome)


def _line(result: Result, name: str, count: Callable[[TimelinePoint], int]) -> Series:
    interval_s = result.timeline.interval_s
    points = result.timeline.points
    return Series(
        name, [point.at_s for point in points], [count(point) / interval_s for point in points]
    )


def latency_over_time_plot(result: Result) -> Plot:
    points = result.timeline.points
    at = [point.at_s for point in points]
    lines = [Series(f"p{p:g}", at, _percentiles(points, p)) for p in (50.0, 99.0)]
    says = f"Latency of the good answers over time. {_in_words_or_none(result.latency.good)}"
    return Plot("latency-over-time", says, line_chart("", SECONDS, "ms", lines, steps=True))


def _in_words_or_none(histogram: Histogram) -> str:
    return f"On the whole {_in_words(histogram)}." if histogram.count else "There are none."


def _percentiles(points: Sequence[TimelinePoint], percentile: float) -> list[float]:
    # Not a number leaves a gap in the line: where nothing was answered there is no latency.
    values = (point.latency.percentile_ms(percentile) for point in points)
    return [math.nan if value is None else value for value in values]


def status_plot(result: Result) -> Plot:
    statuses = sorted(result.counts.statuses)
    lines = [_line(result, status, _count_of(status)) for status in statuses]
    if result.counts.error:
        lines.append(_line(result, "no answer", lambda p: p.outcomes.get(Outcome.ERROR, 0)))
    totals = ", ".join(f"{result.counts.statuses[status]} with {status}" for status in statuses)
    says = f"Answers a second by HTTP status: {totals or 'none'}; {result.counts.error} unanswered."
    return Plot("statuses", says, line_chart("", SECONDS, "answers/s", lines, steps=True))


def _count_of(status: str) -> Callable[[TimelinePoint], int]:
    return lambda point: point.statuses.get(status, 0)


def queue_plot(result: Result) -> Plot:
    at = [sample.at_s for sample in result.queue]
    lines = [
        Series("waiting", at, [float(sample.queued) for sample in result.queue]),
        Series("in work", at, [float(sample.in_flight) for sample in result.queue]),
    ]
    longest = max(sample.queued for sample in result.queue)
    says = f"The queue over time: at most {longest} pictures waited."
    return Plot("queue", says, line_chart("", SECONDS, "pictures", lines, steps=True))


def stage_plot(result: Result) -> Plot:
    stages = {name: each for name, each in result.stages.items() if each.count}
    bars = [
        (f"p{p:g}", [each.percentiles_ms([p])[p] for each in stages.values()]) for p in (50, 99)
    ]
    says = "; ".join(f"{name}: {_in_words(each)}" for name, each in stages.items())
    svg = bar_chart("", "ms", list(stages), bars)
    return Plot("stages", f"Where the time went. {says}", svg, "bars")
