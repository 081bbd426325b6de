"""The start-up self-test finds out whether this Redis allows what the protocol needs.

Run once per process, on keys of its own in the slot of the real queue, so that a server that
forbids a command or evicts keys is found before the first picture, and the message says what.
"""

import logging
import uuid

from imageserve.errors import QueueError, QueueForbidden, QueueUnavailable
from imageserve.queue.queue import Finished, Lease, Limits, Verdict, WorkerInfo
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.redis_queue import RedisQueue
from imageserve.queue.wire import Job, Result, ResultError

log = logging.getLogger(__name__)

FLOOR = (6, 2)
MAXMEMORY_SHARE = 0.6
"""Pixels may take this share of Redis's memory: results, jobs, copies and the AOF need the rest."""


def check_server(access: RedisAccess, queue: str, queue_bytes_limit: int) -> None:
    """Check version, memory policy and every script.

    Raises QueueUnavailable where Redis cannot be reached (try again), QueueForbidden where it
    cannot serve the protocol as it is (an operator has to change something).
    """
    real = RedisQueue(access, queue, connections=1)
    facts = real.server_facts()
    _check_version(str(facts.get("redis_version", "")), "valkey_version" in facts)
    _check_memory(
        int(facts.get("maxmemory", 0)), str(facts.get("maxmemory_policy", "")), queue_bytes_limit
    )
    if not facts.get("aof_enabled", 1):
        log.warning("Redis keeps no append-only file: if it restarts, waiting jobs are lost")
    keys = real.keys.selftest(uuid.uuid4().hex[:12])
    _run_scripts(RedisQueue(access, keys.queue, connections=1, keys=keys))


def _check_version(version: str, is_valkey: bool) -> None:
    if is_valkey or not version:
        return
    numbers = tuple(int(n) for n in version.split(".")[:2] if n.isdigit())
    if numbers < FLOOR:
        raise QueueForbidden(f"Redis {version} is too old: 6.2 is the oldest that can be used")


def _check_memory(maxmemory: int, policy: str, queue_bytes_limit: int) -> None:
    if policy and policy != "noeviction":
        problem = (
            f"Redis has maxmemory-policy {policy}: it would throw waiting pictures away. "
            "Set it to noeviction"
        )
        if maxmemory:
            raise QueueForbidden(problem)
        log.warning("%s (harmless only while maxmemory is 0)", problem)
    if maxmemory and queue_bytes_limit > MAXMEMORY_SHARE * maxmemory:
        log.warning(
            "QUEUE_BYTES_LIMIT is %d, more than %.0f %% of Redis's maxmemory of %d: "
            "Redis may run out of memory before the queue is full",
            queue_bytes_limit,
            100 * MAXMEMORY_SHARE,
            maxmemory,
        )


def _run_scripts(queue: RedisQueue) -> None:
    job_id = uuid.uuid4().hex
    keys = queue.keys
    names = [*keys.shared(), keys.nonce(job_id), keys.pixels(job_id), keys.result(job_id)]
    try:
        _one_job_through(queue, job_id)
    except (QueueUnavailable, QueueForbidden):
        raise
    except QueueError as error:
        raise QueueForbidden(f"Redis cannot serve as the queue: {error}") from error
    finally:
        queue.delete(names)


def _one_job_through(queue: RedisQueue, job_id: str) -> None:
    """Take one job through enqueue, wait, claim, extend, release, claim, finish."""
    job = Job(job_id, "selftest", (1, 1, 3), 1, queue.keys.reply("selftest"), "selftest", 1000)
    lease = Lease(lease_ms=2000)
    info = WorkerInfo("selftest", "selftest", (1, 1, 3), 1, {1: 1.0}, "testing", "selftest")
    queue.heartbeat(info)
    queue.try_listening()
    admission = queue.enqueue(job, b"\0\0\0", 2000, Limits())
    _expect(admission.verdict is Verdict.ACCEPTED, "enqueue")
    queue.wait(0.1)
    claim = queue.claim(1, lease, suspects=True)
    _expect(len(claim.entries) == 1, "claim")
    _expect(queue.extend(claim.token, [job_id], 2000) == 1, "extend")
    _expect(queue.release(claim.token, [job_id]) == 1, "release")
    claim = queue.claim(1, lease, suspects=False)
    _expect(queue.pixels([job_id]) == [b"\0\0\0"], "pixels")
    error = ResultError("selftest", "selftest")
    done = Finished(
        job_id, job.reply, Result(job_id, "selftest", 0, 0, 1, error=error), 1000, "failed"
    )
    _expect(queue.finish(claim.token, [done], batches=1) == [True], "finish")
    _expect(queue.results([job_id]) != [None], "result")
    _expect(queue.snapshot().stats.get("failed") == 1, "snapshot")
    queue.bury("{}", "selftest")
    queue.leave("selftest")


def _expect(held: bool, step: str) -> None:
    if not held:
        raise QueueForbidden(f"Redis cannot serve as the queue: the self-test failed at {step}")
