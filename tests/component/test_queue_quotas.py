"""Quotas of keys: ENQUEUE counts what it accepts, nothing else, and accepts what the rate allows.

The promises are held by the in-memory twin and by real servers, like those of ``test_queue.py``.
"""

import json
import threading
from dataclasses import replace
from typing import Any, NamedTuple, Protocol

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.component.test_queue import MINUTE_MS, PIXELS, Bench, a_job, bench, put, stats
from tests.component.test_redis_queue import durable_server, proxy
from tests.memory_queue import MemoryQueue
from tests.queues import RedisQueue
from tests.redis_server import (
    DroppingProxy,
    QueueMaker,
    RedisServer,
    RedisServers,
    eventually,
    executables,
)

from imageserve.errors import QueueError, QueueRefused
from imageserve.preparation import Preparation
from imageserve.queue import producer as module
from imageserve.queue.admission import Admission, EnqueueCode, Limits
from imageserve.queue.keys import Keys
from imageserve.queue.listener import Breaker
from imageserve.queue.producer import JobRequest, Producer, ProducerConfig
from imageserve.queue.quota import LEAST_RATE, LONGEST_COUNT_MS, Quota
from imageserve.queue.redis.queue import Script

__all__ = ["bench", "durable_server", "proxy"]

SLOW = Quota("team-a", 0.01, 3)
"""Three at once, and no other one while a test runs."""
KEYS = Keys("image_queue")

ACCEPTED, RATE_LIMITED = EnqueueCode.ACCEPTED, EnqueueCode.RATE_LIMITED


def offer(
    queue: RedisQueue, job_id: str, quota: Quota | None = SLOW, together: int = 1
) -> Admission:
    limits = Limits(quota=quota, together=together)
    return queue.enqueue(a_job(job_id), PIXELS, MINUTE_MS, limits)


def codes(queue: RedisQueue, *job_ids: str, quota: Quota = SLOW) -> list[EnqueueCode]:
    return [offer(queue, each, quota).code for each in job_ids]


def test_a_burst_is_taken_and_then_nothing(bench: Bench) -> None:
    answers = [offer(bench.queue, each) for each in "abcde"]

    assert [answer.code for answer in answers] == 3 * [ACCEPTED] + 2 * [RATE_LIMITED]
    assert [answer.wait_ms for answer in answers[:2]] == [0, 0]
    assert all(90_000 < answer.wait_ms <= 100_000 for answer in answers[2:])
    # What is refused leaves nothing behind, and needs no worker more.
    assert bench.queue.pixels(["d"]) == [None]
    assert stats(bench) == {"accepted": 3}
    assert put(bench, "anybody")[0].code is ACCEPTED
    assert codes(bench.queue, "f", quota=replace(SLOW, name="team-b")) == [ACCEPTED]


def test_in_time_one_more_is_taken(bench: Bench) -> None:
    quick = Quota("team-a", 5, 1)
    assert codes(bench.queue, "a", "b", quota=quick) == [ACCEPTED, RATE_LIMITED]

    bench.lapse(201)
    assert codes(bench.queue, "c", "d", quota=quick) == [ACCEPTED, RATE_LIMITED]


def test_of_jobs_that_make_no_sense_alone_the_first_is_taken_where_all_have_room(
    bench: Bench,
) -> None:
    assert offer(bench.queue, "a", together=3) == Admission(ACCEPTED, 1, 0)

    refused = offer(bench.queue, "b", together=3)
    assert refused.code is RATE_LIMITED
    assert 90_000 < refused.wait_ms <= 100_000, "two have room, and one more in 100 s"
    assert offer(bench.queue, "c", together=2) == Admission(ACCEPTED, 2, 0)
    assert offer(bench.queue, "d").code is ACCEPTED


@pytest.mark.parametrize("limits", [Limits(max_jobs=0), Limits(max_bytes=0)], ids=["jobs", "bytes"])
def test_what_is_refused_for_another_reason_is_not_counted(bench: Bench, limits: Limits) -> None:
    for each in "abcdef":
        refused = bench.queue.enqueue(a_job(each), PIXELS, MINUTE_MS, replace(limits, quota=SLOW))
        assert refused.code < 0
        assert (refused.code is RATE_LIMITED, refused.wait_ms) == (False, 0)

    assert codes(bench.queue, *"ghij") == 3 * [ACCEPTED] + [RATE_LIMITED]


def test_a_changed_rate_holds_at_once(bench: Bench) -> None:
    hourly = Quota("team-a", 1 / 3600, 1000)
    bench.queue.enqueue(a_job("a"), PIXELS, MINUTE_MS, Limits(quota=hourly))
    for number in range(5):
        offer(bench.queue, f"b{number}", replace(hourly, burst=10**6))

    # By its old rate its count lasts for hours; by the new one for no more than its burst.
    quick = Quota("team-a", 5, 2)
    assert codes(bench.queue, "c", quota=quick) == [RATE_LIMITED]
    bench.lapse(201)
    assert codes(bench.queue, "d", "e", quota=quick) == [ACCEPTED, RATE_LIMITED]


# Any sequence, by a clock of the test's: accepted is exactly what a bucket of tokens allows.


class Timed(Protocol):
    """A queue with a clock that goes as a test says."""

    queue: RedisQueue

    def set(self, now_us: int) -> None: ...

    def lose(self, name: str) -> None:
        """Forget a count, as where its key has expired."""

    def empty(self) -> None: ...


class TimedMemory:
    def __init__(self) -> None:
        self._now_us = 0
        self.empty()

    def set(self, now_us: int) -> None:
        self._now_us = now_us

    def lose(self, name: str) -> None:
        self._memory.whole_us.pop(name, None)

    def empty(self) -> None:
        self._memory = MemoryQueue("image_queue", lambda: self._now_us // 1000)
        self.queue: RedisQueue = self._memory


class TimedRedis:
    """A real server, and the real script but for its clock and the expiry of what it keeps."""

    def __init__(self, queue: RedisQueue, client: "redis.Redis", patch: pytest.MonkeyPatch) -> None:
        self.queue = queue
        self._client = client
        script = Script("types", "order", "insert", "enqueue")
        real = (
            ("redis.call('TIME')", "cjson.decode(redis.call('GET', 'clock'))"),
            ("'PX', string.format('%.0f', ttl_ms))", "'PX', 3600000)"),
        )
        for old, new in real:
            assert script.source.count(old) == 1
            script.source = script.source.replace(old, new)
        script.sha = str(client.script_load(script.source))
        patch.setattr(module, "ENQUEUE", script)

    def set(self, now_us: int) -> None:
        self._client.set("clock", json.dumps(divmod(now_us, 10**6)))

    def lose(self, name: str) -> None:
        self._client.delete(KEYS.quota(name))

    def empty(self) -> None:
        self._client.flushall()


@pytest.fixture(params=[None, *executables()], ids=lambda each: str(each or "memory"))
def timed(
    request: pytest.FixtureRequest,
    redis_servers: RedisServers,
    make_queue: QueueMaker,
    monkeypatch: pytest.MonkeyPatch,
) -> Timed:
    if request.param is None:
        return TimedMemory()
    server = redis_servers.get(request.param)
    return TimedRedis(make_queue(server.url), server.client(), monkeypatch)


class Step(NamedTuple):
    what: str
    """A job of a quota (offer); one that is there already (again); one that another limit refuses
    (full); a while, backwards too; a count that Redis loses."""
    quota: Quota
    ms: int = 0
    together: int = 1


QUOTAS = [
    Quota("a", 400, 3),  # 2500 us: between the steps of the clock, too.
    Quota("a", 100, 5),
    Quota("b", 3, 1),
    Quota("c", 1000, 2),
    Quota("d", LEAST_RATE, 10**6),
]

together = st.one_of(st.just(1), st.integers(2, 6))
steps = st.lists(
    st.one_of(
        st.builds(Step, st.just("offer"), st.sampled_from(QUOTAS), st.just(0), together),
        st.builds(Step, st.sampled_from(["again", "full", "lose"]), st.sampled_from(QUOTAS)),
        st.builds(
            Step,
            st.just("wait"),
            st.sampled_from(QUOTAS),
            st.one_of(st.integers(-20, 20), st.sampled_from([333, 334, -5000, 10**7])),
        ),
    ),
    max_size=60,
)


class Buckets:
    """What each name has used of its quota, in us: a bucket that drains as time passes."""

    def __init__(self) -> None:
        self.used: dict[str, int] = {}

    def offer(self, quota: Quota, together: int) -> tuple[EnqueueCode, int]:
        """Return what is to be answered, with the ms after which the next ones may come."""
        whole = quota.burst * quota.interval_us
        if quota.name in self.used:  # What is not there does not grow where the clock goes back.
            self.used[quota.name] = min(self.used[quota.name], whole)
        used = self.used.get(quota.name, 0) + quota.interval_us
        needed = used + (together - 1) * quota.interval_us
        if needed > whole:
            return RATE_LIMITED, (needed - whole) // 1000
        self.used[quota.name] = used
        return ACCEPTED, max(0, used + quota.interval_us - whole) // 1000

    def wait(self, us: int) -> list[str]:
        """Let time pass; return the names whose quotas are whole again."""
        before = self.used
        self.used = {name: used - us for name, used in before.items() if used > us}
        return list(before.keys() - self.used)


@given(steps=steps)
@settings(max_examples=100, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_any_sequence_accepts_what_the_rate_allows_and_counts_nothing_else(
    timed: Timed, steps: list[Step]
) -> None:
    timed.empty()
    now_us, buckets = 1_760_000_000_000_000, Buckets()
    timed.set(now_us)
    for number, (what, quota, ms, together) in enumerate(steps):
        job_id = f"job-{number}"
        if what == "offer":
            answer = offer(timed.queue, job_id, quota, together)
            assert (answer.code, answer.wait_ms) == buckets.offer(quota, together), number
        elif what == "again":
            offer(timed.queue, job_id, None)
            assert offer(timed.queue, job_id, quota).code is EnqueueCode.OWN_RETRY
        elif what == "full":
            full = Limits(max_jobs=0, quota=quota)
            refused = timed.queue.enqueue(a_job(job_id), PIXELS, MINUTE_MS, full)
            assert refused.code is EnqueueCode.FULL
        elif what == "lose":
            timed.lose(quota.name)
            buckets.used.pop(quota.name, None)
        elif what == "wait":
            now_us += 1000 * ms
            timed.set(now_us)
            for name in buckets.wait(1000 * ms):
                timed.lose(name)


def test_a_clock_that_goes_back_costs_a_burst_and_never_more(timed: Timed) -> None:
    quota = Quota("a", 1, 5)
    now_us = 1_760_000_000_000_000
    timed.set(now_us)
    assert codes(timed.queue, "a", quota=quota) == [ACCEPTED]

    now_us -= 3600 * 10**6
    timed.set(now_us)
    assert offer(timed.queue, "b", quota) == Admission(RATE_LIMITED, 1, 1000)
    timed.set(now_us + 10**6)
    assert codes(timed.queue, "c", "d", quota=quota) == [ACCEPTED, RATE_LIMITED]


def test_a_thousand_pictures_of_which_one_in_ten_may_come(timed: Timed) -> None:
    quota, taken, began_us = Quota("a", 100, 20), 0, 1_760_000_000_000_000
    for number in range(1000):
        timed.set(began_us + 1000 * number)
        taken += offer(timed.queue, f"job-{number}", quota).code is ACCEPTED

    assert taken == 20 + 99, "the burst, and one each 10 ms of the 999 ms after"


# What only a real Redis shows.


@pytest.fixture
def queue(shared_redis: RedisServer, make_queue: QueueMaker) -> RedisQueue:
    return make_queue(shared_redis.url)


def test_a_count_expires_when_it_says_nothing_any_more(queue: RedisQueue) -> None:
    assert codes(queue, "a", "b", quota=SLOW) == 2 * [ACCEPTED]
    assert 190_000 < queue.client.pttl(KEYS.quota(SLOW.name)) <= 200_000

    offer(queue, "c", Quota("quick", 50, 100))
    eventually(lambda: not queue.client.exists(KEYS.quota("quick")), "20 ms have passed")


def test_no_count_is_kept_for_more_than_four_weeks(queue: RedisQueue) -> None:
    slowest = Quota("a", LEAST_RATE, 10**6)
    assert codes(queue, *"abc", quota=slowest) == 3 * [ACCEPTED]
    assert LONGEST_COUNT_MS - MINUTE_MS < queue.client.pttl(KEYS.quota("a")) <= LONGEST_COUNT_MS

    # What says even more, as where the clock has gone back, has an end once it is seen.
    queue.client.set(KEYS.quota("a"), 9 * 10**18)
    assert codes(queue, "d", quota=slowest) == [RATE_LIMITED]
    assert 0 < queue.client.pttl(KEYS.quota("a")) <= LONGEST_COUNT_MS


def test_without_a_quota_nothing_is_counted(queue: RedisQueue) -> None:
    assert offer(queue, "a", None) == Admission(ACCEPTED, 1)

    assert queue.client.keys("*quota*") == []


def test_an_enqueue_that_is_sent_again_is_counted_once(
    queue: RedisQueue, proxy: DroppingProxy, make_queue: QueueMaker
) -> None:
    through = make_queue(proxy.url)
    offer(through, "a", replace(SLOW, name="other"))
    proxy.drop_next_reply()
    assert offer(through, "b").code is EnqueueCode.OWN_RETRY
    assert proxy.dropped.is_set()

    assert codes(queue, *"cde") == 2 * [ACCEPTED] + [RATE_LIMITED]


def test_after_a_loss_of_its_counts_a_key_has_its_burst_anew(
    queue: RedisQueue, shared_redis: RedisServer
) -> None:
    codes(queue, *"abc")
    shared_redis.client().flushall()

    assert codes(queue, *"abcd") == 3 * [ACCEPTED] + [RATE_LIMITED]


def test_counts_outlast_a_restart_of_redis(
    durable_server: RedisServer, make_queue: QueueMaker
) -> None:
    queue = make_queue(durable_server.url)
    codes(queue, *"abc")
    durable_server.kill()
    durable_server.restart()

    assert codes(queue, "d") == [RATE_LIMITED]


def test_a_job_is_counted_whole_or_not_at_all_however_little_memory_is_left(
    redis_server: RedisServer, make_queue: QueueMaker
) -> None:
    queue, client = make_queue(redis_server.url), redis_server.client()
    offer(queue, "first")
    job, seen = replace(a_job("a"), shape=(64, 64, 3)), set()
    for step in range(100):
        client.config_set("maxmemory", 0)
        client.flushall()
        client.config_set("maxmemory", client.info("memory")["used_memory"] + 768 * step)
        code = queue.enqueue(job, bytes(job.bytes), MINUTE_MS, Limits(quota=SLOW)).code
        assert client.exists(KEYS.quota(SLOW.name)) == (code is ACCEPTED), step
        seen.add(code)
    assert seen == {ACCEPTED, EnqueueCode.NO_ROOM}


def test_while_redis_has_no_memory_left_a_quota_refuses_as_before(
    redis_server: RedisServer, make_queue: QueueMaker
) -> None:
    queue, client = make_queue(redis_server.url), redis_server.client()
    client.set(KEYS.quota(SLOW.name), 9 * 10**15)
    offer(queue, "first", replace(SLOW, name="other"))
    # The pixels are there, and nothing else fits any more.
    client.set(KEYS.pixels("a"), PIXELS, px=MINUTE_MS)
    client.config_set("maxmemory", 1)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Script, "after_set", _without_set)
        assert offer(queue, "a").code is RATE_LIMITED
    assert client.pttl(KEYS.quota(SLOW.name)) > 0


def _without_set(script: Script, *args: Any) -> tuple[bool, Any]:
    client, _, _, _, keys, arguments = args
    return True, script(client, keys, arguments)


def test_a_count_of_another_type_is_named_before_anything_is_written(queue: RedisQueue) -> None:
    queue.client.lpush(KEYS.quota(SLOW.name), "of another program")

    with pytest.raises(QueueError, match=r"WRONGTYPE.*quota:team-a is a list"):
        offer(queue, "a")
    assert queue.client.llen(KEYS.queue) == 0
    # Those without a quota do not touch it.
    assert offer(queue, "b", None).code is ACCEPTED


# The way through a producer.


class Sender:
    """A web process with one queue, and how often that was asked."""

    def __init__(self, queue: RedisQueue, patch: pytest.MonkeyPatch) -> None:
        self.asked = 0
        self.reply_takes_s = 0.0
        self._now = 1000.0
        enqueue = queue.enqueue

        def counted(*args: Any) -> Admission:
            self.asked += 1
            admission = enqueue(*args)
            self._now += self.reply_takes_s
            return admission

        patch.setattr(queue, "enqueue", counted)
        tickets = MemoryQueue("image_queue", lambda: 0).tickets
        self._producer = Producer(queue, tickets, Breaker(), ProducerConfig(), lambda: self._now)

    def send(self, quota: Quota | None = SLOW, after_s: float = 0.0) -> tuple[str, int]:
        """Send one picture; return why it is refused, and when it may come again."""
        self._now += after_s
        request = JobRequest("m", Preparation((1, 1)), 1, "trace", quota=quota)
        try:
            self._producer.check_quota(quota)
            self._producer.submit(request, b"rgb", MINUTE_MS, threading.Event())
        except QueueRefused as refusal:
            return refusal.reason, refusal.retry_after_s
        return "", 0


def test_a_count_of_another_type_stops_no_other_key(
    queue: RedisQueue, monkeypatch: pytest.MonkeyPatch
) -> None:
    sender = Sender(queue, monkeypatch)
    queue.client.lpush(KEYS.quota(SLOW.name), "of another program")

    with pytest.raises(QueueError, match="quota:team-a is a list"):
        sender.send()
    assert sender.send(replace(SLOW, name="team-b")) == ("", 0)
    assert sender.send(None) == ("", 0)


@pytest.fixture
def sender(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> Sender:
    return Sender(bench.queue, monkeypatch)


def test_what_is_over_its_quota_is_refused_without_asking_redis(sender: Sender) -> None:
    assert [sender.send() for _ in range(3)] == 3 * [("", 0)]

    assert {sender.send() for _ in range(20)} == {("rate_limited", 100)}
    assert sender.asked == 3, "the last accepted one told of the next"
    assert sender.send(None) == ("", 0)
    assert sender.send(replace(SLOW, name="team-b")) == ("", 0)


def test_what_it_knows_is_believed_for_a_while_and_then_asked_anew(sender: Sender) -> None:
    for _ in range(4):
        sender.send()

    assert sender.send(after_s=4.9)[0] == "rate_limited"
    assert sender.asked == 3
    sender.send(after_s=0.2)
    assert sender.asked == 4


def test_what_it_knows_counts_from_before_the_call(sender: Sender) -> None:
    # The script may have run at its beginning.
    sender.reply_takes_s = 3.0
    for _ in range(3):
        sender.send()

    assert sender.send(after_s=1.9)[0] == "rate_limited"
    assert sender.asked == 3
    sender.send(after_s=0.2)
    assert sender.asked == 4
