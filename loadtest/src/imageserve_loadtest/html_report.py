"""A load test's result as one HTML file that needs neither network nor scripts.

The verdict comes first, then figures, then plots, each with its numbers as a table. Everything from
outside (addresses, model names, error codes) is escaped.
"""

import shlex
from html import escape
from importlib.resources import files
from string import Template

from imageserve_loadtest import html_plots
from imageserve_loadtest.html_parts import (
    FIGURES,
    NONE,
    facts_table,
    figures,
    html_details,
    html_section,
    html_table,
    ms,
    number,
    percent,
    whole,
)
from imageserve_loadtest.html_plots import Plot
from imageserve_loadtest.result import Outcome, PhaseLoad, Refusals, Result
from imageserve_loadtest.terminal import capacity_of

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
        "<p>Every request is accounted for, and no answer was wrong.</p>" if holds else "",
    ]
    return (
        f'<div class="verdict {"holds" if holds else "fails"}" role="status">{"".join(parts)}</div>'
    )


def _tiles(result: Result) -> str:
    counts = result.counts
    found = result.latency.good.percentiles_ms((50.0, 99.0))
    shown = {
        "good answers": (number(result.goodput_per_s), "/s"),
        "sent": (number(result.offered_per_s), "/s"),
        "half within": (ms(found.get(50.0)), "ms"),
        "99 % within": (ms(found.get(99.0)), "ms"),
        "refused": (whole(counts.refused), percent(counts.refused, counts.sent)),
        "all others": (
            whole(sum(getattr(counts, outcome) for outcome in _ALARMING)),
            f"of {whole(counts.sent)}",
        ),
    }
    return f'<dl class="tiles">{"".join(_tile(name, *value) for name, value in shown.items())}</dl>'


def _tile(name: str, value: str, unit: str) -> str:
    return f"<div><dt>{name}</dt><dd>{value} <small>{unit}</small></dd></div>"


# -- the sections ---------------------------------------------------------------------------------


def _accounts(result: Result) -> str:
    counts = result.counts
    rows = [
        (outcome.value, whole(n), percent(n, counts.sent), _MEANINGS[outcome])
        for outcome in Outcome
        if (n := getattr(counts, outcome.value)) or outcome is Outcome.GOOD
    ]
    rows += [
        ("sent", whole(counts.sent), "", f"{whole(counts.planned)} were planned"),
        ("unaccounted", whole(counts.unaccounted), "", "if not 0, the load test has a bug"),
    ]
    alarms = {outcome.value for outcome in _ALARMING} | (
        {"unaccounted"} if counts.unaccounted else set()
    )
    table = html_table("Each request has one outcome.", _OUTCOME_HEAD, rows, alarms)
    return html_section("Requests", table, _reasons(result), _examples(result))


_OUTCOME_HEAD = ("outcome", "requests", "share", "meaning")


def _reasons(result: Result) -> str:
    counts = result.counts
    rows = [
        (
            Outcome.REFUSED.value,
            whole(each.with_retry_after + each.without_retry_after),
            f"{code or 'no code'}{_without_retry_after(each)}",
        )
        for code, each in counts.refusals.items()
    ]
    rows += [(Outcome.FAILED.value, whole(n), what) for what, n in counts.failures.items()]
    rows += [(Outcome.ERROR.value, whole(n), kind) for kind, n in counts.errors.items()]
    caption = "Requests that were not good, by reason."
    return html_table(caption, ("outcome", "requests", "reason"), rows) if rows else ""


def _without_retry_after(refusals: Refusals) -> str:
    bare = refusals.without_retry_after
    return f", {whole(bare)} without Retry-After" if bare else ""


def _examples(result: Result) -> str:
    if not result.examples:
        return ""
    caption = "The first of each outcome, with the request id under which the server logs it."
    return html_table(caption, ("outcome", "why not"), sorted(result.examples.items()))


def _latency(result: Result) -> str:
    latency = result.latency
    shown = {
        "good": latency.good,
        "good, from sending": latency.from_send,
        "broken pictures": latency.broken,
        "refused": latency.refused,
        "all others": latency.other,
    }
    rows = [(name, *figures(histogram)) for name, histogram in shown.items() if histogram.count]
    if not rows:
        return html_section("Latency", "<p>Nothing was answered.</p>")
    caption = "Milliseconds, from the instant at which a request was due."
    has_curve = latency.good.count or latency.refused.count
    return html_section(
        "Latency",
        str(html_plots.latency_plot(result)) if has_curve else "",
        html_table(caption, ("answers", *FIGURES), rows),
    )


def _over_time(result: Result) -> str:
    if not result.timeline.points:
        return ""
    queue = _part("Queue", html_plots.queue_plot(result)) if result.queue else ""
    return html_section(
        "Over time",
        _part("Requests", html_plots.rate_plot(result)),
        _part("Latency", html_plots.latency_over_time_plot(result)),
        _part("HTTP status", html_plots.status_plot(result)),
        queue,
        html_details("As tables", _intervals(result), _queue_table(result)),
        is_long=True,
    )


def _part(heading: str, plot: Plot) -> str:
    return f"<h3>{heading}</h3>{plot}"


def _intervals(result: Result) -> str:
    rows = [
        (
            number(point.at_s),
            whole(point.planned),
            whole(point.sent),
            *(whole(point.outcomes.get(each, 0)) for each in (Outcome.GOOD, Outcome.REFUSED)),
            whole(html_plots.unwelcome(point)),
            ", ".join(f"{status}: {whole(n)}" for status, n in sorted(point.statuses.items()))
            or NONE,
            *(ms(point.latency.percentile_ms(p)) for p in (50.0, 99.0)),
        )
        for point in result.timeline.points
    ]
    head = ("from, s", "planned", "sent", "good", "refused", "else", "status", "p50, ms", "p99, ms")
    return html_table(f"Intervals of {result.timeline.interval_s:g} s.", head, rows)


def _queue_table(result: Result) -> str:
    if not result.queue:
        return ""
    rows = [
        (
            number(each.at_s),
            whole(each.queued),
            whole(each.in_flight),
            whole(each.workers),
            number(each.capacity_per_s),
            number(each.web_capacity_per_s) if each.web_capacity_per_s else NONE,
        )
        for each in result.queue
    ]
    head = ("at, s", "waiting", "in work", "workers", "model, pictures/s", "web, pictures/s")
    return html_table("The queue, as /status reports it.", head, rows)


def _stages(result: Result) -> str:
    stages = {name: each for name, each in result.stages.items() if each.count}
    if not stages:
        return ""
    rows = [
        (name, *figures(histogram), _STAGES.get(name, "")) for name, histogram in stages.items()
    ]
    table = html_table("Good answers, milliseconds.", ("stage", *FIGURES, "meaning"), rows)
    return html_section("Where the time went", str(html_plots.stage_plot(result)), table)


def _lateness(result: Result) -> str:
    if not result.lateness.count:
        return ""
    table = html_table(
        "Milliseconds between due and sent. The latencies above contain this delay.",
        ("", *FIGURES),
        [("lateness", *figures(result.lateness))],
    )
    cpu = (
        f"<p>The load test itself used {result.tool.cpu_s:.1f} s of processor time, "
        f"{percent(result.tool.cpu_s, result.seconds)} of one core.</p>"
        if result.tool.cpu_s
        else ""
    )
    return html_section("How late the load test sent", table, cpu)


def _search(result: Result) -> str:
    if not result.search:
        return ""
    rows = [
        (
            number(step.rate_per_s),
            "holds" if step.holds else "does not hold",
            number(step.goodput_per_s),
            ms(step.p50_ms),
            ms(step.p99_ms),
            "; ".join(step.reasons),
        )
        for step in result.search
    ]
    head = ("rate, /s", "objective", "good, /s", "p50, ms", "p99, ms", "why not")
    table = html_table("All other figures are those of the highest rate that holds.", head, rows)
    return html_section("Rates that were tried", table)


def _load(result: Result) -> str:
    load, tool = result.load, result.tool
    broken = f", {percent(load.broken_share, 1)} broken on purpose" if load.broken_share else ""
    facts = {
        "scenario": load.scenario,
        "loop": f"{load.loop}, {load.arrivals} arrivals" if load.arrivals else load.loop,
        "phases": "; ".join(map(_phase, load.phases)),
        "rates are shares of": ""
        if load.capacity_per_s is None
        else f"{number(load.capacity_per_s)} pictures/s: {capacity_of(load)}",
        "pictures": f"{load.pictures}, {whole(load.distinct)} distinct{broken}",
        "pictures per request": whole(load.per_request),
        "time-out": f"{load.timeout_s:g} s",
        "seed": str(load.seed),
        "spread over": f"{load.shards} pods" if load.shards > 1 else "one process",
        "results merged": whole(result.pods) if result.pods > 1 else "",
        "queue": _busiest(result),
        "load test": f"imageserve {tool.version}, Python {tool.python}" if tool.version else "",
        "machine": f"{tool.host}, {tool.cores} cores" if tool.host else "",
    }
    rows = [(name, value) for name, value in facts.items() if value]
    notes = "".join(f"<li>{escape(note)}</li>" for note in result.notes)
    return html_section(
        "The load",
        facts_table(rows),
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
    if load.capacity_per_s is not None:
        words += ["--capacity", f"{load.capacity_per_s:g}"]
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
    return f"at most {whole(most.queued)} waited for {workers} workers"
