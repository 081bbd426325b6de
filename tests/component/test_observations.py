"""What the autoscaler sees of queues on a real Redis: all of it or nothing, and without a trace."""

import threading
from collections.abc import Callable
from functools import partial
from typing import cast

import pytest
import redis
from tests.redis_server import DroppingProxy, QueueMaker, RedisServer, eventually

from imageserve.errors import QueueError, QueueUnavailable
from imageserve.queue.keys import Keys
from imageserve.queue.observations import JobLook, QueueReader
from imageserve.queue.queue import Lease, Limits
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.redis_queue import RedisQueue
from imageserve.queue.wire import Job, decode_job

HELD = Lease(lease_ms=60_000)
KEYS = Keys("image_queue")


def put(queue: RedisQueue, *job_ids: str) -> None:
    for job_id in job_ids:
        job = Job(job_id, "shapes", (2, 2, 3), 5, KEYS.reply("test"), "trace", 60_000)
        queue.enqueue(job, bytes(12), 60_000, Limits(max_jobs=100_000))


def waiting(client: "redis.Redis") -> list[str]:
    entries = cast(list[bytes], client.lrange(KEYS.queue, 0, -1))
    return [decode_job(entry).id for entry in entries]


def reader_of(server: RedisServer, *queues: str) -> QueueReader:
    return QueueReader(RedisAccess(server.url), queues or ("image_queue",))


def test_all_queues_are_read_in_one_round_trip(
    shared_redis: RedisServer, make_queue: QueueMaker
) -> None:
    put(make_queue(shared_redis.url), "a", "b", "c")
    put(make_queue(shared_redis.url, "other"), "d")
    make_queue(shared_redis.url).claim(1, HELD, suspects=False)
    reader = reader_of(shared_redis, "image_queue", "other", "nobody's")
    reader.read()
    client = shared_redis.client()
    before = client.info("clients"), client.info("stats")["total_reads_processed"]

    seen = reader.read().snapshots

    reads = client.info("stats")["total_reads_processed"] - before[1]
    assert (seen["image_queue"].queued, seen["image_queue"].in_flight) == (2, 1)
    assert (seen["other"].queued, seen["nobody's"].queued) == (1, 0)
    # The two of this test's own, and one of the reader's.
    assert reads <= 3


def test_the_run_stays_the_same_while_redis_remembers(
    shared_redis: RedisServer, make_queue: QueueMaker
) -> None:
    queue = make_queue(shared_redis.url)
    reader = reader_of(shared_redis)
    runs = [reader.read().run]

    put(queue, "a", "b")
    runs.append(reader.read().run)
    claim = queue.claim(2, HELD, suspects=False)
    queue.release(claim.token, ["a"])
    queue.purge()
    runs.append(reader.read().run)

    assert len(set(runs)) == 1


def test_an_emptied_database_is_another_run(
    shared_redis: RedisServer, make_queue: QueueMaker
) -> None:
    put(make_queue(shared_redis.url), "a")
    reader = reader_of(shared_redis)
    before = reader.read().run

    shared_redis.client().flushall()

    after = reader.read().run
    assert after != before
    assert reader.read().run == after


def test_a_restarted_server_is_another_run(
    redis_server: RedisServer, make_queue: QueueMaker
) -> None:
    put(make_queue(redis_server.url), "a")
    reader = reader_of(redis_server)
    before = reader.read()

    redis_server.restart()

    after = reader.read()
    assert after.snapshots["image_queue"].queued == before.snapshots["image_queue"].queued == 1
    assert after.run != before.run


def test_half_an_answer_is_none(shared_redis: RedisServer) -> None:
    shared_redis.client().set(KEYS.leases, "not a set of leases")

    with pytest.raises(QueueError, match="WRONGTYPE"):
        reader_of(shared_redis, "other", "image_queue").read()


def test_a_counter_that_is_no_number_is_no_answer(shared_redis: RedisServer) -> None:
    shared_redis.client().hset(KEYS.stats, "accepted", "many")

    with pytest.raises(QueueError, match="cannot be read"):
        reader_of(shared_redis).read()


def test_a_lost_answer_is_asked_for_again(shared_redis: RedisServer) -> None:
    proxy = DroppingProxy(shared_redis.port)
    try:
        reader = QueueReader(RedisAccess(proxy.url), ["image_queue"])
        reader.read()
        proxy.drop_next_reply()

        reader.read()

        assert proxy.dropped.is_set()
    finally:
        proxy.close()


def test_a_server_that_hangs_is_given_up(
    redis_server: RedisServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("imageserve.queue.observations.COMMAND_TIMEOUT_S", 0.2)
    reader = reader_of(redis_server)
    reader.read()
    redis_server.pause()

    with pytest.raises(QueueUnavailable):
        reader.read()

    redis_server.resume()
    assert reader.read().run


def look_at(server: RedisServer) -> JobLook:
    return JobLook(RedisAccess(server.url), "image_queue")


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


def test_a_look_ends_without_a_job(shared_redis: RedisServer) -> None:
    assert not look_at(shared_redis).wait(0.01)
    assert not shared_redis.client().exists(KEYS.queue)


def test_a_look_leaves_the_queue_as_it_is(
    shared_redis: RedisServer, make_queue: QueueMaker
) -> None:
    put(make_queue(shared_redis.url), "a", "b", "c")
    client = shared_redis.client()
    before = {key: client.dump(key) for key in client.scan_iter()}

    assert look_at(shared_redis).wait()

    assert waiting(client) == ["a", "b", "c"]
    assert {key: client.dump(key) for key in client.scan_iter()} == before


def test_a_waiting_look_sees_the_first_job_and_leaves_it(
    shared_redis: RedisServer, make_queue: QueueMaker
) -> None:
    client = shared_redis.client()
    thread, results = in_thread(look_at(shared_redis).wait)
    eventually(lambda: blocked_clients(client) == 1, "the look waits")

    put(make_queue(shared_redis.url), "a")

    thread.join(20)
    assert results == [True]
    assert waiting(client) == ["a"]


@pytest.mark.parametrize("look_first", [True, False], ids=["look first", "worker first"])
def test_a_worker_that_waits_beside_a_look_gets_the_job(
    look_first: bool, shared_redis: RedisServer, make_queue: QueueMaker
) -> None:
    # The commands of a look and of a waiting worker, with time for a busy machine.
    look = ["BLMOVE", KEYS.queue, KEYS.queue, "LEFT", "LEFT", "30"]
    worker = ["BLMOVE", KEYS.queue, KEYS.hold, "LEFT", "RIGHT", "30"]
    client = shared_redis.client()
    queue = make_queue(shared_redis.url)
    threads = []
    for count, command in enumerate([look, worker] if look_first else [worker, look], start=1):
        threads.append(in_thread(partial(patient(shared_redis).execute_command, *command))[0])
        eventually(lambda n=count: blocked_clients(client) == n, "it waits")  # type: ignore[misc]

    put(queue, "a")
    eventually(lambda: client.llen(KEYS.hold) == 1, "the worker has the job")
    claim = queue.claim(8, HELD, suspects=False)
    put(queue, "b")  # For the look, where the worker was before it.
    for thread in threads:
        thread.join(30)

    assert [decode_job(entry).id for entry in claim.entries] == ["a"]
    assert waiting(client) == ["b"]


def test_looking_all_the_time_neither_loses_nor_reorders_nor_doubles_a_job(
    shared_redis: RedisServer, make_queue: QueueMaker
) -> None:
    expected = [f"job-{n:04}" for n in range(400)]
    queue, producer = make_queue(shared_redis.url), make_queue(shared_redis.url)
    look = look_at(shared_redis)
    done = threading.Event()

    def keep_looking() -> None:
        while not done.is_set():
            look.wait(0.01)

    looking, _ = in_thread(keep_looking)
    producing, _ = in_thread(lambda: put(producer, *expected))
    taken: list[str] = []

    def took_all() -> bool:
        entries = queue.claim(7, HELD, suspects=True).entries
        taken.extend(decode_job(entry).id for entry in entries)
        return len(taken) >= len(expected)

    eventually(took_all, "all jobs", 60)
    done.set()
    looking.join(20)
    producing.join(20)

    assert taken == expected
    assert waiting(shared_redis.client()) == []
