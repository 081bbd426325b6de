"""What only a real Redis can show: keys, lost replies, killed processes, full memory.

The promises that the in-memory twin shares are tested in ``test_queue.py``.
"""

import inspect
import json
import random
import subprocess
import sys
import threading
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import pytest
import redis
from redis.crc import key_slot
from tests.memory_queue import encode_job
from tests.queues import RedisQueue
from tests.redis_server import (
    DroppingProxy,
    Executable,
    QueueMaker,
    RedisServer,
    eventually,
    running,
)

from imageserve.errors import QueueKeyTaken, QueueUnavailable
from imageserve.predictions import Prediction
from imageserve.preparation import Preparation
from imageserve.queue.admission import EnqueueCode, Limits
from imageserve.queue.consumer import Claim, Consumer, Lease
from imageserve.queue.keys import Keys
from imageserve.queue.preparations import MOST_BYTES, in_force
from imageserve.queue.redis.queue import CLAIM, ENQUEUE, EXTEND, FINISH, HEARTBEAT, RELEASE
from imageserve.queue.snapshot import WebInfo, WorkerInfo
from imageserve.queue.wire import (
    UNREADABLE,
    Finished,
    Job,
    Result,
    decode_job,
    decode_result,
    encode_result,
    unread_result,
)

HELD = Lease(lease_ms=60_000)
LOST = Lease(lease_ms=1)
KEYS = Keys("image_queue")
CHANNEL = KEYS.reply("test")
PIXELS = bytes(range(12))
LABELS = (Prediction("cat", 0.5),)


@pytest.fixture
def queue(shared_redis: RedisServer, make_queue: QueueMaker) -> RedisQueue:
    return make_queue(shared_redis.url)


@pytest.fixture
def client(shared_redis: RedisServer) -> "redis.Redis":
    return shared_redis.client()


@pytest.fixture
def proxy(shared_redis: RedisServer) -> Iterator[DroppingProxy]:
    # Otherwise the reply that is dropped could be "no such script", which is no loss.
    for script in (ENQUEUE, CLAIM, FINISH, EXTEND, RELEASE, HEARTBEAT):
        shared_redis.client().script_load(script.source)
    proxy = DroppingProxy(shared_redis.port)
    yield proxy
    proxy.close()


def a_job(job_id: str, *, request_id: str = "request-1") -> Job:
    return Job(job_id, "resnet50", (2, 2, 3), 5, CHANNEL, request_id, 60_000)


def put(queue: RedisQueue, *job_ids: str) -> list[EnqueueCode]:
    jobs = map(a_job, job_ids)
    return [queue.enqueue(each, PIXELS, 60_000, Limits()).code for each in jobs]


def answers(*job_ids: str) -> list[Finished]:
    results = [Result(each, "resnet50", 1.5, 2.5, len(job_ids), LABELS) for each in job_ids]
    return [Finished(each.id, CHANNEL, each, 60_000, "completed") for each in results]


def ids(claim: Claim) -> list[str]:
    return [decode_job(entry).id for entry in claim.entries]


def entries(client: "redis.Redis", key: str) -> list[str]:
    return [decode_job(entry).id for entry in cast(list[bytes], client.lrange(key, 0, -1))]


def all_keys(client: "redis.Redis") -> set[str]:
    return {key.decode() for key in client.scan_iter()}


def next_redelivered(queue: RedisQueue, lease: Lease = HELD) -> Claim:
    """Claim until an expired lease comes back; take nothing else."""
    found: list[Claim] = []

    def tried() -> bool:
        found.append(queue.claim(1, lease, redelivered=True, min_depth=10_000))
        return bool(found[-1].entries)

    eventually(tried, "a job whose lease was lost")
    return found[-1]


def reaped(queue: RedisQueue, lease: Lease = HELD) -> bool:
    """Let a claim remove expired leases without taking a job; return whether it took none."""
    return not queue.claim(1, lease, redelivered=False, min_depth=10_000).entries


class Listener:
    """Counts the results that are published for each job."""

    def __init__(self, client: "redis.Redis") -> None:
        self.received: Counter[str] = Counter()
        self._client = client
        self._pubsub = client.pubsub()
        self._pubsub.subscribe(CHANNEL)
        eventually(lambda: self._pubsub.get_message(timeout=1), "the subscription")

    def listen(self, timeout_s: float = 0.0) -> bool:
        """Take one message; returns whether there was one."""
        message = self._pubsub.get_message(timeout=timeout_s)
        if message is None:
            return False
        self.received[decode_result(message["data"]).id] += 1
        return True

    def has_received(self, jobs: int) -> bool:
        while self.listen():
            pass
        return len(self.received) >= jobs

    def listen_to_all(self) -> Counter[str]:
        """Take what has been published before this call."""
        # Messages come in order: what was published before the marker has arrived with it.
        self._client.publish(CHANNEL, encode_result(answers("marker")[0].result))
        while not self.received["marker"]:
            assert self.listen(5)
        del self.received["marker"]
        return self.received

    def close(self) -> None:
        self._pubsub.close()


@pytest.fixture
def listener(client: "redis.Redis") -> Iterator[Listener]:
    listener = Listener(client)
    yield listener
    listener.close()


@contextmanager
def apart(function: Callable[[str], None], url: str) -> Iterator["subprocess.Popen[bytes]"]:
    """Run a function of this file in a process of its own: only its source goes there."""
    code = f"{inspect.getsource(function)}\n{function.__name__}({url!r})"
    with subprocess.Popen([sys.executable, "-c", code]) as process:
        try:
            yield process
        finally:
            process.kill()


# Keys.


def test_waiting_jobs_are_a_plain_list_of_json(queue: RedisQueue, client: "redis.Redis") -> None:
    put(queue, "a", "b", "c")
    assert client.type("image_queue") == b"list"
    assert client.llen("image_queue") == 3
    fields = [json.loads(each) for each in cast(list[bytes], client.lrange("image_queue", 0, -1))]
    assert [each["id"] for each in fields] == ["a", "b", "c"]
    assert set(fields[0]) == {
        "v",
        "id",
        "model",
        "encoding",
        "shape",
        "bytes",
        "top",
        "reply",
        "trace",
        "result_ttl_ms",
        "ts",
        "deadline",
    }
    assert (fields[0]["v"], fields[0]["bytes"], fields[0]["shape"]) == (1, 12, [2, 2, 3])


def test_every_key_expires_except_the_queue_its_counters_and_what_is_known_of_its_model(
    queue: RedisQueue, client: "redis.Redis"
) -> None:
    # Every kind of key: redelivered jobs, leases, lost attempts, the dead, results, workers.
    put(queue, "done", "dead", "redelivered", "leased", "waits", "moved")
    info = WorkerInfo("w", "resnet50", (224, 224, 3), 32, {1: 9.5}, "running", "node")
    queue.heartbeat(replace(info, preparation=Preparation((224, 224))))
    queue.web_heartbeat(WebInfo("p", 45.0))
    queue.set_desired("resnet50@v2 1760000000000")
    queue.keep_arrivals(b"memory", 60)
    queue.claim(3, LOST, redelivered=False)
    assert ids(next_redelivered(queue, LOST)) == ["dead"]
    queue.finish(next_redelivered(queue, HELD).token, answers("done"), {"batches": 1, "busy_ms": 5})
    queue.release(next_redelivered(queue, HELD).token, ["redelivered"])
    eventually(lambda: reaped(queue) and client.llen(KEYS.dead), "a dead job")
    assert ids(queue.claim(1, HELD, redelivered=False)) == ["leased"]

    found = all_keys(client)
    assert set(KEYS.types()) - found == {KEYS.hold}
    assert {KEYS.nonce("done"), KEYS.result("done"), KEYS.pixels("waits")} <= found
    assert {key for key in found if client.pttl(key) == -1} == {
        KEYS.queue,
        KEYS.stats,
        KEYS.desired,
        KEYS.preparation,
    }


def test_the_dead_list_is_forgotten_after_a_day(queue: RedisQueue, client: "redis.Redis") -> None:
    put(queue, "a")
    (failed,) = answers("a")
    taken = queue.claim(1, HELD, redelivered=False)
    queue.finish(taken.token, [replace(failed, dead="a reason")])
    assert 0 < client.pttl(KEYS.dead) <= 24 * 3_600_000


@pytest.mark.parametrize(
    ("field", "value"),
    [
        pytest.param("result_ttl_ms", 0.4, id="a lifetime of nothing"),
        pytest.param("result_ttl_ms", "long", id="a lifetime: text"),
        pytest.param("result_ttl_ms", 1e300, id="a lifetime: more than Redis takes"),
        pytest.param("model", ["m"], id="a model: a list"),
        pytest.param("reply", 7, id="a reply: a number"),
        pytest.param("reply", "", id="a reply: nobody"),
    ],
)
def test_a_job_with_a_wrong_field_is_answered_when_it_is_given_up_or_purged(
    queue: RedisQueue, client: "redis.Redis", field: str, value: object
) -> None:
    for job_id in ("dies", "purged"):
        job = json.loads(encode_job(replace(a_job(job_id), ts=1, deadline=2**52)))
        client.rpush(KEYS.queue, json.dumps({**job, field: value}))
    queue.claim(1, LOST, redelivered=False)
    next_redelivered(queue, LOST)
    eventually(lambda: reaped(queue) and client.llen(KEYS.dead), "a dead job")
    assert queue.purge() == 1

    dead, purged = queue.results(["dies", "purged"])
    assert dead is not None
    assert purged is not None
    assert (dead.error and dead.error.code, purged.error and purged.error.code) == (
        "model_failed",
        "busy",
    )
    assert 0 < client.pttl(KEYS.result("dies")) <= 60_000


def test_all_keys_of_a_queue_share_one_cluster_slot() -> None:
    names = [*KEYS.types(), KEYS.nonce("a"), KEYS.pixels("a"), KEYS.result("a"), KEYS.reply("p")]
    test_keys = KEYS.selftest("run")
    names += [*test_keys.types(), *KEYS.of_enqueue("a"), *test_keys.of_enqueue("a")]
    names += [KEYS.quota("team-a"), test_keys.quota("b")]
    assert {key_slot(name.encode()) for name in names} == {key_slot(b"image_queue")}


def test_two_queues_on_one_server_are_separate(
    shared_redis: RedisServer, make_queue: QueueMaker
) -> None:
    one, other = make_queue(shared_redis.url, "one"), make_queue(shared_redis.url, "other")
    put(one, "a")
    assert put(other, "a", "b") == [EnqueueCode.ACCEPTED] * 2
    assert ids(one.claim(32, HELD, redelivered=True)) == ["a"]
    assert ids(other.claim(32, HELD, redelivered=True)) == ["a", "b"]


def test_only_the_clock_of_redis_counts(queue: RedisQueue, client: "redis.Redis") -> None:
    def now() -> int:
        seconds, microseconds = client.time()
        return int(seconds) * 1000 + int(microseconds) // 1000

    before = now()
    queue.enqueue(a_job("a"), PIXELS, 7000, Limits())
    taken = queue.claim(1, HELD, redelivered=False)
    after = now()
    job = decode_job(taken.entries[0])
    assert isinstance(job, Job)
    assert before <= job.ts <= taken.now <= after
    assert job.deadline == job.ts + 7000
    lease_end = client.zscore(KEYS.leases, "a")
    assert lease_end == taken.now + 60_000


def test_a_request_id_that_resembles_a_deadline_is_not_read_as_one(
    queue: RedisQueue, client: "redis.Redis"
) -> None:
    full = Limits(max_jobs=1)
    for text in ('"deadline":1', '\\"deadline":1', '","deadline":1,"x":"'):
        client.flushall()
        assert queue.enqueue(a_job("a", request_id=text), PIXELS, 60_000, full).code == 0
        assert queue.enqueue(a_job("b"), PIXELS, 60_000, full).code is EnqueueCode.FULL
        (entry,) = queue.claim(1, HELD, redelivered=False).entries
        job = decode_job(entry)
        assert isinstance(job, Job)
        assert job.request_id == text


def test_bytes_that_are_no_text_end_on_the_dead_list(
    queue: RedisQueue, client: "redis.Redis"
) -> None:
    client.rpush("image_queue", b"\xff\xfe\x00")
    put(queue, "a")
    assert queue.snapshot().oldest_ms < 10_000
    taken = queue.claim(32, HELD, redelivered=False)
    assert (ids(taken), len(taken.dead)) == (["a"], 1)
    (dead,) = queue.dead(10)
    assert (dead["entry"], dead["reason"]) == ("\ufffd\ufffd\x00", "not a job")


def test_a_stored_text_that_is_no_result_is_told_from_none(
    queue: RedisQueue, client: "redis.Redis"
) -> None:
    client.set(KEYS.result("a"), "not a result")
    assert queue.results(["a", "b"]) == [unread_result("a", UNREADABLE), None]


def test_a_dead_list_that_another_program_wrote_can_be_read(
    queue: RedisQueue, client: "redis.Redis"
) -> None:
    for entry in ("not JSON", "[1]", '{"entry":5}', '{"entry":"e","reason":"r","at":"now"}'):
        client.rpush(KEYS.dead, entry)

    found = queue.dead(9)

    assert [each["entry"] for each in found[:2]] == ["not JSON", "[1]"]
    assert all(type(each["at"]) is int and each["reason"] for each in found)
    assert len(found) == 4


# Lost replies.


def test_an_enqueue_whose_reply_is_lost_queues_the_job_once(
    proxy: DroppingProxy, make_queue: QueueMaker, client: "redis.Redis"
) -> None:
    queue = make_queue(proxy.url)
    put(queue, "first")
    proxy.drop_next_reply()
    assert put(queue, "a") == [EnqueueCode.OWN_RETRY]
    assert proxy.dropped.is_set()
    assert entries(client, "image_queue") == ["first", "a"]
    assert queue.pixels(["a"]) == [PIXELS]
    assert queue.snapshot().stats["accepted"] == 2


def test_a_claim_whose_reply_is_lost_is_recovered_after_its_lease(
    proxy: DroppingProxy, make_queue: QueueMaker, client: "redis.Redis"
) -> None:
    queue = make_queue(proxy.url)
    queue.claim(1, HELD, redelivered=False)
    put(queue, "a", "b")
    proxy.drop_next_reply()
    with pytest.raises(QueueUnavailable):
        queue.claim(32, LOST, redelivered=False)
    assert proxy.dropped.is_set()
    assert client.zcard(KEYS.leases) == 2
    assert [ids(next_redelivered(queue)), ids(next_redelivered(queue))] == [["a"], ["b"]]


def test_a_worker_gets_the_batch_of_a_claim_whose_reply_was_lost(
    proxy: DroppingProxy, make_queue: QueueMaker
) -> None:
    queue = make_queue(proxy.url)
    consumer = Consumer(queue, "resnet50", HELD)
    assert consumer.claim(1) is None
    put(queue, "a", "b")
    proxy.drop_next_reply()
    with pytest.raises(QueueUnavailable):
        consumer.claim(32)
    assert proxy.dropped.is_set()

    batch = consumer.claim(32)

    assert batch is not None
    assert sorted(batch.ids) == ["a", "b"]
    assert batch.finish(answers(*batch.ids), {"batches": 1, "busy_ms": 5}) == [True, True]
    assert consumer.claim(32) is None


def test_a_worker_that_stops_gives_the_batch_of_a_claim_back_whose_reply_was_lost(
    proxy: DroppingProxy, make_queue: QueueMaker, client: "redis.Redis"
) -> None:
    queue = make_queue(proxy.url)
    consumer = Consumer(queue, "resnet50", HELD)
    assert consumer.claim(1) is None
    put(queue, "a", "b")
    proxy.drop_next_reply()
    with pytest.raises(QueueUnavailable):
        consumer.claim(1)

    consumer.leave("w-1")

    assert client.zcard(KEYS.leases) == 0
    assert entries(client, "image_queue") == ["a", "b"]


def test_a_finish_whose_reply_is_lost_stores_and_publishes_once(
    proxy: DroppingProxy, make_queue: QueueMaker, listener: Listener
) -> None:
    queue = make_queue(proxy.url)
    put(queue, "a", "b")
    taken = queue.claim(32, HELD, redelivered=False)
    first, second = answers("a", "b")
    done = [first, replace(second, dead="it failed")]
    proxy.drop_next_reply()
    assert queue.finish(taken.token, done, {"batches": 1, "busy_ms": 5}) == [True, True]
    assert proxy.dropped.is_set()
    assert queue.results(["a", "b"]) == [first.result, second.result]
    assert listener.listen_to_all() == {"a": 1, "b": 1}
    assert len(queue.dead(9)) == 1
    shot = queue.snapshot()
    assert (shot.backlog, shot.stats["completed"], shot.stats["batches"]) == (0, 2, 1)


def test_a_release_whose_reply_is_lost_gives_each_job_back_once(
    proxy: DroppingProxy, make_queue: QueueMaker, client: "redis.Redis"
) -> None:
    queue = make_queue(proxy.url)
    put(queue, "a", "b")
    taken = queue.claim(32, HELD, redelivered=False)
    queue.release("", [])
    proxy.drop_next_reply()
    queue.release(taken.token, ids(taken))
    assert proxy.dropped.is_set()
    assert entries(client, "image_queue") == ["a", "b"]


def test_an_extension_and_a_heartbeat_whose_replies_are_lost_say_the_same(
    proxy: DroppingProxy, make_queue: QueueMaker
) -> None:
    queue = make_queue(proxy.url)
    put(queue, "a")
    taken = queue.claim(32, HELD, redelivered=False)
    queue.extend(taken.token, ["a"], 60_000)
    proxy.drop_next_reply()
    assert queue.extend(taken.token, ["a"], 60_000) == 1
    assert proxy.dropped.is_set()
    queue.set_desired("resnet50@v2 1760000000000")
    proxy.drop_next_reply()
    info = WorkerInfo("w", "resnet50", (2, 2, 3), 32, {}, "running", "node")
    assert queue.heartbeat(info) == "resnet50@v2 1760000000000"
    assert [worker.id for worker in queue.snapshot().workers] == ["w"]


def test_a_wait_whose_reply_is_lost_loses_no_job(
    proxy: DroppingProxy, make_queue: QueueMaker, client: "redis.Redis"
) -> None:
    queue = make_queue(proxy.url)
    put(queue, "first")
    queue.wait(1)
    put(queue, "second")
    proxy.drop_next_reply()
    with pytest.raises(QueueUnavailable):
        queue.wait(1)
    assert proxy.dropped.is_set()
    assert entries(client, KEYS.hold) == ["first", "second"]
    put(queue, "third")
    assert ids(queue.claim(32, HELD, redelivered=False)) == ["first", "second", "third"]


def test_jobs_in_hold_still_count_and_go_back_in_order_with_a_release(queue: RedisQueue) -> None:
    put(queue, "a", "b", "c", "d")
    taken = queue.claim(1, HELD, redelivered=False)
    queue.wait(1)
    queue.wait(1)
    assert queue.snapshot().queued == 3
    refused = queue.enqueue(a_job("e"), PIXELS, 60_000, Limits(max_jobs=3))
    assert refused.code is EnqueueCode.FULL
    queue.release(taken.token, ["a"])
    assert ids(queue.claim(32, HELD, redelivered=False)) == ["a", "b", "c", "d"]


# Killed processes.


def _wait_and_die(url: str) -> None:
    import os
    import signal

    from tests.queues import RedisQueue

    from imageserve.queue.redis.connection import RedisAccess

    RedisQueue(RedisAccess(url), "image_queue").wait(2)
    os.kill(os.getpid(), signal.SIGKILL)


def _claim_and_die(url: str) -> None:
    import os
    import signal

    from tests.queues import RedisQueue

    from imageserve.queue.consumer import Lease
    from imageserve.queue.redis.connection import RedisAccess

    RedisQueue(RedisAccess(url), "image_queue").claim(3, Lease(lease_ms=1), redelivered=False)
    os.kill(os.getpid(), signal.SIGKILL)


def _work_until_killed(url: str) -> None:
    import time

    from tests.queues import RedisQueue

    from imageserve.predictions import Prediction
    from imageserve.queue.consumer import Lease
    from imageserve.queue.redis.connection import RedisAccess
    from imageserve.queue.wire import Finished, Result, decode_job

    cat = Prediction("cat", 0.5)
    queue, turn = RedisQueue(RedisAccess(url), "image_queue"), 0
    while True:
        turn += 1
        # Enough attempts that no job is given up by chance.
        claim = queue.claim(8, Lease(lease_ms=700, max_attempts=99), redelivered=turn % 2 == 0)
        if not claim.entries:
            queue.wait(0.1)
        time.sleep(0.02)  # The model.
        jobs = [decode_job(entry) for entry in claim.entries]
        results = [Result(job.id, job.model, 0, 20, len(jobs), (cat,)) for job in jobs]
        done = [Finished(each.id, jobs[0].reply, each, 60_000, "completed") for each in results]
        queue.finish(claim.token, done, {"batches": 1, "busy_ms": 20})


def test_a_job_whose_waiter_was_killed_before_it_claimed_comes_with_the_next_claim(
    queue: RedisQueue, shared_redis: RedisServer, client: "redis.Redis"
) -> None:
    put(queue, "a", "b")
    with apart(_wait_and_die, shared_redis.url) as process:
        assert process.wait(20) == -9
    assert entries(client, KEYS.hold) == ["a"]
    taken = queue.claim(32, HELD, redelivered=False)
    assert (ids(taken), taken.lost) == (["a", "b"], 0)


def test_all_jobs_of_a_killed_worker_are_recovered_and_run_alone(
    queue: RedisQueue, shared_redis: RedisServer
) -> None:
    put(queue, "a", "b", "c", "d")
    with apart(_claim_and_die, shared_redis.url) as process:
        assert process.wait(20) == -9
    taken = [
        queue.claim(32, HELD, redelivered=redelivered) for redelivered in (True, True, False, True)
    ]
    assert [ids(each) for each in taken] == [["a"], ["b"], ["d"], ["c"]]
    assert [each.lost for each in taken] == [1, 1, 0, 1]


def test_no_job_is_lost_or_done_twice_while_workers_are_killed_at_random(
    queue: RedisQueue, shared_redis: RedisServer, client: "redis.Redis", listener: Listener
) -> None:
    names = {f"job-{i}" for i in range(300)}
    chance = random.Random(7)
    put(queue, *names)
    with (
        apart(_work_until_killed, shared_redis.url) as one,
        apart(_work_until_killed, shared_redis.url) as two,
        apart(_work_until_killed, shared_redis.url) as three,
        apart(_work_until_killed, shared_redis.url) as four,
        apart(_work_until_killed, shared_redis.url) as five,
        apart(_work_until_killed, shared_redis.url),
    ):
        for done, victim in enumerate([one, two, three, four, five], start=1):
            progress = chance.randint(20, 40) * done
            eventually(partial(listener.has_received, progress), f"{progress} results")
            victim.kill()
        eventually(partial(listener.has_received, 300), "all results")
    assert listener.listen_to_all() == dict.fromkeys(names, 1)
    assert None not in queue.results(sorted(names))
    shot = queue.snapshot()
    assert (shot.backlog, shot.dead, shot.stats["completed"]) == (0, 0, 300)
    assert not {KEYS.leases, KEYS.inflight, KEYS.attempts, KEYS.retry} & all_keys(client)


# Many at once.


def test_eight_workers_share_2000_jobs_and_finish_each_once(
    shared_redis: RedisServer, make_queue: QueueMaker, client: "redis.Redis", listener: Listener
) -> None:
    names = [f"job-{i}" for i in range(2000)]
    worked: list[list[str]] = [[] for _ in range(8)]
    kept: list[bool] = []
    stop = threading.Event()

    def work(mine: list[str], queue: RedisQueue) -> None:
        while not stop.is_set():
            claim = queue.claim(32, HELD, redelivered=True)
            if not claim.entries:
                queue.wait(0.05)
            mine += ids(claim)
            kept.extend(queue.finish(claim.token, answers(*ids(claim))))

    def produce(mine: list[str], queue: RedisQueue) -> None:
        put(queue, *mine)

    makers = [(produce, names[half::2]) for half in range(2)]
    threads = [
        threading.Thread(target=target, args=(mine, make_queue(shared_redis.url)))
        for target, mine in [*makers, *((work, mine) for mine in worked)]
    ]
    for thread in threads:
        thread.start()
    try:
        eventually(lambda: len(kept) >= 2000, "all jobs", timeout_s=60)
    finally:
        stop.set()
        for thread in threads:
            thread.join()

    assert all(kept)
    assert Counter(job for mine in worked for job in mine) == dict.fromkeys(names, 1)
    assert listener.listen_to_all() == dict.fromkeys(names, 1)
    per_job = {key for name in names for key in (KEYS.nonce(name), KEYS.result(name))}
    assert all_keys(client) == per_job | {KEYS.stats}


def test_jobs_go_through_while_scripts_are_flushed(
    queue: RedisQueue, shared_redis: RedisServer
) -> None:
    stop = threading.Event()

    def flush(client: "redis.Redis") -> None:
        while not stop.is_set():
            client.script_flush()

    flusher = threading.Thread(target=flush, args=(shared_redis.client(),))
    flusher.start()
    try:
        for i in range(100):
            assert put(queue, f"job-{i}") == [EnqueueCode.ACCEPTED]
            taken = queue.claim(32, HELD, redelivered=True)
            assert queue.extend(taken.token, ids(taken), 60_000) == 1
            assert queue.finish(taken.token, answers(f"job-{i}")) == [True]
    finally:
        stop.set()
        flusher.join()


# Redis itself dies, or has no memory left.


@pytest.fixture
def durable_server(redis_executable: Executable, tmp_path: Path) -> Iterator[RedisServer]:
    """A server that has written to disk what it acknowledges."""
    path = redis_executable.found()
    with running(RedisServer(path, tmp_path / "redis", "--appendfsync", "always")) as server:
        yield server


def test_no_acknowledged_job_is_lost_when_redis_is_killed(
    durable_server: RedisServer, make_queue: QueueMaker
) -> None:
    queue = make_queue(durable_server.url)
    acknowledged: list[str] = []

    def produce() -> None:
        try:
            for i in range(100_000):
                put(queue, f"job-{i}")
                acknowledged.append(f"job-{i}")
        except QueueUnavailable:
            pass

    producer = threading.Thread(target=produce)
    producer.start()
    try:
        eventually(lambda: len(acknowledged) >= 200, "200 jobs")
    finally:
        durable_server.kill()
        producer.join()
    durable_server.restart()

    found = entries(durable_server.client(), "image_queue")
    # The last one may have been stored without the answer getting through.
    assert found[: len(acknowledged)] == acknowledged
    assert len(found) <= len(acknowledged) + 1
    assert queue.pixels(acknowledged) == [PIXELS] * len(acknowledged)


def test_a_claimed_batch_is_finished_after_a_restart_of_redis(
    durable_server: RedisServer, make_queue: QueueMaker
) -> None:
    queue = make_queue(durable_server.url)
    put(queue, "a", "b", "c")
    taken = queue.claim(2, HELD, redelivered=False)
    durable_server.kill()
    durable_server.restart()
    assert queue.extend(taken.token, ids(taken), 60_000) == 2
    assert queue.finish(taken.token, answers("a", "b")) == [True, True]
    assert ids(queue.claim(32, HELD, redelivered=True)) == ["c"]


def test_claimed_jobs_are_finished_while_redis_has_no_memory_left(
    redis_server: RedisServer, make_queue: QueueMaker
) -> None:
    queue, client = make_queue(redis_server.url), redis_server.client()
    put(queue, "a", "b", "c", "d")
    queue.claim(1, LOST, redelivered=False)
    taken = queue.claim(2, HELD, redelivered=False)
    client.config_set("maxmemory", 1)

    before = all_keys(client)
    assert put(queue, "refused") == [EnqueueCode.NO_ROOM]
    assert all_keys(client) == before

    assert queue.extend(taken.token, ["b", "c"], 60_000) == 2
    assert queue.release(taken.token, ["c"]) == 1
    (failed,) = answers("b")
    again = queue.claim(1, HELD, redelivered=False, token=taken.token, again=True)
    assert ids(again) == ["b"]
    assert queue.finish(taken.token, [replace(failed, dead="a reason")], {"batches": 1}) == [True]
    assert len(queue.dead(9)) == 1
    assert ids(queue.claim(32, HELD, redelivered=False)) == ["c", "d"]
    redelivered = next_redelivered(queue)
    assert queue.finish(redelivered.token, answers("a")) == [True]
    assert None not in queue.results(["a", "b"])
    info = WorkerInfo("w", "resnet50", (2, 2, 3), 32, {}, "running", "node")
    queue.heartbeat(replace(info, preparation=CROP))
    assert client.exists(KEYS.preparation)
    queue.cancel(["d"])
    assert queue.snapshot().in_flight == 2

    client.config_set("maxmemory", 0)
    assert put(queue, "refused") == [EnqueueCode.ACCEPTED]


def test_a_job_is_accepted_whole_or_not_at_all_however_little_memory_is_left(
    redis_server: RedisServer, make_queue: QueueMaker
) -> None:
    queue, client = make_queue(redis_server.url), redis_server.client()
    put(queue, "first")
    job = replace(a_job("a"), shape=(64, 64, 3))
    codes = set()
    for step in range(300):
        client.config_set("maxmemory", 0)
        client.flushall()
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 256 * step)
        code = queue.enqueue(job, bytes(job.bytes), 60_000, Limits()).code
        codes.add(code)
        left = all_keys(client) - {KEYS.stats}
        whole = {KEYS.queue, KEYS.waiting, KEYS.nonce("a"), KEYS.pixels("a")}
        assert left == (whole if code is EnqueueCode.ACCEPTED else set()), step
    assert codes == {EnqueueCode.ACCEPTED, EnqueueCode.NO_ROOM}


def test_what_is_refused_for_lack_of_memory_is_counted(
    redis_server: RedisServer, make_queue: QueueMaker
) -> None:
    queue, client = make_queue(redis_server.url), redis_server.client()
    client.config_set("maxmemory", 1)

    assert put(queue, *"abcde") == [EnqueueCode.NO_ROOM] * 5
    queue.count_refused()

    client.config_set("maxmemory", 0)
    assert queue.snapshot().stats == {"rejected": 6}
    assert all_keys(client) == {KEYS.stats}


def test_a_job_whose_enqueue_is_sent_again_without_memory_keeps_its_pixels(
    redis_server: RedisServer, make_queue: QueueMaker
) -> None:
    queue, client = make_queue(redis_server.url), redis_server.client()
    put(queue, "a")
    client.config_set("maxmemory", 1)

    assert put(queue, "a") == [EnqueueCode.OWN_RETRY]
    assert queue.pixels(["a"]) == [PIXELS]


def contents(client: "redis.Redis") -> dict[str, Any]:
    """Return all that is stored, but for pixels: those of a job that was not queued expire."""
    kept = (key for key in all_keys(client) if not key.startswith(KEYS.pixels("")))
    return {key: client.dump(key) for key in kept}


STEPS: dict[str, Callable[[RedisQueue, str], object]] = {
    "enqueue": lambda queue, token: put(queue, "new"),
    "claim": lambda queue, token: queue.claim(8, HELD, redelivered=True),
    "finish": lambda queue, token: queue.finish(
        token, [replace(each, dead="a reason") for each in answers("b", "c")]
    ),
    "release": lambda queue, token: queue.release(token, ["a", "b", "c"]),
}


@pytest.mark.parametrize("step", STEPS)
def test_a_step_that_meets_another_programs_key_changes_nothing(
    queue: RedisQueue, client: "redis.Redis", step: str
) -> None:
    refused: dict[str, str] = {}
    for taken, kind in KEYS.types().items():
        client.flushall()
        put(queue, "a", "b", "c", "d", "e")
        queue.claim(1, LOST, redelivered=False)
        token = "one"
        eventually(lambda: reaped(queue) and client.llen(KEYS.retry) == 1, "a is redelivered")
        queue.claim(1, HELD, redelivered=True, token=token)
        queue.claim(2, HELD, redelivered=False, token=token)
        queue.claim(1, LOST, redelivered=False)
        client.delete(taken)
        client.lpush(taken, "theirs") if kind == "string" else client.set(taken, "theirs")
        before = contents(client)
        try:
            STEPS[step](queue, token)
        except QueueKeyTaken as error:
            refused[taken] = str(error)
            assert contents(client) == before, taken
    assert {KEYS.leases} < set(refused)
    assert all(f"{taken} is a " in said for taken, said in refused.items())


def test_without_a_dead_list_of_its_own_a_queue_answers_all_jobs(
    queue: RedisQueue, client: "redis.Redis"
) -> None:
    client.set(KEYS.dead, "another program's")
    put(queue, "a", "b", "c", "d")
    taken = queue.claim(3, HELD, redelivered=False)
    failed = [replace(each, dead="a reason") for each in answers("a", "b", "c")]
    assert queue.finish(taken.token, failed, {"batches": 1}) == [True] * 3
    assert None not in queue.results(["a", "b", "c"])

    queue.claim(1, replace(LOST, max_attempts=1), redelivered=False)
    client.rpush(KEYS.queue, "no job")
    put(queue, "e")
    once = replace(HELD, max_attempts=1)
    eventually(lambda: reaped(queue, once) and not client.hexists(KEYS.inflight, "d"), "d ends")
    assert ids(queue.claim(8, HELD, redelivered=False)) == ["e"]
    assert None not in queue.results(["d"])
    assert client.hget(KEYS.stats, "dead") == b"5"

    with pytest.raises(QueueKeyTaken, match=r"dead is a string and must be a list"):
        queue.snapshot()


def test_web_processes_tell_what_they_could_decode_and_silent_ones_are_removed(
    queue: RedisQueue, client: "redis.Redis"
) -> None:
    queue.web_heartbeat(WebInfo("one", 45.0))
    queue.web_heartbeat(WebInfo("two", 15.125))
    assert queue.snapshot().web_capacity_per_s == pytest.approx(60.125)

    client.zadd(KEYS.web, {"one": 1})
    assert queue.snapshot().web_capacity_per_s == pytest.approx(15.125), "it is silent"
    queue.web_heartbeat(WebInfo("two", 20.0))
    assert client.hkeys(KEYS.web_info) == client.zrange(KEYS.web, 0, -1) == [b"two"]

    queue.web_heartbeat(WebInfo("one", 45.0))
    client.zadd(KEYS.web, {"one": queue.snapshot().now + 3_600_000})
    seen = queue.snapshot().web_capacity_per_s
    assert seen == pytest.approx(20.0), "the clock of Redis was set back"
    queue.web_heartbeat(WebInfo("two", 20.0))
    assert client.hkeys(KEYS.web_info) == client.zrange(KEYS.web, 0, -1) == [b"two"]

    queue.web_leave("two")
    assert queue.snapshot().web == ()


def test_pixels_that_were_deleted_before_their_job_came_are_no_lack_of_memory(
    queue: RedisQueue, client: "redis.Redis", monkeypatch: pytest.MonkeyPatch
) -> None:
    def after_flush(*args: Any) -> Any:
        """Stand in for a FLUSHALL between the two commands of the pipeline."""
        call, key, names, arguments = args[0], args[1], args[4], args[5]
        assert key == KEYS.pixels("a")
        return True, ENQUEUE(call, names, arguments)

    monkeypatch.setattr(ENQUEUE, "after_set", after_flush)
    assert put(queue, "a") == [EnqueueCode.PIXELS_LOST]
    assert all_keys(client) == set()


def test_a_heartbeat_that_cannot_be_read_hides_no_other_worker(
    queue: RedisQueue, client: "redis.Redis"
) -> None:
    info = WorkerInfo("ours", "m", (1, 1, 3), 1, {1: 1.0}, "ready", "here")
    queue.heartbeat(info)
    queue.heartbeat(replace(info, id="theirs"))
    client.hset(queue.keys.workers_info, "theirs", '{"kind": "new"}')

    assert [worker.id for worker in queue.snapshot().workers] == ["ours"]


def test_a_worker_of_an_older_release_has_no_version(
    queue: RedisQueue, client: "redis.Redis"
) -> None:
    info = WorkerInfo("w", "m", (1, 1, 3), 1, {1: 1.0}, "ready", "here", version="v2")
    queue.heartbeat(info)
    said = json.loads(client.hget(queue.keys.workers_info, "w") or b"")
    assert "preparation" not in said
    for name in ("version", "loading", "problem", "answered"):
        del said[name]
    client.hset(queue.keys.workers_info, "w", json.dumps(said))

    (found,) = queue.snapshot().workers
    assert replace(found, last_seen=0) == replace(info, version="")


def test_a_desired_version_that_another_program_wrote_fails_no_heartbeat(
    queue: RedisQueue, client: "redis.Redis"
) -> None:
    client.rpush(queue.keys.desired, "a list")

    assert queue.heartbeat(WorkerInfo("w", "m", (1, 1, 3), 1, {}, "ready", "here")) == ""
    assert [worker.id for worker in queue.snapshot().workers] == ["w"]


CROP = Preparation((8, 8), resize="crop", resize_to=10, interpolation="bicubic")
CROPPING = WorkerInfo("w", "m", (8, 8, 3), 1, {1: 1.0}, "ready", "here", preparation=CROP)


def test_the_preparation_of_the_last_worker_is_kept_for_ever_and_small(
    queue: RedisQueue, client: "redis.Redis"
) -> None:
    queue.heartbeat(CROPPING)
    queue.leave("w")
    queue.heartbeat(replace(CROPPING, id="old", preparation=None))
    queue.leave("old")

    seen = queue.snapshot()
    assert in_force(seen, "m", None) == CROP
    assert isinstance(in_force(seen, "n", None), str)
    assert client.pttl(KEYS.preparation) == -1
    assert len(client.get(KEYS.preparation) or b"") < MOST_BYTES
    assert queue.heartbeat(replace(CROPPING, preparation=Preparation((4, 4)))) == ""
    assert json.loads(queue.snapshot().kept)["preparation"] == {"size": [4, 4]}


@pytest.mark.parametrize("kind", ["list", "no text", "no JSON", "half of it", "too long"])
def test_a_kept_preparation_that_another_program_wrote_breaks_nothing(
    kind: str, queue: RedisQueue, client: "redis.Redis"
) -> None:
    if kind == "list":
        client.rpush(KEYS.preparation, "a list")
    else:
        contents = {"no text": b"\xff", "no JSON": b"{", "half of it": b'{"model": "m"}'}
        contents["too long"] = b"x" * 10 * MOST_BYTES
        client.set(KEYS.preparation, contents[kind])

    assert in_force(queue.snapshot(), "m", Preparation((9, 9))) == Preparation((9, 9))
    assert len(queue.snapshot().kept) <= MOST_BYTES, "it is read every second"
    queue.heartbeat(CROPPING)
    assert in_force(queue.snapshot(), "m", None) == CROP
    queue.leave("w")
    # A list is another program's data, and stays.
    assert client.type(KEYS.preparation) == (b"list" if kind == "list" else b"string")
    assert (in_force(queue.snapshot(), "m", None) == CROP) == (kind != "list")


def test_a_preparation_of_a_later_release_is_known_to_be_unknown(
    queue: RedisQueue, client: "redis.Redis"
) -> None:
    queue.heartbeat(CROPPING)
    said = json.loads(client.hget(queue.keys.workers_info, "w") or b"")
    said["preparation"]["rotate"] = 90
    client.hset(queue.keys.workers_info, "w", json.dumps(said))

    (found,) = queue.snapshot().workers
    assert isinstance(found.preparation, str)
    assert "rotate" in found.preparation
