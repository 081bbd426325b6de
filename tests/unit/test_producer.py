"""What a producer knows of its queue without asking: capacity, and a Redis that does not answer."""

import threading
from collections.abc import Callable
from typing import Any

import pytest
from tests.memory_queue import MemoryQueue

from imageserve.errors import QueueRefused, QueueUnavailable
from imageserve.preparation import Preparation
from imageserve.queue.admission import (
    FRESH_S,
    FRESH_WHILE_REFUSING_S,
    STALE_S,
    Admission,
    AdmissionView,
)
from imageserve.queue.consumer import Lease
from imageserve.queue.listener import OUTAGE_S, SAME_OUTAGE_S, TRIAL_S, Breaker, Ticket, Tickets
from imageserve.queue.producer import JobRequest, Producer, ProducerConfig
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
    assert (bench.view.capacity_per_s, bench.view.speed.largest_backlog(1000)) == (0.0, 0)


def test_the_live_workers_add_up(bench: Bench) -> None:
    bench.worker("a", 100.0)
    bench.worker("b", 50.0)
    bench.worker("leaving", 1.0, state="stopping")

    assert bench.view.capacity_per_s == 300.0
    assert bench.view.speed.largest_backlog(1025) == 300


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
    assert (bench.view.capacity_per_s, bench.view.speed.largest_backlog(1000)) == (0.0, 0)

    bench.queue.away = False
    bench.now += 2 * FRESH_S
    assert bench.view.capacity_per_s == 100.0


def test_the_shortest_timeout_is_told_without_a_look(bench: Bench) -> None:
    assert (bench.view.shortest_timeout_ms(), bench.queue.looks) == (None, 0)
    bench.worker("a", 100.0)
    assert bench.view.capacity_per_s == 100.0
    bench.now += STALE_S
    assert bench.view.shortest_timeout_ms()
    assert bench.queue.looks == 1


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


def test_a_reply_that_comes_late_is_never_taken_for_a_loss(bench: Bench) -> None:
    reading, go_on = threading.Event(), threading.Event()
    read = bench.queue.snapshot

    def slow() -> Snapshot:
        seen = read()
        if threading.current_thread() is not threading.main_thread():
            reading.set()
            go_on.wait(10)
        return seen

    bench.queue.snapshot = slow  # type: ignore[method-assign]
    bench.view.look()
    run = bench.view.run
    bench.now += 2 * FRESH_S
    late = threading.Thread(target=bench.view.look)
    late.start()
    assert reading.wait(10)

    bench.queue.count_refused()
    bench.now += 2 * FRESH_S
    bench.view.look()
    go_on.set()
    late.join()
    bench.now += 2 * FRESH_S
    bench.view.look()

    assert bench.view.run == run
    assert bench.queue.looks == 3


def test_requests_that_come_before_the_first_look_wait_for_it(bench: Bench) -> None:
    crop = Preparation((8, 8), "crop")
    reading, go_on = threading.Event(), threading.Event()
    bench.queue.heartbeat(
        WorkerInfo("w", "m", (8, 8, 3), 1, {1: 1.0}, "ready", "host", preparation=crop)
    )

    def meanwhile() -> None:
        reading.set()
        assert go_on.wait(10)

    bench.queue.meanwhile = meanwhile
    found: list[Preparation | str] = []

    def ask() -> None:
        bench.view.look()
        found.append(bench.view.preparation("m", None))

    first, second = threading.Thread(target=ask), threading.Thread(target=ask)
    first.start()
    assert reading.wait(10)
    second.start()
    second.join(0.05)
    assert second.is_alive()
    go_on.set()
    for thread in (first, second):
        thread.join(10)
    assert (found, bench.queue.looks) == ([crop, crop], 1)


def test_a_preparation_is_found_once_for_each_look_and_outlives_an_outage(bench: Bench) -> None:
    own, other = Preparation((4, 4)), Preparation((8, 8), "crop")
    info = WorkerInfo("w", "m", (8, 8, 3), 1, {1: 1.0}, "ready", "host", preparation=other)
    assert bench.view.preparation("m", own) == own
    assert isinstance(bench.view.preparation("m", None), str)
    bench.queue.heartbeat(info)
    bench.now += FRESH_WHILE_REFUSING_S + 0.01
    bench.view.look()
    found = bench.view.preparation("m", own)
    assert found == other
    assert bench.view.preparation("m", own) is found

    bench.queue.away = True
    bench.now += 10 * STALE_S
    with pytest.raises(QueueUnavailable):
        bench.view.look()
    assert bench.view.preparation("m", own) == other


class Full:
    """A producer of a queue that holds as much as it may, and the pixels that it sends."""

    def __init__(self, bench: Bench, max_jobs: int, **limits: int) -> None:
        self.sent = 0
        self.seen: list[str] = []
        self._enqueue, bench.queue.enqueue = bench.queue.enqueue, self._sent  # type: ignore[method-assign,assignment]
        config = ProducerConfig(max_jobs, **limits)
        clock = lambda: bench.now  # noqa: E731
        self.producer = Producer(bench.queue, Tickets("channel"), Breaker(), config, clock)
        self._bench = bench

    def _sent(self, *args: Any) -> Admission:
        self.sent += 1
        return self._enqueue(*args)

    def send(self, timeout_ms: int = 60_000) -> str:
        """Send one picture as a request does; return why it was refused."""
        try:
            self.producer.check_admission(3, timeout_ms)
            job = JobRequest("m", Preparation((1, 1)), 5, "trace")
            self.producer.submit(job, b"\0\0\0", timeout_ms, threading.Event())
        except QueueRefused as refusal:
            return refusal.reason
        return ""

    def rejected(self) -> int:
        return int(self._bench.queue._stats["rejected"])


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        pytest.param({}, "full", id="jobs"),
        pytest.param({"max_bytes": 3 * 3}, "bytes_full", id="bytes"),
    ],
)
def test_a_queue_that_is_full_is_sent_one_picture_and_no_more(
    bench: Bench, limits: dict[str, int], reason: str
) -> None:
    full = Full(bench, 100 if limits else 3, **limits)
    assert [full.send() for _ in range(3)] == ["", "", ""]

    assert {full.send() for _ in range(100)} == {reason}
    assert full.sent == 3 + 1

    assert full.rejected() == 100, "all of them are demand for the autoscaler"


def test_a_backlog_that_is_too_long_is_sent_one_picture_and_no_more(bench: Bench) -> None:
    bench.worker("a", 1000.0)
    full = Full(bench, 100)
    assert [full.send(6500) for _ in range(60)] == 60 * [""]

    assert {full.send(6500) for _ in range(100)} == {"would_time_out"}
    assert full.sent == 61


def test_a_place_that_is_free_again_is_found_soon(bench: Bench) -> None:
    full = Full(bench, 3)
    assert [full.send() for _ in range(5)] == ["", "", "", "full", "full"]

    bench.queue.claim(1, Lease(), redelivered=False)
    assert full.send() == "full"
    bench.now += FRESH_WHILE_REFUSING_S + 0.001
    assert [full.send() for _ in range(3)] == ["", "full", "full"]


def test_a_queue_that_may_have_run_low_is_asked(bench: Bench) -> None:
    bench.worker("a", 100.0)  # 100 a second.
    full = Full(bench, 4)
    assert [full.send() for _ in range(6)] == ["", "", "", "", "full", "full"]
    bench.queue.claim(4, Lease(), redelivered=False)

    bench.now += 0.019
    assert full.send() == "full"
    bench.now += 0.002
    assert full.send() == ""


def test_a_queue_whose_head_has_expired_is_asked(bench: Bench) -> None:
    full = Full(bench, 3)
    assert [full.send(50) for _ in range(5)] == ["", "", "", "full", "full"]

    bench.now += 0.051
    assert full.send() == "full"
    assert full.sent == 5, "ENQUEUE drops what has expired"


def test_a_look_that_fails_is_an_outage_for_the_one_that_looked(bench: Bench) -> None:
    full = Full(bench, 1)
    assert [full.send() for _ in range(4)] == ["", "full", "full", "full"]
    bench.queue.away = True
    bench.now += 2 * FRESH_WHILE_REFUSING_S
    with pytest.raises(QueueUnavailable):
        full.send()
    assert full.producer.breaker.is_open
    assert full.send() == "full", "the last look is fresh enough"


def test_a_job_that_no_queue_can_hold_is_refused_unseen(bench: Bench) -> None:
    full = Full(bench, 3, max_bytes=2)
    assert (full.send(), full.sent) == ("bytes_full", 0)


class NodeOfBreaker:
    """A breaker with a clock that a test sets."""

    def __init__(self) -> None:
        self.now = 100.0
        self.breaker = Breaker(lambda: self.now)

    def refuses(self) -> bool:
        try:
            self.breaker.check()
        except QueueUnavailable:
            return True
        return False


def test_requests_right_after_a_failure_are_refused_and_later_one_tries_for_all() -> None:
    node = NodeOfBreaker()
    assert not node.refuses()

    node.breaker.trip()
    node.now += OUTAGE_S - 0.001
    assert node.refuses()

    node.now += 0.001
    assert [node.refuses() for _ in range(3)] == [False, True, True]
    node.now += TRIAL_S - 0.001
    assert node.refuses()

    node.breaker.succeeded()
    assert [node.refuses() for _ in range(3)] == [False, False, False]


def test_a_try_that_fails_opens_the_breaker_again() -> None:
    node = NodeOfBreaker()
    node.breaker.trip()
    node.now += OUTAGE_S
    assert not node.refuses()

    node.breaker.trip()
    assert node.refuses()
    node.now += OUTAGE_S
    assert not node.refuses()


def test_a_try_that_never_ends_is_followed_by_another() -> None:
    node = NodeOfBreaker()
    node.breaker.trip()
    node.now += OUTAGE_S
    assert not node.refuses()

    node.now += TRIAL_S
    assert [node.refuses(), node.refuses()] == [False, True]


def test_a_success_of_a_call_that_began_before_the_failure_does_not_close_the_breaker() -> None:
    node = NodeOfBreaker()
    node.breaker.trip()
    node.breaker.succeeded()
    assert node.refuses()


def test_an_outage_begins_with_its_first_failure_and_ends_with_a_success() -> None:
    node = NodeOfBreaker()
    node.breaker.trip()
    node.now += 20
    node.breaker.trip()
    assert node.breaker.down_since == 100

    # A connection is no success: Redis may take it and answer nothing else yet.
    node.breaker.reset()
    node.now += 1
    node.breaker.trip()
    assert node.breaker.down_since == 100

    node.breaker.reset()
    node.breaker.succeeded()
    node.now += 1
    node.breaker.trip()
    assert node.breaker.down_since == node.now

    node.now += SAME_OUTAGE_S + 1
    node.breaker.trip()
    assert node.breaker.down_since == node.now


def test_a_new_connection_closes_the_breaker() -> None:
    node = NodeOfBreaker()
    node.breaker.trip()
    assert node.refuses()
    node.breaker.reset()
    assert not node.refuses()


def test_the_breaker_may_be_closed_by_another_thread_while_it_is_asked() -> None:
    def clock() -> float:
        breaker.reset()
        return 100.0

    breaker = Breaker(clock)
    breaker.trip()
    with pytest.raises(QueueUnavailable):
        breaker.check()
    breaker.check()


def submitted(producer: Producer) -> Ticket:
    request = JobRequest("m", Preparation((1, 1)), 5, "trace")
    return producer.submit(request, b"\0\0\0", 1000, threading.Event())


@pytest.mark.parametrize("error", [QueueUnavailable("away"), ValueError("bug")])
def test_a_job_that_could_not_be_queued_leaves_no_ticket(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, error: Exception
) -> None:
    tickets = Tickets("channel")
    producer = Producer(bench.queue, tickets, Breaker(), ProducerConfig())
    assert submitted(producer).accepted
    assert len(tickets._by_id) == 1

    def enqueue(*args: object) -> None:
        raise error

    monkeypatch.setattr(bench.queue, "enqueue", enqueue)
    with pytest.raises(type(error)):
        submitted(producer)
    assert len(tickets._by_id) == 1
