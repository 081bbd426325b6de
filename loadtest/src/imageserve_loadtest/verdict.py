"""Objectives (the terms of ``--slo``) and the verdict whether a load test met them. Pure.

====================  ===========================================================================
``p99=500ms``         99 % of the good answers took no longer; any percentile
``max=2s``            no good answer took longer
``refused_p50=20ms``  the same for refusals (429, 503)
``goodput=95%``       at least this share of the requests got a good answer in time
``goodput=120/s``     at least this many good answers a second came in time
``errors=1%``         at most this share failed or got no answer; default 0%
``refused=20%``       at most this share was refused; default 0%
``lateness=20ms``     99 % of the requests were sent no later than this after they were due
====================  ===========================================================================

"In time" means the limit of the term with the highest percentile; without one, any time.
"""

import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace

from imageserve.errors import ImageserveError
from imageserve_loadtest.histogram import Histogram
from imageserve_loadtest.result import Counts, Latencies, Outcome, Result, Verdict

LATE_MS = 10.0
"""If the load test sends later than this, at its 99th percentile, a note says so."""
BUSY_SHARE = 0.9
"""Share of a core; above it the load test itself may be the bottleneck."""
BEHIND_S, BEHIND_SHARE = 1.0, 0.05
"""If the last request is sent later than both after the load's end, the load was not sent."""

NOT_JUDGED = Verdict(holds=False, reasons=("not judged yet",))


class ObjectiveError(ImageserveError):
    """A term is not valid. The message says which one and what is allowed."""


@dataclass(frozen=True, slots=True)
class LatencyTerm:
    """A limit for a percentile."""

    percentile: float
    limit_ms: float
    of_refusals: bool = False

    @property
    def name(self) -> str:
        name = "max" if self.percentile == 100 else f"p{self.percentile:g}"
        return f"refused_{name}" if self.of_refusals else name

    def __str__(self) -> str:
        return f"{self.name}={self.limit_ms:g}ms"


@dataclass(frozen=True, slots=True)
class Objective:
    """All terms; those that were not given have their default."""

    latency: tuple[LatencyTerm, ...] = ()
    goodput_share: float | None = None
    goodput_per_s: float | None = None
    errors_share: float = 0.0
    refused_share: float = 0.0
    lateness_ms: float | None = None

    @classmethod
    def parse(cls, terms: Iterable[str]) -> "Objective":
        """Parse terms. Each text may hold several, separated by commas; the last of a name wins.

        Raises:
            ObjectiveError: a term is not in the table above.
        """
        named: dict[str, object] = {}
        latency: dict[str, LatencyTerm] = {}
        for term in (part.strip() for text in terms for part in text.split(",") if part.strip()):
            found = _parsed(term)
            if isinstance(found, LatencyTerm):
                latency[found.name] = found
            else:
                named[found[0]] = found[1]
        return cls(tuple(latency.values()), **named)  # type: ignore[arg-type]

    @property
    def within_ms(self) -> float | None:
        """The time within which an answer counts as goodput."""
        terms = [term for term in self.latency if not term.of_refusals]
        below_max = [term for term in terms if term.percentile < 100]
        ranked = sorted(below_max or terms, key=lambda term: term.percentile)
        return ranked[-1].limit_ms if ranked else None

    @property
    def limits_time(self) -> bool:
        """Whether it fails when labels come later and later."""
        return self.within_ms is not None or self.goodput_per_s is not None

    def terms(self) -> tuple[str, ...]:
        """Return the terms as ``parse`` takes them, including defaults."""
        optional = (
            ("goodput", self.goodput_share, _percent),
            ("goodput", self.goodput_per_s, "{:g}/s".format),
            ("lateness", self.lateness_ms, "{:g}ms".format),
        )
        return (
            *map(str, self.latency),
            *(f"{name}={write(value)}" for name, value, write in optional if value is not None),
            f"errors={_percent(self.errors_share)}",
            f"refused={_percent(self.refused_share)}",
        )


def _percent(share: float) -> str:
    return f"{share * 100:g}%"


_NUMBER = r"(\d+(?:\.\d+)?)"
_LATENCY = re.compile(rf"(refused_)?(?:p{_NUMBER}|(max))={_NUMBER}(ms|s)")
_SHARE = re.compile(rf"(goodput|errors|refused)={_NUMBER}%")
_RATE = re.compile(rf"goodput={_NUMBER}/s")
_LATENESS = re.compile(rf"lateness={_NUMBER}(ms|s)")


def _parsed(term: str) -> LatencyTerm | tuple[str, float]:
    if match := _LATENCY.fullmatch(term):
        return _latency_term(term, match)
    if match := _SHARE.fullmatch(term):
        return f"{match[1]}_share", _share(term, float(match[2]))
    if match := _RATE.fullmatch(term):
        return "goodput_per_s", float(match[1])
    if match := _LATENESS.fullmatch(term):
        return "lateness_ms", _ms(match[1], match[2])
    raise ObjectiveError(
        f"{term!r} is not an objective; write p99=500ms, max=2s, refused_p50=20ms, goodput=95%, "
        "goodput=120/s, errors=1%, refused=20% or lateness=20ms"
    )


def _latency_term(term: str, match: "re.Match[str]") -> LatencyTerm:
    percentile = 100.0 if match[3] else float(match[2])
    if not 0 < percentile <= 100:
        raise ObjectiveError(f"{term!r}: a percentile must be above 0 and at most 100")
    return LatencyTerm(percentile, _ms(match[4], match[5]), of_refusals=bool(match[1]))


def _share(term: str, percent: float) -> float:
    if percent > 100:
        raise ObjectiveError(f"{term!r}: a share must be at most 100%")
    return percent / 100


def _ms(number: str, unit: str) -> float:
    return float(number) * (1000 if unit == "s" else 1)


# -- the verdict --------------------------------------------------------------------------------


def judged(result: Result, objective: Objective) -> Result:
    """Return the result with its verdict and notes.

    If it covers only some of the pods, only their share of a goodput per second is required.
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
    """Give the reasons that no objective can excuse."""
    counts = result.counts
    if result.interrupted:
        yield f"interrupted after {result.seconds:.1f} s of {result.load.seconds:g} s"
    never = (
        ("got a wrong answer", counts.wrong, Outcome.WRONG),
        ("got more answers than pictures", counts.duplicated, Outcome.DUPLICATED),
        ("got fewer answers than pictures", counts.missing, Outcome.MISSING),
        ("ended without a trace", counts.unaccounted, None),
        ("were due but never began", max(0, counts.planned - counts.sent), None),
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
        yield "no request got a good answer"


def _example(result: Result, *outcomes: Outcome | None) -> str:
    """Describe the first request that ended in one of these ways."""
    examples = (result.examples.get(outcome) for outcome in outcomes if outcome)
    return next((f"; the first was {example}" for example in examples if example), "")


def _sending(result: Result) -> Iterator[str]:
    """Fail a load that was sent too slowly: the result says nothing about the requested rate."""
    behind_s = result.sending_seconds - result.load.seconds
    if behind_s > max(BEHIND_S, BEHIND_SHARE * result.load.seconds):
        yield (
            f"the load test could not send this fast: its last request was sent {behind_s:.1f} s "
            "after the end of the load; spread the load over several processes, or reduce it"
        )


def _shares(objective: Objective, result: Result) -> Iterator[str]:
    counts = result.counts
    bad = counts.failed + counts.error
    if bad > objective.errors_share * counts.sent:
        text = _too_many(bad, counts.sent, "failed or got no answer", objective.errors_share)
        example = _example(result, Outcome.FAILED, Outcome.ERROR)
        yield f"{text}{_details({**counts.failures, **counts.errors})}{example}"
    if counts.refused > objective.refused_share * counts.sent:
        text = _too_many(counts.refused, counts.sent, "were refused", objective.refused_share)
        yield f"{text}{_details(_refusals_by_code(counts))}"


def _too_many(count: int, sent: int, what: str, limit: float) -> str:
    return f"{_requests(count)} ({100 * count / sent:.2f} %) {what}; {limit:.2%} are allowed"


def _refusals_by_code(counts: Counts) -> Mapping[str, int]:
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
        # No refusals means no slow refusals. No labels is a failure even if there were good
        # answers: those were the right errors for broken pictures.
        if measured_ms is None and not term.of_refusals:
            yield f"{term.name} is unknown: no picture got a label"
        elif measured_ms is not None and measured_ms > term.limit_ms:
            yield f"{term.name} is {measured_ms:.1f} ms; {term.limit_ms:g} ms are allowed"


def _goodput(objective: Objective, result: Result) -> Iterator[str]:
    asked = result.counts.sent - result.counts.broken
    share = result.good_in_time / asked if asked else 0.0
    per_s = result.goodput_per_s
    if objective.goodput_share is not None and share < objective.goodput_share:
        yield f"goodput is {share:.2%} of the requests; {objective.goodput_share:.2%} are required"
    if objective.goodput_per_s is not None and per_s < objective.goodput_per_s:
        yield f"goodput is {per_s:.1f}/s; {objective.goodput_per_s:g}/s are required"


def _lateness(objective: Objective, lateness: Histogram) -> Iterator[str]:
    late_ms = lateness.percentile_ms(99)
    limit_ms = objective.lateness_ms
    if late_ms is not None and limit_ms is not None and late_ms > limit_ms:
        yield f"the load test sent late: p99 {late_ms:.1f} ms; {limit_ms:g} ms are allowed"


def _notes(result: Result) -> Iterator[str]:
    late_ms = result.lateness.percentile_ms(99)
    if late_ms is not None and late_ms > LATE_MS:
        yield (
            f"the load test sent late (p99 {late_ms:.1f} ms), and the latencies contain that: "
            "run it on a machine of its own, or reduce the load"
        )
    cpu_share = result.tool.cpu_s / result.pods / result.seconds if result.seconds > 0 else 0.0
    if cpu_share > BUSY_SHARE:
        yield (
            f"the load test used {cpu_share:.0%} of a core and may be the bottleneck: "
            "spread the load over several processes"
        )
    good = result.latency.good.count
    if 0 < good < 1000:
        yield f"with {good} answers, p99.9 is simply the slowest one"


def _requests(count: int) -> str:
    return "1 request" if count == 1 else f"{count} requests"
