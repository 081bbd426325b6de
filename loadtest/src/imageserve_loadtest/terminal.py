"""Text for a terminal: the live progress of a load, and the table of a result."""

import shutil
from collections.abc import Iterator, Mapping
from typing import TextIO

from imageserve_loadtest.histogram import Histogram
from imageserve_loadtest.result import (
    GIVEN,
    MODEL,
    WEB,
    Load,
    PhaseLoad,
    Result,
    SearchStep,
)
from imageserve_loadtest.tally import LiveCounts, Tally

PLAIN_EVERY_S = 5.0
_PERCENTILES = (50.0, 90.0, 99.0, 99.9)
_WIDTH = 12
_BAR = 24
_SHORTEST_BAR = 4
_CLEAR = "\r\x1b[K"
_CAPACITY_OF = {
    WEB: "the capacity of the web processes, which is below that of the model",
    MODEL: "the capacity of the model's workers",
    GIVEN: "what --capacity says",
}


class Progress:
    """Writes the progress of one load: a live line in a terminal, plain lines elsewhere."""

    def __init__(self, out: TextIO, seconds: float, *, live: bool) -> None:
        self._out = out
        self._seconds = seconds
        self._live = live
        self._shown_s = 0.0
        self._done = 0
        self._done_s = 0.0

    def show(self, tally: Tally, elapsed_s: float) -> None:
        """Write a line, if it is time for one."""
        if not self._live and elapsed_s - self._shown_s < PLAIN_EVERY_S:
            return
        self._shown_s = elapsed_s
        counts = tally.live_counts()
        text = progress_line(counts, self._rate(counts, elapsed_s), elapsed_s, self._seconds)
        if self._live:
            columns = shutil.get_terminal_size().columns - 1
            drawn = _bar(elapsed_s, self._seconds, columns - len(text) - 1)
            self._write(f"{_CLEAR}{f'{drawn} {text}'.lstrip()[:columns]}")
        else:
            self._write(f"{text}\n")

    def end(self) -> None:
        """Remove the live line."""
        if self._live:
            self._write(_CLEAR)

    def _rate(self, counts: LiveCounts, elapsed_s: float) -> float:
        """Return the answers a second since the previous line."""
        done = counts.sent - counts.in_flight
        seconds = max(elapsed_s - self._done_s, 1e-9)
        rate = (done - self._done) / seconds
        self._done, self._done_s = done, elapsed_s
        return rate

    def _write(self, text: str) -> None:
        self._out.write(text)
        self._out.flush()


def progress_line(counts: LiveCounts, rate_per_s: float, elapsed_s: float, seconds: float) -> str:
    p99 = "-" if counts.p99_ms is None else f"{counts.p99_ms:.0f} ms"
    return (
        f"{elapsed_s:.0f}/{seconds:.0f} s  {rate_per_s:.0f}/s  p99 {p99}  good {counts.good}  "
        f"refused {counts.refused}  bad {counts.bad}  open {counts.in_flight}"
    )


def _bar(elapsed_s: float, seconds: float, columns: int) -> str:
    """Draw a progress bar in these columns; empty where they are too few."""
    width = min(_BAR, columns - 2)
    if width < _SHORTEST_BAR:
        return ""
    done = min(width, int(width * elapsed_s / seconds)) if seconds > 0 else width
    return f"[{'#' * done}{'-' * (width - done)}]"


def step_line(step: SearchStep) -> str:
    p99 = "-" if step.p99_ms is None else f"{step.p99_ms:.1f} ms"
    verdict = "holds" if step.holds else "; ".join(step.reasons)
    return f"{step.rate_per_s:.1f}/s: goodput {step.goodput_per_s:.1f}/s, p99 {p99}: {verdict}"


# -- the table ----------------------------------------------------------------------------------


def table(result: Result) -> str:
    """Return the result as a table; the verdict comes last."""
    sections = (
        _head(result),
        _search(result.search),
        _requests(result),
        _latency(result),
        _stages(result.stages),
        _tool(result),
        (f"note: {note}" for note in result.notes),
        _verdict(result),
    )
    texts = ("\n".join(section) for section in sections)
    return "\n\n".join(text for text in texts if text) + "\n"


def _head(result: Result) -> Iterator[str]:
    target, load = result.target, result.load
    size = "x".join(map(str, target.input_size))
    yield f"{target.url}  {target.model} {size}".rstrip()
    pods = f", {result.pods} of {load.shards} pods" if load.shards > 1 else ""
    yield f"scenario {load.scenario}: {describe(load)}{pods}"
    yield (
        f"{load.distinct} pictures ({load.pictures}), {load.per_request} per request, "
        f"{load.broken_share:.0%} of the requests broken on purpose; seed {load.seed}"
    )
    if load.capacity_per_s is not None:
        yield f"rates are shares of {load.capacity_per_s:.1f} pictures/s: {capacity_of(load)}"


def capacity_of(load: Load) -> str:
    """Say whose capacity the rates of a load are shares of."""
    return _CAPACITY_OF.get(load.capacity_of, load.capacity_of)


def describe(load: Load) -> str:
    """Describe a load in a few words."""
    phases = ", ".join(_phase(phase) for phase in load.phases[:6])
    more = f", and {len(load.phases) - 6} more" if len(load.phases) > 6 else ""
    arrivals = f" {load.arrivals}" if load.arrivals else ""
    return f"{load.loop} loop{arrivals}; {phases}{more}"


def _phase(phase: PhaseLoad) -> str:
    name = f"{phase.name} " if phase.name else ""
    if phase.clients is not None:
        return f"{name}{phase.clients} clients for {phase.seconds:g} s"
    to = "" if phase.to_rate_per_s is None else f" to {phase.to_rate_per_s:.4g}"
    return f"{name}{phase.rate_per_s or 0:.4g}{to}/s for {phase.seconds:g} s"


def _search(steps: tuple[SearchStep, ...]) -> Iterator[str]:
    if steps:
        yield _row("tried", "goodput/s", "p50 ms", "p99 ms")
    for step in steps:
        verdict = "holds" if step.holds else "; ".join(step.reasons)
        figures = f"{step.goodput_per_s:.1f}", _ms(step.p50_ms), _ms(step.p99_ms)
        yield _row(f"{step.rate_per_s:.1f}/s", *figures) + f"  {verdict}"


def _requests(result: Result) -> Iterator[str]:
    counts = result.counts
    rates = f"{result.offered_per_s:.1f}/s sent, goodput {result.goodput_per_s:.1f}/s"
    within = result.goodput_within_ms
    yield f"{rates}{'' if within is None else f' within {within:g} ms'}, {result.seconds:.1f} s"
    broken = f"  of these the right error for a broken picture: {counts.broken}"
    yield _count("sent", counts.sent)
    yield _count("good", counts.good, broken if counts.broken else "")
    for name in ("wrong", "duplicated", "missing"):
        yield _count(name, getattr(counts, name))
    refusals = {
        (code or "no code"): each.with_retry_after + each.without_retry_after
        for code, each in counts.refusals.items()
    }
    bare = sum(each.without_retry_after for each in counts.refusals.values())
    yield _count("refused", counts.refused, _kinds(refusals, bare))
    yield _count("failed", counts.failed, _kinds(counts.failures))
    yield _count("no answer", counts.error, _kinds(counts.errors))
    if counts.unsolicited:
        yield _count("unsolicited", counts.unsolicited)
    yield _count("unaccounted", counts.unaccounted)


def _count(name: str, count: int, more: str = "") -> str:
    return f"{name:<{_WIDTH}}{count:>10}{more}"


def _kinds(kinds: Mapping[str, int], bare: int = 0) -> str:
    ranked = sorted(kinds.items(), key=lambda item: -item[1])
    texts = [f"{name} {count}" for name, count in ranked]
    texts += [f"without Retry-After {bare}"] if bare else []
    return f"  {', '.join(texts)}" if texts else ""


def _latency(result: Result) -> Iterator[str]:
    yield _row("ms", *(f"p{p:g}" for p in _PERCENTILES), "max", "mean", "count")
    latency = result.latency
    for name, histogram in (
        ("good", latency.good),
        ("  from send", latency.from_send),
        ("broken", latency.broken),
        ("refused", latency.refused),
        ("all others", latency.other),
        ("lateness", result.lateness),
    ):
        if histogram.count:
            yield _histogram(name, histogram)


def _stages(stages: Mapping[str, Histogram]) -> Iterator[str]:
    if stages:
        yield _row("stage, ms", *(f"p{p:g}" for p in _PERCENTILES), "max", "mean", "count")
    for name, histogram in stages.items():
        yield _histogram(name, histogram)


def _histogram(name: str, histogram: Histogram) -> str:
    found = histogram.percentiles_ms(_PERCENTILES)
    figures = [found.get(p) for p in _PERCENTILES] + [histogram.max_ms, histogram.mean_ms]
    return _row(name, *map(_ms, figures), str(histogram.count))


def _tool(result: Result) -> Iterator[str]:
    tool = result.tool
    share = tool.cpu_s / result.seconds if result.seconds > 0 else 0.0
    yield (
        f"measured from {tool.host} ({tool.cores} cores), imageserve {tool.version}, Python "
        f"{tool.python}, {tool.cpu_s:.1f} s of processor time ({share:.0%} of a core)"
    )


def _verdict(result: Result) -> Iterator[str]:
    yield f"objective: {', '.join(result.objective)}"
    yield "verdict: it holds" if result.verdict.holds else "verdict: it does NOT hold"
    for reason in result.verdict.reasons:
        yield f"  - {reason}"


def _row(name: str, *cells: str) -> str:
    return f"{name:<{_WIDTH}}" + "".join(f"{cell:>10}" for cell in cells)


def _ms(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"
