"""Plots: the same numbers give the same SVG, and everything is labelled."""

import re
from collections.abc import Callable
from xml.etree import ElementTree

import pytest

from imageserve_loadtest.plots import (
    Panel,
    Series,
    Span,
    bar_chart,
    line_chart,
    panels_chart,
    percentile_chart,
)

RISING = Series("rising", [0, 1, 2], [1, 10, 100])
PODS = Series("pods & more", [0, 1, 2], [1, 3, 2], steps=True)


CHARTS: dict[str, Callable[[], str]] = {
    "lines": lambda: line_chart("Load", "minutes", "requests/s", [RISING, PODS]),
    "steps": lambda: line_chart(
        "Load", "s", "n", [RISING], steps=True, log_y=True, spans=[Span(0.5, 1, "an outage")]
    ),
    "panels": lambda: panels_chart("Three", [Panel("n", [RISING], "one")] * 3, columns=2),
    "bars": lambda: bar_chart("Bars", "ms", ["p50", "p99"], [("here", [1, 5]), ("there", [2, 9])]),
    "percentiles": lambda: percentile_chart(
        "Latency", "ms", [Series("all", [0, 50, 99.95], [1, 2, 9])]
    ),
    "nothing": lambda: line_chart("Empty", "s", "n", []),
}


@pytest.mark.parametrize("name", CHARTS)
def test_the_same_numbers_give_the_same_plot(name: str) -> None:
    svg = CHARTS[name]()
    assert svg == CHARTS[name]()
    assert ElementTree.fromstring(svg).tag == "{http://www.w3.org/2000/svg}svg"
    assert "<dc:date>" not in svg


def test_a_logarithmic_axis_has_plain_numbers() -> None:
    svg = CHARTS["steps"]()
    assert ">100</text>" in svg
    assert "mathdefault" not in svg


def test_everything_is_labelled() -> None:
    plots = {name: draw() for name, draw in CHARTS.items()}
    for text in ("Load", "minutes", "requests/s", "rising", "pods &amp; more"):
        assert f">{text}</text>" in plots["lines"]
    assert ">an outage</text>" in plots["steps"]
    assert plots["panels"].count(">one</text>") == 3
    for text in ("Bars", "ms", "p50", "p99", "here", "there"):
        assert f">{text}</text>" in plots["bars"]


def test_percentiles_are_named_up_to_the_last_that_is_drawn() -> None:
    svg = CHARTS["percentiles"]()
    for text in ("Latency", "ms", "0 %", "50 %", "90 %", "99 %", "99.9 %"):
        assert f">{text}</text>" in svg
    assert ">99.99 %</text>" not in svg


def test_90_99_and_99_9_percent_are_equally_far_apart() -> None:
    svg = CHARTS["percentiles"]()
    ticks = re.findall(r'<g id="xtick_\d+">.*?<use [^>]*?x="([\d.]+)"', svg, re.DOTALL)
    zero, _, ninety, ninety_nine, last = map(float, ticks)
    assert ninety - zero == pytest.approx(ninety_nine - ninety, abs=0.01)
    assert last - ninety_nine == pytest.approx(ninety_nine - ninety, abs=0.01)


def test_a_dollar_sign_is_not_a_formula() -> None:
    assert ">cost in $ and in $</text>" in line_chart("cost in $ and in $", "s", "n", [RISING])


def test_other_numbers_give_another_plot() -> None:
    other = Series("rising", [0, 1, 2], [1, 10, 50])
    assert line_chart("Load", "s", "n", [RISING]) != line_chart("Load", "s", "n", [other])
