"""Results reach their tickets, also after the connection was lost."""

import logging
import threading
import time
from pathlib import Path

import pytest
from tests.component.conftest import Listen
from tests.queues import RedisQueue
from tests.redis_server import (
    PATIENCE_S,
    DroppingProxy,
    QueueMaker,
    RedisServer,
    eventually,
    free_port,
)

from imageserve.errors import QueueUnavailable
from imageserve.preparation import Preparation
from imageserve.queue import listener as module
from imageserve.queue.admission import FRESH_S, Limits
from imageserve.queue.consumer import Lease
from imageserve.queue.listener import ReplyListener, Ticket
from imageserve.queue.producer import JobRequest, Producer, ProducerConfig, connect_producers
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.wire import (
    LOST,
    UNREADABLE,
    Finished,
    Job,
    Result,
    ResultError,
    encode_result,
    unread_result,
)

HELD = Lease(lease_ms=60_000)
QUEUE = "image_queue"


@pytest.fixture
def queue(redis_server: RedisServer, make_queue: QueueMaker) -> RedisQueue:
    return make_queue(redis_server.url, QUEUE)


def a_result(job_id: str) -> Result:
    return Result(job_id, "m", 1.0, 2.0, 1, error=ResultError("model_failed", "a reason"))


def put(queue: RedisQueue, listener: ReplyListener, *job_ids: str) -> None:
    for each in job_ids:
        job = Job(each, "m", (1, 1, 3), 5, listener.tickets[queue.name].channel, "trace", 60_000)
        queue.enqueue(job, b"\0\0\0", 60_000, Limits())


def work(queue: RedisQueue, listener: ReplyListener, *job_ids: str) -> None:
    """Claim and finish what waits."""
    claim = queue.claim(len(job_ids), HELD, redelivered=False)
    channel = listener.tickets[queue.name].channel
    done = [Finished(each, channel, a_result(each), 60_000, "failed") for each in job_ids]
    assert queue.finish(claim.token, done) == [True] * len(job_ids)


def test_a_result_wakes_the_one_who_waits_for_it(
    redis_server: RedisServer, queue: RedisQueue, listen: Listen
) -> None:
    listener = listen(redis_server, queue)
    wake, other_wake = threading.Event(), threading.Event()
    ticket = listener.tickets[QUEUE].add("a", wake)
    other = listener.tickets[QUEUE].add("b", other_wake)
    put(queue, listener, "a")
    work(queue, listener, "a")
    assert wake.wait(PATIENCE_S)
    assert ticket.result == a_result("a")
    assert (other.result, other_wake.is_set()) == (None, False)


def test_each_process_hears_of_its_own_jobs_only(
    redis_server: RedisServer, queue: RedisQueue, listen: Listen
) -> None:
    mine, other = listen(redis_server, queue), listen(redis_server, queue)
    assert mine.tickets[QUEUE].channel != other.tickets[QUEUE].channel
    wake = threading.Event()
    mine.tickets[QUEUE].add("a", wake)
    not_mine = other.tickets[QUEUE].add("a", threading.Event())
    put(queue, mine, "a")
    work(queue, mine, "a")
    assert wake.wait(PATIENCE_S)
    assert not_mine.result is None


def test_a_thousand_waiters_share_one_connection(
    redis_server: RedisServer, make_queue: QueueMaker, listen: Listen
) -> None:
    names = [f"job-{i}" for i in range(1000)]
    queue, other = make_queue(redis_server.url, QUEUE), make_queue(redis_server.url, "other")
    listener = listen(redis_server, queue, other)
    wakes = [threading.Event() for _ in names]
    tickets = {
        name: listener.tickets[QUEUE].add(name, wake)
        for name, wake in zip(names, wakes, strict=True)
    }
    put(queue, listener, *names)
    assert len(redis_server.client().client_list(_type="pubsub")) == 1
    work(queue, listener, *names)
    assert all(wake.wait(PATIENCE_S) for wake in wakes)
    for name in names:
        listener.tickets[QUEUE].remove(tickets[name])
    assert len(listener.tickets[QUEUE]._by_id) == 0


def test_results_that_came_while_the_connection_was_killed_are_caught_up(
    redis_server: RedisServer, queue: RedisQueue, listen: Listen
) -> None:
    listener, client = listen(redis_server, queue), redis_server.client()
    for turn in range(5):
        wake = threading.Event()
        ticket = listener.tickets[QUEUE].add(f"job-{turn}", wake)
        put(queue, listener, f"job-{turn}")
        client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
        work(queue, listener, f"job-{turn}")
        assert wake.wait(PATIENCE_S)
        assert ticket.result == a_result(f"job-{turn}")


def test_a_result_that_was_stored_but_never_published_is_caught_up(
    redis_server: RedisServer, queue: RedisQueue, listen: Listen
) -> None:
    listener, client = listen(redis_server, queue), redis_server.client()
    wake = threading.Event()
    listener.tickets[QUEUE].add("a", wake)
    client.set(queue.keys.result("a"), encode_result(a_result("a")))
    client.set(queue.keys.result("unasked"), "not a result")
    assert not wake.is_set()
    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    assert wake.wait(PATIENCE_S)


def test_a_restart_of_redis_is_survived_and_noticed(
    redis_server: RedisServer,
    queue: RedisQueue,
    listen: Listen,
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener = listen(redis_server, queue)
    before, after = threading.Event(), threading.Event()
    listener.tickets[QUEUE].add("a", before)
    redis_server.kill()
    eventually(lambda: not listener.connected, "a lost connection")
    redis_server.restart()
    redis_server.client().set(queue.keys.result("a"), encode_result(a_result("a")))
    eventually(lambda: listener.connected, "a new connection")
    listener.tickets[QUEUE].add("b", after)
    put(queue, listener, "b")
    work(queue, listener, "b")
    assert after.wait(PATIENCE_S)
    errors = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert [each.getMessage()[:25] for each in errors] == ["results of image_queue ar"]


def test_a_redis_that_hangs_is_noticed(
    redis_server: RedisServer,
    queue: RedisQueue,
    listen: Listen,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.3)
    listener = listen(redis_server, queue)
    redis_server.pause()
    eventually(lambda: not listener.connected, "a connection that does not answer", timeout_s=10)
    redis_server.resume()
    eventually(lambda: listener.connected, "a new connection")


def test_a_quiet_connection_is_kept(
    redis_server: RedisServer,
    queue: RedisQueue,
    listen: Listen,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(module, "SILENCE_S", 0.8)
    listener, client = listen(redis_server, queue), redis_server.client()
    (first,) = client.client_list(_type="pubsub")

    def pinged() -> bool:
        (now,) = client.client_list(_type="pubsub")
        assert now["id"] == first["id"]
        return int(client.info("commandstats")["cmdstat_ping"]["calls"]) >= pings + 2

    pings = int(client.info("commandstats")["cmdstat_ping"]["calls"])
    eventually(pinged, "two pings on the quiet connection")
    assert listener.connected


@pytest.mark.parametrize(
    "message",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff\xfe", id="no text"),
        pytest.param(b"not JSON", id="not JSON"),
        pytest.param(b"[1]", id="an array"),
        pytest.param(b"null", id="null"),
        pytest.param(b"{}", id="no id"),
        pytest.param(b'{"id":["a"]}', id="an id that is no string"),
        pytest.param(b"[" * 5000 + b"]" * 5000, id="very deep"),
        pytest.param(b'{"v":1,"id":"nobody waits for it"}', id="an unknown id"),
    ],
)
def test_a_message_that_is_no_answer_disturbs_nobody(
    redis_server: RedisServer,
    queue: RedisQueue,
    listen: Listen,
    message: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener, client = listen(redis_server, queue), redis_server.client()
    (connection,) = client.client_list(_type="pubsub")
    wake = threading.Event()
    ticket = listener.tickets[QUEUE].add("a", wake)
    client.publish(listener.tickets[QUEUE].channel, message)
    client.publish(listener.tickets[QUEUE].channel, encode_result(a_result("a")))
    assert wake.wait(PATIENCE_S)
    assert ticket.result == a_result("a")
    assert [each["id"] for each in client.client_list(_type="pubsub")] == [connection["id"]]
    assert not [each for each in caplog.records if each.levelno >= logging.ERROR]


@pytest.mark.parametrize(
    "wrong",
    [
        pytest.param(b'"predictions":[]', id="no prediction"),
        pytest.param(b'"predictions":[{"label":5,"probability":0.5}]', id="a label: a number"),
        pytest.param(b'"error":"broken"', id="an error: text"),
    ],
)
def test_an_answer_that_cannot_be_read_ends_its_job_like_a_lost_one(
    redis_server: RedisServer,
    queue: RedisQueue,
    listen: Listen,
    wrong: bytes,
    caplog: pytest.LogCaptureFixture,
) -> None:
    listener, client = listen(redis_server, queue), redis_server.client()
    told, read = threading.Event(), threading.Event()
    published = listener.tickets[QUEUE].add("a", told)
    stored = listener.tickets[QUEUE].add("b", read)
    secret = b',"note":"' + 5000 * b"secret" + b'"}'
    client.publish(listener.tickets[QUEUE].channel, b'{"v":1,"id":"a",' + wrong + secret)
    client.set(queue.keys.result("b"), b'{"v":1,"id":"b",' + wrong + secret)
    assert told.wait(PATIENCE_S)
    client.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    assert read.wait(PATIENCE_S)
    assert published.result == unread_result("a", UNREADABLE)
    assert stored.result == unread_result("b", UNREADABLE)
    lines = [each for each in caplog.records if "cannot be read" in each.msg]
    assert [vars(line)["fields"] for line in lines] == [{"job": "a"}, {"job": "b"}]
    texts = [line.getMessage() for line in lines]
    assert all("secret" not in text and len(text) < 200 for text in texts)


def test_a_stored_result_of_another_job_is_not_believed(
    redis_server: RedisServer, queue: RedisQueue
) -> None:
    redis_server.client().set(queue.keys.result("a"), encode_result(a_result("b")))
    assert queue.results(["a", "c"]) == [unread_result("a", UNREADABLE), None]


def test_listening_begins_as_soon_as_redis_is_there(
    redis_server: RedisServer, queue: RedisQueue, listen: Listen
) -> None:
    redis_server.kill()
    with pytest.raises(QueueUnavailable):
        queue.snapshot()
    listener = listen(redis_server, queue, wait=False)
    time.sleep(0.1)
    assert not listener.connected
    redis_server.restart()
    eventually(lambda: listener.connected, "a new connection")


def test_results_come_from_the_new_master_though_the_old_one_keeps_its_connections(
    redis_server: RedisServer,
    tmp_path: Path,
    make_queue: QueueMaker,
    listen: Listen,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """A managed Redis does that, for maintenance; here the old master hears nothing of the new."""
    new = RedisServer(redis_server.executable, tmp_path / "new")
    proxy = DroppingProxy(redis_server.port)
    try:
        new.start()
        queue = make_queue(proxy.url, QUEUE)
        listener = listen(new, queue, access=RedisAccess(proxy.url))
        queue.snapshot()
        redis_server.client().replicaof("127.0.0.1", str(free_port()))
        with pytest.raises(QueueUnavailable):  # The address still leads to the old one.
            put(queue, listener, "early")
        eventually(lambda: not listener.connected, "the listener leaves the replica")
        assert "not received: Redis: the server is a replica" in caplog.messages[-1]
        proxy.server_port = new.port

        wake = threading.Event()
        ticket = listener.tickets[QUEUE].add("a", wake)
        put(queue, listener, "a")
        work(queue, listener, "a")
        assert wake.wait(PATIENCE_S)
        assert ticket.result == a_result("a")
    finally:
        proxy.close()
        new.stop()


def subscriptions(caplog: pytest.LogCaptureFixture) -> int:
    lines = [each.getMessage() for each in caplog.records]
    return sum(line.startswith("listening for results") for line in lines)


def test_it_listens_once_the_stored_results_of_each_queue_are_read(
    redis_server: RedisServer,
    make_queue: QueueMaker,
    listen: Listen,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    caplog.set_level(logging.INFO)
    queues = [make_queue(redis_server.url, name) for name in ("first", "second")]
    tries = 0

    def results(job_ids: object) -> list[Result | None]:
        nonlocal tries
        tries += 1
        if tries < 4:
            raise QueueUnavailable("not yet")
        return []

    monkeypatch.setattr(queues[1], "results", results)
    listen(redis_server, *queues)

    assert tries == 4
    assert subscriptions(caplog) == 1
    assert [each.getMessage() for each in caplog.records if "received" in each.getMessage()] == [
        "results of first, second are not received yet: not yet"
    ]
    assert not [each for each in caplog.records if each.levelno > logging.INFO]


@pytest.mark.parametrize("meanwhile", [0, 9])
def test_jobs_that_an_emptied_redis_has_lost_are_found_though_no_connection_ends(
    redis_server: RedisServer,
    make_queue: QueueMaker,
    listen: Listen,
    meanwhile: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """``meanwhile``: jobs that are done after it, so that no counter tells anything."""
    now = 1000.0
    queue = make_queue(redis_server.url, QUEUE)
    listener = listen(redis_server, queue)
    tickets = listener.tickets[QUEUE]
    producer = Producer(queue, tickets, listener.breaker, ProducerConfig(), lambda: now)

    def submitted() -> Ticket:
        request = JobRequest("m", Preparation((1, 1)), 5, "trace")
        return producer.submit(request, b"\0\0\0", 60_000, threading.Event())

    done, *lost = [submitted() for _ in range(4)]
    work(queue, listener, done.job_id)
    eventually(lambda: done.result, "the result of the first")
    producer.look_for_losses()
    now += 2 * FRESH_S
    producer.look_for_losses()
    assert [ticket.result for ticket in lost] == [None] * 3
    assert "lost jobs" not in caplog.text

    redis_server.client().flushall()
    kept = [submitted() for _ in range(meanwhile)]
    if meanwhile:
        for counter in ("failed", "items", "batches", "busy_ms"):
            redis_server.client().hincrby(queue.keys.stats, counter, 1000)
    now += 2 * FRESH_S
    producer.look_for_losses()

    assert [each.result for each in lost] == [unread_result(each.job_id, LOST) for each in lost]
    assert [ticket.result for ticket in kept] == [None] * meanwhile
    assert caplog.text.count("Redis has lost jobs of image_queue") == 1


def test_nothing_is_asked_while_nobody_waits_or_the_node_is_away(
    redis_server: RedisServer, make_queue: QueueMaker, listen: Listen
) -> None:
    queue = make_queue(redis_server.url, QUEUE)
    listener, client = listen(redis_server, queue), redis_server.client()
    producer = Producer(queue, listener.tickets[QUEUE], listener.breaker, ProducerConfig())
    before = client.info("stats")["total_commands_processed"]
    producer.look_for_losses()
    ticket = listener.tickets[QUEUE].add("a", threading.Event())
    producer.look_for_losses()
    ticket.accepted = True
    listener.breaker.trip()
    producer.look_for_losses()
    assert client.info("stats")["total_commands_processed"] - before == 1


@pytest.mark.usefixtures("listen")
def test_on_one_redis_all_queues_share_a_listener(redis_server: RedisServer) -> None:
    access = RedisAccess(redis_server.url)
    producers = connect_producers(access, ["first", "second"], ProducerConfig(), connections=1)
    client = redis_server.client()

    eventually(lambda: len(client.pubsub_channels()) == 2, "a channel for each queue")

    assert len(client.client_list(_type="pubsub")) == 1
    assert producers["first"].breaker is producers["second"].breaker
    for producer in producers.values():
        producer._store.close()
