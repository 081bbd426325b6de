"""Merges the results of several pods into one. Pure."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from datetime import datetime
from typing import Any, TypeVar

from imageserve.errors import ImageserveError
from imageserve_loadtest import verdict
from imageserve_loadtest.histogram import COARSE, FINE, Histogram
from imageserve_loadtest.result import (
    KIND,
    Counts,
    Latencies,
    Refusals,
    Result,
    Timeline,
    TimelinePoint,
    Tool,
    Verdict,
)
from imageserve_loadtest.verdict import Objective

APART_S = 2.0
"""If pods began further apart than this, a note says so."""

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
    began = [datetime.fromisoformat(result.started_at).timestamp() for result in results]
    offsets_s = [each - min(began) for each in began]
    total = replace(
        first,
        load=replace(first.load, shard=0),
        started_at=results[began.index(min(began))].started_at,
        seconds=max(o + result.seconds for o, result in zip(offsets_s, results, strict=True)),
        counts=_counts([result.counts for result in results]),
        latency=_latencies([result.latency for result in results]),
        stages=_by_key([result.stages for result in results], _histogram),
        lateness=_histogram([result.lateness for result in results]),
        timeline=_timeline([result.timeline for result in results], offsets_s),
        # Relative to each pod's own start: a pod that began later is a note, not slow sending.
        sending_seconds=max(result.sending_seconds for result in results),
        examples=_by_key([result.examples for result in results], lambda examples: examples[0]),
        queue=tuple(sample for result in results for sample in result.queue),
        notes=_notes(max(offsets_s)),
        pods=sum(result.pods for result in results),
        interrupted=any(result.interrupted for result in results),
        tool=_tool(results),
    )
    return _require_all_pods(verdict.judged(total, Objective.parse(first.objective)))


def _check(results: Sequence[Result], *, any_target: bool) -> None:
    first = results[0]
    for result in results[1:]:
        if not any_target and result.target != first.target:
            raise MergeError(
                f"results of different targets: {first.target.url} {first.target.model} and "
                f"{result.target.url} {result.target.model}; --any-target adds them up anyway"
            )
        if replace(result.load, shard=0) != replace(first.load, shard=0):
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


def _require_all_pods(result: Result) -> Result:
    """Fail the verdict if a pod's result is missing: it may be the one that went wrong."""
    if result.pods >= result.load.shards:
        return result
    reason = f"{result.pods} of {result.load.shards} pods have a result"
    return replace(result, verdict=Verdict(holds=False, reasons=(reason, *result.verdict.reasons)))


def _notes(apart_s: float) -> tuple[str, ...]:
    """Return the notes on the sum; the pods' own notes are about smaller numbers."""
    if apart_s <= APART_S:
        return ()
    return (f"the pods began up to {apart_s:.1f} s apart: the load was incomplete at first",)


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
