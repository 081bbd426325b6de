"""Capacity and admission limits, computed from measured batch times."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imageserve.errors import QueueError
from imageserve.queue.snapshot import (
    LIVE_MS,
    BucketMs,
    Snapshot,
    Speed,
    WebInfo,
    WorkerInfo,
    decode_snapshot,
    per_second,
    retry_after_s,
)

FAST: BucketMs = {1: 10.0, 8: 20.0, 32: 40.0}
SLOW: BucketMs = {1: 50.0, 32: 1600.0}


@pytest.mark.parametrize(
    ("table", "images"),
    [
        pytest.param({}, 0.0, id="nothing measured"),
        pytest.param({1: 10.0}, 100.0, id="one size"),
        pytest.param(FAST, 800.0, id="large batches are faster"),
        pytest.param({1: 10.0, 32: 640.0}, 100.0, id="large batches are slower"),
        pytest.param({1: 0.0, 2: 10.0}, 200.0, id="a time of nothing is not believed"),
        pytest.param({1: 0.0}, 0.0, id="only times of nothing"),
    ],
)
def test_a_worker_is_as_fast_as_its_best_batch(table: BucketMs, images: float) -> None:
    assert per_second(table) == images


@pytest.mark.parametrize(
    ("tables", "timeout_ms", "backlog"),
    [
        pytest.param([], 30_000, 0, id="no worker: unknown"),
        pytest.param([{}], 30_000, 0, id="a worker that has measured nothing: unknown"),
        pytest.param([FAST], 1020, 800, id="one worker, one second and half a batch"),
        pytest.param([FAST, FAST], 1020, 1600, id="two workers"),
        pytest.param([FAST, {}], 1020, 800, id="one of two has measured nothing"),
        pytest.param([SLOW], 1800, 20, id="a slow worker"),
        pytest.param([FAST], 20, 1, id="no time but for half a batch"),
        pytest.param([FAST], 1, 1, id="too late already: an idle system still tries"),
        pytest.param([SLOW], 1, 1, id="too late by far"),
    ],
)
def test_the_number_of_jobs_that_may_be_ahead(
    tables: list[BucketMs], timeout_ms: int, backlog: int
) -> None:
    assert Speed.of(tables).largest_backlog(timeout_ms) == backlog
    assert Speed.of(iter(tables)).largest_backlog(timeout_ms) == backlog


tables = st.dictionaries(st.sampled_from([1, 2, 4, 8, 16, 32]), st.floats(0.1, 1e4), min_size=1)


@given(st.lists(tables, min_size=1, max_size=4), st.integers(1, 60_000), st.integers(0, 60_000))
def test_more_time_never_admits_fewer_jobs(
    known: list[BucketMs], timeout_ms: int, more: int
) -> None:
    now, later = (Speed.of(known).largest_backlog(each) for each in (timeout_ms, timeout_ms + more))
    assert 1 <= now <= later


@given(st.lists(tables, min_size=1, max_size=4), st.integers(1, 60_000))
def test_another_worker_of_a_known_speed_never_admits_fewer_jobs(
    known: list[BucketMs], timeout_ms: int
) -> None:
    fewer = Speed.of(known).largest_backlog(timeout_ms)
    assert fewer <= Speed.of([*known, known[0]]).largest_backlog(timeout_ms)


@pytest.mark.parametrize(
    ("bucket_ms", "wait_ms"),
    [({1: 100.0}, 600), ({2: 100.0}, 300), ({}, None)],
    ids=["10 a second", "20 a second", "an unknown capacity"],
)
def test_the_expected_wait_is_the_backlog_over_the_capacity(
    bucket_ms: BucketMs, wait_ms: int | None
) -> None:
    worker = WorkerInfo("w", "m", (1, 1, 3), 2, bucket_ms, "ready", "host")
    snapshot = Snapshot(0, queued=3, retry=1, in_flight=2, dead=0, oldest_ms=0, workers=(worker,))

    assert snapshot.expected_wait_ms == wait_ms


@pytest.mark.parametrize(
    ("excess", "capacity", "seconds"),
    [
        pytest.param(0, 100.0, 1, id="no time at all is one second"),
        pytest.param(1, 100.0, 1, id="part of a second"),
        pytest.param(101, 100.0, 2, id="rounded up"),
        pytest.param(10**6, 1.0, 60, id="a minute at most"),
        pytest.param(10**6, 0.0, 5, id="no capacity known"),
    ],
)
def test_retry_after_is_the_time_to_work_off_the_excess(
    excess: int, capacity: float, seconds: int
) -> None:
    assert retry_after_s(excess, capacity) == seconds


@pytest.mark.parametrize("count", [b"many", b"1.5", b"-1", b"1_0", b" 7", b"", b"9" * 20])
def test_a_counter_that_is_no_number_makes_the_snapshot_unreadable(count: bytes) -> None:
    with pytest.raises(QueueError, match="cannot be read"):
        decode_snapshot([1, 0, 0, 0, 0, 0, 0, [b"accepted", count], [], [], [], [], b"", 0, []])


NOW = 1_760_000_000_000


@pytest.mark.parametrize(("silent_ms", "lives"), [(LIVE_MS, True), (LIVE_MS + 1, False)])
@pytest.mark.parametrize("side", [1, -1], ids=["the past", "the future: the clock was set back"])
def test_a_worker_lives_while_its_heartbeat_is_young(
    silent_ms: int, lives: bool, side: int
) -> None:
    seen = NOW - side * silent_ms
    worker = WorkerInfo("w", "m", (1, 1, 3), 2, {}, "ready", "host", last_seen=seen)

    found = Snapshot(NOW, 0, 0, 0, 0, 0, workers=(worker,)).live_workers

    assert found == ([worker] if lives else [])


def web(*per_s: float, silent: float | None = None) -> Snapshot:
    processes = [WebInfo(str(i), each, NOW - LIVE_MS) for i, each in enumerate(per_s)]
    if silent is not None:
        processes.append(WebInfo("silent", silent, NOW - LIVE_MS - 1))
    return Snapshot(NOW, 0, 0, 0, 0, 0, web=tuple(processes))


@pytest.mark.parametrize(
    ("snapshot", "per_s"),
    [
        pytest.param(web(), None, id="none lives"),
        pytest.param(web(0, 0), None, id="none has decoded anything"),
        pytest.param(web(40, 60), 100, id="the sum"),
        pytest.param(web(40, 60, 0, 0), 200, id="new ones count like the others"),
        pytest.param(web(40, silent=60), 40, id="silent ones do not count"),
    ],
)
def test_what_web_processes_could_decode(snapshot: Snapshot, per_s: float | None) -> None:
    assert snapshot.web_capacity_per_s == per_s


@pytest.mark.parametrize(
    "text", [b"", b"[]", b'{"per_s": "many"}', b'{"per_s": -1}', b'{"per_s": true}']
)
def test_a_web_process_that_cannot_be_read_is_left_out(text: bytes) -> None:
    seen, info = [b"good", b"5", b"bad", b"5"], [b"good", b'{"per_s":2.5,"more":1}', b"bad", text]
    found = decode_snapshot(
        [5, 0, 0, 0, 0, 0, 0, [], [], [], [*seen, b"gone", b"5"], info, b"", 0, []]
    )
    assert found.web == (WebInfo("good", 2.5, 5),)
