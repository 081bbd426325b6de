"""Whether this Redis allows what the protocol needs: tested at the start, and watched later.

Each process runs the self-test once, on keys of its own in the slot of the real queue. A server
that forbids a command or evicts keys is found before the first picture, and the message names the
problem. Its memory policy can be changed while it runs, so that is looked at again.
"""

import logging
import time
import uuid
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from imageserve import metrics
from imageserve.errors import QueueError, QueueForbidden, QueueUnavailable
from imageserve.preparation import Preparation
from imageserve.queue.admission import EnqueueCode, Limits
from imageserve.queue.consumer import ConsumerStore, Lease
from imageserve.queue.keys import Keys
from imageserve.queue.producer import ProducerStore
from imageserve.queue.quota import Quota
from imageserve.queue.redis.connection import COMMAND_TIMEOUT_S, RedisAccess, connect, redis_errors
from imageserve.queue.redis.queue import RedisQueue
from imageserve.queue.snapshot import WorkerInfo
from imageserve.queue.wire import BACKGROUND, Job, result_of_error

log = logging.getLogger(__name__)

FLOOR = (6, 2)
MAXMEMORY_SHARE = 0.6
"""The share of Redis's memory that pixels may take. Results, jobs and the AOF need the rest."""

TTL_MS = 60_000
"""Deadline and lease of the self-test's jobs. Where that is too short, the test is tried again."""


_QUOTA = Quota("selftest", 1000, 1000)


def check_server(access: RedisAccess, queue: str, queue_bytes_limit: int) -> None:
    """Check version, memory policy and each script.

    Raises QueueUnavailable where Redis cannot be reached or is too slow (try again), QueueForbidden
    where it cannot serve the protocol as it is (an operator has to change something), QueueKeyTaken
    where only the name of the queue is the trouble.
    """
    real = RedisQueue(access, queue, connections=1)
    try:
        with redis_errors():
            facts: Any = real.client.info()
        real.check_types()
    finally:
        real.close()
    _check_version(str(facts.get("redis_version", "")), "valkey_version" in facts)
    _check_memory(facts, queue_bytes_limit)
    if not facts.get("aof_enabled", 1):
        log.warning("Redis keeps no append-only file: if it restarts, waiting jobs are lost")
    _run_scripts(access, real.keys.selftest(uuid.uuid4().hex[:12]))


def _check_version(version: str, is_valkey: bool) -> None:
    if is_valkey or not version:
        return
    numbers = tuple(int(n) for n in version.split(".")[:2] if n.isdigit())
    if numbers < FLOOR:
        raise QueueForbidden(f"Redis {version} is too old: 6.2 is the oldest that can be used")


def _check_memory(facts: Mapping[str, Any], queue_bytes_limit: int) -> None:
    maxmemory = int(facts.get("maxmemory", 0))
    problem = eviction_problem(facts)
    if problem and maxmemory:
        raise QueueForbidden(problem)
    if problem:
        log.warning("%s (harmless only while maxmemory is 0)", problem)
    if maxmemory and queue_bytes_limit > MAXMEMORY_SHARE * maxmemory:
        log.warning(
            "QUEUE_BYTES_LIMIT is %d, more than %.0f %% of Redis's maxmemory of %d: "
            "Redis may run out of memory before the queue is full",
            queue_bytes_limit,
            100 * MAXMEMORY_SHARE,
            maxmemory,
        )


def _run_scripts(access: RedisAccess, keys: Keys) -> None:
    ids = [uuid.uuid4().hex for _ in range(4)]
    producer = ProducerStore(access, keys.queue, connections=1, keys=keys)
    consumer = ConsumerStore(access, keys.queue, connections=1, keys=keys)
    own = [key(each) for each in ids for key in (keys.nonce, keys.pixels, keys.result)]
    names = [*keys.types(), *own, keys.quota(_QUOTA.name)]
    try:
        _try_subscribing(producer)
        _jobs_through(producer, consumer, ids)
    except (QueueUnavailable, QueueForbidden):
        raise
    except QueueError as error:
        raise QueueForbidden(f"Redis cannot serve as the queue: {error}") from error
    finally:
        producer.delete(names)
        producer.close()
        consumer.close()


def _try_subscribing(queue: RedisQueue) -> None:
    """Subscribe once to a channel of the queue. Raises QueueForbidden where that is refused."""
    channel = queue.keys.reply("selftest")
    with redis_errors(f"SUBSCRIBE {channel}"):
        pubsub = queue.once.pubsub()
        try:
            pubsub.subscribe(channel)
            pubsub.get_message(timeout=COMMAND_TIMEOUT_S)
        finally:
            pubsub.close()


def _jobs_through(producer: ProducerStore, consumer: ConsumerStore, ids: Sequence[str]) -> None:
    """Take jobs through enqueue, wait, claim, extend, release, claim, finish.

    Each takes another way into the list and out of it: at its end, between others, and as a job of
    the background, which is one of ten.
    """
    reply = producer.keys.reply("selftest")
    lease = Lease(TTL_MS)
    info = WorkerInfo("selftest", "selftest", (1, 1, 3), 1, {1: 1.0}, "testing", "selftest")
    consumer.heartbeat(replace(info, preparation=Preparation((1, 1))))
    jobs = [Job(each, "selftest", (1, 1, 3), 1, reply, "selftest", TTL_MS) for each in ids]
    jobs[-1] = replace(jobs[-1], priority=BACKGROUND)
    for job, times in zip(jobs, (1, 3, 2, 1), strict=True):
        admission = producer.enqueue(job, b"\0\0\0", times * TTL_MS, Limits(quota=_QUOTA))
        # The own retry: the reply to the first try was lost.
        _expect(admission.code in (EnqueueCode.ACCEPTED, EnqueueCode.OWN_RETRY), "enqueue")
    consumer.wait(0.1)
    claim = consumer.claim(10, lease, redelivered=True)
    _expect(len(claim.entries) == len(jobs), "claim")
    _expect(consumer.extend(claim.token, ids, TTL_MS) == len(jobs), "extend")
    _expect(consumer.release(claim.token, ids) == len(jobs), "release")
    claim = consumer.claim(10, lease, redelivered=False)
    _expect(consumer.pixels(ids) == len(jobs) * [b"\0\0\0"], "pixels")
    done = [replace(result_of_error(job, "selftest", "selftest"), dead="selftest") for job in jobs]
    _expect(all(consumer.finish(claim.token, done, {"batches": 1})), "finish")
    _expect(None not in producer.results(ids), "result")
    _expect(producer.snapshot().stats.get("failed") == len(jobs), "snapshot")
    consumer.leave("selftest")


def _expect(held: bool, step: str) -> None:
    # No error came, so nothing was refused: a deadline passed, or a reply was lost on the way.
    if not held:
        raise QueueUnavailable(
            f"Redis: the self-test failed at {step}: it, or this machine, is slow, or its clock "
            "jumped"
        )


# -- whether waiting pictures may be thrown away ---------------------------------------------------


WATCH_EVERY_S = 60.0

_evicting: set[str] = set()
"""The watched queues whose node evicts. One gauge tells of all nodes of this process."""


def eviction_problem(facts: Mapping[str, Any]) -> str:
    """Return why a Redis with these facts (INFO) may evict once it has a limit; "" where never."""
    policy = str(facts.get("maxmemory_policy", ""))
    if policy in ("", "noeviction"):
        return ""
    return (
        f"Redis has maxmemory-policy {policy}: it would throw waiting pictures away. "
        "Set it to noeviction"
    )


class EvictionWatch:
    """Notices that the memory policy of a running Redis was changed."""

    def __init__(self, access: RedisAccess, queue: str) -> None:
        key = Keys(queue).queue
        self._client = connect(
            access, key=key, retries=1, timeout_s=COMMAND_TIMEOUT_S, connections=1
        )
        self._queue = queue
        self._problem = ""
        self._due_at = time.monotonic() + WATCH_EVERY_S

    def look(self) -> None:
        """Look, if a minute has passed since the last time; log once per change."""
        if time.monotonic() < self._due_at:
            return
        self._due_at = time.monotonic() + WATCH_EVERY_S
        try:
            with redis_errors():
                facts: Any = self._client.info("memory")
        except QueueError as error:
            log.debug("the memory policy of Redis is not known: %s", error)
            return
        problem = eviction_problem(facts) if facts.get("maxmemory") else ""
        if problem and problem != self._problem:
            log.error("%s", problem)
        elif problem != self._problem:
            log.info("Redis evicts nothing any more")
        self._problem = problem
        if problem:
            _evicting.add(self._queue)
        else:
            _evicting.discard(self._queue)
        metrics.redis_evicts.set(bool(_evicting))
