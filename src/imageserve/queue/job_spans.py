"""Spans of jobs: the parts of the span of the request that sent them."""

import time
from collections.abc import Iterable, Mapping, Sequence

from imageserve.queue.wire import WOULD_TIME_OUT, Job, UnsupportedJob
from imageserve.trace_context import Span, TraceContext, Value
from imageserve.tracing import Tracer


def record_part(  # noqa: PLR0913 - the facts of a span
    tracer: Tracer,
    name: str,
    job: Job | UnsupportedJob,
    times: tuple[float, float],
    *,
    attributes: Mapping[str, Value],
    error: str = "",
    context: TraceContext | None = None,
    links: Sequence[TraceContext] = (),
) -> None:
    """Record a part of a job's way, if the job is sampled.

    ``times``: its begin and end, seconds since 1970. ``context``: its own, where links need that.
    """
    own = context or (tracer.begin(job.context) if tracer.records(job.context) else None)
    if own is not None:
        facts = {"imageserve.job_id": job.id, **attributes}
        tracer.record(Span(name, own, job.context, *times, facts, links, "consumer", error))


def record_wait(
    tracer: Tracer,
    queue: str,
    job: Job | UnsupportedJob,
    times: tuple[float, float],
    attributes: Mapping[str, Value],
    error: str = "",
) -> None:
    """Record a job's time in its queue; ``times``: as in `record_part`."""
    facts = {
        "messaging.system": "redis",
        "messaging.destination.name": queue,
        "messaging.message.id": job.id,
        "messaging.operation.name": "claim",
        "messaging.operation.type": "receive",
        **attributes,
    }
    record_part(tracer, "queue", job, times, attributes=facts, error=error)


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
        record_wait(tracer, queue, job, times, attributes, code)
