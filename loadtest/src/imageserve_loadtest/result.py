"""The result of a load test: the format that reports, ``merge`` and other programs read.

A result is one line of JSON, so that it can be found among the log lines of a pod::

    {"kind": "imageserve-loadtest", "version": 1, "target": {…}, "load": {…}, "objective": […],
     "counts": {…}, "latency": {…}, "stages": {…}, "lateness": {…}, "timeline": {…},
     "queue": […], "search": […], "notes": […], "verdict": {…}}

Its keys are the fields of the classes below. A histogram is written as figures, for people and
scripts, and completely as ``hdr``, which is all that is read back::

    {"count": 990, "mean_ms": 21.9, "p50_ms": 20.3, …, "max_ms": 61.4, "hdr": "HISTFAAAA…"}

Unknown keys are ignored, and keys with a default may be missing, so that the result of a newer
program can be read. Another ``version`` cannot be read.

**Each request has one outcome** (``Counts``, and ``outcome`` in the records):

==============  ===================================================================================
``good``        the answer that its picture or pictures must get; for a picture that is broken on
                purpose this is an error
``wrong``       an answer, but not the one for its picture
``duplicated``  more answers than pictures
``missing``     fewer answers than pictures
``refused``     429 or 503: not now
``failed``      any other unexpected status, such as 500 or 504
``error``       no answer: see ``ERROR_KINDS``
==============  ===================================================================================

**Records** (``--records FILE.jsonl``) are one line per request, in the order in which they ended::

    {"intended_s": 0.25, "sent_s": 0.2503, "done_s": 0.271, "status": 200, "code": "",
     "picture": "stand-in-17.png", "outcome": "good", "retry_after": null, "error": "",
     "request_id": "lt-6f3a-0-250", "detail": ""}

Times are seconds since the load began, at ``started_at``; ``status`` is 0 where no answer came;
``picture`` of a request with several pictures has their names joined by ``+``; ``detail`` says what
was wrong.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from enum import StrEnum
from typing import Any

from imageserve_loadtest import result_json
from imageserve_loadtest.histogram import Histogram
from imageserve_loadtest.result_json import ResultError, decoded, encoded

KIND = "imageserve-loadtest"
VERSION = 1

PERCENTILES = result_json.PERCENTILES

ERROR_KINDS = ("connect", "reset", "timeout", "protocol", "overrun")
"""Why there was no answer.

* ``connect``: no connection could be opened;
* ``reset``: the connection ended before the answer was complete;
* ``timeout``: the answer took longer than the client waits;
* ``protocol``: the answer is not HTTP, or a 200 with a body that breaks the contract;
* ``overrun``: the request was not sent, because too many were open already.
"""


MODEL, WEB, GIVEN = "model", "web", "given"
"""Whose capacity a load is a share of: the workers', the web processes', that of ``--capacity``."""


class Outcome(StrEnum):
    """How a request ended; see above."""

    GOOD = "good"
    WRONG = "wrong"
    DUPLICATED = "duplicated"
    MISSING = "missing"
    REFUSED = "refused"
    FAILED = "failed"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Target:
    """The server that was measured."""

    url: str
    model: str
    """Name of the model; empty where the target did not say."""
    input_size: tuple[int, ...] = ()
    """Height and width in pixels; empty where the target did not say."""


@dataclass(frozen=True, slots=True)
class PhaseLoad:
    """One phase of the load, with the numbers of all shards together."""

    name: str
    seconds: float
    clients: int | None = None
    """Closed loop: number of clients; each waits for its answer before it sends again."""
    rate_per_s: float | None = None
    """Open loop: requests a second at the start."""
    to_rate_per_s: float | None = None
    """Open loop: requests a second at the end; None where the rate is constant."""


@dataclass(frozen=True, slots=True)
class Load:
    """The load that was asked for."""

    scenario: str
    loop: str
    """``closed`` or ``open``."""
    arrivals: str
    """``constant`` or ``poisson``; empty in a closed loop."""
    phases: tuple[PhaseLoad, ...]
    seed: int
    timeout_s: float
    pictures: str
    """``generated`` or ``files``."""
    distinct: int
    """Number of distinct pictures."""
    per_request: int
    broken_share: float
    """Share of the requests with a picture that is broken on purpose, 0 to 1."""
    shard: int = 0
    """The part of the load that this result covers; 0 in a merged result."""
    shards: int = 1
    """Number of pods that share the load."""
    capacity_per_s: float | None = None
    """Pictures a second of which the rates are shares; None where they are not. In a merged result
    the mean of what the pods have read."""
    capacity_of: str = ""
    """Whose capacity that is: ``model``, ``web`` or ``given``; empty where there is none."""

    @property
    def seconds(self) -> float:
        return sum(phase.seconds for phase in self.phases)


@dataclass(frozen=True, slots=True)
class Refusals:
    """Requests refused with one code."""

    with_retry_after: int = 0
    without_retry_after: int = 0


@dataclass(frozen=True, slots=True)
class Counts:
    """How the requests ended. ``sent`` is counted when they begin, the outcomes when they end."""

    planned: int = 0
    """Requests in the schedule; in a closed loop the same as ``sent``."""
    sent: int = 0
    """Requests that began, including failed connections and overruns."""
    good: int = 0
    wrong: int = 0
    duplicated: int = 0
    missing: int = 0
    refused: int = 0
    failed: int = 0
    error: int = 0
    pictures: int = 0
    """Pictures in all requests."""
    broken: int = 0
    """Good answers to requests in which all pictures were broken on purpose: the right errors."""
    unsolicited: int = 0
    """Answers on a connection where no request was waiting."""
    refusals: Mapping[str, Refusals] = field(default_factory=dict)
    """By error code; ``""`` for answers without one."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """By status and code, such as ``"504 timed_out"``."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """By kind."""
    statuses: Mapping[str, int] = field(default_factory=dict)
    """Answers with any outcome, by HTTP status, such as ``"200"``."""

    @property
    def answered(self) -> int:
        """Requests that got a complete HTTP answer of any kind."""
        return sum(self.statuses.values())

    @property
    def unaccounted(self) -> int:
        """Requests that began and never ended. If it is not 0, the load test has a bug."""
        ended = sum(getattr(self, outcome.value) for outcome in Outcome)
        return self.sent - int(ended)


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long answers took, from the instant at which each request was due."""

    good: Histogram = field(default_factory=Histogram)
    """Labels. The quick errors for broken pictures are not among them."""
    broken: Histogram = field(default_factory=Histogram)
    """The right errors for pictures that are broken on purpose."""
    refused: Histogram = field(default_factory=Histogram)
    other: Histogram = field(default_factory=Histogram)
    """All other ends: wrong answers, failures, and errors such as time-outs."""
    from_send: Histogram = field(default_factory=Histogram)
    """The good answers again, from the instant at which each request was really sent."""


@dataclass(frozen=True, slots=True)
class TimelinePoint:
    """One interval of the run. Intervals in which nothing happened are included."""

    at_s: float
    """Start of the interval, in seconds since the load began."""
    planned: int
    """Requests that were due in it."""
    sent: int
    """Requests that were sent in it."""
    outcomes: Mapping[str, int]
    """Requests that ended in it, by outcome."""
    statuses: Mapping[str, int]
    latency: Histogram
    """Of the good answers that came in it, exact to 1 %."""

    @property
    def answered(self) -> int:
        return sum(self.statuses.values())


@dataclass(frozen=True, slots=True)
class Timeline:
    """The run in intervals of equal length, at most a few hundred."""

    interval_s: float = 1.0
    points: tuple[TimelinePoint, ...] = ()


@dataclass(frozen=True, slots=True)
class QueueSnapshot:
    """What ``GET /status`` said about the model's queue."""

    at_s: float
    queued: int
    in_flight: int
    capacity_per_s: float = 0.0
    """Of the workers; 0 where it is unknown."""
    workers: int = 0
    web_capacity_per_s: float | None = None
    """Of the web processes; 0 where they do not know it yet, None where the target never says."""

    @property
    def smaller_capacity(self) -> tuple[float, str]:
        """Return the capacity that the target has as a whole, and whose it is.

        It is 0 where that of the model is unknown: then no worker is alive.
        """
        web_per_s = self.web_capacity_per_s
        if web_per_s and web_per_s < self.capacity_per_s:
            return web_per_s, WEB
        return self.capacity_per_s, MODEL


@dataclass(frozen=True, slots=True)
class SearchStep:
    """One rate that ``--search`` tried."""

    rate_per_s: float
    holds: bool
    goodput_per_s: float
    p50_ms: float | None
    p99_ms: float | None
    reasons: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether the objective was met."""

    holds: bool
    reasons: tuple[str, ...] = ()
    """Why it was not met, one sentence each."""


@dataclass(frozen=True, slots=True)
class Tool:
    """The program and the machine that measured."""

    version: str = ""
    python: str = ""
    host: str = ""
    cores: int = 0
    cpu_s: float = 0.0
    """Processor time that the load test itself used."""


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that a load test found."""

    target: Target
    load: Load
    objective: tuple[str, ...]
    """The terms as they are written for ``--slo``."""
    started_at: str
    """ISO 8601, UTC."""
    seconds: float
    """From the start of the load to the last answer."""
    counts: Counts
    latency: Latencies
    stages: Mapping[str, Histogram]
    """Of the good answers, from ``Server-Timing``. ``outside`` is the time from sending to the
    complete answer minus ``total``: network, kernel, waiting to be accepted."""
    lateness: Histogram
    """How long after its due instant each request was sent. ``latency`` contains this delay."""
    timeline: Timeline
    verdict: Verdict
    sending_seconds: float = 0.0
    """From the start of the load to the last request."""
    examples: Mapping[str, str] = field(default_factory=dict)
    """By outcome, neither good nor refused: request id and detail of the first one."""
    goodput_within_ms: float | None = None
    """Labels that took longer do not count as goodput; None: all count."""
    queue: tuple[QueueSnapshot, ...] = ()
    search: tuple[SearchStep, ...] = ()
    """The rates that ``--search`` tried, in order; everything else is about the best one."""
    notes: tuple[str, ...] = ()
    """Warnings to a reader of the figures, such as that requests were sent late."""
    pods: int = 1
    """Number of results that were merged into this one."""
    apart_s: float = 0.0
    """How long after the first of these pods the last one began, less what clocks may differ."""
    interrupted: bool = False
    tool: Tool = field(default_factory=Tool)

    @property
    def began_s(self) -> float | None:
        """When the load began, in seconds since 1970; None where ``started_at`` is no time."""
        try:
            return datetime.fromisoformat(self.started_at).timestamp()
        except ValueError:
            return None

    @property
    def load_seconds(self) -> float:
        """The time over which rates are counted: that of the load, or shorter if interrupted.

        For several pods it begins with the first and ends with the last one.
        """
        asked_s = self.load.seconds + self.apart_s
        return min(self.seconds, asked_s) if self.interrupted else asked_s

    @property
    def offered_per_s(self) -> float:
        """Requests a second that were really sent."""
        return _per_second(self.counts.sent, max(self.load_seconds, self.sending_seconds))

    @property
    def goodput_per_s(self) -> float:
        """Labels a second that came in time.

        They are counted over the load plus the time limit. Over the load alone, an overloaded
        server would look faster than it is, because it answers its backlog afterwards.
        """
        if self.goodput_within_ms is None:
            return _per_second(self.good_in_time, self.seconds)
        in_time_s = self.load_seconds + self.goodput_within_ms / 1000
        return _per_second(self.good_in_time, min(self.seconds, in_time_s))

    @property
    def good_in_time(self) -> int:
        if self.goodput_within_ms is None:
            return self.latency.good.count
        return self.latency.good.count_within(self.goodput_within_ms)

    def to_json(self) -> str:
        """Write it as one line of JSON."""
        return json.dumps({"kind": KIND, "version": VERSION, **encoded(self), **_derived(self)})

    @classmethod
    def from_json(cls, line: str) -> "Result":
        """Read what ``to_json`` wrote.

        Raises:
            ResultError: it is not a result, or one of another version.
        """
        try:
            raw = json.loads(line)
        except ValueError as error:
            raise ResultError(f"not JSON: {error}") from error
        if not isinstance(raw, dict) or raw.get("kind") != KIND:
            raise ResultError(f'not the result of a load test: it has no "kind": "{KIND}"')
        if raw.get("version") != VERSION:
            raise ResultError(f"version {raw.get('version')}; this program reads {VERSION}")
        return decoded(cls, raw, "result")


def _per_second(count: int, seconds: float) -> float:
    return count / seconds if seconds > 0 else 0.0


def _derived(result: Result) -> dict[str, Any]:
    """Return figures for people and scripts; ``from_json`` ignores them."""
    return {
        "offered_per_s": round(result.offered_per_s, 3),
        "goodput_per_s": round(result.goodput_per_s, 3),
        "answered": result.counts.answered,
        "unaccounted": result.counts.unaccounted,
    }
