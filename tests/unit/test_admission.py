"""What a web process says of a job before Redis does: never more than Redis would."""

from dataclasses import replace

import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from tests.memory_queue import MemoryQueue

from imageserve.queue.admission import EnqueueCode, Limits, shortest_timeout_ms, verdict_of
from imageserve.queue.consumer import Lease
from imageserve.queue.order import Order, Point
from imageserve.queue.snapshot import Snapshot, Speed, WorkerInfo
from imageserve.queue.wire import BACKGROUND, Job

NOW = 1_760_000_000_000
JOB = Job("new", "m", (1, 1, 3), 1, "reply", "trace", 60_000)
SPEED = Speed(per_s=10.0, batch_ms=400.0, batch=4, least_ms=150.0)
"""A job more takes 100 ms; half a batch 200."""

priorities = st.sampled_from(["", "", BACKGROUND])
waiting_jobs = st.lists(st.tuples(st.integers(1, 20_000), priorities), max_size=60)


def queue_of(jobs: list[tuple[int, str]], leased: int = 0) -> MemoryQueue:
    """Return a queue with these jobs: the timeout of each in ms, and its priority."""
    queue = MemoryQueue("q", lambda: NOW)
    for n, (timeout_ms, priority) in enumerate([*leased * [(1, "")], *jobs]):
        queue.enqueue(replace(JOB, id=f"{n}", priority=priority), b"rgb", timeout_ms, Limits())
        if n < leased:
            queue.claim(1, Lease(), redelivered=False)
    return queue


def told(queue: MemoryQueue, timeout_ms: int, priority: str, speed: Speed = SPEED) -> EnqueueCode:
    """Return what an enqueue is told."""
    job = replace(JOB, priority=priority)
    return queue.enqueue(job, b"rgb", timeout_ms, Limits(speed=speed)).code


@given(waiting_jobs, st.integers(0, 8), st.integers(1, 10_000), priorities)
def test_what_is_refused_from_a_snapshot_would_have_been_refused(
    jobs: list[tuple[int, str]], leased: int, timeout_ms: int, priority: str
) -> None:
    queue = queue_of(jobs, leased)
    verdict = verdict_of(queue.snapshot(), 0, 3, timeout_ms, priority, Limits(speed=SPEED))

    code = told(queue, timeout_ms, priority)

    assert verdict is None or verdict.code is code
    if len(jobs) <= 16 and code is EnqueueCode.ACCEPTED:
        assert verdict is None


@given(waiting_jobs, st.integers(0, 8), priorities)
def test_the_shortest_timeout_is_accepted(
    jobs: list[tuple[int, str]], leased: int, priority: str
) -> None:
    # Of more than 16 jobs that must not be delayed, ENQUEUE and the sketch see different ones.
    assume(len(jobs) <= 16 or priority == BACKGROUND)
    queue = queue_of(jobs, leased)
    shortest_ms = shortest_timeout_ms(queue.snapshot(), SPEED, priority)

    assert told(queue, shortest_ms, priority) is EnqueueCode.ACCEPTED


@given(st.integers(0, 16), st.integers(0, 8))
def test_of_equal_jobs_it_is_exact(waiting: int, leased: int) -> None:
    queue = queue_of(waiting * [(60_000, "")], leased)
    shortest_ms = shortest_timeout_ms(queue.snapshot(), SPEED, "")
    # Nobody is delayed who has a minute: the place is at the head.
    assert shortest_ms == (100 * (leased + 1) + 200 if leased else SPEED.least_ms)
    assume(leased)
    assert told(queue, shortest_ms - 1, "") is EnqueueCode.WOULD_TIME_OUT


def test_more_time_may_mean_more_jobs_ahead() -> None:
    queue = queue_of([(500 + n, "") for n in range(16)], 4)
    # 5 places end after 700 ms, behind all the jobs that are due by then; 21 after 2,300.
    assert shortest_timeout_ms(queue.snapshot(), SPEED, "") == 2_300


@pytest.mark.parametrize(("timeout_ms", "refused"), [(1_900, True), (2_500, False)])
def test_a_list_in_order_tells_who_is_ahead(timeout_ms: int, refused: bool) -> None:
    seen = queue_of([(1000 + n, "") for n in range(20)]).snapshot()
    verdict = verdict_of(seen, 0, 3, timeout_ms, "", Limits(speed=SPEED))
    assert (verdict is not None) == refused


def test_a_list_that_is_not_in_order_refuses_nothing_and_counts_all_for_the_shortest() -> None:
    points = (Point(0, "", NOW + 900), Point(10, "", NOW + 100), Point(19, "", NOW + 500))
    seen = Snapshot(NOW, 20, 0, 0, 0, 0, order=Order(20, 0, points))
    assert verdict_of(seen, 0, 3, 600, "", Limits(speed=SPEED)) is None
    assert shortest_timeout_ms(seen, SPEED, "") == 100 * 21 + 200


@pytest.mark.parametrize(("elapsed_s", "refused"), [(0.05, True), (0.15, False)])
def test_where_many_of_those_ahead_may_be_done_redis_is_asked(
    elapsed_s: float, refused: bool
) -> None:
    # A batch of 4 may have ended, and 10 a second: after 0.1 s five, a quarter of 20.
    worker = WorkerInfo("w", "m", (1, 1, 3), 4, {4: 400.0}, "ready", "host", last_seen=NOW)
    seen = replace(queue_of([(500, "")] * 20).snapshot(), workers=(worker,))
    verdict = verdict_of(seen, elapsed_s, 3, 2000, "", Limits(speed=SPEED))
    assert (verdict is not None) == refused
