"""One round trip: commands out in one write, replies in, on a connection of redis-py's pool.

redis-py's own ``execute_command`` and pipelines cost a web process five times as much per picture.
They copy the pixels, send them apart from the next command, and measure each step for telemetry
that nobody reads here. Connecting, TLS, Sentinel, cluster, parsing and the pool stay redis-py's.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, TypeVar

import hiredis
import redis

T = TypeVar("T")
Arguments = Sequence[str | int | bytes]
Value = bytes | memoryview

_READ_AT_ONCE = 4096
"""Of a value longer than that, the rest is read straight into its place."""
_CLOSED = "Connection closed by server."


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
    return _round_trip(client, pieces, partial(_replies, count=replies))


def fetch(client: "redis.Redis", keys: Sequence[str], room: memoryview) -> list[Value | None]:
    """Return the values of keys, read into ``room`` one behind the other as far as they fit.

    Raises as redis-py does.
    """
    command = ["MGET", *keys]
    found = _round_trip(client, [packed(command)], partial(_values, room=room))
    # What was no array was an error, and redis-py knows all errors.
    return client.execute_command(*command) if found is None else found


def _round_trip(client: "redis.Redis", pieces: Sequence[bytes], read: Callable[[Any], T]) -> T:
    pool = client.connection_pool
    connection = pool.get_connection()
    try:
        found: T = connection.retry.call_with_retry(
            partial(_once, connection, pieces, read), lambda _: None
        )
        return found
    finally:
        pool.release(connection)


def _once(connection: Any, pieces: Sequence[bytes], read: Callable[[Any], T]) -> T:
    connection.connect()  # Does nothing but after a try that failed.
    try:
        _send(connection, pieces)
        return read(connection)
    except BaseException:
        # What it still had to say must not be taken for the reply to the next command.
        connection.disconnect()
        raise


def _replies(connection: Any, count: int) -> list[Any]:
    return [_reply(connection) for _ in range(count)]


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
    with _socket_errors("writing to"):
        sent = connection._sock.sendmsg(pieces)
    connection.send_packed_command(_rest(pieces, sent), check_health=False)


def _rest(pieces: Sequence[bytes], sent: int) -> Iterator[memoryview]:
    for piece in pieces:
        if sent < len(piece):
            yield memoryview(piece)[sent:]
        sent = max(0, sent - len(piece))


class _Room:
    """Memory that values are read into, one behind the other."""

    def __init__(self, free: memoryview) -> None:
        self._free = free

    def take(self, size: int) -> memoryview:
        """Return the next part; memory from elsewhere where so much is not left."""
        if size > len(self._free):
            return memoryview(bytearray(size))
        taken, self._free = self._free[:size], self._free[size:]
        return taken


def _values(connection: Any, room: memoryview) -> list[Value | None] | None:
    """Read an array of values; None where something else comes.

    redis-py copies each value three times, in pieces of 64 KB; here the kernel puts it into place.
    """
    with _socket_errors("reading from"), connection._sock.makefile("rb", _READ_AT_ONCE) as reader:
        count, free = _number(reader, b"*"), _Room(room)
        return None if count is None else [_value(reader, free) for _ in range(count)]


def _value(reader: Any, room: _Room) -> Value | None:
    size = _number(reader, b"$")
    if size is None:
        raise redis.InvalidResponse("no value in an array of values")
    if size < 0:
        return None
    value = room.take(size)
    if reader.readinto(value) < size or len(reader.read(2)) < 2:
        raise redis.ConnectionError(_CLOSED)
    return value


def _number(reader: Any, kind: bytes) -> int | None:
    """Read a line that begins a reply; None where it is of another kind."""
    line = reader.readline()
    if not line.endswith(b"\n"):
        raise redis.ConnectionError(_CLOSED)
    return int(line[1:]) if re.fullmatch(rb"\%b-?\d+\r\n" % kind, line) else None


@contextmanager
def _socket_errors(doing: str) -> Iterator[None]:
    try:
        yield
    except TimeoutError as error:
        raise redis.TimeoutError(f"Timeout {doing} socket") from error
    except OSError as error:
        raise redis.ConnectionError(f"Error while {doing} socket: {error}") from error
