"""Queues on Redis Cluster: each on the node that has its slot, wherever that is by now."""

import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.component.conftest import Listen
from tests.redis_server import (
    PATIENCE_S,
    Executable,
    QueueMaker,
    RedisCluster,
    RedisClusterNode,
    RedisServer,
    eventually,
    executables,
    free_port,
    running,
)

from imageserve.errors import QueueForbidden, QueueUnavailable
from imageserve.queue.observations import QueueReader
from imageserve.queue.queue import Finished, Lease, Limits, Verdict
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.redis_queue import RedisQueue
from imageserve.queue.self_test import check_server
from imageserve.queue.wire import Job, Result, ResultError

HELD = Lease(lease_ms=60_000)
FIRST, SECOND = "resnet", "shapes"
"""Two queues whose slots lie in different halves."""


@pytest.fixture(scope="module", params=executables(), ids=str)
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


def put(queue: RedisQueue, job_id: str, reply: str = "") -> Verdict:
    return queue.enqueue(a_job(job_id, reply), b"\0\0\0", 60_000, Limits()).verdict


def finish(queue: RedisQueue, job_id: str, reply: str = "") -> list[bool]:
    claim = queue.claim(8, HELD, suspects=False)
    error = ResultError("none", "none")
    result = Result(job_id, "model", 0, 0, 1, error=error)
    done = Finished(job_id, reply, result, 60_000, "failed")
    return queue.finish(claim.token, [done], batches=1)


def test_each_queue_lives_on_the_node_of_its_slot(
    cluster: RedisCluster, make_queue: QueueMaker
) -> None:
    for name in (FIRST, SECOND):
        queue = make_queue(cluster.url, name)
        assert put(queue, "job") is Verdict.ACCEPTED
        queue.wait(0.1)
        assert queue.pixels(["job"]) == [b"\0\0\0"]
        assert finish(queue, "job") == [True]
        assert queue.results(["job"])[0] is not None
        assert queue.forgotten(["job", "another"]) == ["another"]
        assert cluster.node_of(name).client().exists(queue.keys.stats)


def test_the_start_up_test_passes(cluster: RedisCluster, caplog: pytest.LogCaptureFixture) -> None:
    for name in (FIRST, SECOND):
        check_server(RedisAccess(cluster.url), name, 2**20)
    assert [each for each in caplog.records if each.levelno >= logging.WARNING] == []


class SpokenTo:
    """The cluster, and the node on which one process listens for all its queues."""

    def __init__(self, cluster: RedisCluster, node: RedisClusterNode) -> None:
        self.url = cluster.url
        self.client = node.client


def test_results_of_every_node_are_heard_through_one_connection(
    cluster: RedisCluster, make_queue: QueueMaker, listen: Listen
) -> None:
    queues = [make_queue(cluster.url, name) for name in (FIRST, SECOND)]
    replies = listen(SpokenTo(cluster, cluster.node_of(FIRST)), *queues)
    for queue in queues:
        job_id, woken = f"job of {queue.name}", threading.Event()
        replies.waiters.expect(job_id, queue.name, woken)
        channel = replies.channel(queue.name)
        assert put(queue, job_id, channel) is Verdict.ACCEPTED
        assert finish(queue, job_id, channel) == [True]
        assert woken.wait(PATIENCE_S)


def test_all_queues_are_read_together(cluster: RedisCluster, make_queue: QueueMaker) -> None:
    for count, name in enumerate((FIRST, SECOND), start=1):
        for number in range(count):
            put(make_queue(cluster.url, name), f"job {number}")
    reader = QueueReader(RedisAccess(cluster.url), [FIRST, SECOND])
    reading = reader.read()
    assert {name: seen.queued for name, seen in reading.snapshots.items()} == {FIRST: 1, SECOND: 2}
    assert reader.read().run == reading.run


def test_a_queue_is_followed_to_another_node(cluster: RedisCluster, make_queue: QueueMaker) -> None:
    queue = make_queue(cluster.url, FIRST)
    assert put(queue, "before") is Verdict.ACCEPTED
    assert queue.claim(8, HELD, suspects=False).entries
    home, target = cluster.node_of(FIRST), cluster.node_of(SECOND)
    home.client().flushall()
    cluster.move(FIRST, target)

    assert put(queue, "after") is Verdict.ACCEPTED
    assert target.client().exists(queue.keys.stats)
    # A claim is never sent twice: it fails once, and the worker's next one succeeds.
    with pytest.raises(QueueUnavailable, match="moved"):
        queue.claim(8, HELD, suspects=False)
    assert len(queue.claim(8, HELD, suspects=False).entries) == 1
    target.client().flushall()
    cluster.move(FIRST, home)


def test_a_node_that_is_gone_does_not_hide_the_others(
    cluster: RedisCluster, make_queue: QueueMaker
) -> None:
    nobody = f"127.0.0.1:{free_port()}"
    alive = cluster.node_of(SECOND).address
    queue = make_queue(f"redis+cluster://{nobody},{alive}", FIRST)
    assert put(queue, "job") is Verdict.ACCEPTED


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
            return put(queue, "next") is Verdict.ACCEPTED
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
    from tests.redis_server import running

    server = RedisServer(redis_executable.found(), tmp_path / "single")
    with running(server), pytest.raises(QueueForbidden, match="cluster support disabled"):
        put(make_queue(f"redis+cluster://127.0.0.1:{server.port}", FIRST), "job")
