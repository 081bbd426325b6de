"""Plots for reports, as SVG text. The only place that knows matplotlib.

The same numbers give the same text, byte for byte, so that a plot can be kept under version
control. Nothing opens a window. matplotlib's settings are global: one thread may draw at a time.
"""

import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import Any

from matplotlib import style
from matplotlib.axes import Axes
from matplotlib.figure import Figure

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Told apart by the colour-blind too; Okabe and Ito, https://jfly.uni-koeln.de/color/."""

DASHES = ("-", "--", "-.", ":")
"""In step with the colours: lines differ even where colours are not printed."""

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "imageserve",  # Otherwise the ids within a file are random.
    "svg.fonttype": "none",  # Text stays text: smaller, and can be searched.
    "text.parse_math": False,  # A name with two dollars is no formula.
    "font.size": 9.0,
}
_WIDTH_IN, _PANEL_IN = 8.0, 2.4


@dataclass(frozen=True, slots=True)
class Series:
    """One line: ``x`` and ``y`` of the same length, and its name in the legend."""

    name: str
    x: Sequence[float]
    y: Sequence[float]
    steps: bool = False
    """Hold each value until the next one, as counts of things do."""


@dataclass(frozen=True, slots=True)
class Span:
    """A stretch of the x axis that is shaded, and why."""

    start: float
    end: float
    label: str = ""


@dataclass(frozen=True, slots=True)
class Panel:
    """One pair of axes."""

    y_label: str
    series: Sequence[Series]
    title: str = ""
    x_label: str = ""
    log_y: bool = False
    spans: Sequence[Span] = ()


def line_chart(  # noqa: PLR0913 - one call, one plot
    title: str,
    x_label: str,
    y_label: str,
    series: Sequence[Series],
    *,
    steps: bool = False,
    log_y: bool = False,
    spans: Sequence[Span] = (),
) -> str:
    """Return lines over one x axis as SVG; ``steps`` makes all of them step series."""
    lines = [replace(each, steps=steps or each.steps) for each in series]
    return panels_chart(title, [Panel(y_label, lines, "", x_label, log_y, spans)])


def panels_chart(title: str, panels: Sequence[Panel], *, columns: int = 1) -> str:
    """Return several panels as one SVG, ``columns`` side by side, filled row by row."""
    rows = -(-len(panels) // columns)
    with style.context(["default", _STYLE]):  # Not what the user has set for other plots.
        figure = Figure(figsize=(_WIDTH_IN * min(columns, 2), _PANEL_IN * rows + 0.6))
        grid = figure.subplots(rows, columns, squeeze=False).flat
        for axes, panel in zip(grid, panels, strict=False):
            _draw(axes, panel)
        for axes in list(figure.axes)[len(panels) :]:
            axes.set_visible(False)
        return _svg(figure, title)


def bar_chart(
    title: str,
    y_label: str,
    groups: Sequence[str],
    series: Sequence[tuple[str, Sequence[float]]],
    *,
    log_y: bool = False,
) -> str:
    """Return bars as SVG: one bar per group and series, a group's bars side by side."""
    width = 0.8 / max(len(series), 1)
    with style.context(["default", _STYLE]):  # Not what the user has set for other plots.
        figure = Figure(figsize=(_WIDTH_IN, 2 * _PANEL_IN))
        axes = figure.subplots()
        for i, ((name, heights), colour) in enumerate(zip(series, cycle(COLOURS), strict=False)):
            left = [group + (i - (len(series) - 1) / 2) * width for group in range(len(groups))]
            axes.bar(left, heights, width, label=name, color=colour)
        axes.set_xticks(range(len(groups)), groups)
        _finish(axes, y_label, log_y=log_y, named=len(series))
        return _svg(figure, title)


def _draw(axes: Axes, panel: Panel) -> None:
    for span in panel.spans:
        axes.axvspan(span.start, span.end, color="#999999", alpha=0.2, label=span.label or None)
    for i, series in enumerate(panel.series):
        axes.plot(
            series.x,
            series.y,
            label=series.name,
            color=COLOURS[i % len(COLOURS)],
            linestyle=DASHES[i % len(DASHES)],
            drawstyle="steps-post" if series.steps else "default",
            linewidth=1.3,
        )
    axes.set_xlabel(panel.x_label)
    axes.set_title(panel.title, loc="left", fontsize="medium")
    axes.margins(x=0.01)
    _finish(axes, panel.y_label, log_y=panel.log_y, named=len(panel.series) + len(panel.spans))


def _finish(axes: Axes, y_label: str, *, log_y: bool, named: int) -> None:
    axes.set_ylabel(y_label)
    axes.grid(visible=True, alpha=0.3)
    axes.spines[["top", "right"]].set_visible(False)
    if log_y:
        axes.set_yscale("log")
    else:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    if named > 1:
        # Beside the axes: nothing is hidden, and no search for the emptiest corner is needed.
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")


def _svg(figure: Figure, title: str) -> str:
    figure.suptitle(title, fontsize="large")
    figure.set_layout_engine("constrained")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
