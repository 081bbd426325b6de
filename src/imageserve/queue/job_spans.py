"""Spans of jobs: the parts of the span of the request that sent them."""

import time
from collections.abc import Iterable, Mapping, Sequence
from types import MappingProxyType

from imageserve.queue.wire import WOULD_TIME_OUT, Job, UnsupportedJob
from imageserve.trace_context import Span, TraceContext, Value
from imageserve.tracing import Tracer

NO_MORE: Mapping[str, Value] = MappingProxyType({})


class JobSpans:
    """Records the parts of a job's way, if the job is sampled."""

    def __init__(
        self, tracer: Tracer, job: Job | UnsupportedJob, attributes: Mapping[str, Value]
    ) -> None:
        """``attributes``: of each part."""
        self._tracer = tracer
        self._job = job
        self._attributes = {"imageserve.job_id": job.id, **attributes}

    def part(
        self,
        name: str,
        times: tuple[float, float],
        error: str = "",
        more: Mapping[str, Value] = NO_MORE,
        links: Sequence[TraceContext] = (),
    ) -> TraceContext | None:
        """Record a part; return its context, None where the job is not sampled.

        ``times``: its begin and end, seconds since 1970. ``more``: attributes of this part alone.
        """
        parent = self._job.context
        own = self._tracer.begin(parent) if self._tracer.records(parent) else None
        if own is not None:
            facts = {**self._attributes, **more}
            self._tracer.record(Span(name, own, parent, *times, facts, links, "consumer", error))
        return own

    def wait(self, queue: str, times: tuple[float, float], error: str = "") -> None:
        """Record its time in a queue; ``times``: as those of a part."""
        more: Mapping[str, Value] = {
            "messaging.system": "redis",
            "messaging.destination.name": queue,
            "messaging.message.id": self._job.id,
            "messaging.operation.name": "claim",
            "messaging.operation.type": "receive",
        }
        self.part("queue", times, error, more)


def waited_s(job: Job | UnsupportedJob, now: int) -> float:
    """Return how long a job waits, 0 where it does not say since when; ``now``: Redis's, in ms."""
    return max(0, now - job.ts) / 1000 if job.ts > 0 else 0.0


def record_dropped(
    tracer: Tracer,
    queue: str,
    jobs: Iterable[Job | UnsupportedJob],
    now: int,
    attributes: Mapping[str, Value],
    error: str = "",
) -> None:
    """Record the wait of jobs that a claim has answered without running them.

    ``now``: when that was, Redis time in ms. Without an ``error`` they were late.
    """
    end_s = time.time()
    for job in jobs:
        is_over = isinstance(job, Job) and job.deadline <= now
        code = error or ("timed_out" if is_over else WOULD_TIME_OUT)
        times = end_s - waited_s(job, now), end_s
        JobSpans(tracer, job, attributes).wait(queue, times, code)
