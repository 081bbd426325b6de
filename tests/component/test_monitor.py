"""A monitor on a real Redis: a snapshot or an error for each queue, and no side effects."""

import threading
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import cast

import pytest
import redis
from tests.queues import RedisQueue, monitored
from tests.redis_server import DroppingProxy, QueueMaker, RedisServer, eventually, free_port

from imageserve.autoscaler.foresight import Counted, Foresight
from imageserve.autoscaler.memory import Memory, Step, decode_memory
from imageserve.autoscaler.policy import Policy
from imageserve.errors import QueueError, QueueUnavailable
from imageserve.queue.admission import Limits
from imageserve.queue.consumer import Lease
from imageserve.queue.keys import Keys
from imageserve.queue.monitor import FirstJobWaiter, Monitor
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.snapshot import Run, Snapshot
from imageserve.queue.wire import Job, decode_job

HELD = Lease(lease_ms=60_000)
QUEUE = "image_queue"
KEYS = Keys(QUEUE)


def known(snapshot: Snapshot | QueueError) -> Snapshot:
    assert isinstance(snapshot, Snapshot)
    return snapshot


def put(queue: RedisQueue, *job_ids: str) -> None:
    for job_id in job_ids:
        job = Job(job_id, "shapes", (2, 2, 3), 5, KEYS.reply("test"), "trace", 60_000)
        queue.enqueue(job, bytes(12), 60_000, Limits(max_jobs=100_000))


def waiting(client: "redis.Redis") -> list[str]:
    entries = cast(list[bytes], client.lrange(KEYS.queue, 0, -1))
    return [decode_job(entry).id for entry in entries]


def monitor_of(server: RedisServer, *queues: str) -> Monitor:
    return Monitor(RedisAccess(server.url), queues or ("image_queue",))


def test_all_queues_are_read_in_one_round_trip(
    shared_redis: RedisServer, make_queue: QueueMaker
) -> None:
    put(make_queue(shared_redis.url), "a", "b", "c")
    put(make_queue(shared_redis.url, "other"), "d")
    make_queue(shared_redis.url).claim(1, HELD, redelivered=False)
    monitor = monitor_of(shared_redis, "image_queue", "other", "unused")
    monitor.snapshots()
    client = shared_redis.client()
    before = client.info("clients"), client.info("stats")["total_reads_processed"]

    seen = {queue: known(snapshot) for queue, snapshot in monitor.snapshots().items()}

    reads = client.info("stats")["total_reads_processed"] - before[1]
    assert (seen["image_queue"].queued, seen["image_queue"].in_flight) == (2, 1)
    assert (seen["other"].queued, seen["unused"].queued) == (1, 0)
    # The two of this test's own, and one of the reader's.
    assert reads <= 3


def test_the_memory_of_redis_and_its_limit_are_read(shared_redis: RedisServer) -> None:
    monitor, db = monitor_of(shared_redis), shared_redis.client()

    def read() -> tuple[int, int]:
        snapshot = monitor.snapshots()[QUEUE]
        assert isinstance(snapshot, Snapshot)
        return snapshot.redis_bytes, snapshot.redis_bytes_limit

    used, limit = read()
    db.set("filler", bytes(4 * 2**20), ex=60)
    db.config_set("maxmemory", 2**30)
    try:
        fuller, changed = read()
    finally:
        db.config_set("maxmemory", 0)

    assert (limit, changed) == (0, 2**30)
    assert used + 4 * 2**20 <= fuller


def test_the_run_stays_the_same_while_redis_remembers(
    shared_redis: RedisServer, make_queue: QueueMaker
) -> None:
    queue = make_queue(shared_redis.url)
    monitor = monitor_of(shared_redis)
    runs = [monitored(monitor, QUEUE).run]

    put(queue, "a", "b")
    runs.append(monitored(monitor, QUEUE).run)
    claim = queue.claim(2, HELD, redelivered=False)
    queue.release(claim.token, ["a"])
    queue.purge()
    runs.append(monitored(monitor, QUEUE).run)

    assert len(set(runs)) == 1


def test_a_counter_that_fell_is_another_run_though_another_one_has_passed_its_old_value() -> None:
    run = Run()
    shot = Snapshot(0, 0, 0, 0, 0, 0, {"accepted": 5, "completed": 4}, (), "server")
    runs = [run.noted(shot).run, run.noted(replace(shot, stats={"accepted": 9})).run]
    assert runs == ["server/0", "server/1"]


def test_an_emptied_database_is_another_run(
    shared_redis: RedisServer, make_queue: QueueMaker
) -> None:
    put(make_queue(shared_redis.url), "a")
    monitor = monitor_of(shared_redis)
    before = monitored(monitor, QUEUE).run

    shared_redis.client().flushall()

    after = monitored(monitor, QUEUE).run
    assert after != before
    assert monitored(monitor, QUEUE).run == after


def test_a_restarted_server_is_another_run(
    redis_server: RedisServer, make_queue: QueueMaker
) -> None:
    put(make_queue(redis_server.url), "a")
    monitor = monitor_of(redis_server)
    before = monitored(monitor, QUEUE)

    redis_server.restart()

    after = monitored(monitor, QUEUE)
    assert after.queued == before.queued == 1
    assert after.run != before.run


def test_an_incomplete_answer_is_an_error_of_that_queue_alone(shared_redis: RedisServer) -> None:
    shared_redis.client().set(KEYS.leases, "not a set of leases")

    seen = monitor_of(shared_redis, "other", QUEUE).snapshots()

    assert isinstance(seen[QUEUE], QueueError)
    assert f"{KEYS.leases} is a string and must be a zset" in str(seen[QUEUE])
    assert known(seen["other"]).backlog == 0


def test_a_counter_that_is_no_number_is_an_error(shared_redis: RedisServer) -> None:
    shared_redis.client().hset(KEYS.stats, "accepted", "many")

    seen = monitor_of(shared_redis, "other", QUEUE).snapshots()

    assert "cannot be read" in str(seen[QUEUE])
    assert known(seen["other"]).backlog == 0


def test_a_lost_answer_is_asked_for_again(shared_redis: RedisServer) -> None:
    proxy = DroppingProxy(shared_redis.port)
    try:
        monitor = Monitor(RedisAccess(proxy.url), [QUEUE])
        monitored(monitor, QUEUE)
        proxy.drop_next_reply()

        monitored(monitor, QUEUE)

        assert proxy.dropped.is_set()
    finally:
        proxy.close()


def test_a_server_that_hangs_is_an_error_after_the_timeout(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageserve.queue.redis.queue.COMMAND_TIMEOUT_S", 0.2)
    monitor = monitor_of(redis_server)
    monitored(monitor, QUEUE)
    redis_server.pause()

    with pytest.raises(QueueUnavailable):
        monitored(monitor, QUEUE)

    redis_server.resume()
    assert monitored(monitor, QUEUE).run


def waiter_on(server: RedisServer) -> FirstJobWaiter:
    return FirstJobWaiter(RedisAccess(server.url), "image_queue")


def in_thread(function: Callable[[], object]) -> tuple[threading.Thread, list[object]]:
    results: list[object] = []
    thread = threading.Thread(target=lambda: results.append(function()), daemon=True)
    thread.start()
    return thread, results


def patient(server: RedisServer) -> "redis.Redis":
    """Make a client that waits for longer than others do."""
    return redis.Redis(port=server.port, socket_timeout=40)


def blocked_clients(client: "redis.Redis") -> int:
    return int(client.info("clients")["blocked_clients"])


def test_a_wait_ends_without_a_job(shared_redis: RedisServer) -> None:
    assert not waiter_on(shared_redis).wait(0.01)
    assert not shared_redis.client().exists(KEYS.queue)


def test_a_wait_leaves_the_queue_unchanged(
    shared_redis: RedisServer, make_queue: QueueMaker
) -> None:
    put(make_queue(shared_redis.url), "a", "b", "c")
    client = shared_redis.client()
    before = {key: client.dump(key) for key in client.scan_iter()}

    assert waiter_on(shared_redis).wait()

    assert waiting(client) == ["a", "b", "c"]
    assert {key: client.dump(key) for key in client.scan_iter()} == before


def test_a_waiter_sees_the_first_job_and_leaves_it(
    shared_redis: RedisServer, make_queue: QueueMaker
) -> None:
    client = shared_redis.client()
    thread, results = in_thread(waiter_on(shared_redis).wait)
    eventually(lambda: blocked_clients(client) == 1, "it waits")

    put(make_queue(shared_redis.url), "a")

    thread.join(20)
    assert results == [True]
    assert waiting(client) == ["a"]


@pytest.mark.parametrize("monitor_first", [True, False], ids=["monitor first", "worker first"])
def test_a_worker_that_waits_beside_a_monitor_gets_the_job(
    monitor_first: bool, shared_redis: RedisServer, make_queue: QueueMaker
) -> None:
    # The commands of a waiting monitor and of a waiting worker, with time for a busy machine.
    monitor = ["BLMOVE", KEYS.queue, KEYS.queue, "LEFT", "LEFT", "30"]
    worker = ["BLMOVE", KEYS.queue, KEYS.hold, "LEFT", "RIGHT", "30"]
    client = shared_redis.client()
    queue = make_queue(shared_redis.url)
    threads = []
    for count, command in enumerate(
        [monitor, worker] if monitor_first else [worker, monitor], start=1
    ):
        threads.append(in_thread(partial(patient(shared_redis).execute_command, *command))[0])
        eventually(lambda n=count: blocked_clients(client) == n, "it waits")  # type: ignore[misc]

    put(queue, "a")
    eventually(lambda: client.llen(KEYS.hold) == 1, "the worker has the job")
    claim = queue.claim(8, HELD, redelivered=False)
    put(queue, "b")  # For the monitor, where the worker was before it.
    for thread in threads:
        thread.join(30)

    assert [decode_job(entry).id for entry in claim.entries] == ["a"]
    assert waiting(client) == ["b"]


def test_constant_waiting_does_not_lose_reorder_or_duplicate_jobs(
    shared_redis: RedisServer, make_queue: QueueMaker
) -> None:
    expected = [f"job-{n:04}" for n in range(400)]
    queue, producer = make_queue(shared_redis.url), make_queue(shared_redis.url)
    waiter = waiter_on(shared_redis)
    done = threading.Event()

    def keep_waiting() -> None:
        while not done.is_set():
            waiter.wait(0.01)

    waiting_thread, _ = in_thread(keep_waiting)
    producing, _ = in_thread(lambda: put(producer, *expected))
    taken: list[str] = []

    def took_all() -> bool:
        entries = queue.claim(7, HELD, redelivered=True).entries
        taken.extend(decode_job(entry).id for entry in entries)
        return len(taken) >= len(expected)

    eventually(took_all, "all jobs", 60)
    done.set()
    waiting_thread.join(20)
    producing.join(20)

    assert taken == expected
    assert waiting(shared_redis.client()) == []


def test_the_memory_of_arrivals_is_kept_for_four_weeks(
    shared_redis: RedisServer, make_queue: QueueMaker
) -> None:
    monitor = monitor_of(shared_redis)
    make_queue(shared_redis.url)
    foresight = Foresight(Policy(), QUEUE, monitor)
    assert monitor.arrivals(QUEUE) == b""

    for n in range(200):
        foresight.count(Counted(3000.0 + 5 * n, "a", 10 * n), leading=n < 150)

    value = monitor.arrivals(QUEUE)
    # The leader wrote what it knew; the next one goes on from there.
    assert decode_memory(value) == Memory(12, (Step(600, 2.0),))
    assert 0 < shared_redis.client().ttl(KEYS.arrivals) <= 28 * 86_400
    follower = Foresight(Policy(), QUEUE, monitor)
    follower.look(4000.0)
    assert follower.memory == decode_memory(value)


def test_a_memory_that_is_none_is_not_used(
    shared_redis: RedisServer, make_queue: QueueMaker, caplog: pytest.LogCaptureFixture
) -> None:
    make_queue(shared_redis.url)
    monitor = monitor_of(shared_redis)
    monitor.keep_arrivals(QUEUE, b"something else", 60)
    foresight = Foresight(Policy(), QUEUE, monitor)

    for n in range(200):
        foresight.count(Counted(3000.0 + 5 * n, "a", 10 * n), leading=True)

    assert "is not used and written anew: it is no memory of arrivals (14 bytes)" in caplog.text
    assert decode_memory(monitor.arrivals(QUEUE)).known == 2


def test_the_address_is_asked_again_after_a_replica_answered(
    redis_server: RedisServer, tmp_path: Path, make_queue: QueueMaker
) -> None:
    """Reading is never refused: an old master that lives on would be read for ever."""
    new = RedisServer(redis_server.executable, tmp_path / "new")
    proxy = DroppingProxy(redis_server.port)
    monitor = Monitor(RedisAccess(proxy.url), [QUEUE])
    try:
        new.start()
        put(make_queue(new.url, QUEUE), "a")
        known(monitor.snapshots()[QUEUE])
        redis_server.client().replicaof("127.0.0.1", str(free_port()))
        known(monitor.snapshots()[QUEUE])
        proxy.server_port = new.port
        assert known(monitor.snapshots()[QUEUE]).waiting == 1
    finally:
        monitor.close()
        proxy.close()
        new.stop()
