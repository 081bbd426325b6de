"""Merges the results of several pods into one. Pure."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, TypeVar

from imageserve.errors import ImageserveError
from imageserve_loadtest import verdict
from imageserve_loadtest.histogram import COARSE, FINE, Histogram
from imageserve_loadtest.result import (
    GIVEN,
    KIND,
    MODEL,
    Counts,
    Latencies,
    Load,
    PhaseLoad,
    QueueSnapshot,
    Refusals,
    Result,
    Timeline,
    TimelinePoint,
    Tool,
    Verdict,
)
from imageserve_loadtest.verdict import Objective

CLOCKS_S = 1.0
"""The clocks of two nodes may differ by this much: a smaller distance of two starts is none."""
APART_S = 2.0
"""If pods began further apart than this, a note says so."""
TOGETHER_SHARE = 0.5
"""All pods must have sent at once during this share of the heaviest phase, or the verdict fails."""

T = TypeVar("T")


class MergeError(ImageserveError):
    """Results cannot be merged. The message says why."""


def results_in(lines: Iterable[str]) -> list[Result]:
    """Find the results among the lines of logs; other lines are ignored.

    Raises:
        ResultError: a line looks like a result, but cannot be read.
    """
    found = []
    for line in lines:
        # kubectl logs --prefix puts the pod's name before each line.
        start = line.find('{"kind":')
        if start >= 0 and f'"{KIND}"' in line[start : start + 60]:
            found.append(Result.from_json(line[start:]))
    return found


def merged(results: Sequence[Result], *, any_target: bool = False) -> Result:
    """Add up the results of the pods of one load test, and judge the sum.

    Raises:
        MergeError: there are none, their targets or loads differ, or one appears twice.
    """
    if not results:
        raise MergeError("no result was found in the input")
    results = sorted(results, key=lambda result: result.load.shard)
    _check(results, any_target=any_target)
    first = results[0]
    offsets_s = _offsets_s(results)
    total = replace(
        first,
        load=_load(results),
        started_at=results[offsets_s.index(0.0)].started_at,
        apart_s=max(0.0, max(offsets_s) - CLOCKS_S),
        seconds=max(o + result.seconds for o, result in zip(offsets_s, results, strict=True)),
        counts=_counts([result.counts for result in results]),
        latency=_latencies([result.latency for result in results]),
        stages=_by_key([result.stages for result in results], _histogram),
        lateness=_histogram([result.lateness for result in results]),
        timeline=_timeline([result.timeline for result in results], offsets_s),
        # Relative to each pod's own start: a pod that began later is a note, not slow sending.
        sending_seconds=max(result.sending_seconds for result in results),
        examples=_by_key([result.examples for result in results], lambda examples: examples[0]),
        queue=_queue(results, offsets_s),
        notes=_notes(max(offsets_s)),
        pods=sum(result.pods for result in results),
        interrupted=any(result.interrupted for result in results),
        tool=_tool(results),
    )
    judged = verdict.judged(total, Objective.parse(first.objective))
    reasons = (*_missing(total), *_undated(results), *_never_together(total))
    if not reasons:
        return judged
    return replace(judged, verdict=Verdict(False, (*reasons, *judged.verdict.reasons)))


def _check(results: Sequence[Result], *, any_target: bool) -> None:
    first = results[0]
    for result in results[1:]:
        if not any_target and result.target != first.target:
            raise MergeError(
                f"results of different targets: {first.target.url} {first.target.model} and "
                f"{result.target.url} {result.target.model}; --any-target adds them up anyway"
            )
        if _comparable(result.load) != _comparable(first.load):
            raise MergeError(
                f"results of different loads: {first.load.scenario} and {result.load.scenario} "
                "differ in phases, seed, pictures or number of pods"
            )
        if result.objective != first.objective:
            raise MergeError("results of different objectives")
    shards = [result.load.shard for result in results]
    for shard in shards:
        if shards.count(shard) > 1:
            raise MergeError(
                f"pod {shard} of {first.load.shards} appears {shards.count(shard)} times: are "
                "these the logs of two tests, or of one test twice?"
            )


def _comparable(load: Load) -> Load:
    """Return what must be equal in all pods.

    Each pod reads the capacity on its own, a moment apart, so shares of it are not the same rates.
    """
    if load.capacity_of in ("", GIVEN):
        return replace(load, shard=0)
    phases = (replace(each, rate_per_s=None, to_rate_per_s=None) for each in load.phases)
    return replace(load, shard=0, phases=tuple(phases), capacity_per_s=None, capacity_of=MODEL)


def _load(results: Sequence[Result]) -> Load:
    """Return the load of all pods. Each has sent its share of the rates that it wrote down."""
    loads = [result.load for result in results]
    first = min(loads, key=lambda load: load.capacity_per_s or 0.0)
    phases = (
        replace(
            same[0],
            rate_per_s=_mean([each.rate_per_s for each in same]),
            to_rate_per_s=_mean([each.to_rate_per_s for each in same]),
        )
        for same in zip(*(load.phases for load in loads), strict=True)
    )
    capacity_per_s = _mean([load.capacity_per_s for load in loads])
    return replace(first, shard=0, phases=tuple(phases), capacity_per_s=capacity_per_s)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    if len(set(known)) <= 1:
        return known[0] if known else None
    return sum(known) / len(known)


# -- whether the pods sent at the same time -------------------------------------------------------


def _offsets_s(results: Sequence[Result]) -> list[float]:
    """Return how long after the first pod each one began; 0 where it does not say when."""
    began = [result.began_s for result in results]
    first = min((each for each in began if each is not None), default=0.0)
    return [0.0 if each is None else each - first for each in began]


def _missing(total: Result) -> Iterator[str]:
    """Fail where a pod's result is missing: it may be the one that went wrong."""
    if total.pods < total.load.shards:
        yield f"{total.pods} of {total.load.shards} pods have a result"


def _undated(results: Sequence[Result]) -> Iterator[str]:
    for result in results:
        if len(results) > 1 and result.began_s is None:
            yield (
                f"pod {result.load.shard} does not say when it began "
                f"(started_at is {result.started_at!r}), so nobody knows whether the pods sent "
                "at the same time: run them again"
            )


def _never_together(total: Result) -> Iterator[str]:
    """Fail where the pods ran one after another: their rates do not add up."""
    heaviest = max(total.load.phases, key=_weight, default=PhaseLoad("", 0.0))
    together_s = max(0.0, heaviest.seconds - total.apart_s)
    if together_s < TOGETHER_SHARE * heaviest.seconds:
        yield (
            "the pods did not send at the same time, so the load that was asked for was never "
            f"there: the last one began {total.apart_s + CLOCKS_S:.1f} s after the first, and of "
            f"the {heaviest.seconds:g} s of the heaviest phase all were in it for at most "
            f"{together_s:.1f} s; give the cluster room for all pods at once (was one Pending?), "
            "and its nodes the same time of day"
        )


def _weight(phase: PhaseLoad) -> float:
    """Return how heavy a phase is, for a comparison with others of its load."""
    rate_per_s = phase.rate_per_s or 0.0
    to_rate_per_s = rate_per_s if phase.to_rate_per_s is None else phase.to_rate_per_s
    return (phase.clients or 0) + (rate_per_s + to_rate_per_s) / 2


def _notes(apart_s: float) -> tuple[str, ...]:
    """Return the notes on the sum; the pods' own notes are about smaller numbers."""
    if apart_s <= APART_S:
        return ()
    return (
        f"the pods began up to {apart_s:.1f} s apart: the load was incomplete at first "
        "and at the end",
    )


def _counts(parts: Sequence[Counts]) -> Counts:
    names = [each.name for each in fields(Counts)]
    values: dict[str, Any] = {name: [getattr(part, name) for part in parts] for name in names}
    adders: dict[str, Callable[[Any], Any]] = {
        "refusals": lambda each: _by_key(each, _refusals),
        "failures": lambda each: _by_key(each, sum),
        "errors": lambda each: _by_key(each, sum),
        "statuses": lambda each: _by_key(each, sum),
    }
    return Counts(**{name: adders.get(name, sum)(value) for name, value in values.items()})


def _refusals(parts: Sequence[Refusals]) -> Refusals:
    return Refusals(
        sum(part.with_retry_after for part in parts),
        sum(part.without_retry_after for part in parts),
    )


def _latencies(parts: Sequence[Latencies]) -> Latencies:
    names = [each.name for each in fields(Latencies)]
    return Latencies(**{name: _histogram([getattr(p, name) for p in parts]) for name in names})


def _histogram(parts: Sequence[Histogram], digits: int = FINE) -> Histogram:
    total = Histogram(digits)
    for part in parts:
        total.add(part)
    return total


def _by_key(parts: Sequence[Mapping[str, T]], add: Callable[[list[T]], T]) -> dict[str, T]:
    keys = dict.fromkeys(key for part in parts for key in part)
    return {key: add([part[key] for part in parts if key in part]) for key in keys}


def _queue(results: Sequence[Result], offsets_s: Sequence[float]) -> tuple[QueueSnapshot, ...]:
    return tuple(
        replace(sample, at_s=sample.at_s + offset_s)
        for offset_s, result in zip(offsets_s, results, strict=True)
        for sample in result.queue
    )


def _timeline(parts: Sequence[Timeline], offsets_s: Sequence[float]) -> Timeline:
    """Add up what happened at the same time of day; pods began at different times."""
    interval_s = parts[0].interval_s
    together: dict[int, list[TimelinePoint]] = {}
    for part, offset_s in zip(parts, offsets_s, strict=True):
        shift = round(offset_s / interval_s)
        for i, point in enumerate(part.points):
            together.setdefault(i + shift, []).append(point)
    last = max(together, default=-1)
    points = (_point(i * interval_s, together.get(i, [])) for i in range(last + 1))
    return Timeline(interval_s, tuple(points))


def _point(at_s: float, parts: Sequence[TimelinePoint]) -> TimelinePoint:
    return TimelinePoint(
        at_s=at_s,
        planned=sum(part.planned for part in parts),
        sent=sum(part.sent for part in parts),
        outcomes=_by_key([part.outcomes for part in parts], sum),
        statuses=_by_key([part.statuses for part in parts], sum),
        latency=_histogram([part.latency for part in parts], COARSE),
    )


def _tool(results: Sequence[Result]) -> Tool:
    tools = [result.tool for result in results]
    hosts = dict.fromkeys(tool.host for tool in tools)
    return replace(tools[0], host=", ".join(hosts), cpu_s=sum(tool.cpu_s for tool in tools))
