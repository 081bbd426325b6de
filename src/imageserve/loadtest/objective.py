"""What a load test is to show: the terms of ``--slo``. Pure.

==================  =============================================================================
``p99=500ms``       so many percent of the good answers took no longer; any percentile
``max=2s``          no good answer took longer
``refused_p50=20ms``  the same of refusals (429, 503)
``goodput=95%``     at least this share of the requests got a good answer in time
``goodput=120/s``   at least so many good answers came in time per second
``errors=1%``       at most this share failed or got no answer; 0% where it is not given
``refused=20%``     at most this share was refused; 0% where it is not given
``lateness=20ms``   99 % of the requests were sent no later than this after they were due
==================  =============================================================================

"In time" is the time of the term with the highest percentile, and any time where there is none.
"""

import re
from collections.abc import Iterable
from dataclasses import dataclass

from imageserve.errors import ImageserveError


class ObjectiveError(ImageserveError):
    """A term cannot be understood. The message says which and what is allowed."""


@dataclass(frozen=True, slots=True)
class LatencyTerm:
    """A percentile must not exceed a time."""

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
    """All terms; those not given have their default."""

    latency: tuple[LatencyTerm, ...] = ()
    goodput_share: float | None = None
    goodput_per_s: float | None = None
    errors_share: float = 0.0
    refused_share: float = 0.0
    lateness_ms: float | None = None

    @classmethod
    def parse(cls, terms: Iterable[str]) -> "Objective":
        """Read terms; each may hold several, separated by commas; the last of a name counts.

        Raises:
            ObjectiveError: a term is not one of those in the table.
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
        """Whether labels that come ever later would fail it."""
        return self.within_ms is not None or self.goodput_per_s is not None

    def terms(self) -> tuple[str, ...]:
        """Write it as ``parse`` reads it, the defaults included."""
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
        return _latency(term, match)
    if match := _SHARE.fullmatch(term):
        return f"{match[1]}_share", _share(term, float(match[2]))
    if match := _RATE.fullmatch(term):
        return "goodput_per_s", float(match[1])
    if match := _LATENESS.fullmatch(term):
        return "lateness_ms", _ms(match[1], match[2])
    raise ObjectiveError(
        f"{term!r} is no objective; write p99=500ms, max=2s, refused_p50=20ms, goodput=95%, "
        "goodput=120/s, errors=1%, refused=20% or lateness=20ms"
    )


def _latency(term: str, match: "re.Match[str]") -> LatencyTerm:
    percentile = 100.0 if match[3] else float(match[2])
    if not 0 < percentile <= 100:
        raise ObjectiveError(f"{term!r}: a percentile lies above 0 and is at most 100")
    return LatencyTerm(percentile, _ms(match[4], match[5]), of_refusals=bool(match[1]))


def _share(term: str, percent: float) -> float:
    if percent > 100:
        raise ObjectiveError(f"{term!r}: a share is at most 100%")
    return percent / 100


def _ms(number: str, unit: str) -> float:
    return float(number) * (1000 if unit == "s" else 1)
