"""What log lines say of the jobs that they are about."""

from collections.abc import Iterable
from typing import Any

from imageserve.queue.wire import Job, UnsupportedJob
from imageserve.trace_context import log_ids


def fields_of(jobs: Iterable[Job | UnsupportedJob]) -> dict[str, Any]:
    """Return the ids of jobs, of their requests and, where one has any, of their traces.

    The lists have the same order, with "" for what is not known.
    """
    jobs = list(jobs)
    fields = {"ids": [job.id for job in jobs], "request_ids": [job.request_id for job in jobs]}
    traces = [job.context.trace_id if job.context else "" for job in jobs]
    return {**fields, "trace_ids": traces} if any(traces) else fields


def fields_of_one(job: Job) -> dict[str, Any]:
    """Return the same of a single job."""
    return {"job": job.id, **log_ids(job.request_id, job.context)}
