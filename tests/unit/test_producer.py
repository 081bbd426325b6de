"""What a producer knows of its queue without asking: capacity, and a Redis that does not answer."""

from collections.abc import Callable

import pytest
from tests.memory_queue import MemoryQueue

from imageserve.errors import QueueUnavailable
from imageserve.queue.listener import OUTAGE_S, Breaker
from imageserve.queue.producer import FRESH_S, STALE_S, AdmissionView
from imageserve.queue.snapshot import Snapshot, WorkerInfo


class CountingQueue(MemoryQueue):
    """A queue that counts how often it is looked at, and can be away."""

    def __init__(self) -> None:
        super().__init__("q", lambda: 0)
        self.looks = 0
        self.away = False
        self.meanwhile: Callable[[], object] = lambda: None

    def snapshot(self) -> Snapshot:
        self.looks += 1
        self.meanwhile()
        if self.away:
            raise QueueUnavailable("away")
        return super().snapshot()


class Bench:
    def __init__(self) -> None:
        self.now = 1000.0
        self.queue = CountingQueue()
        self.view = AdmissionView(self.queue, lambda: self.now)

    def worker(self, name: str, ms: float, state: str = "ready") -> None:
        info = WorkerInfo(name, "m", (8, 8, 3), 10, {10: ms}, state, "host")
        self.queue.heartbeat(info)


@pytest.fixture
def bench() -> Bench:
    return Bench()


def test_no_worker_is_nothing_known(bench: Bench) -> None:
    assert (bench.view.capacity_per_s, bench.view.largest_backlog_in_time(1000)) == (0.0, 0)


def test_the_live_workers_add_up(bench: Bench) -> None:
    bench.worker("a", 100.0)
    bench.worker("b", 50.0)
    bench.worker("leaving", 1.0, state="stopping")

    assert bench.view.capacity_per_s == 300.0
    assert bench.view.largest_backlog_in_time(1050) == 300


def test_one_look_serves_for_a_second(bench: Bench) -> None:
    bench.worker("a", 100.0)
    assert bench.view.capacity_per_s >= 0
    bench.worker("b", 100.0)

    bench.now += FRESH_S
    assert (bench.view.capacity_per_s, bench.queue.looks) == (100.0, 1)

    bench.now += 0.001
    assert (bench.view.capacity_per_s, bench.queue.looks) == (200.0, 2)


def test_in_an_outage_the_last_look_counts_for_a_while(bench: Bench) -> None:
    bench.worker("a", 100.0)
    assert bench.view.capacity_per_s >= 0
    bench.queue.away = True

    bench.now += STALE_S
    assert bench.view.capacity_per_s == 100.0

    bench.now += 0.001
    assert (bench.view.capacity_per_s, bench.view.largest_backlog_in_time(1000)) == (0.0, 0)

    bench.queue.away = False
    bench.now += 2 * FRESH_S
    assert bench.view.capacity_per_s == 100.0


def test_a_failed_look_is_not_repeated_by_every_request(bench: Bench) -> None:
    bench.queue.away = True
    assert bench.view.capacity_per_s >= 0
    bench.queue.away = False
    bench.worker("a", 100.0)

    assert bench.view.capacity_per_s == 0.0


def test_one_request_looks_for_all_while_others_use_what_is_known(bench: Bench) -> None:
    bench.worker("a", 100.0)
    assert bench.view.capacity_per_s >= 0
    bench.worker("b", 100.0)
    bench.now += 2 * FRESH_S
    known: list[float] = []
    bench.queue.meanwhile = lambda: known.append(bench.view.capacity_per_s)

    assert bench.view.capacity_per_s == 200.0
    assert (known, bench.queue.looks) == ([100.0], 2)


def test_requests_right_after_a_failure_are_refused_and_later_ones_are_not() -> None:
    now = [100.0]
    breaker = Breaker(lambda: now[0])
    breaker.check()

    breaker.trip()
    now[0] += OUTAGE_S - 0.001
    with pytest.raises(QueueUnavailable):
        breaker.check()

    now[0] += 0.001
    breaker.check()


def test_a_new_connection_closes_the_breaker() -> None:
    breaker = Breaker(lambda: 100.0)
    breaker.trip()
    with pytest.raises(QueueUnavailable):
        breaker.check()
    breaker.reset()
    breaker.check()
