"""Queues on Redis Cluster: each on the node that has its slot, wherever that is by now."""

import logging
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from tests.component.conftest import Listen
from tests.queues import RedisQueue, monitored
from tests.redis_server import (
    PATIENCE_S,
    Executable,
    QueueMaker,
    RedisCluster,
    RedisClusterNode,
    RedisServer,
    eventually,
    free_port,
    oldest_and_newest,
    running,
)

from imageserve.errors import QueueForbidden, QueueUnavailable
from imageserve.preparation import Preparation
from imageserve.queue.admission import EnqueueCode, Limits
from imageserve.queue.consumer import Lease
from imageserve.queue.monitor import Monitor
from imageserve.queue.producer import JobRequest, Producer, ProducerConfig, connect_producers
from imageserve.queue.quota import Quota
from imageserve.queue.redis.connection import COMMAND_TIMEOUT_S, RedisAccess, connect
from imageserve.queue.self_test import check_server
from imageserve.queue.wire import Finished, Job, Result, ResultError

HELD = Lease(lease_ms=60_000)
FIRST, SECOND = "resnet", "shapes"
"""Two queues whose slots lie in different halves."""


@pytest.fixture(scope="module", params=oldest_and_newest(), ids=str)
def running_cluster(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[RedisCluster]:
    executable: Executable = request.param
    cluster = RedisCluster(executable.found(), tmp_path_factory.mktemp(str(executable)))
    with running(cluster):
        assert cluster.node_of(FIRST) is not cluster.node_of(SECOND)
        yield cluster


@pytest.fixture
def cluster(running_cluster: RedisCluster) -> RedisCluster:
    """The cluster, emptied."""
    for node in running_cluster.nodes:
        node.client().flushall()
    return running_cluster


def a_job(job_id: str, reply: str = "") -> Job:
    return Job(job_id, "model", (1, 1, 3), 1, reply, "trace", 60_000)


def put(queue: RedisQueue, job_id: str, reply: str = "") -> EnqueueCode:
    limits = Limits(quota=Quota("team-a", 50, 100))
    return queue.enqueue(a_job(job_id, reply), b"\0\0\0", 60_000, limits).code


def finish(queue: RedisQueue, job_id: str, reply: str = "") -> list[bool]:
    claim = queue.claim(8, HELD, redelivered=False)
    error = ResultError("none", "none")
    result = Result(job_id, "model", 0, 0, 1, error=error)
    done = Finished(job_id, reply, result, 60_000, "failed")
    return queue.finish(claim.token, [done], {"batches": 1})


def test_each_queue_lives_on_the_node_of_its_slot(
    cluster: RedisCluster, make_queue: QueueMaker
) -> None:
    for name in (FIRST, SECOND):
        queue = make_queue(cluster.url, name)
        assert put(queue, "job") is EnqueueCode.ACCEPTED
        queue.wait(0.1)
        assert queue.pixels(["job"]) == [b"\0\0\0"]
        assert finish(queue, "job") == [True]
        assert queue.results(["job"])[0] is not None
        assert queue.missing(["job", "another"]) == ["another"]
        assert cluster.node_of(name).client().exists(queue.keys.stats)


def test_the_start_up_test_passes(cluster: RedisCluster, caplog: pytest.LogCaptureFixture) -> None:
    for name in (FIRST, SECOND):
        check_server(RedisAccess(cluster.url), name, 2**20)
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


class NodeOfCluster:
    """The cluster, and the node on which a listener listens."""

    def __init__(self, cluster: RedisCluster, node: RedisClusterNode) -> None:
        self.url = cluster.url
        self.client = node.client


def test_results_of_a_queue_are_received_from_the_node_of_its_slot(
    cluster: RedisCluster, make_queue: QueueMaker, listen: Listen
) -> None:
    for name in (FIRST, SECOND):
        queue, node = make_queue(cluster.url, name), cluster.node_of(name)
        listener = listen(NodeOfCluster(cluster, node), queue)
        job_id, woken = f"job of {queue.name}", threading.Event()
        tickets = listener.tickets[queue.name]
        tickets.add(job_id, woken)
        assert put(queue, job_id, tickets.channel) is EnqueueCode.ACCEPTED
        assert finish(queue, job_id, tickets.channel) == [True]
        assert woken.wait(PATIENCE_S)
        channels = node.client().execute_command("PUBSUB", "CHANNELS")
        assert tickets.channel.encode() in channels


def test_all_queues_are_read_together(cluster: RedisCluster, make_queue: QueueMaker) -> None:
    for count, name in enumerate((FIRST, SECOND), start=1):
        for number in range(count):
            put(make_queue(cluster.url, name), f"job {number}")
    monitor = Monitor(RedisAccess(cluster.url), [FIRST, SECOND])
    seen = {name: monitored(monitor, name) for name in (FIRST, SECOND)}
    assert {name: snapshot.queued for name, snapshot in seen.items()} == {FIRST: 1, SECOND: 2}
    assert monitored(monitor, FIRST).run == seen[FIRST].run


def test_a_queue_is_followed_to_another_node(cluster: RedisCluster, make_queue: QueueMaker) -> None:
    queue = make_queue(cluster.url, FIRST)
    assert put(queue, "before") is EnqueueCode.ACCEPTED
    assert queue.claim(8, HELD, redelivered=False).entries
    home, target = cluster.node_of(FIRST), cluster.node_of(SECOND)
    home.client().flushall()
    cluster.move(FIRST, target)

    assert put(queue, "after") is EnqueueCode.ACCEPTED
    assert target.client().exists(queue.keys.stats)
    # A claim is never sent twice: it fails once, and the worker's next one succeeds.
    with pytest.raises(QueueUnavailable, match="moved"):
        queue.claim(8, HELD, redelivered=False)
    assert len(queue.claim(8, HELD, redelivered=False).entries) == 1
    target.client().flushall()
    cluster.move(FIRST, home)


def test_a_node_that_is_gone_does_not_hide_the_others(
    cluster: RedisCluster, make_queue: QueueMaker
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    alive = cluster.node_of(SECOND).address
    queue = make_queue(f"redis+cluster://{nobody},{alive}", FIRST)
    assert put(queue, "job") is EnqueueCode.ACCEPTED


def test_a_lost_node_makes_its_queue_unavailable_until_it_is_back(
    cluster: RedisCluster, make_queue: QueueMaker
) -> None:
    queue = make_queue(cluster.url, FIRST)
    put(queue, "job")
    node = cluster.node_of(FIRST)
    node.kill()
    with pytest.raises(QueueUnavailable):
        put(queue, "lost")
    node.start()

    def accepted() -> bool:
        try:
            return put(queue, "next") is EnqueueCode.ACCEPTED
        except QueueUnavailable:
            return False

    eventually(accepted, "the queue is back with its node")


def test_a_cluster_that_nobody_answers_for_is_unavailable(make_queue: QueueMaker) -> None:
    nodes = f"127.0.0.1:{free_port()},127.0.0.1:{free_port()}"
    with pytest.raises(QueueUnavailable):
        put(make_queue(f"redis+cluster://{nodes}", FIRST), "job")


def test_a_server_that_is_no_cluster_says_so(
    redis_executable: Executable, tmp_path: Path, make_queue: QueueMaker
) -> None:
    server = RedisServer(redis_executable.found(), tmp_path / "single")
    with running(server), pytest.raises(QueueForbidden, match="cluster support disabled"):
        put(make_queue(f"redis+cluster://127.0.0.1:{server.port}", FIRST), "job")


# -- three masters, one of them gone -------------------------------------------------------------

NORMAL_S = 1.0
"""Far above the few milliseconds that an answer takes, far below each time-out."""


@pytest.fixture
def three_masters(redis_executable: Executable, tmp_path: Path) -> Iterator[RedisCluster]:
    # Without full coverage the other masters serve on, as any cluster does whose lost master has a
    # replica that takes over a moment later.
    options = ("--cluster-require-full-coverage", "no")
    cluster = RedisCluster(redis_executable.found(), tmp_path / "cluster", *options, masters=3)
    with running(cluster):
        yield cluster


def answered_within(producer: Producer, queue: RedisQueue) -> float:
    """Submit one job, play the worker, and return the seconds until the ticket has its result."""
    woken = threading.Event()
    began = time.monotonic()
    ticket = producer.submit(
        JobRequest("model", Preparation((1, 1)), 1, "trace"), b"\0\0\0", 8000, woken
    )
    assert finish(queue, ticket.job_id, producer._tickets.channel) == [True]
    assert woken.wait(8)
    producer.forget(ticket)
    return time.monotonic() - began


@pytest.mark.usefixtures("listen")
def test_with_one_master_gone_the_queues_on_the_others_do_not_notice(
    three_masters: RedisCluster, make_queue: QueueMaker
) -> None:
    names = three_masters.queue_names()
    access = RedisAccess(three_masters.url)
    producers = connect_producers(access, names, ProducerConfig(), connections=4)
    queues = {name: make_queue(three_masters.url, name) for name in names}
    monitor = Monitor(access, names)
    for name in names:
        assert answered_within(producers[name], queues[name]) < NORMAL_S

    three_masters.nodes[0].kill()

    for _ in range(5):
        with pytest.raises(QueueUnavailable):
            answered_within(producers[names[0]], queues[names[0]])
        for name in names[1:]:
            assert answered_within(producers[name], queues[name]) < NORMAL_S
    began = time.monotonic()
    seen = monitor.snapshots()
    assert time.monotonic() - began < 2 * COMMAND_TIMEOUT_S
    assert isinstance(seen[names[0]], QueueUnavailable)
    assert [monitored(monitor, name).stats["failed"] for name in names[1:]] == [
        queues[name].snapshot().stats["failed"] for name in names[1:]
    ]

    three_masters.nodes[0].start()

    def back() -> bool:
        try:
            return answered_within(producers[names[0]], queues[names[0]]) < NORMAL_S
        except QueueUnavailable:
            return False

    eventually(back, "the queue of the lost master is served again")


@pytest.mark.usefixtures("listen")
def test_a_master_that_hangs_delays_no_other_queue(
    three_masters: RedisCluster, make_queue: QueueMaker
) -> None:
    names = three_masters.queue_names()
    access = RedisAccess(three_masters.url)
    producers = connect_producers(access, names, ProducerConfig(), connections=4)
    queues = {name: make_queue(three_masters.url, name) for name in names}
    for name in names:
        answered_within(producers[name], queues[name])

    three_masters.nodes[0].pause()

    for name in names[1:] * 3:
        assert answered_within(producers[name], queues[name]) < NORMAL_S
    three_masters.nodes[0].resume()


def test_a_seed_that_hangs_delays_one_connection_of_a_process(
    three_masters: RedisCluster, make_queue: QueueMaker
) -> None:
    hanging, *others = three_masters.queue_names()
    three_masters.nodes[0].pause()
    try:
        check_server(RedisAccess(three_masters.url), others[0], 2**20)
        for name in others:
            began = time.monotonic()
            queue = make_queue(three_masters.url, name)
            put(queue, "job")
            queue.wait(0.1)
            assert finish(queue, "job") == [True]
            assert time.monotonic() - began < NORMAL_S
        # The queue of the node that hangs: each try costs one time-out of the node, not two.
        queue = make_queue(three_masters.url, hanging)
        for _ in range(2):
            began = time.monotonic()
            with pytest.raises(QueueUnavailable):
                put(queue, "job")
            assert time.monotonic() - began < 1.5 * COMMAND_TIMEOUT_S
    finally:
        three_masters.nodes[0].resume()


def test_a_client_that_may_wait_long_finds_its_node_soon(three_masters: RedisCluster) -> None:
    hanging, other = three_masters.nodes[0], three_masters.queue_names()[1]
    hanging.pause()
    access = RedisAccess(three_masters.url)
    began = time.monotonic()
    try:
        with connect(access, key=other, retries=0, timeout_s=30, connections=1) as client:
            assert client.ping()
    finally:
        hanging.resume()
    assert time.monotonic() - began < 2 * COMMAND_TIMEOUT_S


def test_a_new_subscription_reads_each_waiting_result_once(
    shared_redis: RedisServer, make_queue: QueueMaker, listen: Listen
) -> None:
    names = [f"queue-{number}" for number in range(5)]
    queues = [make_queue(shared_redis.url, name) for name in names]
    read: list[str] = []
    for queue in queues:
        results = queue.results

        def note(job_ids: Sequence[str], read_from: Any = results) -> list[Result | None]:
            read.extend(job_ids)
            found: list[Result | None] = read_from(job_ids)
            return found

        queue.results = note  # type: ignore[method-assign]
    listener = listen(shared_redis, *queues)
    for queue in queues:
        listener.tickets[queue.name].add(f"job of {queue.name}", threading.Event())
    client = shared_redis.client()

    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    eventually(lambda: len(read) >= len(names), "all results are looked for")

    assert sorted(read) == sorted(f"job of {name}" for name in names)
