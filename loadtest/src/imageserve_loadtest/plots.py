"""Plots for reports, as SVG text. The only module that uses matplotlib.

The same numbers give the same text, byte for byte, so that plots can be kept under version control.
No window is opened. matplotlib's settings are global: only one thread may draw at a time.
"""

import importlib.util
import io
from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import cycle
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MISSING = "plots need matplotlib: pip install 'imageserve-loadtest[plots]'"

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9", "#E69F00", "#000000")
"""Distinct for colour-blind people too; Okabe and Ito, https://jfly.uni-koeln.de/color/."""

DASHES = ("-", "--", "-.", ":")
"""Used together with the colours, so that lines differ in black and white too."""

_STYLE: dict[Any, Any] = {
    "svg.hashsalt": "imageserve",  # Without it, ids within a file are random.
    "svg.fonttype": "none",  # Text stays text: smaller, and can be searched.
    "text.parse_math": False,  # A name with two dollar signs is not a formula.
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
    """Hold each value until the next one, as for counts."""


@dataclass(frozen=True, slots=True)
class Span:
    """A shaded part of the x axis and its name in the legend."""

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
    percentiles: bool = False
    """``x`` are percentiles, drawn on the axis of ``percentile_chart``."""


def are_available() -> bool:
    """Whether matplotlib is installed. It is not imported: that takes half a second."""
    return importlib.util.find_spec("matplotlib") is not None


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


def percentile_chart(title: str, y_label: str, series: Sequence[Series]) -> str:
    """Return lines over percentiles as SVG: ``x`` from 0 to below 100.

    The axis is logarithmic in what is left to 100 %, as in the plots of HdrHistogram: 90, 99 and
    99.9 % are equally far apart.
    """
    panel = Panel(y_label, series, x_label="percentile", percentiles=True)
    return panels_chart(title, [panel], panel_in=1.5 * _PANEL_IN)


def panels_chart(
    title: str, panels: Sequence[Panel], *, columns: int = 1, panel_in: float = _PANEL_IN
) -> str:
    """Return several panels as one SVG, ``columns`` side by side, filled row by row."""
    from matplotlib import style
    from matplotlib.figure import Figure

    rows = -(-len(panels) // columns)
    with style.context(["default", _STYLE]):  # Ignores the user's own settings.
        figure = Figure(figsize=(_WIDTH_IN * min(columns, 2), panel_in * rows + 0.6))
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
    from matplotlib import style
    from matplotlib.figure import Figure

    width = 0.8 / max(len(series), 1)
    with style.context(["default", _STYLE]):  # Ignores the user's own settings.
        figure = Figure(figsize=(_WIDTH_IN, 2 * _PANEL_IN))
        axes = figure.subplots()
        for i, ((name, heights), colour) in enumerate(zip(series, cycle(COLOURS), strict=False)):
            left = [group + (i - (len(series) - 1) / 2) * width for group in range(len(groups))]
            axes.bar(left, heights, width, label=name, color=colour)
        axes.set_xticks(range(len(groups)), groups)
        _finish(axes, y_label, log_y=log_y, named=len(series))
        return _svg(figure, title)


def _draw(axes: "Axes", panel: Panel) -> None:
    for span in panel.spans:
        axes.axvspan(span.start, span.end, color="#999999", alpha=0.2, label=span.label or None)
    for i, series in enumerate(panel.series):
        axes.plot(
            [_left_to_100(x) for x in series.x] if panel.percentiles else series.x,
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
    if panel.percentiles:
        _set_percentile_axis(axes)
    _finish(axes, panel.y_label, log_y=panel.log_y, named=len(panel.series) + len(panel.spans))
    if panel.percentiles:
        axes.set_ylim(bottom=0.0)


def _left_to_100(percentile: float) -> float:
    """Return 1 for 0 %, 10 for 90 %, 100 for 99 %: on a log scale they are equally far apart."""
    return 100 / (100 - percentile)


def _set_percentile_axis(axes: "Axes") -> None:
    from matplotlib.ticker import FixedFormatter, FixedLocator, NullLocator

    axes.set_xscale("log")
    right = max(axes.get_xlim()[1], _left_to_100(90))
    axes.set_xlim(1, right)
    ticks = [0.0, 50.0, *(100 - 100 / 10**nines for nines in range(1, 9))]
    ticks = [tick for tick in ticks if _left_to_100(tick) <= right * 1.001]
    axes.xaxis.set_major_locator(FixedLocator([_left_to_100(tick) for tick in ticks]))
    axes.xaxis.set_major_formatter(FixedFormatter([f"{tick:.9g} %" for tick in ticks]))
    axes.xaxis.set_minor_locator(NullLocator())


def _finish(axes: "Axes", y_label: str, *, log_y: bool, named: int) -> None:
    axes.set_ylabel(y_label)
    axes.grid(visible=True, alpha=0.3)
    axes.set_axisbelow(True)  # Bars hide the grid.
    axes.spines[["top", "right"]].set_visible(False)
    if log_y:
        from matplotlib.ticker import FormatStrFormatter

        axes.set_yscale("log")
        axes.yaxis.set_major_formatter(FormatStrFormatter("%g"))  # The default one writes TeX.
    else:
        axes.set_ylim(bottom=min(0.0, axes.get_ylim()[0]))
    if named > 1:
        # Beside the axes it hides nothing, and matplotlib need not search for an empty corner.
        axes.legend(loc="upper left", bbox_to_anchor=(1.0, 1.0), frameon=False, fontsize="small")


def _svg(figure: "Figure", title: str) -> str:
    figure.suptitle(title, fontsize="large")
    figure.set_layout_engine("constrained")
    text = io.StringIO()
    figure.savefig(text, format="svg", metadata={"Date": None, "Creator": None})
    return text.getvalue()
