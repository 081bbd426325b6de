"""A load test's result as one HTML file that needs neither network nor scripts.

The verdict comes first, then figures, then plots, each with its numbers as a table. Everything from
outside (addresses, model names, error codes) is escaped.
"""

import shlex
from collections.abc import Iterable, Sequence
from html import escape
from importlib.resources import files
from string import Template

from imageserve_loadtest import html_plots
from imageserve_loadtest.histogram import Histogram
from imageserve_loadtest.html_plots import Plot
from imageserve_loadtest.result import PERCENTILES, Outcome, PhaseLoad, Result

_NONE = "-"

_MEANINGS = {
    Outcome.GOOD: "the answer that the picture must get",
    Outcome.WRONG: "an answer, but not the one for this picture",
    Outcome.DUPLICATED: "more answers than pictures, or a second response",
    Outcome.MISSING: "fewer answers than pictures",
    Outcome.REFUSED: "429 or 503: not now",
    Outcome.FAILED: "an unexpected status",
    Outcome.ERROR: "no answer",
}
_ALARMING = (Outcome.WRONG, Outcome.DUPLICATED, Outcome.MISSING, Outcome.FAILED, Outcome.ERROR)

_STAGES = {
    "decode": "decoding and resizing the picture",
    "queue": "waiting for a worker",
    "model": "the call of the model",
    "total": "everything, measured by the server",
    "outside": "the rest: network, and waiting to be accepted",
}

_WORDS = ("meaning", "why not")

Row = Sequence[str]


def render(result: Result) -> str:
    """Return the page."""
    sections = (
        _heading(result),
        _verdict(result),
        _tiles(result),
        _accounts(result),
        _latency(result),
        _over_time(result),
        _stages(result),
        _lateness(result),
        _search(result),
        _load(result),
    )
    template = Template(files(__package__).joinpath("report.html").read_text(encoding="utf-8"))
    word = "holds" if result.verdict.holds else "does not hold"
    title = escape(f"{word}: load test of {result.target.url}")
    return template.substitute(title=title, body="\n".join(filter(None, sections)))


# -- the top of the page ---------------------------------------------------------------------------


def _heading(result: Result) -> str:
    size = "x".join(map(str, result.target.input_size))
    model = " ".join(filter(None, [result.target.model, size]))
    facts = [
        f"model {model}" if model else "",
        f"{result.started_at[:19].replace('T', ' ')} UTC",
        f"{result.seconds:.0f} s",
        f"{result.pods} pods" if result.pods > 1 else "",
    ]
    return (
        f"<header><h1>Load test of {escape(result.target.url)}</h1>"
        f'<p class="soft">{escape(" · ".join(filter(None, facts)))}</p></header>'
    )


def _verdict(result: Result) -> str:
    holds = result.verdict.holds
    word = "✓ The verdict holds" if holds else "✗ The verdict does not hold"
    objective = " and ".join(result.objective)
    reasons = "".join(f"<li>{escape(reason)}</li>" for reason in result.verdict.reasons)
    parts = [
        f"<strong>{word}</strong>",
        f"<p>Objective: {escape(objective)}.</p>" if objective else "",
        "<p>The load test was interrupted.</p>" if result.interrupted else "",
        f"<ul>{reasons}</ul>" if reasons else "",
        "<p>Every request is accounted for, and every picture got the right answer.</p>"
        if holds
        else "",
    ]
    return (
        f'<div class="verdict {"holds" if holds else "fails"}" role="status">{"".join(parts)}</div>'
    )


def _tiles(result: Result) -> str:
    counts = result.counts
    found = result.latency.good.percentiles_ms((50.0, 99.0))
    shown = {
        "good answers": (_number(result.goodput_per_s), "/s"),
        "sent": (_number(result.offered_per_s), "/s"),
        "half within": (_ms(found.get(50.0)), "ms"),
        "99 % within": (_ms(found.get(99.0)), "ms"),
        "refused": (_whole(counts.refused), _percent(counts.refused, counts.sent)),
        "neither good nor refused": (
            _whole(sum(getattr(counts, outcome) for outcome in _ALARMING)),
            f"of {_whole(counts.sent)}",
        ),
    }
    return f'<dl class="tiles">{"".join(_tile(name, *value) for name, value in shown.items())}</dl>'


def _tile(name: str, value: str, unit: str) -> str:
    return f"<div><dt>{name}</dt><dd>{value} <small>{unit}</small></dd></div>"


# -- the sections ---------------------------------------------------------------------------------


def _accounts(result: Result) -> str:
    counts = result.counts
    rows = [
        (outcome.value, _whole(n), _percent(n, counts.sent), _MEANINGS[outcome])
        for outcome in Outcome
        if (n := getattr(counts, outcome.value)) or outcome is Outcome.GOOD
    ]
    rows += [
        ("sent", _whole(counts.sent), "", f"{_whole(counts.planned)} were planned"),
        ("unaccounted", _whole(counts.unaccounted), "", "if not 0, the load test has a bug"),
    ]
    alarms = {outcome.value for outcome in _ALARMING} | (
        {"unaccounted"} if counts.unaccounted else set()
    )
    table = _table("Each request has one outcome.", _OUTCOME_HEAD, rows, alarms)
    return _section("Requests", table, _reasons(result), _examples(result))


_OUTCOME_HEAD = ("outcome", "requests", "share", "meaning")


def _reasons(result: Result) -> str:
    counts = result.counts
    rows = [
        (
            "refused",
            code or "no code",
            _whole(each.with_retry_after + each.without_retry_after),
            f"{_whole(each.without_retry_after)} without Retry-After",
        )
        for code, each in counts.refusals.items()
    ]
    rows += [("failed", what, _whole(n), "") for what, n in counts.failures.items()]
    rows += [("no answer", kind, _whole(n), "") for kind, n in counts.errors.items()]
    if not rows:
        return ""
    return _table(
        "Requests that were not good, by reason.",
        ("outcome", "reason", "requests", "meaning"),
        rows,
    )


def _examples(result: Result) -> str:
    if not result.examples:
        return ""
    caption = "The first of each outcome, with the request id under which the server logs it."
    return _table(caption, ("outcome", "why not"), sorted(result.examples.items()))


def _latency(result: Result) -> str:
    latency = result.latency
    shown = {
        "good": latency.good,
        "good, from sending": latency.from_send,
        "the right error": latency.broken,
        "refused": latency.refused,
        "all others": latency.other,
    }
    rows = [(name, *_figures(histogram)) for name, histogram in shown.items() if histogram.count]
    if not rows:
        return _section("Latency", "<p>Nothing was answered.</p>")
    caption = "Milliseconds, from the instant at which a request was due."
    has_curve = latency.good.count or latency.refused.count
    return _section(
        "Latency",
        str(html_plots.latency_plot(result)) if has_curve else "",
        _table(caption, ("answers", *_FIGURES), rows),
    )


def _over_time(result: Result) -> str:
    if not result.timeline.points:
        return ""
    queue = _part("Queue", html_plots.queue_plot(result)) if result.queue else ""
    return _section(
        "Over time",
        _part("Requests", html_plots.rate_plot(result)),
        _part("Latency", html_plots.latency_over_time_plot(result)),
        _part("HTTP status", html_plots.status_plot(result)),
        queue,
        _details("As tables", _intervals(result), _queue_table(result)),
        is_long=True,
    )


def _part(heading: str, plot: Plot) -> str:
    return f"<h3>{heading}</h3>{plot}"


def _intervals(result: Result) -> str:
    rows = [
        (
            _number(point.at_s),
            _whole(point.planned),
            _whole(point.sent),
            *(_whole(point.outcomes.get(each, 0)) for each in (Outcome.GOOD, Outcome.REFUSED)),
            _whole(html_plots.unwelcome(point)),
            ", ".join(f"{status}: {_whole(n)}" for status, n in sorted(point.statuses.items()))
            or _NONE,
            *(_ms(point.latency.percentile_ms(p)) for p in (50.0, 99.0)),
        )
        for point in result.timeline.points
    ]
    head = ("from, s", "planned", "sent", "good", "refused", "else", "status", "p50, ms", "p99, ms")
    return _table(f"Intervals of {result.timeline.interval_s:g} s.", head, rows)


def _queue_table(result: Result) -> str:
    if not result.queue:
        return ""
    rows = [
        (
            _number(each.at_s),
            _whole(each.queued),
            _whole(each.in_flight),
            _whole(each.workers),
            _number(each.capacity_per_s),
        )
        for each in result.queue
    ]
    head = ("at, s", "waiting", "in work", "workers", "capacity, pictures/s")
    return _table("The queue, as /status reports it.", head, rows)


def _stages(result: Result) -> str:
    stages = {name: each for name, each in result.stages.items() if each.count}
    if not stages:
        return ""
    rows = [
        (name, *_figures(histogram), _STAGES.get(name, "")) for name, histogram in stages.items()
    ]
    table = _table("Good answers, milliseconds.", ("stage", *_FIGURES, "meaning"), rows)
    return _section("Where the time went", str(html_plots.stage_plot(result)), table)


def _lateness(result: Result) -> str:
    if not result.lateness.count:
        return ""
    table = _table(
        "Milliseconds between the instant at which a request was due and the one at which it was "
        "sent. The latencies above contain it.",
        ("", *_FIGURES),
        [("lateness", *_figures(result.lateness))],
    )
    cpu = (
        f"<p>The load test itself used {result.tool.cpu_s:.1f} s of processor time, "
        f"{_percent(result.tool.cpu_s, result.seconds)} of one core.</p>"
        if result.tool.cpu_s
        else ""
    )
    return _section("How late the load test sent", table, cpu)


def _search(result: Result) -> str:
    if not result.search:
        return ""
    rows = [
        (
            _number(step.rate_per_s),
            "holds" if step.holds else "does not hold",
            _number(step.goodput_per_s),
            _ms(step.p50_ms),
            _ms(step.p99_ms),
            "; ".join(step.reasons),
        )
        for step in result.search
    ]
    head = ("rate, /s", "objective", "good, /s", "p50, ms", "p99, ms", "why not")
    table = _table("All other figures are those of the highest rate that holds.", head, rows)
    return _section("Rates that were tried", table)


def _load(result: Result) -> str:
    load, tool = result.load, result.tool
    broken = f", {_percent(load.broken_share, 1)} broken on purpose" if load.broken_share else ""
    facts = {
        "scenario": load.scenario,
        "loop": f"{load.loop}, {load.arrivals} arrivals" if load.arrivals else load.loop,
        "phases": "; ".join(map(_phase, load.phases)),
        "pictures": f"{load.pictures}, {_whole(load.distinct)} distinct{broken}",
        "pictures per request": _whole(load.per_request),
        "time-out": f"{load.timeout_s:g} s",
        "seed": str(load.seed),
        "spread over": f"{load.shards} pods" if load.shards > 1 else "one process",
        "results merged": _whole(result.pods) if result.pods > 1 else "",
        "queue": _busiest(result),
        "load test": f"imageserve {tool.version}, Python {tool.python}" if tool.version else "",
        "machine": f"{tool.host}, {tool.cores} cores" if tool.host else "",
    }
    rows = [(name, value) for name, value in facts.items() if value]
    notes = "".join(f"<li>{escape(note)}</li>" for note in result.notes)
    return _section(
        "The load",
        _words(rows),
        f"<h3>Notes</h3><ul>{notes}</ul>" if notes else "",
        f"<h3>To repeat it</h3><pre>{escape(shlex.join(_command(result)))}</pre>",
    )


def _command(result: Result) -> list[str]:
    """Return the command line that repeats this load, as far as the result tells it."""
    load = result.load
    words = ["imageserve", "loadtest", result.target.url, *_shape(result)]
    words += ["--duration", f"{load.seconds:g}", "--seed", str(load.seed)]
    if result.target.model:
        words += ["--model", result.target.model]
    if load.pictures == "generated":
        words += ["--distinct", str(load.distinct)]
    return words


def _shape(result: Result) -> list[str]:
    """Return the options that define the load; those of a scenario are in its file."""
    load, first = result.load, result.load.phases[0]
    if len(load.phases) > 1 or load.scenario not in ("clients", "rate", "search"):
        return ["--scenario", load.scenario]
    options = {
        "--clients": first.clients,
        "--rate": result.search[0].rate_per_s if result.search else first.rate_per_s,
        "--to-rate": first.to_rate_per_s,
        "--arrivals": load.arrivals,
        "--broken": load.broken_share,
        "--per-request": load.per_request if load.per_request > 1 else None,
        "--slo": ",".join(result.objective),
    }
    given = [(name, value) for name, value in options.items() if value]
    search = ["--search"] if result.search else []
    return [*search, *(word for name, value in given for word in (name, _written(value)))]


def _written(value: float | str) -> str:
    return value if isinstance(value, str) else f"{value:g}"


def _phase(phase: PhaseLoad) -> str:
    name = f"{phase.name}: " if phase.name else ""
    if phase.clients is not None:
        return f"{name}{phase.clients} clients for {phase.seconds:g} s"
    first, last = phase.rate_per_s or 0.0, phase.to_rate_per_s
    rate = f"{first:g}/s" if last in (None, first) else f"{first:g} to {last:g}/s"
    return f"{name}{rate} for {phase.seconds:g} s"


def _busiest(result: Result) -> str:
    if not result.queue:
        return ""
    most = max(result.queue, key=lambda snapshot: snapshot.queued)
    workers = max(snapshot.workers for snapshot in result.queue)
    return f"at most {_whole(most.queued)} waited for {workers} workers"


# -- pieces of HTML -------------------------------------------------------------------------------


def _section(heading: str, *parts: str, is_long: bool = False) -> str:
    kind = ' class="long"' if is_long else ""
    return f"<section{kind}><h2>{heading}</h2>{''.join(parts)}</section>"


def _details(summary: str, *parts: str) -> str:
    return f"<details><summary>{summary}</summary>{''.join(parts)}</details>"


def _table(caption: str, head: Row, rows: Iterable[Row], alarms: Iterable[str] = ()) -> str:
    """Return a table; rows whose first cell is in ``alarms`` are highlighted.

    Cells are numbers, except in a last column whose heading is in ``_WORDS``.
    """
    kind = ' class="prose"' if head[-1] in _WORDS else ""
    columns = "".join(f'<th scope="col">{escape(cell)}</th>' for cell in head)
    lines = "".join(_table_row(row, is_alarm=row[0] in set(alarms)) for row in rows)
    return (
        f'<div class="scroll" tabindex="0"><table{kind}><caption>{escape(caption)}</caption>'
        f"<thead><tr>{columns}</tr></thead><tbody>{lines}</tbody></table></div>"
    )


def _table_row(row: Row, *, is_alarm: bool) -> str:
    first, *others = map(escape, row)
    cells = "".join(f"<td>{cell}</td>" for cell in others)
    kind = ' class="alarm"' if is_alarm else ""
    return f'<tr{kind}><th scope="row">{first}</th>{cells}</tr>'


def _words(rows: Iterable[tuple[str, str]]) -> str:
    lines = "".join(
        f'<tr><th scope="row">{escape(name)}</th><td>{escape(value)}</td></tr>'
        for name, value in rows
    )
    return f'<table class="words"><tbody>{lines}</tbody></table>'


# -- figures --------------------------------------------------------------------------------------

_FIGURES = ("requests", "mean", *(f"p{percentile:g}" for percentile in PERCENTILES), "max")


def _figures(histogram: Histogram) -> list[str]:
    found = histogram.percentiles_ms(PERCENTILES)
    times = (histogram.mean_ms, *(found.get(p) for p in PERCENTILES), histogram.max_ms)
    return [_whole(histogram.count), *map(_ms, times)]


def _ms(value: float | None) -> str:
    if value is None:
        return _NONE
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}"


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 1000 or value == int(value) else f"{value:.1f}"


def _whole(count: int) -> str:
    return f"{count:,}"


def _percent(part: float, whole: float) -> str:
    return f"{100 * part / whole:.1f} %" if whole else _NONE
