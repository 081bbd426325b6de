"""One queue on Redis: its connections, its Lua scripts, and the calls that several faces need."""

import hashlib
import logging
import re
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from importlib.resources import files
from typing import Any

import redis
from redis.exceptions import NoScriptError, OutOfMemoryError

import imageserve.queue
from imageserve.errors import QueueError, QueueKeyTaken
from imageserve.queue.keys import Keys
from imageserve.queue.redis.connection import (
    COMMAND_TIMEOUT_S,
    RedisAccess,
    add_place,
    connect,
    redis_errors,
)
from imageserve.queue.redis.exchange import Arguments, exchange, packed, packed_set
from imageserve.queue.snapshot import Snapshot, decode_snapshot, texts
from imageserve.queue.wire import UNREADABLE, NotAResult, Result, decode_result, unread_result

log = logging.getLogger(__name__)

BLOCK_S = 2.0
"""Longest single blocking call. It bounds how long a half-open connection goes unnoticed, and how
long a job that BLMOVE moved to ``hold`` for a dying worker stays there."""


class Script:
    """One Lua script, called by its digest and loaded where the server does not know it."""

    def __init__(self, *names: str) -> None:
        """The last of ``names`` is the script, the others are parts that it uses."""
        lua = files(imageserve.queue) / "lua"
        self.source = "".join((lua / f"{name}.lua").read_text() for name in names)
        self._name = names[-1]
        # Redis names scripts by SHA-1; nothing is kept secret by it.
        self.sha = hashlib.sha1(self.source.encode(), usedforsecurity=False).hexdigest()

    def __call__(self, client: "redis.Redis", keys: Sequence[str], args: Arguments) -> Any:
        (reply,) = exchange(client, [self._packed(keys, args)], 1)
        if isinstance(reply, NoScriptError):
            # A restart empties the script cache. EVAL runs the script and caches it.
            (reply,) = exchange(client, [packed(["EVAL", self.source, len(keys), *keys, *args])], 1)
            if isinstance(reply, redis.ResponseError):
                self.add_place(reply, keys, "EVAL")
                raise reply
        elif isinstance(reply, redis.ResponseError):
            self.add_place(reply, keys)
            raise reply
        return reply

    def _packed(self, keys: Sequence[str], args: Arguments) -> bytes:
        return packed(["EVALSHA", self.sha, len(keys), *keys, *args])

    @property
    def commands(self) -> set[str]:
        """The commands that it calls."""
        return set(_CALL.findall(self.source))

    def add_place(self, error: Exception, keys: Sequence[str], sent_by: str = "EVALSHA") -> None:
        """Add to an error about a right or a type what the script does on the line in question."""
        line = _LINE.search(str(error))
        called = _CALL.findall(self.source.splitlines()[int(line[1]) - 1]) if line else [sent_by]
        touched = " ".join(keys[:MOST_KEYS])
        add_place(error, f"script {self._name}, {' or '.join(called)}, keys {touched}")

    def after_set(
        self,
        client: "redis.Redis",
        key: str,
        value: bytes,
        ttl_ms: int,
        keys: Sequence[str],
        args: Arguments,
    ) -> tuple[bool, Any]:
        """SET a value and run the script, in one round trip and in this order.

        Returns whether Redis had memory for the value, and the reply of the script.
        """
        *pieces, end = packed_set(key, value, ttl_ms)
        stored, reply = exchange(client, [*pieces, end + self._packed(keys, args)], 2)
        has_memory = not isinstance(stored, OutOfMemoryError)
        if isinstance(stored, Exception) and has_memory:
            add_place(stored, f"SET {key}")
            raise stored
        if isinstance(reply, NoScriptError):
            reply = self(client, keys, args)
        elif isinstance(reply, Exception):
            self.add_place(reply, keys)
            raise reply
        return has_memory, reply


_CALL = re.compile(r"redis\.p?call\('([A-Z]+)'")
_LINE = re.compile(r"user_script: ?(\d+)")
MOST_KEYS = 12
"""Most keys that an error names: one script call may have hundreds."""


ENQUEUE = Script("types", "order", "insert", "enqueue")
REFUSE = Script("refuse")
CLAIM = Script("types", "bury", "settle", "order", "claim")
FINISH = Script("types", "bury", "finish")
EXTEND = Script("extend")
RELEASE = Script("types", "order", "insert", "release")
HEARTBEAT = Script("heartbeat")
PURGE = Script("types", "settle", "purge")
SNAPSHOT = Script("order", "snapshot")


class RedisQueue:
    """One queue on a Redis server. Safe to share between threads (and greenlets).

    ``connections`` bounds the sockets of this process for short commands; further callers wait.
    """

    def __init__(
        self, access: RedisAccess, name: str, *, connections: int = 8, keys: Keys | None = None
    ) -> None:
        self.name = name
        self.keys = keys or Keys(name)
        client = partial(connect, access, key=self.keys.queue)
        self.client = client(retries=1, timeout_s=COMMAND_TIMEOUT_S, connections=connections)
        """For commands that may be sent twice. One retry: after a restart of Redis every pooled
        connection is dead."""
        self.once = client(retries=0, timeout_s=COMMAND_TIMEOUT_S, connections=2)
        """For commands that must not be sent twice."""
        self.blocking = client(retries=0, timeout_s=BLOCK_S + 3, connections=1)
        """For calls that block for `BLOCK_S` at most."""

    @contextmanager
    def errors(self) -> Iterator[None]:
        """Turn errors of redis-py into a QueueError, which names a key of another type."""
        try:
            with redis_errors():
                yield
        except QueueError as error:
            if "WRONGTYPE" in str(error):
                self.check_types()
            raise

    def check_types(self) -> None:
        """Look whether another program's data has the name of one of the queue's keys.

        Raises QueueKeyTaken, which names it, or QueueUnavailable.
        """
        expected = self.keys.types()
        with redis_errors():
            pipeline = self.client.pipeline(transaction=False)
            for key in expected:
                pipeline.type(key)
            found = texts(pipeline.execute())
        wrong = [
            f"{key} is a {kind} and must be a {expected[key]}"
            for key, kind in zip(expected, found, strict=True)
            if kind not in (expected[key], "none")
        ]
        if wrong:
            raise QueueKeyTaken(
                f"Redis: {'; '.join(wrong)}: another program uses this name. Move its data away "
                "(RENAME or DEL), or give the queue another name or database"
            )

    def snapshot(self) -> Snapshot:
        """Read the state of the queue at one instant."""
        with self.errors():
            args = [self.keys.pixels("")]
            return decode_snapshot(SNAPSHOT(self.client, self.keys.of_snapshot(), args))

    def results(self, job_ids: Sequence[str]) -> list[Result | None]:
        """Read stored results."""
        if not job_ids:
            return []
        with self.errors():
            stored: Any = self.client.mget([self.keys.result(job_id) for job_id in job_ids])
        return [_stored_result(*each) for each in zip(job_ids, stored, strict=True)]

    def missing(self, job_ids: Sequence[str]) -> list[str]:
        """Return those accepted jobs of which Redis holds nothing any more, not even a result."""
        with self.errors():
            pipeline = self.client.pipeline(transaction=False)
            for job_id in job_ids:
                pipeline.exists(self.keys.nonce(job_id), self.keys.result(job_id))
            known = pipeline.execute()
        return [job_id for job_id, count in zip(job_ids, known, strict=True) if not count]

    def delete(self, names: Sequence[str]) -> None:
        """Remove keys by name; for the self-test's own keys."""
        with self.errors():
            self.client.unlink(*names)

    def close(self) -> None:
        """Close all connections. They are made again when they are needed."""
        for client in (self.client, self.once, self.blocking):
            client.connection_pool.disconnect()


def _stored_result(job_id: str, text: bytes | str | None) -> Result | None:
    if text is None:
        return None
    try:
        result = decode_result(text)
        if result.id != job_id:
            raise NotAResult("it is of another job")
        return result
    except NotAResult as error:
        fields = {"job": job_id}  # Its request is told by the line that says what follows.
        log.warning("a stored result cannot be read: %s", error, extra={"fields": fields})
        return unread_result(job_id, UNREADABLE)
