"""The connections of one queue on Redis, and the calls that more than one face of it needs."""

from collections.abc import Sequence
from functools import partial

from imageserve.queue.keys import Keys
from imageserve.queue.redis.connection import COMMAND_TIMEOUT_S, RedisAccess, connect, redis_errors
from imageserve.queue.redis.scripts import SNAPSHOT
from imageserve.queue.snapshot import Snapshot, decode_snapshot
from imageserve.queue.wire import Finished, encode_result

BLOCK_S = 2.0
"""Longest single blocking call. It bounds how long a half-open connection goes unnoticed, and how
long a job that BLMOVE moved to ``hold`` for a dying worker stays there."""


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

    def snapshot(self) -> Snapshot:
        """Read the state of the queue at one instant."""
        with redis_errors():
            return decode_snapshot(SNAPSHOT(self.client, self.keys.of_snapshot(), []))

    def store(self, finished: Sequence[Finished], *, publish: bool) -> None:
        """Store results of jobs that no worker holds; the first result of a job wins."""
        with redis_errors():
            pipeline = self.client.pipeline(transaction=False)
            for job in finished:
                body = encode_result(job.result)
                pipeline.unlink(self.keys.pixels(job.id))
                pipeline.set(self.keys.result(job.id), body, nx=True, px=job.ttl_ms)
                if publish and job.reply:
                    pipeline.publish(job.reply, body)
            pipeline.execute()

    def delete(self, names: Sequence[str]) -> None:
        """Remove keys by name; for the self-test's own keys."""
        with redis_errors():
            self.client.unlink(*names)

    def close(self) -> None:
        """Close all connections. They are made again when they are needed."""
        for client in (self.client, self.once, self.blocking):
            client.connection_pool.disconnect()
