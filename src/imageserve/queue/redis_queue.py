"""JobQueue on Redis 6.2 or later (Valkey 7.2 or later).

Every change of state is one script in ``lua/``; this file only packs arguments and unpacks replies.
"""

import json
import logging
import secrets
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import Any, cast

from redis.exceptions import NoScriptError, OutOfMemoryError

from imageserve.queue.entries import purged
from imageserve.queue.keys import GUARD_MS, Keys
from imageserve.queue.queue import (
    SILENT_MS,
    Admission,
    Claim,
    Finished,
    Lease,
    Limits,
    Snapshot,
    Verdict,
    WorkerInfo,
)
from imageserve.queue.redis.connection import COMMAND_TIMEOUT_S, RedisAccess, connect, redis_errors
from imageserve.queue.redis.scripts import (
    BURY,
    CLAIM,
    ENQUEUE,
    EXTEND,
    FINISH,
    HEARTBEAT,
    RELEASE,
    SNAPSHOT,
)
from imageserve.queue.snapshots import decode_snapshot, encode_worker_info, texts
from imageserve.queue.wire import (
    Job,
    Result,
    decode_result,
    encode_open_job,
    encode_result,
)

log = logging.getLogger(__name__)

BLOCK_S = 2.0
"""Longest single wait for a job. It bounds how long a job that a dying waiter moved to hold lies
there, and how long a half-open connection goes unnoticed."""

NONCE_EXTRA_MS = 60_000
"""How long an id stays known after its deadline."""

FINISH_AT_ONCE = 128
"""Most jobs per FINISH: some managed servers refuse more than 4,000 arguments."""


class RedisQueue:
    """One queue on a Redis server. Safe to share between threads (and greenlets).

    ``connections`` bounds the sockets of this process for short commands; callers beyond that wait.
    """

    def __init__(
        self, access: RedisAccess, name: str, *, connections: int = 8, keys: Keys | None = None
    ) -> None:
        self.name = name
        self.keys = keys or Keys(name)
        # Sent again once: the scripts behind it are idempotent, and after a restart of Redis every
        # pooled connection is dead.
        client = partial(connect, access, key=self.keys.queue)
        self._repeatable = client(retries=1, timeout_s=COMMAND_TIMEOUT_S, connections=connections)
        self._once = client(retries=0, timeout_s=COMMAND_TIMEOUT_S, connections=2)
        self._blocking = client(retries=0, timeout_s=BLOCK_S + 3, connections=1)

    def enqueue(self, job: Job, pixels: bytes, timeout_ms: int, limits: Limits) -> Admission:
        names = self.keys.of_enqueue(job.id)
        args: list[str | int | bytes] = [
            secrets.token_hex(8),
            limits.max_jobs,
            timeout_ms,
            timeout_ms + NONCE_EXTRA_MS,
            encode_open_job(job),
            job.bytes,
            limits.max_bytes,
            limits.max_backlog,
        ]
        with redis_errors():
            try:
                code, backlog = self._send_pixels_and_job(names, args, pixels, timeout_ms)
            except OutOfMemoryError:
                self._repeatable.unlink(self.keys.pixels(job.id))
                return Admission(Verdict.NO_ROOM, 0)
        return Admission(Verdict(code), backlog)

    def _send_pixels_and_job(
        self, keys: list[str], args: list[str | int | bytes], pixels: bytes, timeout_ms: int
    ) -> tuple[int, int]:
        """Send both in one round trip: the pixels first, a fast worker must find them."""
        pipeline = self._repeatable.pipeline(transaction=False)
        pipeline.set(keys[3], pixels, nx=True, px=timeout_ms)
        pipeline.execute_command("EVALSHA", ENQUEUE.sha, len(keys), *keys, *args)
        stored, reply = pipeline.execute(raise_on_error=False)
        if isinstance(stored, Exception) and not isinstance(stored, OutOfMemoryError):
            raise stored
        if isinstance(reply, NoScriptError):
            reply = ENQUEUE(self._repeatable, keys, args)
        if isinstance(reply, Exception):
            raise reply
        code, backlog = reply
        return code, backlog

    def cancel(self, job_ids: Sequence[str]) -> None:
        if job_ids:
            with redis_errors():
                self._repeatable.unlink(*map(self.keys.pixels, job_ids))

    def results(self, job_ids: Sequence[str]) -> list[Result | None]:
        if not job_ids:
            return []
        with redis_errors():
            texts = self._repeatable.mget([self.keys.result(job_id) for job_id in job_ids])
        return [_stored_result(text) for text in texts]

    def forgotten(self, job_ids: Sequence[str]) -> list[str]:
        """Return those accepted jobs of which Redis knows nothing any more, not even a result."""
        with redis_errors():
            pipeline = self._repeatable.pipeline(transaction=False)
            for job_id in job_ids:
                pipeline.exists(self.keys.nonce(job_id), self.keys.result(job_id))
            known = pipeline.execute()
        return [job_id for job_id, count in zip(job_ids, known, strict=True) if not count]

    def claim(self, n: int, lease: Lease, *, suspects: bool, min_depth: int = 0) -> Claim:
        # A token per claim, not per worker: a worker cannot finish its own earlier, lost claim.
        token = secrets.token_hex(8)
        args: list[str | int | bytes] = [
            n,
            lease.lease_ms,
            token,
            lease.max_attempts,
            GUARD_MS,
            int(suspects),
            min_depth,
        ]
        with redis_errors():
            now, entries, expired, dead, solo = CLAIM(self._once, self.keys.of_claim(), args)
        return Claim(
            token=token,
            now=now,
            entries=texts(entries),
            expired=len(expired),
            dead=texts(dead),
            solo=bool(solo),
        )

    def wait(self, block_s: float) -> None:
        # To Redis 0 means for ever; 6.2 rounds one millisecond down to it.
        block_s = max(0.01, min(block_s, BLOCK_S))
        with redis_errors():
            # Not .blmove(): its type wants whole seconds.
            self._blocking.execute_command(
                "BLMOVE", self.keys.queue, self.keys.hold, "LEFT", "RIGHT", block_s
            )

    def pixels(self, job_ids: Sequence[str]) -> list[bytes | None]:
        if not job_ids:
            return []
        with redis_errors():
            values = self._repeatable.mget([self.keys.pixels(job_id) for job_id in job_ids])
        return cast(list[bytes | None], values)

    def finish(
        self, token: str, finished: Sequence[Finished], *, batches: int = 0, busy_ms: int = 0
    ) -> list[bool]:
        kept: list[bool] = []
        for part in _parts(finished, FINISH_AT_ONCE):
            kept += self._finish_part(token, part, batches, busy_ms)
            batches = busy_ms = 0
        return kept

    def _finish_part(
        self, token: str, finished: Sequence[Finished], batches: int, busy_ms: int
    ) -> list[bool]:
        keys = [self.keys.leases, self.keys.inflight, self.keys.attempts, self.keys.stats]
        args: list[str | int | bytes] = [token, batches, busy_ms]
        for job in finished:
            keys += [self.keys.result(job.id), self.keys.pixels(job.id)]
            args += [job.id, job.reply, encode_result(job.result), job.ttl_ms, job.counter]
        with redis_errors():
            return [bool(kept) for kept in FINISH(self._repeatable, keys, args)]

    def extend(self, token: str, job_ids: Sequence[str], lease_ms: int) -> int:
        with redis_errors():
            return int(
                EXTEND(
                    self._repeatable,
                    [self.keys.leases, self.keys.inflight],
                    [token, lease_ms, GUARD_MS, *job_ids],
                )
            )

    def release(self, token: str, job_ids: Sequence[str]) -> int:
        names = self.keys.of_release()
        with redis_errors():
            return int(RELEASE(self._repeatable, names, [token, GUARD_MS, *job_ids]))

    def bury(self, entry: str, reason: str) -> None:
        with redis_errors():
            BURY(self._once, [self.keys.dead, self.keys.stats], [entry, reason])

    def store(self, finished: Sequence[Finished], *, publish: bool) -> None:
        with redis_errors():
            pipeline = self._repeatable.pipeline(transaction=False)
            for job in finished:
                body = encode_result(job.result)
                pipeline.unlink(self.keys.pixels(job.id))
                pipeline.set(self.keys.result(job.id), body, nx=True, px=job.ttl_ms)
                if publish and job.reply:
                    pipeline.publish(job.reply, body)
            pipeline.execute()

    def heartbeat(self, info: WorkerInfo) -> str:
        return self._say(info.id, encode_worker_info(info))

    def leave(self, worker_id: str) -> None:
        self._say(worker_id, "")

    def _say(self, worker_id: str, text: str) -> str:
        keys = [self.keys.workers, self.keys.workers_info, self.keys.wanted]
        args: list[str | int | bytes] = [worker_id, text, SILENT_MS, GUARD_MS]
        with redis_errors():
            return _text(HEARTBEAT(self._repeatable, keys, args))

    def want(self, text: str) -> None:
        with redis_errors():
            if text:
                self._repeatable.set(self.keys.wanted, text)
            else:
                self._repeatable.unlink(self.keys.wanted)

    def wanted(self) -> str:
        with redis_errors():
            return _text(self._repeatable.get(self.keys.wanted))

    def snapshot(self) -> Snapshot:
        with redis_errors():
            return decode_snapshot(SNAPSHOT(self._repeatable, self.keys.of_snapshot(), []))

    def dead(self, count: int) -> list[dict[str, Any]]:
        if count < 1:
            return []
        with redis_errors():
            newest = self._repeatable.lrange(self.keys.dead, 0, count - 1)
        return [json.loads(text) for text in texts(cast(list[bytes], newest))]

    def purge(self) -> int:
        total = 0
        with redis_errors():
            while entries := self._once.lpop(self.keys.queue, FINISH_AT_ONCE):
                self.store(list(purged(texts(cast(list[bytes], entries)))), publish=True)
                total += len(entries)
        return total

    def server_facts(self) -> Mapping[str, Any]:
        """Read what the server says of itself, for the start-up checks."""
        with redis_errors():
            return cast(Mapping[str, Any], self._repeatable.info())

    def try_listening(self) -> None:
        """Subscribe once to a channel of this queue.

        Raises QueueForbidden where that is refused.
        """
        with redis_errors():
            pubsub = self._once.pubsub()
            try:
                pubsub.subscribe(self.keys.reply("selftest"))
                pubsub.get_message(timeout=COMMAND_TIMEOUT_S)
            finally:
                pubsub.close()

    def delete(self, names: Sequence[str]) -> None:
        """Remove keys by name: only for the self-test's own."""
        with redis_errors():
            self._repeatable.unlink(*names)


def _text(value: Any) -> str:
    return "" if value is None else texts([value])[0]


def _stored_result(text: bytes | str | None) -> Result | None:
    if text is None:
        return None
    try:
        return decode_result(text)
    except ValueError as error:
        log.warning("ignored a stored result: %s", error)
        return None


def _parts(items: Sequence[Finished], size: int) -> Iterator[Sequence[Finished]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
