"""What one load test found: the format that reports, merging and other programs read.

A result is one line of JSON, so that it survives among the log lines of a pod::

    {"kind": "imageserve-loadtest", "version": 1, "target": {…}, "load": {…}, "objective": […],
     "counts": {…}, "latency": {…}, "stages": {…}, "lateness": {…}, "timeline": {…},
     "queue": […], "search": […], "notes": […], "verdict": {…}}

Its keys are the fields of the classes below. A histogram is written as its figures, for people and
for scripts, and as ``hdr``, from which alone it is read back::

    {"count": 990, "mean_ms": 21.9, "p50_ms": 20.3, …, "max_ms": 61.4, "hdr": "HISTFAAAA…"}

Unknown keys are ignored and keys with a default may be missing, so that a newer program's result
can be read; another ``version`` cannot.

**One request, one outcome** (``Counts``, and ``outcome`` in the records):

==============  ===================================================================================
``good``        the answer that this very picture, or these pictures, must get; for a broken
                picture that is the error it must get
``wrong``       an answer, but not this picture's
``duplicated``  more answers than pictures
``missing``     fewer answers than pictures
``refused``     429 or 503: the server said "not now"
``failed``      any other status that was not expected, such as 500 or 504
``error``       no answer: see ``ERROR_KINDS``
==============  ===================================================================================

**Records** (``--records FILE.jsonl``) are one line per request, in the order in which they ended::

    {"intended_s": 0.25, "sent_s": 0.2503, "done_s": 0.271, "status": 200, "code": "",
     "picture": "stand-in-17.png", "outcome": "good", "retry_after": null, "error": "",
     "request_id": "lt-6f3a-0-250", "detail": ""}

Times are seconds since the load began, whose instant is ``started_at``; ``status`` is 0 where no
answer came; ``picture`` of a request with several is the list of their names joined by ``+``;
``detail`` says in words what was wrong with anything that is not good.
"""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import Any

from imageserve.loadtest import codec
from imageserve.loadtest.codec import ResultError, decoded, encoded
from imageserve.loadtest.histogram import Histogram

KIND = "imageserve-loadtest"
VERSION = 1

PERCENTILES = codec.PERCENTILES

ERROR_KINDS = ("connect", "reset", "timeout", "protocol", "overrun")
"""Why there was no answer.

* ``connect``: no connection could be made;
* ``reset``: it ended before the answer was whole;
* ``timeout``: the answer took longer than the client waits;
* ``protocol``: what came is not HTTP, or a 200 whose body is not what the contract promises;
* ``overrun``: not sent, since as many requests as are allowed were open already.
"""


class Outcome(StrEnum):
    """How one request ended; see above."""

    GOOD = "good"
    WRONG = "wrong"
    DUPLICATED = "duplicated"
    MISSING = "missing"
    REFUSED = "refused"
    FAILED = "failed"
    ERROR = "error"


@dataclass(frozen=True, slots=True)
class Target:
    """What was measured."""

    url: str
    model: str
    """The model's name; empty where the target did not tell."""
    input_size: tuple[int, ...] = ()
    """Height and width in pixels; empty where the target did not tell."""


@dataclass(frozen=True, slots=True)
class PhaseLoad:
    """One stretch of the load, with its numbers over all shards."""

    name: str
    seconds: float
    clients: int | None = None
    """Closed loop: how many clients; each sends its next request when it is answered."""
    rate_per_s: float | None = None
    """Open loop: requests a second at the start."""
    to_rate_per_s: float | None = None
    """Open loop: at the end; the same where it is constant."""


@dataclass(frozen=True, slots=True)
class Load:
    """What was asked for."""

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
    """How many distinct pictures were there to choose from."""
    per_request: int
    broken_share: float
    """Which share of the requests carries a picture that is broken on purpose, 0 to 1."""
    shard: int = 0
    """Which part of the load this result is of; 0 where it is of all."""
    shards: int = 1
    """Over how many pods the load is spread."""

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
    """Requests that the schedule held; in a closed loop those that were begun."""
    sent: int = 0
    """Requests that were begun, those that could not be connected and overruns included."""
    good: int = 0
    wrong: int = 0
    duplicated: int = 0
    missing: int = 0
    refused: int = 0
    failed: int = 0
    error: int = 0
    pictures: int = 0
    """Pictures in all requests that were sent."""
    broken: int = 0
    """Good answers to requests of nothing but pictures that are broken on purpose: the right
    error for each."""
    unsolicited: int = 0
    """Answers that came on a connection on which no request was waiting."""
    refusals: Mapping[str, Refusals] = field(default_factory=dict)
    """By error code, ``""`` where the answer had none."""
    failures: Mapping[str, int] = field(default_factory=dict)
    """By status and code, such as ``"504 timed_out"``."""
    errors: Mapping[str, int] = field(default_factory=dict)
    """By kind."""
    statuses: Mapping[str, int] = field(default_factory=dict)
    """Answers of all outcomes by HTTP status, such as ``"200"``."""

    @property
    def answered(self) -> int:
        """Requests that got a whole HTTP answer, whatever it said."""
        return sum(self.statuses.values())

    @property
    def unaccounted(self) -> int:
        """Requests that began and of whose end nothing is known: 0, or the tool is broken."""
        ended = sum(getattr(self, outcome.value) for outcome in Outcome)
        return self.sent - int(ended)


@dataclass(frozen=True, slots=True)
class Latencies:
    """How long answers took, from the instant at which each request was meant to be sent."""

    good: Histogram = field(default_factory=Histogram)
    """Labels. The quick errors of broken pictures are not among them."""
    broken: Histogram = field(default_factory=Histogram)
    """The right errors for pictures that are broken on purpose."""
    refused: Histogram = field(default_factory=Histogram)
    other: Histogram = field(default_factory=Histogram)
    """Every other end: wrong answers, failures and errors, time-outs included."""
    from_send: Histogram = field(default_factory=Histogram)
    """The good answers again, from the instant at which they really were sent."""


@dataclass(frozen=True, slots=True)
class TimelinePoint:
    """One interval of the run; those in which nothing happened are there, too."""

    at_s: float
    """When the interval began, in seconds since the load began."""
    planned: int
    """Requests that were meant to be sent in it."""
    sent: int
    """Requests that were sent in it."""
    outcomes: Mapping[str, int]
    """Requests that ended in it, by outcome."""
    statuses: Mapping[str, int]
    latency: Histogram
    """Of the good answers that came in it, to two digits."""

    @property
    def answered(self) -> int:
        return sum(self.statuses.values())


@dataclass(frozen=True, slots=True)
class Timeline:
    """The run in intervals of equal length, at most some hundreds."""

    interval_s: float = 1.0
    points: tuple[TimelinePoint, ...] = ()


@dataclass(frozen=True, slots=True)
class QueueSample:
    """What ``GET /status`` said of the model's queue."""

    at_s: float
    queued: int
    in_flight: int
    capacity_per_s: float = 0.0
    workers: int = 0


@dataclass(frozen=True, slots=True)
class SearchStep:
    """One rate that was tried."""

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
    """Why not, one sentence each; empty where it holds."""


@dataclass(frozen=True, slots=True)
class Tool:
    """What measured: a result is worth no more than the machine it came from."""

    version: str = ""
    python: str = ""
    host: str = ""
    cores: int = 0
    cpu_s: float = 0.0
    """Processor time that the tool itself took."""


@dataclass(frozen=True, slots=True)
class Result:
    """Everything that one load test found."""

    target: Target
    load: Load
    objective: tuple[str, ...]
    """Its terms as they are written for ``--slo``."""
    started_at: str
    """ISO 8601, UTC."""
    seconds: float
    """From the start of the load until the last answer."""
    counts: Counts
    latency: Latencies
    stages: Mapping[str, Histogram]
    """Of the good answers, from ``Server-Timing``; ``outside`` is what no stage explains: the
    time from sending to the whole answer, less ``total``."""
    lateness: Histogram
    """Sent when, less meant to be sent when: the tool's own delay, which ``latency`` contains."""
    timeline: Timeline
    verdict: Verdict
    sending_seconds: float = 0.0
    """From the start of the load until the last request was sent."""
    examples: Mapping[str, str] = field(default_factory=dict)
    """The first of each outcome that is neither good nor refused: its request id and detail."""
    goodput_within_ms: float | None = None
    """Labels that took longer are no goodput; None: all are."""
    queue: tuple[QueueSample, ...] = ()
    search: tuple[SearchStep, ...] = ()
    """The rates that ``--search`` tried, in order; the rest of the result is of the best."""
    notes: tuple[str, ...] = ()
    """What a reader of the figures should know, such as that the tool itself was late."""
    pods: int = 1
    """From how many results this one was made."""
    interrupted: bool = False
    tool: Tool = field(default_factory=Tool)

    @property
    def load_seconds(self) -> float:
        """Return the time that rates are counted over: the load's own, less if it was ended."""
        return min(self.seconds, self.load.seconds) if self.interrupted else self.load.seconds

    @property
    def offered_per_s(self) -> float:
        """Requests a second that were really sent: over the load's time, or longer if it took."""
        return _per_second(self.counts.sent, max(self.load_seconds, self.sending_seconds))

    @property
    def goodput_per_s(self) -> float:
        """Labels a second that came in time.

        They are counted over the time in which such answers could come: the load, and what is in
        time behind its end. Over the load alone an overloaded server, whose backlog is answered
        afterwards, would seem to be faster than it is.
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
            ResultError: it is no result, or one of another version.
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
    """Return figures for people and scripts; reading ignores them."""
    return {
        "offered_per_s": round(result.offered_per_s, 3),
        "goodput_per_s": round(result.goodput_per_s, 3),
        "answered": result.counts.answered,
        "unaccounted": result.counts.unaccounted,
    }
