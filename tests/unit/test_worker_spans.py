"""The spans of a batch: those of its sampled jobs, whatever became of them, and its own."""

import time
from dataclasses import replace
from types import SimpleNamespace
from typing import cast

import numpy as np
import pytest
from tests.spans import CALLER, UNSAMPLED, KeptSpans

from imageserve.preparation import Preparation
from imageserve.queue.consumer import Batch, ClaimedJob, Consumer
from imageserve.queue.job_spans import record_dropped
from imageserve.queue.wire import Job, UnsupportedJob
from imageserve.trace_context import Span, TraceContext
from imageserve.tracing import NO_TRACER
from imageserve.worker.batch import Outcome, sort_batch
from imageserve.worker.spans import Ended, record_batch

NOW_MS = 1_760_000_000_000
CLAIMED_AT = 100.0


@pytest.fixture
def kept() -> KeptSpans:
    return KeptSpans()


def job(name: str, context: TraceContext | None = CALLER, model: str = "m") -> Job:
    return Job(name, model, (2, 2, 3), 1, "r", "t", 1000, ts=NOW_MS - 2000, context=context)


def ran(began: float, pictures: int = 1, error: str | None = None) -> Outcome:
    return Outcome((), error, 500.0, pictures, "1", began=began)


def ended(
    *jobs: Job | UnsupportedJob,
    outcomes: list[Outcome],
    kept: list[bool] | None = None,
    lost: int = 0,
) -> Ended:
    """A batch that was claimed at 100, started on at 101 and stored at 105."""
    consumer = cast(Consumer, SimpleNamespace(store=SimpleNamespace(name="q")))
    claimed = tuple(ClaimedJob(each, memoryview(np.zeros(12, np.uint8).data)) for each in jobs)
    batch = Batch(consumer, "token", NOW_MS, claimed, lost, CLAIMED_AT)
    work = sort_batch(batch, "m", Preparation((2, 2)))
    finished = work.finished(outcomes, 101.0, "m")
    return Ended(work, outcomes, finished, kept, 101.0, 105.0)


def seconds(span: Span) -> tuple[float, float]:
    """Return the begin and the end of a span on the monotonic clock."""
    offset = time.time() - time.monotonic()
    return round(span.start_s - offset, 1), round(span.end_s - offset, 1)


def test_a_job_waits_runs_and_is_replied_to(kept: KeptSpans) -> None:
    record_batch(kept.tracer(), ended(job("a"), outcomes=[ran(101.0)], kept=[True], lost=1))

    assert [seconds(kept.one(name)) for name in ("queue", "model", "reply", "batch")] == [
        (98.0, 101.0),
        (101.0, 101.5),
        (101.5, 105.0),
        (101.0, 101.5),
    ]
    run, batch = kept.one("model"), kept.one("batch")
    assert run.parent == CALLER
    assert run.attributes == {
        "imageserve.job_id": "a",
        "imageserve.model": "m",
        "imageserve.model_version": "1",
        "imageserve.batch_size": 1,
        "attempt": 2,
    }
    assert (run.links, list(batch.links)) == ((batch.context,), [run.context])
    assert batch.parent is None
    assert not any(span.error for span in kept.spans)


def test_each_job_of_a_halved_batch_has_the_times_of_its_own_run(kept: KeptSpans) -> None:
    outcomes = [ran(102.0), ran(103.0, error="the model failed: RuntimeError")]
    record_batch(kept.tracer(), ended(job("a"), job("b"), outcomes=outcomes, kept=[True, True]))

    assert [seconds(span) for span in kept.named("queue")] == [(98.0, 101.0)] * 2
    assert [seconds(span) for span in kept.named("model")] == [(102.0, 102.5), (103.0, 103.5)]
    assert [span.error for span in kept.named("model")] == ["", "model_failed"]
    assert [span.error for span in kept.named("reply")] == ["", "model_failed"]
    assert seconds(kept.one("batch")) == (101.0, 103.5)
    assert list(kept.one("batch").links) == [span.context for span in kept.named("model")]


def test_of_a_batch_only_the_sampled_jobs_have_spans(kept: KeptSpans) -> None:
    batch = ended(
        job("a", UNSAMPLED), job("b"), job("c", None), outcomes=[ran(101.0, 3)] * 3, kept=[True] * 3
    )
    record_batch(kept.tracer(), batch)

    assert {span.attributes.get("imageserve.job_id") for span in kept.spans} == {"b", None}
    assert len(kept.one("batch").links) == 1
    assert kept.one("batch").attributes["imageserve.batch_size"] == 3


@pytest.mark.parametrize("context", [None, UNSAMPLED])
def test_without_a_sampled_job_there_is_no_span(
    kept: KeptSpans, context: TraceContext | None
) -> None:
    record_batch(kept.tracer(), ended(job("a", context), outcomes=[ran(101.0)], kept=[True]))
    record_batch(NO_TRACER, ended(job("a"), outcomes=[ran(101.0)], kept=[True]))

    assert kept.spans == []


@pytest.mark.parametrize(("stored", "error"), [([False], "lease_lost"), (None, "not_stored")])
def test_a_result_that_was_not_taken_is_an_error_of_the_reply(
    kept: KeptSpans, stored: list[bool] | None, error: str
) -> None:
    record_batch(kept.tracer(), ended(job("a"), outcomes=[ran(101.0)], kept=stored))

    assert kept.one("reply").error == error
    assert kept.one("model").error == ""


def test_a_job_that_is_answered_without_the_model_has_no_run(kept: KeptSpans) -> None:
    unknown = UnsupportedJob("u", "r", "m", 1000, "unknown", NOW_MS - 2000, "t", CALLER)
    other = job("o", model="other")
    record_batch(kept.tracer(), ended(unknown, other, outcomes=[], kept=[True, True]))

    assert [span.error for span in kept.named("reply")] == ["unsupported_job", "model_changed"]
    assert [seconds(span) for span in kept.named("queue")] == [(98.0, 101.0)] * 2
    assert not kept.named("model")
    assert not kept.named("batch")


def test_a_job_that_a_claim_drops_has_waited_in_vain(kept: KeptSpans) -> None:
    gone = replace(job("gone"), deadline=NOW_MS)
    late = replace(job("late"), deadline=NOW_MS + 1)

    dropped = [gone, late, job("quiet", UNSAMPLED)]
    record_dropped(kept.tracer(), "q", dropped, NOW_MS, {"imageserve.model": "m"})
    record_dropped(kept.tracer(), "q", [job("killer")], NOW_MS, {"attempt": 2}, "model_failed")

    assert [(span.name, span.error) for span in kept.spans] == [
        ("queue", "timed_out"),
        ("queue", "would_time_out"),
        ("queue", "model_failed"),
    ]
    assert all(round(span.end_s - span.start_s, 3) == 2 for span in kept.spans)
    first, _, last = kept.spans
    assert (first.attributes["imageserve.model"], last.attributes["attempt"]) == ("m", 2)
    assert {n: v for n, v in first.attributes.items() if n.startswith("messaging.")} == {
        "messaging.system": "redis",
        "messaging.destination.name": "q",
        "messaging.message.id": "gone",
        "messaging.operation.name": "claim",
        "messaging.operation.type": "receive",
    }


@pytest.mark.parametrize("ts", [0, NOW_MS + 5], ids=["it does not say", "Redis's clock went back"])
def test_a_wait_is_never_negative_nor_half_a_century(kept: KeptSpans, ts: int) -> None:
    unknown = UnsupportedJob("u", "r", "m", 1000, "unknown", ts, "t", CALLER)
    record_batch(kept.tracer(), ended(unknown, outcomes=[], kept=[True]))
    record_dropped(kept.tracer(), "q", [unknown], NOW_MS, {})

    claimed, dropped = kept.named("queue")
    assert seconds(claimed) == (100.0, 101.0)
    assert dropped.start_s == dropped.end_s
