"""The pieces of the HTML report: sections, tables, and how numbers are written. Pure."""

from collections.abc import Iterable, Sequence
from html import escape

from imageserve_loadtest.histogram import Histogram
from imageserve_loadtest.result import PERCENTILES

Row = Sequence[str]

FIGURES = ("requests", "mean", *(f"p{percentile:g}" for percentile in PERCENTILES), "max")
"""The headings of what ``figures`` returns."""

NONE = "-"
_PROSE = ("meaning", "reason", "why not")


def html_section(heading: str, *parts: str, is_long: bool = False) -> str:
    kind = ' class="long"' if is_long else ""
    return f"<section{kind}><h2>{heading}</h2>{''.join(parts)}</section>"


def html_details(summary: str, *parts: str) -> str:
    return f"<details><summary>{summary}</summary>{''.join(parts)}</details>"


def html_table(caption: str, head: Row, rows: Iterable[Row], alarms: Iterable[str] = ()) -> str:
    """Return a table; rows whose first cell is in ``alarms`` are highlighted.

    Cells are numbers, except in a last column whose heading is in ``_PROSE``.
    """
    kind = ' class="prose"' if head[-1] in _PROSE else ""
    columns = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join(_table_row(row, is_alarm=row[0] in set(alarms)) for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table{kind}>'
        f"<caption><span>{escape(caption)}</span></caption>"
        f"<thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _table_row(row: Row, *, is_alarm: bool) -> str:
    first, *others = map(escape, row)
    cells = "".join(f"<td>{cell}</td>" for cell in others)
    kind = ' class="alarm"' if is_alarm else ""
    return f'<tr{kind}><th scope="row">{first}</th>{cells}</tr>'


def facts_table(rows: Iterable[tuple[str, str]]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in rows
    )
    return f'<table class="words"><tbody>{lines}</tbody></table>'


# -- numbers ------------------------------------------------------------------------------------


def figures(histogram: Histogram) -> list[str]:
    found = histogram.percentiles_ms(PERCENTILES)
    times = (histogram.mean_ms, *(found.get(p) for p in PERCENTILES), histogram.max_ms)
    return [whole(histogram.count), *map(ms, times)]


def ms(value: float | None) -> str:
    if value is None:
        return NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.1f}"


def whole(count: int) -> str:
    return f"{count:,}"


def percent(part: float, total: float) -> str:
    return f"{100 * part / total:.1f} %" if total else NONE
