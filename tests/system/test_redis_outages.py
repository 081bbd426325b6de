"""Redis crashes, comes back, and runs out of memory: no accepted job is lost."""

import threading
import time
from collections import Counter
from functools import partial

import pytest
import redis
from tests.system.client import Reply, at_once, in_background
from tests.system.conftest import MakeStack
from tests.system.samples import Sample, samples
from tests.system.stack import Stack, is_frozen

LOUD = "Redis does not answer"
QUIET = "Redis answers"


class Load:
    """Clients that send one picture after another until they are told to stop."""

    def __init__(self, stack: Stack, pictures: list[Sample], clients: int) -> None:
        self.replies: list[tuple[Sample, Reply]] = []
        self._stack = stack
        self._pictures = iter(pictures)
        self._clients = clients
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._threads = [threading.Thread(target=self._send) for _ in range(clients)]

    def __enter__(self) -> "Load":
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._stopping.set()
        for thread in self._threads:
            thread.join()

    def _send(self) -> None:
        while not self._stopping.is_set():
            with self._lock:
                picture = next(self._pictures)
            reply = self._stack.http.predict(picture.data)
            self.replies.append((picture, reply))
            if reply.status == 503:
                self._stopping.wait(0.05)

    def count(self, status: int) -> int:
        return sum(reply.status == status for _, reply in list(self.replies))

    def verdicts(self) -> Counter[tuple[int, str]]:
        replies = [reply for _, reply in self.replies]
        return Counter((r.status, "" if r.status == 200 else r.code) for r in replies)


def test_no_accepted_job_is_lost_when_redis_is_killed_under_load(make_stack: MakeStack) -> None:
    # With "everysec" Redis may answer up to two seconds before it writes while the disk is busy;
    # this test is of the service, so Redis must write before it answers.
    stack = make_stack(
        workers=2,
        redis_args=("--appendfsync", "always"),
        MODEL="stand-in:batch_ms=60,image_ms=0,size=64",
        BATCH_SIZE="4",
        # If Redis dies before it answers a claim, no worker has these jobs: they wait this long.
        LEASE_S="2",
    )
    processes = stack.web.children()
    with Load(stack, 4 * samples(400), clients=24) as load:
        stack.wait_for(lambda: load.count(200) >= 60, "pictures are served")
        stack.redis.kill()
        stack.wait_for(lambda: load.count(503) >= 24, "clients are refused")
        served = load.count(200)
        stack.redis.start()
        stack.wait_for(lambda: load.count(200) >= served + 100, "pictures are served again")

    verdicts = load.verdicts()
    assert verdicts.keys() == {(200, ""), (503, "redis_unavailable")}
    for picture, reply in load.replies:
        if reply.status == 200:
            assert reply.labels[0] == picture.label
        else:
            assert reply.retry_after_s >= 1

    stack.wait_for(stack.idle, "every accepted job has ended")
    stats = stack.stats()
    assert stats["completed"] + stats.get("expired", 0) == stats["accepted"]
    assert stats["completed"] >= verdicts[200, ""]
    assert stats["accepted"] <= verdicts.total()
    assert "dead" not in stats
    assert "failed" not in stats
    assert stack.keys_without_expiry() == []

    assert stack.web.children() == processes
    for worker in stack.workers:
        assert worker.alive
        assert len(worker.lines(LOUD)) == 1
        assert len(worker.lines(QUIET)) == 2, "at the start, and after the outage"
    assert not stack.web.lines("bug")


@pytest.mark.parametrize(
    ("redis_args", "outage_s"),
    [
        pytest.param((), 4.0, id="with its data"),
        pytest.param(("--appendonly", "no"), 4.0, id="without"),
    ],
)
def test_a_redis_that_is_replaced_costs_no_request(
    make_stack: MakeStack, redis_args: tuple[str, ...], outage_s: float
) -> None:
    """As in a drain: its pod is ended, and another one is there seconds later."""
    stack = make_stack(workers=2, redis_args=redis_args, OUTAGE_PATIENCE_S="10")
    with Load(stack, 40 * samples(400), clients=12) as load:
        stack.wait_for(lambda: load.count(200) >= 100, "pictures are served")
        stack.redis.stop()
        time.sleep(outage_s)
        served = load.count(200)
        stack.redis.start()
        stack.wait_for(lambda: load.count(200) >= served + 200, "pictures are served again")

    assert load.verdicts().keys() == {(200, "")}
    assert all(reply.labels[0] == picture.label for picture, reply in load.replies)
    assert not stack.web.lines("bug")


def test_requests_that_wait_through_a_restart_of_redis_get_their_labels(
    make_stack: MakeStack,
) -> None:
    stack = make_stack()
    (worker,) = stack.workers
    worker.pause()
    pictures = samples(8)
    with in_background([partial(stack.http.predict, p.data) for p in pictures]) as futures:
        stack.wait_for(lambda: stack.waiting() == 8, "all wait")
        stack.redis.kill()
        stack.redis.start()
        worker.resume()
    assert [f.result().labels[0] for f in futures] == [p.label for p in pictures]
    assert stack.stats()["completed"] == 8


def test_requests_whose_jobs_redis_has_forgotten_are_queued_once_more(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(redis_args=("--appendonly", "no"))
    (worker,) = stack.workers
    worker.pause()
    pictures = samples(8)
    with in_background([partial(stack.http.predict, p.data) for p in pictures]) as futures:
        stack.wait_for(lambda: stack.waiting() == 8, "all wait")
        stack.redis.kill()
        stack.redis.start()
        stack.wait_for(lambda: stack.waiting() == 8, "all wait again")
        worker.resume()
    assert [f.result().labels[0] for f in futures] == [p.label for p in pictures]
    assert stack.stats()["accepted"] == stack.stats()["completed"] == 8


def has_served(load: Load, many: int) -> bool:
    return load.count(200) >= many


def test_an_emptied_redis_costs_no_request(make_stack: MakeStack) -> None:
    """No connection ends, so no reconnection tells anyone."""
    stack = make_stack(workers=2)
    with Load(stack, 40 * samples(400), clients=12) as load:
        for turn in range(1, 6):
            stack.wait_for(partial(has_served, load, 60 * turn), "pictures are served")
            stack.db.flushall()

    assert load.verdicts().keys() == {(200, "")}
    assert all(reply.labels[0] == picture.label for picture, reply in load.replies)


def test_an_idle_worker_finds_work_again_after_an_outage(make_stack: MakeStack) -> None:
    stack = make_stack()
    (worker,) = stack.workers
    stack.redis.kill()
    stack.wait_for(lambda: worker.lines(LOUD), "the worker notices")
    stack.redis.start()
    picture = samples(1)[0]
    stack.wait_for(lambda: stack.http.predict(picture.data).status == 200, "it works again")
    assert len(worker.lines(LOUD)) == 1


def test_a_full_redis_refuses_new_jobs_and_finishes_those_it_holds(make_stack: MakeStack) -> None:
    stack = make_stack(
        workers=2,
        redis_args=("--maxmemory", "64mb"),
        MODEL="stand-in:batch_ms=500,image_ms=0,size=64",
        BATCH_SIZE="2",
        QUEUE_BYTES_LIMIT="20MiB",
    )
    pictures = samples(12)
    for worker in stack.workers:
        worker.pause()
    with in_background([partial(stack.http.predict, p.data) for p in pictures]) as futures:
        stack.wait_for(lambda: stack.waiting() == 12, "all wait")
        for worker in stack.workers:
            worker.resume()
        stack.wait_for(lambda: stack.leased() == 8, "both workers hold two batches")
        for worker in stack.workers:
            worker.pause()
        fill(stack)
        assert stack.leased() >= 4
        refused = at_once([partial(stack.http.predict, p.data) for p in samples(4, first=50)])
        assert {(r.status, r.code) for r in refused} == {(503, "queue_full")}
        assert all(1 <= r.retry_after_s <= 60 for r in refused)
        assert is_full(stack)
        for worker in stack.workers:
            worker.resume()
    assert [f.result().labels[0] for f in futures] == [p.label for p in pictures]
    assert stack.stats()["completed"] == 12
    assert stack.stats()["rejected"] >= 4

    stack.db.flushdb()
    stack.wait_for(lambda: stack.http.predict(pictures[0].data).status == 200, "it works again")


def fill(stack: Stack) -> None:
    """Put more into Redis than it may hold; it must not evict, so it frees nothing."""
    stack.db.set("filler", bytes(8 * 2**20), ex=600)
    used = stack.db.info("memory")["used_memory"]
    stack.db.config_set("maxmemory", used - 2 * 2**20)


def is_full(stack: Stack) -> bool:
    try:
        stack.db.set("one more", b"x", ex=600)
    except redis.exceptions.OutOfMemoryError:
        return True
    return False


def test_a_redis_that_hangs_is_answered_503_and_probes_do_not_hang_with_it(
    make_stack: MakeStack,
) -> None:
    stack = make_stack()
    picture = samples(1)[0]
    stack.redis.pause()
    stack.wait_for(lambda: is_frozen(stack.redis.pid), "Redis is frozen")
    with in_background([partial(stack.http.predict, picture.data)] * 4) as futures:
        while not all(future.done() for future in futures):
            assert stack.http.get("/healthz").status == 200
    assert {(f.result().status, f.result().code) for f in futures} == {(503, "redis_unavailable")}
    stack.redis.resume()
    stack.wait_for(lambda: stack.http.predict(picture.data).status == 200, "it works again")
    assert len(stack.workers[0].lines(LOUD)) <= 1


def test_a_lost_notification_and_lost_scripts_cost_no_answer(make_stack: MakeStack) -> None:
    stack = make_stack()
    (worker,) = stack.workers
    worker.pause()
    pictures = samples(8)
    with in_background([partial(stack.http.predict, p.data) for p in pictures]) as futures:
        stack.wait_for(lambda: stack.waiting() == 8, "all wait")
        stack.db.client_kill_filter(_type="pubsub")
        stack.db.script_flush()
        worker.resume()
    assert [f.result().labels[0] for f in futures] == [p.label for p in pictures]


def test_entries_that_are_no_jobs_end_on_the_dead_list_and_harm_no_others(
    make_stack: MakeStack,
) -> None:
    stack = make_stack()
    foreign = ["not JSON", "[]", "{}", '{"id": 5}', "\x00\xff", '{"v": 9, "id": "later"}']
    pictures = samples(4)
    stack.workers[0].pause()
    for entry in foreign:
        stack.db.rpush(stack.keys.queue, entry)
    with in_background([partial(stack.http.predict, p.data) for p in pictures]) as futures:
        stack.wait_for(lambda: stack.waiting() == 10, "all wait")
        stack.workers[0].resume()
    assert [f.result().labels[0] for f in futures] == [p.label for p in pictures]
    assert stack.db.llen(stack.keys.dead) == 5
    assert b"unsupported_job" in (stack.db.get(stack.keys.result("later")) or b"")
    assert stack.keys_without_expiry() == []
