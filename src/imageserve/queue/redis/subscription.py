"""Messages of channels, as they come, on one connection of redis-py.

redis-py's own ``PubSub`` polls before each message and looks after handlers and reconnection, which
nobody needs here: a subscription that breaks is made anew, and what it missed is read.
"""

from collections.abc import Generator, Sequence
from typing import Any

import redis

from imageserve.errors import QueueUnavailable
from imageserve.queue.redis.connection import RedisAccess, connect, redis_errors

Message = tuple[bytes, bytes, Any]
"""Kind, channel and content: ``subscribe`` with the number of channels so far, or ``message``."""


def messages(
    access: RedisAccess, channels: Sequence[str], *, key: str, silence_s: float
) -> Generator[Message, None, None]:
    """Subscribe and yield all that comes. To be closed.

    After ``silence_s`` without a message the connection is tested with a PING. Raises QueueError,
    QueueUnavailable among others where the PING gets no answer within half of that time.
    """
    client = connect(access, key=key, retries=0, timeout_s=silence_s / 2, connections=1)
    with redis_errors(f"SUBSCRIBE {' '.join(channels)}"):
        try:
            connection = client.connection_pool.get_connection()
            _check_role(connection)
            connection.send_command("SUBSCRIBE", *channels)
            while True:
                kind, *about = _next_reply(connection)
                if len(about) == 2:  # A pong has one part.
                    yield kind, *about
        finally:
            client.connection_pool.disconnect()


def _check_role(connection: Any) -> None:
    """A replica takes a subscription, too, and may never hear what is published on the master."""
    connection.send_command("INFO", "replication")
    if b"role:slave" in connection.read_response():
        raise QueueUnavailable("Redis: the server is a replica")


def _next_reply(connection: Any) -> Any:
    for silences in range(1, 4):
        try:
            return connection.read_response(disconnect_on_error=False)
        except redis.TimeoutError:
            if silences == 2:
                connection.send_command("PING")
    raise QueueUnavailable("Redis: the pub/sub connection does not answer")
