"""Whether a load test met its objective. Pure."""

from collections.abc import Iterator, Mapping
from dataclasses import replace

from imageserve.loadtest.histogram import Histogram
from imageserve.loadtest.objective import LatencyTerm, Objective
from imageserve.loadtest.result import Counts, Latencies, Outcome, Result, Verdict

LATE_MS = 10.0
"""A tool that is later than this, at its 99th percentile, should not go unnoticed."""
BUSY_SHARE = 0.9
"""Of one core: above it the tool itself may be what is slow."""
BEHIND_S, BEHIND_SHARE = 1.0, 0.05
"""When the last request goes later than both after the load's end, another load was sent."""


NOT_JUDGED = Verdict(holds=False, reasons=("not judged yet",))


def judged(result: Result, objective: Objective) -> Result:
    """Return a result with its verdict and notes.

    Of one pod among several only its share of a goodput per second is wanted.
    """
    pods_missing = result.load.shards - result.pods
    if objective.goodput_per_s is not None and pods_missing:
        share = objective.goodput_per_s * result.pods / result.load.shards
        objective = replace(objective, goodput_per_s=share)
    reasons = (
        *_accounting(result),
        *_sending(result),
        *_shares(objective, result),
        *_latencies(objective, result.latency),
        *_goodput(objective, result),
        *_lateness(objective, result.lateness),
    )
    notes = (*result.notes, *_notes(result))
    return replace(result, verdict=Verdict(not reasons, reasons), notes=notes)


def _accounting(result: Result) -> Iterator[str]:
    """What no objective can allow."""
    counts = result.counts
    if result.interrupted:
        yield f"interrupted after {result.seconds:.1f} s of {result.load.seconds:g} s"
    never = (
        ("got a wrong answer", counts.wrong, Outcome.WRONG),
        ("got more answers than they asked for", counts.duplicated, Outcome.DUPLICATED),
        ("got fewer answers than they asked for", counts.missing, Outcome.MISSING),
        ("ended without any trace", counts.unaccounted, None),
        ("were due and never begun", max(0, counts.planned - counts.sent), None),
    )
    for what, count, outcome in never:
        if count:
            yield f"{_requests(count)} {what}{_example(result, outcome)}"
    if counts.unsolicited:
        yield f"{counts.unsolicited} answers came that no request was waiting for"
    bare = sum(each.without_retry_after for each in counts.refusals.values())
    if bare:
        yield f"{_requests(bare)} were refused without Retry-After"
    if not counts.good:
        yield "not one request got a good answer"


def _example(result: Result, *outcomes: Outcome | None) -> str:
    """Tell the first that went wrong, from which its reader can go on."""
    told = (result.examples.get(outcome) for outcome in outcomes if outcome)
    return next((f"; the first was {example}" for example in told if example), "")


def _sending(result: Result) -> Iterator[str]:
    """Fail a load that was never sent as it was asked for: nothing is known of that rate."""
    behind_s = result.sending_seconds - result.load.seconds
    if behind_s > max(BEHIND_S, BEHIND_SHARE * result.load.seconds):
        yield (
            f"the load test could not send so fast: its last request went {behind_s:.1f} s after "
            "the end of the load; spread it over several, or ask for less"
        )


def _shares(objective: Objective, result: Result) -> Iterator[str]:
    counts = result.counts
    bad = counts.failed + counts.error
    if bad > objective.errors_share * counts.sent:
        said = _share(bad, counts.sent, "failed or got no answer", objective.errors_share)
        example = _example(result, Outcome.FAILED, Outcome.ERROR)
        yield f"{said}{_details(_kinds(counts))}{example}"
    if counts.refused > objective.refused_share * counts.sent:
        said = _share(counts.refused, counts.sent, "were refused", objective.refused_share)
        yield f"{said}{_details(_codes(counts))}"


def _share(count: int, sent: int, what: str, limit: float) -> str:
    return f"{_requests(count)} ({100 * count / sent:.2f} %) {what}, allowed are {limit:.2%}"


def _kinds(counts: Counts) -> Mapping[str, int]:
    return {**counts.failures, **counts.errors}


def _codes(counts: Counts) -> Mapping[str, int]:
    return {
        code or "no code": each.with_retry_after + each.without_retry_after
        for code, each in counts.refusals.items()
    }


def _details(kinds: Mapping[str, int]) -> str:
    ranked = sorted(kinds.items(), key=lambda item: -item[1])
    return f": {', '.join(f'{name} {count}' for name, count in ranked)}" if ranked else ""


def _latencies(objective: Objective, latency: Latencies) -> Iterator[str]:
    for term in objective.latency:
        histogram = latency.refused if term.of_refusals else latency.good
        measured_ms = histogram.percentile_ms(term.percentile)
        # Without refusals there is nothing that could be slow; without good answers the
        # accounting has said so, unless all that was good were the errors of broken pictures.
        if measured_ms is None and not term.of_refusals:
            yield f"{term.name} is not known: no picture was classified"
        elif measured_ms is not None and measured_ms > term.limit_ms:
            yield _too_slow(term, measured_ms)


def _too_slow(term: LatencyTerm, measured_ms: float) -> str:
    return f"{term.name} is {measured_ms:.1f} ms, allowed are {term.limit_ms:g} ms"


def _goodput(objective: Objective, result: Result) -> Iterator[str]:
    asked = result.counts.sent - result.counts.broken
    share = result.good_in_time / asked if asked else 0.0
    per_s = result.goodput_per_s
    if objective.goodput_share is not None and share < objective.goodput_share:
        yield f"goodput is {share:.2%} of the requests, wanted are {objective.goodput_share:.2%}"
    if objective.goodput_per_s is not None and per_s < objective.goodput_per_s:
        yield f"goodput is {per_s:.1f}/s, wanted are {objective.goodput_per_s:g}/s"


def _lateness(objective: Objective, lateness: Histogram) -> Iterator[str]:
    late_ms = lateness.percentile_ms(99)
    limit_ms = objective.lateness_ms
    if late_ms is not None and limit_ms is not None and late_ms > limit_ms:
        yield f"the load test itself was late: p99 {late_ms:.1f} ms, allowed are {limit_ms:g} ms"


def _notes(result: Result) -> Iterator[str]:
    late_ms = result.lateness.percentile_ms(99)
    if late_ms is not None and late_ms > LATE_MS:
        yield (
            f"the load test itself sent late (p99 {late_ms:.1f} ms); its latencies contain that: "
            "give it a machine of its own, or less load"
        )
    cpu_share = result.tool.cpu_s / result.pods / result.seconds if result.seconds > 0 else 0.0
    if cpu_share > BUSY_SHARE:
        yield (
            f"the load test used {cpu_share:.0%} of a core: it may be what is slow; "
            "spread the load over several"
        )
    good = result.latency.good.count
    if 0 < good < 1000:
        yield f"p99.9 of {good} answers is no more than the slowest of them"


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"
