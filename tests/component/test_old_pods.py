"""Web processes and workers of release 0.1.0 beside new ones on one queue: their own scripts run.

They push at the end, take from the head and know nothing of the order. That costs order, and
nothing else.
"""

import itertools
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import redis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from tests.queues import RedisQueue
from tests.redis_server import QueueMaker, RedisServer, eventually

from imageserve.predictions import Prediction
from imageserve.queue.admission import EnqueueCode, Limits
from imageserve.queue.consumer import Lease
from imageserve.queue.keys import GUARD_MS, Keys
from imageserve.queue.rights import ROLES
from imageserve.queue.wire import (
    BACKGROUND,
    Finished,
    Job,
    Result,
    decode_job,
    encode_open_job,
)

KEYS = Keys("image_queue")
HELD = Lease(60_000)
NUMBERS = itertools.count()
PIXELS = b"rgb"
CAT = (Prediction("cat", 0.5),)


class Pods:
    """Old and new pods, what they hold, and what they have done."""

    def __init__(self, queue: RedisQueue, client: "redis.Redis", lua: Path) -> None:
        self.queue = queue
        self._client = client
        self._lua = lua
        self._held: list[tuple[str, list[str]]] = []
        self.sent: list[str] = []
        self.done: Counter[str] = Counter()

    def _old(self, name: str, keys: list[str], *args: str | int) -> Any:
        source = (self._lua / f"{name}.lua").read_text()
        return self._client.eval(source, len(keys), *keys, *args)

    def _job(self, priority: str = "") -> Job:
        job_id = f"job-{next(NUMBERS)}"
        self.sent.append(job_id)
        reply = KEYS.reply("test")
        return Job(job_id, "m", (1, 1, 3), 1, reply, "trace", 60_000, priority=priority)

    def new_put(self, timeout_ms: int, priority: str = "") -> None:
        admission = self.queue.enqueue(self._job(priority), PIXELS, timeout_ms, Limits())
        assert admission.code is EnqueueCode.ACCEPTED

    def old_put(self, timeout_ms: int, priority: str = "") -> None:
        del priority
        job = self._job()
        self._client.set(KEYS.pixels(job.id), PIXELS, px=timeout_ms)
        args = ("nonce", 10_000, timeout_ms, timeout_ms, encode_open_job(job), 3, 2**30, 0)
        assert self._old("enqueue", KEYS.of_enqueue(job.id)[:7], *args)[0] == 0

    def new_claim(self, n: int) -> None:
        taken = self.queue.claim(n, HELD, redelivered=True)
        self._hold(taken.token, list(taken.entries))

    def old_claim(self, n: int) -> None:
        token = f"old-{next(NUMBERS)}"
        args = (n, HELD.lease_ms, token, HELD.max_attempts, GUARD_MS, 1, 0)
        entries = self._old("claim", KEYS.of_claim()[:8], *args)[1]
        self._hold(token, [entry.decode() for entry in entries])

    def _hold(self, token: str, entries: list[str]) -> None:
        if entries:
            self._held.append((token, [decode_job(entry).id for entry in entries]))

    def new_release(self, index: int) -> None:
        if index < len(self._held):
            token, taken = self._held.pop(index)
            assert self.queue.release(token, taken) == len(taken)

    def old_release(self, index: int) -> None:
        if index < len(self._held):
            token, taken = self._held.pop(index)
            args: list[str | int] = [token, GUARD_MS, *taken]
            assert self._old("release", KEYS.of_release()[:6], *args) == len(taken)

    def finish(self, index: int) -> None:
        if index < len(self._held):
            token, taken = self._held.pop(index)
            results = [Result(each, "m", 1, 1, 1, CAT) for each in taken]
            done = [Finished(each.id, "", each, 60_000, "completed") for each in results]
            assert all(self.queue.finish(token, done))
            self.done.update(taken)

    def drain(self) -> None:
        while self._held or self.queue.snapshot().queued:
            self.new_claim(8)
            self.finish(0)


@pytest.fixture
def pods(shared_redis: RedisServer, make_queue: QueueMaker, old_source: Path) -> Iterator[Pods]:
    """Return a source of pods: one set for each example."""
    queue, client = make_queue(shared_redis.url), shared_redis.client()
    lua = old_source / "imageserve/jobs/lua"
    return (Pods(queue, client, lua) for _ in itertools.count())


PUTS = st.tuples(
    st.sampled_from(["new_put", "old_put"]),
    st.integers(1, 20).map(lambda minutes: minutes * 60_000),
    st.sampled_from(["", BACKGROUND]),
)
OTHERS = st.tuples(
    st.sampled_from(["new_claim", "old_claim", "new_release", "old_release", "finish"]),
    st.integers(0, 5),
)


@settings(
    max_examples=40,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(PUTS | OTHERS, max_size=40))
def test_old_and_new_pods_lose_no_job_and_do_none_twice(
    pods: Iterator[Pods], steps: list[tuple[Any, ...]]
) -> None:
    both = next(pods)
    for name, *args in steps:
        getattr(both, name)(*args)
        assert both.queue.snapshot().oldest_ms < 60_000
    both.drain()
    assert both.done == Counter(both.sent)
    assert both.queue.snapshot().oldest_ms == 0


def test_what_old_workers_leave_behind_is_removed_by_and_by(
    pods: Iterator[Pods], shared_redis: RedisServer
) -> None:
    both, client = next(pods), shared_redis.client()
    for _ in range(20):
        both.new_put(60_000)
    for _ in range(4):
        both.old_claim(5)
        both.finish(0)
    assert client.zcard(KEYS.waiting) == 20, "which the old workers took"
    assert both.queue.snapshot().oldest_ms == 0
    for _ in range(12):
        both.new_put(60_000)
        both.new_claim(1)
        both.finish(0)
    assert client.zcard(KEYS.waiting) == 0


def test_it_is_removed_behind_jobs_that_wait_longer_than_others(
    pods: Iterator[Pods], shared_redis: RedisServer
) -> None:
    both, client = next(pods), shared_redis.client()
    for _ in range(4):
        both.new_put(600_000, BACKGROUND)
    for _ in range(400):
        both.new_put(60_000)
        both.old_claim(1)
        both.finish(0)
    assert client.zcard(KEYS.waiting) < 100


def test_what_an_old_worker_holds_does_not_wait(pods: Iterator[Pods]) -> None:
    both = next(pods)
    both.new_put(60_000)
    first = both.queue.snapshot()
    eventually(lambda: both.queue.snapshot().now > first.now + 50, "50 ms of Redis time")
    both.new_put(120_000)
    assert both.queue.snapshot().oldest_ms > 50
    both.old_claim(1)
    seen = both.queue.snapshot()
    assert seen.oldest_ms < seen.now - first.now


def test_the_head_is_the_oldest_that_old_web_processes_sent(
    pods: Iterator[Pods],
) -> None:
    both = next(pods)
    both.old_put(60_000)
    seen = both.queue.snapshot()
    (job,) = (decode_job(each) for each in both.queue.claim(1, HELD, redelivered=False).entries)
    assert seen.oldest_ms == seen.now - job.ts


def test_the_rights_of_today_are_enough_for_their_scripts(old_source: Path) -> None:
    """So they may be given before the upgrade, as docs/upgrading.md says."""
    scripts = sorted((old_source / "imageserve/jobs/lua").glob("*.lua"))
    called = {each.stem: set(re.findall(r"call\('(\w+)'", each.read_text())) for each in scripts}

    allowed = {role: set(ROLES[role].all_commands) for role in ROLES}

    assert all(called.values())
    assert set().union(*called.values()) <= allowed["web"] & allowed["worker"]
    assert called["snapshot"] <= allowed["autoscaler"] & allowed["operator"]


#: What processes of 0.1.0 send beside their scripts.
SENT = {"BLMOVE", "EVAL", "EVALSHA", "INFO", "MGET", "SET", "SUBSCRIBE", "UNLINK"}


def test_the_page_names_the_rights_that_0_1_0_did_not_need(old_source: Path) -> None:
    scripts = {each.stem: each for each in (old_source / "imageserve/jobs/lua").glob("*.lua")}
    page = (Path(__file__).parents[2] / "docs/upgrading.md").read_text(encoding="utf-8")
    item = page[page.index("1. **Redis users") : page.index("2. **Values")]

    for role, its, sent in (
        ("web", scripts, SENT),
        ("worker", scripts, SENT),
        ("autoscaler", ["snapshot"], SENT - {"SET"}),
    ):
        called = re.findall(r"call\('(\w+)'", "".join(scripts[each].read_text() for each in its))
        new = set(ROLES[role].all_commands) - set(called) - sent
        assert {each for each in new if f"`{each}`" not in item} == set(), role
