"""What is counted and logged of a batch that is finished."""

import logging
from collections.abc import Sequence

from imageserve import metrics
from imageserve.queue.queue import Finished
from imageserve.worker.batch import Batch, Outcome

log = logging.getLogger(__name__)


def report(
    model: str, batch: Batch, finished: Sequence[Finished], kept: Sequence[bool], busy_ms: int
) -> None:
    """Count the jobs and write one line; ``kept`` is False where a job's lease was lost."""
    for job, mine in zip(finished, kept, strict=True):
        if mine:
            metrics.jobs_total.labels(model, job.counter).inc()
    late = list(kept).count(False)
    metrics.leases_lost_total.labels(model).inc(late)
    log.info(
        "batch",
        extra={
            "fields": {
                "model": model,
                "version": next((j.result.version for j in finished if j.result.version), ""),
                "jobs": len(finished),
                "run": len(batch.tasks),
                "solo": batch.claim.solo,
                "queue_ms": round(max((j.result.queue_ms for j in finished), default=0), 1),
                "model_ms": busy_ms,
                "failed": sum(job.counter == "failed" for job in finished),
                "late": late,
                "ids": [job.id for job in finished],
            }
        },
    )


def busy_time_ms(outcomes: Sequence[Outcome]) -> float:
    """Return the model's time for a batch: each call counted once, however it was split."""
    return sum(outcome.model_ms / outcome.batch for outcome in outcomes)
