"""The spans of a batch: of each sampled job its wait, its run and its reply, and the batch itself.

Recorded once the results are stored, outside the model's way. The span of a batch is the root of a
trace of its own, because its jobs belong to several: it and the runs of its jobs are linked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from imageserve.queue.job_spans import JobSpans, waited_s
from imageserve.queue.wire import Finished, Job, UnsupportedJob
from imageserve.trace_context import Span, TraceContext, Value
from imageserve.tracing import Tracer, wall_s
from imageserve.worker.batch import Outcome, Work

LEASE_LOST, NOT_STORED = "lease_lost", "not_stored"
"""Errors of a reply: another worker has taken the job meanwhile; Redis did not take it in time."""


@dataclass(frozen=True, slots=True)
class Ended:
    """A batch that has ended. Times are those of `time.monotonic`."""

    work: Work
    outcomes: Sequence[Outcome]
    finished: Sequence[Finished]
    """As `Work.finished` gives them."""
    kept: Sequence[bool] | None
    """As `Batch.finish` returns it."""
    started_at: float
    stored_at: float


def record_batch(tracer: Tracer, ended: Ended) -> None:
    """Record the spans of a batch. Nothing is computed where no job of it is sampled."""
    batch = ended.work.batch
    if any(tracer.records(claimed.job.context) for claimed in batch.jobs):
        _Recorder(tracer, ended).record()


class _Recorder:
    def __init__(self, tracer: Tracer, ended: Ended) -> None:
        self._tracer = tracer
        self._ended = ended
        self._batch = ended.work.batch
        self._wall_s = wall_s(0.0)
        """Added to a time of the monotonic clock, it gives seconds since 1970."""
        self._root = tracer.root()
        self._runs: list[TraceContext] = []
        """Of the sampled jobs."""

    def record(self) -> None:
        jobs = {claimed.job.id: claimed.job for claimed in self._batch.jobs}
        for place, finished in enumerate(self._ended.finished):
            job = jobs[finished.id]
            if self._tracer.records(job.context):
                self._record_job(place, job, finished)
        if self._root is not None and self._runs:
            self._record_root(self._root)

    def _record_job(self, place: int, job: Job | UnsupportedJob, finished: Finished) -> None:
        ended, spans = self._ended, JobSpans(self._tracer, job, self._facts(finished))
        ran = ended.outcomes[place] if place < len(ended.outcomes) else None
        queued = self._batch.claimed_at - waited_s(job, self._batch.now)
        times = self._times(queued, ended.started_at)
        spans.wait(self._batch.consumer.store.name, times)
        if ran is not None:
            self._record_run(spans, ran)
        times = self._times(_end(ran) if ran else ended.started_at, ended.stored_at)
        spans.part("reply", times, self._reply_error(place, finished))

    def _record_run(self, spans: JobSpans, ran: Outcome) -> None:
        run = spans.part(
            "model",
            self._times(ran.began, _end(ran)),
            "" if ran.error is None else "model_failed",
            {"imageserve.batch_size": ran.batch},
            () if self._root is None else (self._root,),
        )
        if run is not None:
            self._runs.append(run)

    def _record_root(self, root: TraceContext) -> None:
        ended = self._ended
        end = max(map(_end, ended.outcomes))
        facts = self._facts(ended.finished[0])
        facts["imageserve.batch_size"] = len(ended.outcomes)
        times = self._times(ended.started_at, end)
        self._tracer.record(Span("batch", root, None, *times, facts, self._runs))

    def _reply_error(self, place: int, finished: Finished) -> str:
        kept = self._ended.kept
        if kept is None:
            return NOT_STORED
        if not kept[place]:
            return LEASE_LOST
        return finished.result.error.code if finished.result.error else ""

    def _facts(self, finished: Finished) -> dict[str, Value]:
        return {
            "imageserve.model": finished.result.model,
            "imageserve.model_version": finished.result.version,
            "attempt": self._batch.lost + 1,
        }

    def _times(self, start: float, end: float) -> tuple[float, float]:
        return self._wall_s + start, self._wall_s + end


def _end(ran: Outcome) -> float:
    return ran.began + ran.model_ms / 1000
