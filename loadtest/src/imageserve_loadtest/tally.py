"""Counts requests while the load runs, in bounded memory. Has no clock of its own."""

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from imageserve_loadtest.histogram import COARSE, Histogram
from imageserve_loadtest.result import (
    Counts,
    Latencies,
    Outcome,
    Refusals,
    Timeline,
    TimelinePoint,
)

_INTERVALS_S = (1.0, 2.0, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0)
_MOST_POINTS = 600
_RECENT_POINTS = 5
"""Number of intervals that the live p99 covers."""


@dataclass(frozen=True, slots=True)
class Times:
    """The times of one request, in seconds since the load began."""

    intended_s: float
    sent_s: float
    done_s: float


@dataclass(frozen=True, slots=True)
class Record:
    """How a request ended; ``result`` says what each field means."""

    times: Times
    outcome: Outcome
    picture: str
    request_id: str
    status: int = 0
    code: str = ""
    retry_after_s: float | None = None
    error: str = ""
    detail: str = ""
    broken: bool = False
    stages_ms: Mapping[str, float] = field(default_factory=dict)

    def to_json(self) -> str:
        """Write it as a line of ``--records``."""
        line: dict[str, Any] = {
            "intended_s": round(self.times.intended_s, 6),
            "sent_s": round(self.times.sent_s, 6),
            "done_s": round(self.times.done_s, 6),
            "status": self.status,
            "code": self.code,
            "picture": self.picture,
            "outcome": self.outcome.value,
            "retry_after": self.retry_after_s,
            "error": self.error,
            "request_id": self.request_id,
            "detail": self.detail,
        }
        return json.dumps(line)


@dataclass(frozen=True, slots=True)
class LiveCounts:
    """The numbers of a progress line."""

    sent: int
    good: int
    refused: int
    bad: int
    """All other ends."""
    p99_ms: float | None
    """Of the good answers in the last intervals."""

    @property
    def in_flight(self) -> int:
        return self.sent - self.good - self.refused - self.bad


@dataclass(slots=True)
class _Interval:
    planned: int = 0
    sent: int = 0
    outcomes: Counter[str] = field(default_factory=Counter)
    statuses: Counter[str] = field(default_factory=Counter)
    latency: Histogram = field(default_factory=lambda: Histogram(COARSE))

    def point(self, at_s: float) -> TimelinePoint:
        counts = dict(self.outcomes), dict(self.statuses)
        return TimelinePoint(at_s, self.planned, self.sent, *counts, self.latency)


class Tally:
    """What happened to the requests so far."""

    def __init__(self, seconds: float) -> None:
        self.interval_s = interval_for(seconds)
        self.latency = Latencies()
        self.stages: defaultdict[str, Histogram] = defaultdict(Histogram)
        self.lateness = Histogram()
        self.last_sent_s = 0.0
        self.last_done_s = 0.0
        self.examples: dict[str, str] = {}
        """By bad outcome: request id and detail of the first one."""
        self._sent = 0
        self._pictures = 0
        self._broken = 0
        self._outcomes: Counter[str] = Counter()
        self._statuses: Counter[str] = Counter()
        self._failures: Counter[str] = Counter()
        self._errors: Counter[str] = Counter()
        self._refusals: dict[str, Counter[bool]] = {}
        self._intervals: dict[int, _Interval] = {}

    def begin(self, intended_s: float, sent_s: float, pictures: int) -> None:
        """Count a request that begins."""
        self._sent += 1
        self._pictures += pictures
        self.last_sent_s = max(self.last_sent_s, sent_s)
        self.lateness.record_s(sent_s - intended_s)
        self._interval(intended_s).planned += 1
        self._interval(sent_s).sent += 1

    def end(self, record: Record) -> None:
        """Count the end of a request that began."""
        self.last_done_s = max(self.last_done_s, record.times.done_s)
        self._outcomes[record.outcome] += 1
        interval = self._interval(record.times.done_s)
        interval.outcomes[record.outcome.value] += 1
        if record.status:
            self._statuses[str(record.status)] += 1
            interval.statuses[str(record.status)] += 1
        self._count_kind(record)
        self._measure(record, interval)

    def counts(self, planned: int | None = None, unsolicited: int = 0) -> Counts:
        """Return the counts; without ``planned``, all requests that began were planned."""
        return Counts(
            planned=self._sent if planned is None else planned,
            sent=self._sent,
            **{outcome.value: self._outcomes[outcome] for outcome in Outcome},
            pictures=self._pictures,
            broken=self._broken,
            unsolicited=unsolicited,
            refusals={code: Refusals(by[True], by[False]) for code, by in self._refusals.items()},
            failures=dict(self._failures),
            errors=dict(self._errors),
            statuses=dict(self._statuses),
        )

    def timeline(self) -> Timeline:
        last = max(self._intervals, default=-1)
        intervals = (self._intervals.get(i, _Interval()) for i in range(last + 1))
        points = (each.point(i * self.interval_s) for i, each in enumerate(intervals))
        return Timeline(self.interval_s, tuple(points))

    def live_counts(self) -> LiveCounts:
        good, refused = self._outcomes[Outcome.GOOD], self._outcomes[Outcome.REFUSED]
        recent = list(self._intervals.values())[-_RECENT_POINTS:]
        p99_ms = _sum(each.latency for each in recent).percentile_ms(99)
        bad = self._outcomes.total() - good - refused
        return LiveCounts(self._sent, good, refused, bad, p99_ms)

    def _interval(self, at_s: float) -> _Interval:
        index = int(max(at_s, 0.0) / self.interval_s)
        if index not in self._intervals:
            self._intervals[index] = _Interval()
        return self._intervals[index]

    def _count_kind(self, record: Record) -> None:
        if record.outcome is Outcome.REFUSED:
            with_retry_after = self._refusals.setdefault(record.code, Counter())
            with_retry_after[record.retry_after_s is not None] += 1
        elif record.outcome is Outcome.FAILED:
            self._failures[f"{record.status} {record.code}".strip()] += 1
        elif record.outcome is Outcome.ERROR:
            self._errors[record.error] += 1
        if record.outcome not in (Outcome.GOOD, Outcome.REFUSED):
            self.examples.setdefault(record.outcome.value, f"{record.request_id}: {record.detail}")

    def _measure(self, record: Record, interval: _Interval) -> None:
        latency_s = record.times.done_s - record.times.intended_s
        if record.outcome is Outcome.REFUSED:
            self.latency.refused.record_s(latency_s)
        elif record.outcome is not Outcome.GOOD:
            self.latency.other.record_s(latency_s)
        elif record.broken:
            self._broken += 1
            self.latency.broken.record_s(latency_s)
        else:
            self._measure_good(record, interval)

    def _measure_good(self, record: Record, interval: _Interval) -> None:
        latency_s = record.times.done_s - record.times.intended_s
        from_send_s = record.times.done_s - record.times.sent_s
        self.latency.good.record_s(latency_s)
        self.latency.from_send.record_s(from_send_s)
        interval.latency.record_s(latency_s)
        for name, milliseconds in _with_outside(record.stages_ms, from_send_s).items():
            self.stages[name].record_s(milliseconds / 1000)


def interval_for(seconds: float) -> float:
    """Return the length of a timeline's intervals: the shortest that keeps their number small."""
    fitting = (each for each in _INTERVALS_S if seconds / each <= _MOST_POINTS)
    return next(fitting, _INTERVALS_S[-1])


def _with_outside(stages_ms: Mapping[str, float], from_send_s: float) -> dict[str, float]:
    """Add the time outside the server: network, kernel, waiting to be accepted."""
    if "total" not in stages_ms:
        return dict(stages_ms)
    return {**stages_ms, "outside": max(0.0, from_send_s * 1000 - stages_ms["total"])}


def _sum(histograms: Iterable[Histogram]) -> Histogram:
    total = Histogram(COARSE)
    for histogram in histograms:
        total.add(histogram)
    return total
