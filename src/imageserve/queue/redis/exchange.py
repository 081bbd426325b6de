"""One round trip: commands out in one write, replies in, on a connection of redis-py's pool.

redis-py's own ``execute_command`` and pipelines cost a web process five times as much per picture.
They copy the pixels, send them apart from the next command, and measure each step for telemetry
that nobody reads here. Connecting, TLS, Sentinel, cluster, parsing and the pool stay redis-py's.
"""

from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import hiredis
import redis

Arguments = Sequence[str | int | bytes]


def packed(command: Arguments) -> bytes:
    """Return a command as it is sent."""
    arguments: Any = tuple(command)  # Its types want exactly one.
    return bytes(hiredis.pack_command(arguments))


def packed_set(key: str, value: bytes, ttl_ms: int) -> list[bytes]:
    """Return the pieces of ``SET key value NX PX ttl_ms``, the value itself among them."""
    name = key.encode()
    head = b"*6\r\n$3\r\nSET\r\n$%d\r\n%b\r\n$%d\r\n" % (len(name), name, len(value))
    ttl = b"%d" % ttl_ms
    return [head, value, b"\r\n$2\r\nNX\r\n$2\r\nPX\r\n$%d\r\n%b\r\n" % (len(ttl), ttl)]


def exchange(client: "redis.Redis", pieces: Sequence[bytes], replies: int) -> list[Any]:
    """Send packed commands and return a reply for each; an error reply is returned, not raised.

    After a lost connection they are sent again as often as the client's settings say. Raises
    redis.ConnectionError and redis.TimeoutError.
    """
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        found: list[Any] = connection.retry.call_with_retry(
            partial(_once, connection, pieces, replies), lambda _: None
        )
        return found
    finally:
        pool.release(connection)


def _once(connection: Any, pieces: Sequence[bytes], replies: int) -> list[Any]:
    connection.connect()  # Does nothing but after a try that failed.
    try:
        _send(connection, pieces)
        return [_reply(connection) for _ in range(replies)]
    except BaseException:
        # What it still had to say must not be taken for the reply to the next command.
        connection.disconnect()
        raise


def _reply(connection: Any) -> Any:
    try:
        return connection.read_response()
    except redis.ResponseError as error:
        return error


def _send(connection: Any, pieces: Sequence[bytes]) -> None:
    """Send all in one system call where the kernel takes so much, without joining it first."""
    if len(pieces) == 1 or isinstance(connection, redis.SSLConnection):
        connection.send_packed_command(pieces, check_health=False)
        return
    try:
        sent = connection._sock.sendmsg(pieces)
    except TimeoutError as error:
        raise redis.TimeoutError("Timeout writing to socket") from error
    except OSError as error:
        raise redis.ConnectionError(f"Error while writing to socket: {error}") from error
    connection.send_packed_command(_rest(pieces, sent), check_health=False)


def _rest(pieces: Sequence[bytes], sent: int) -> Iterator[memoryview]:
    for piece in pieces:
        if sent < len(piece):
            yield memoryview(piece)[sent:]
        sent = max(0, sent - len(piece))
