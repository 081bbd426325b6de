"""What became of every request, from what clients, witness and service saw. Pure."""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.chaos.load import Record
from bench.chaos.witness import Ledger
from imageserve_loadtest.result import Outcome

RESET = "reset"
LATE_S = 1.0
"""An answer is late that takes longer than this."""


@dataclass(frozen=True, slots=True)
class Evidence:
    """Everything that was seen of one scenario."""

    records: Sequence[Record]
    """Every request as its client saw it."""
    ledger: Ledger
    """Every job as Redis announced it."""
    counters: Mapping[str, int]
    """What the service itself counted, in Redis."""
    left: int
    """Jobs that were still queued or leased at the end."""
    faults: Sequence[tuple[float, float]]
    """From when something was broken until it had caught up, in seconds since the epoch."""
    cpu_share: float
    """Share of the whole machine that service and load tool used while the load ran."""
    runs: int = 0
    """Pictures that the workers' logs say were run."""


@dataclass(frozen=True, slots=True)
class Account:
    """What became of the requests of one scenario."""

    sent: int
    accepted: int
    answered: int
    """Requests that got what their picture must get: its label, or a poison picture its 422."""
    lost: int
    duplicated: int
    wrong: int
    refused: int
    """503 with Retry-After."""
    refusals: Mapping[str, int]
    """All refusals by their code."""
    bare_refusals: int
    """503 without."""
    resets: int
    others: Mapping[str, int]
    """Any other end, such as ``504 timed_out``."""
    forgotten: int
    """Jobs that Redis lost, with its last second or as its clock jumped; they were queued again."""
    run_again: int
    """Jobs whose result Redis lost in this way; they ran twice."""
    p99_in_ms: float | None
    p99_out_ms: float | None
    """Of answered requests: those on their way while something was broken, and the rest."""
    late_ms: float | None
    """p99 of lateness: how far the latencies can be trusted."""
    cpu_share: float
    late: int
    """Answers that took longer than `LATE_S`."""
    outage_s: float
    """The longest time without an answer while something was broken."""
    runs_too_many: int
    """Pictures that were run beyond one for each answer."""

    @property
    def without_an_end(self) -> int:
        """Requests that were neither answered nor refused with a time to come back."""
        return self.resets + self.wrong + self.bare_refusals + sum(self.others.values())


def account(evidence: Evidence) -> Account:
    """Add everything up."""
    records, ledger = evidence.records, evidence.ledger
    good = [record for record in records if record.outcome is Outcome.GOOD]
    ends = Counter(map(_end, records))
    balance = unsettled_by_counters(evidence.counters) - evidence.left
    return Account(
        sent=len(records),
        accepted=len(ledger.accepted),
        answered=ends.pop("answered", 0),
        # Two independent counts; the worse one counts.
        # The service counts a job that a jump of the clock ended only if a worker still meets it.
        lost=max(len(ledger.lost), balance - len(ledger.expired)),
        duplicated=max(len(ledger.doubled), -balance) + ends.pop("duplicated", 0),
        wrong=ends.pop("wrong", 0),
        refused=ends.pop("refused", 0),
        refusals=Counter(r.code for r in records if r.outcome is Outcome.REFUSED),
        bare_refusals=ends.pop("bare refusal", 0),
        resets=ends.pop(RESET, 0),
        others=dict(ends),
        forgotten=len(ledger.forgotten | ledger.expired),
        run_again=len(ledger.run_again),
        p99_in_ms=_p99_ms(r for r in records if _met(r, evidence.faults)),
        p99_out_ms=_p99_ms(r for r in records if not _met(r, evidence.faults)),
        late_ms=percentile_ms([r.sent - r.intended for r in records], 0.99),
        cpu_share=evidence.cpu_share,
        late=sum(record.latency_s > LATE_S for record in good),
        outage_s=max((longest_silence_s(good, *fault) for fault in evidence.faults), default=0.0),
        runs_too_many=evidence.runs - len(good),
    )


def longest_silence_s(answers: Iterable[Record], begin: float, end: float) -> float:
    """Return the longest time without an answer between two moments."""
    moments = sorted(r.done for r in answers if begin < r.done < end)
    return max(b - a for a, b in pairwise([begin, *moments, end]))


def unsettled_by_counters(counters: Mapping[str, int]) -> int:
    """Return how many jobs were accepted and not ended, as the service's own counters say."""
    count = Counter(counters)
    # A job that fails alone is counted as failed and as dead; one whose workers died only as dead.
    given_up = max(0, count["dead"] - count["failed"])
    return count["accepted"] - count["completed"] - count["failed"] - count["expired"] - given_up


def _end(record: Record) -> str:
    if record.outcome is Outcome.GOOD:
        return "answered"
    if record.outcome is Outcome.REFUSED:
        return "refused" if record.has_retry_after else "bare refusal"
    if record.outcome in (Outcome.WRONG, Outcome.MISSING):
        return "wrong"
    if record.outcome is Outcome.DUPLICATED:
        return "duplicated"
    return record.error or f"{record.status} {record.code}"


def _met(record: Record, faults: Iterable[tuple[float, float]]) -> bool:
    """Whether anything was broken while this request was on its way."""
    return any(begin <= record.done and record.intended <= end for begin, end in faults)


def _p99_ms(records: Iterable[Record]) -> float | None:
    return percentile_ms(
        [record.latency_s for record in records if record.outcome is Outcome.GOOD], 0.99
    )


def percentile_ms(latencies_s: Iterable[float], share: float) -> float | None:
    """Return the milliseconds that this share did not exceed; None where there are none."""
    ordered = sorted(latencies_s)
    if not ordered:
        return None
    return 1000 * ordered[max(0, math.ceil(share * len(ordered)) - 1)]


def goodput_per_s(records: Iterable[Record], begin: float, end: float) -> float:
    """Return the right answers a second that came between two moments."""
    good = sum(r.outcome is Outcome.GOOD and begin <= r.done < end for r in records)
    return good / (end - begin)
