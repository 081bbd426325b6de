"""The plots of the HTML report, each with a description in words."""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from html import escape

from imageserve_loadtest.histogram import Histogram
from imageserve_loadtest.plots import Series, bar_chart, line_chart, percentile_chart
from imageserve_loadtest.result import Outcome, Result, TimelinePoint

SECONDS = "seconds since the load began"

_POINTS_PER_DECADE = 60
"""Of the percentile curve: 90 to 99 % is one decade, 99 to 99.9 % the next."""


@dataclass(frozen=True, slots=True)
class Plot:
    """A drawing, and its description for people who cannot see it."""

    name: str
    """Unique within the page; prefix of the ids in the drawing."""
    description: str
    svg: str
    kind: str = "lines"

    def __str__(self) -> str:
        drawing = _embeddable(self.svg, self.name, self.description)
        attributes = f'class="{self.kind}" id="plot-{self.name}"'
        return f'<figure {attributes}><div class="scroll">{drawing}</div></figure>'


def _embeddable(svg: str, name: str, description: str) -> str:
    """Return the SVG element with ids that are unique within the page, and a label."""
    inner = re.sub(r"<metadata>.*?</metadata>", "", svg[svg.index("<svg") :], flags=re.DOTALL)
    for before in ('id="', "url(#", 'xlink:href="#'):
        inner = inner.replace(before, f"{before}{name}-")
    return inner.replace("<svg ", f'<svg role="img" aria-label="{escape(description)}" ', 1)


def latency_plot(result: Result) -> Plot:
    """Percentile curves of the good answers, and of the refusals where there are any."""
    shown = [("good answers", result.latency.good), ("refusals", result.latency.refused)]
    shown = [(name, histogram) for name, histogram in shown if histogram.count]
    lines = [percentile_curve(name, histogram) for name, histogram in shown]
    words = "; ".join(f"{name}: {_in_words(histogram)}" for name, histogram in shown)
    return Plot("latency", f"Latency by percentile. {words}", percentile_chart("", "ms", lines))


def percentile_curve(name: str, histogram: Histogram) -> Series:
    """Return the curve from the fastest answer to the slowest, which ends it as a flat line."""
    # The slowest answer stands for the last 1 / count. It is drawn up to the middle of that, since
    # 100 % is infinitely far to the right.
    decades = math.log10(2 * histogram.count)
    steps = math.ceil(_POINTS_PER_DECADE * decades)
    percentiles = [100 - 100 / 10 ** (decades * i / steps) for i in range(steps + 1)]
    found = histogram.percentiles_ms(percentiles)
    return Series(name, percentiles, [found[percentile] for percentile in percentiles])


def _in_words(histogram: Histogram) -> str:
    found = histogram.percentiles_ms((50.0, 99.0))
    return f"p50 {found[50.0]:.1f} ms, p99 {found[99.0]:.1f} ms"


def rate_plot(result: Result) -> Plot:
    ends: dict[str, Callable[[TimelinePoint], int]] = {
        "due": lambda point: point.planned,
        "good": lambda point: point.outcomes.get(Outcome.GOOD, 0),
        "refused": lambda point: point.outcomes.get(Outcome.REFUSED, 0),
        "anything else": unwelcome,
    }
    lines = [_line(result, name, count) for name, count in ends.items()]
    description = (
        f"Requests a second over time: {result.offered_per_s:.1f} sent and "
        f"{result.goodput_per_s:.1f} good on average."
    )
    return Plot("rate", description, line_chart("", SECONDS, "requests/s", lines, steps=True))


def unwelcome(point: TimelinePoint) -> int:
    """Count the requests of an interval that ended neither good nor refused."""
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
    description = f"Latency of the good answers over time. {_in_words_or_none(result.latency.good)}"
    return Plot("latency-over-time", description, line_chart("", SECONDS, "ms", lines, steps=True))


def _in_words_or_none(histogram: Histogram) -> str:
    return f"On the whole {_in_words(histogram)}." if histogram.count else "There are none."


def _percentiles(points: Sequence[TimelinePoint], percentile: float) -> list[float]:
    # NaN leaves a gap in the line where nothing was answered.
    values = (point.latency.percentile_ms(percentile) for point in points)
    return [math.nan if value is None else value for value in values]


def status_plot(result: Result) -> Plot:
    statuses = sorted(result.counts.statuses)
    lines = [_line(result, status, _count_of(status)) for status in statuses]
    if result.counts.error:
        lines.append(_line(result, "no answer", lambda p: p.outcomes.get(Outcome.ERROR, 0)))
    totals = ", ".join(f"{result.counts.statuses[status]} with {status}" for status in statuses)
    description = (
        f"Answers a second by HTTP status: {totals or 'none'}; {result.counts.error} unanswered."
    )
    return Plot("statuses", description, line_chart("", SECONDS, "answers/s", lines, steps=True))


def _count_of(status: str) -> Callable[[TimelinePoint], int]:
    return lambda point: point.statuses.get(status, 0)


def queue_plot(result: Result) -> Plot:
    at = [snapshot.at_s for snapshot in result.queue]
    lines = [
        Series("waiting", at, [float(snapshot.queued) for snapshot in result.queue]),
        Series("in work", at, [float(snapshot.in_flight) for snapshot in result.queue]),
    ]
    longest = max(snapshot.queued for snapshot in result.queue)
    description = f"The queue over time: at most {longest} pictures waited."
    return Plot("queue", description, line_chart("", SECONDS, "pictures", lines, steps=True))


def stage_plot(result: Result) -> Plot:
    stages = {name: each for name, each in result.stages.items() if each.count}
    bars = [
        (f"p{p:g}", [each.percentiles_ms([p])[p] for each in stages.values()]) for p in (50, 99)
    ]
    words = "; ".join(f"{name}: {_in_words(each)}" for name, each in stages.items())
    svg = bar_chart("", "ms", list(stages), bars)
    return Plot("stages", f"Where the time went. {words}", svg, "bars")
