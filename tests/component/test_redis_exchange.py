"""Round trips on pooled connections: large values, broken ones, and replies that come too late."""

import socket
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.redis_server import RedisSentinel, RedisServer, executables, running

from imageserve.queue.redis.connection import RedisAccess, connect
from imageserve.queue.redis.exchange import exchange, packed, packed_set

# What is tested is the client's side: it is the same with each server.
pytestmark = pytest.mark.parametrize("redis_executable", executables()[:1], ids=str)


@pytest.fixture(params=["direct", "sentinel"])
def access(
    request: pytest.FixtureRequest, redis_server: RedisServer, tmp_path: Path
) -> Iterator[RedisAccess]:
    if request.param == "direct":
        yield RedisAccess(redis_server.url)
        return
    executable = redis_server.executable
    sentinel = RedisSentinel(executable, tmp_path / "sentinel", "mymaster", redis_server.port)
    with running(sentinel):
        yield RedisAccess(f"redis+sentinel://127.0.0.1:{sentinel.port}/mymaster/0")


def client_of(access: RedisAccess, *, retries: int = 0, timeout_s: float = 5.0) -> "redis.Redis":
    return connect(access, key="q", retries=retries, timeout_s=timeout_s, connections=1)


def connection_of(client: "redis.Redis") -> Any:
    connection = client.connection_pool.get_connection()
    client.connection_pool.release(connection)
    return connection


def test_a_value_that_the_kernel_takes_in_parts_arrives_whole(access: RedisAccess) -> None:
    client = client_of(access)
    connection_of(client)._sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    value = bytes(range(256)) * 2**15
    pieces = [*packed_set("large", value, 60_000), packed(["STRLEN", "large"])]
    assert exchange(client, pieces, 2) == [b"OK", len(value)]
    assert client.get("large") == value
    assert 0 < client.pttl("large") <= 60_000
    assert exchange(client, packed_set("large", b"another", 60_000), 1) == [None], "NX"


def test_an_error_reply_is_returned_and_the_next_reply_is_read(access: RedisAccess) -> None:
    client = client_of(access)
    refused, said = exchange(client, [packed(["LLEN"]) + packed(["ECHO", "next"])], 2)
    assert isinstance(refused, redis.ResponseError)
    assert said == b"next"


class Breaking:
    """A socket that is whole when the pool looks at it, and breaks when it is written to."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def __getattr__(self, name: str) -> Any:
        return getattr(self._sock, name)

    def sendmsg(self, pieces: Sequence[bytes]) -> int:
        self._sock.shutdown(socket.SHUT_RDWR)
        return self._sock.sendmsg(pieces)


@pytest.mark.parametrize("retries", [0, 1])
def test_a_connection_that_breaks_under_a_command_is_made_anew_for_a_retry(
    access: RedisAccess, retries: int
) -> None:
    client = client_of(access, retries=retries)
    connection = connection_of(client)
    connection._sock = Breaking(connection._sock)
    pieces = [*packed_set("a", b"value", 60_000), packed(["GET", "a"])]
    if retries:
        assert exchange(client, pieces, 2) == [b"OK", b"value"]
    else:
        with pytest.raises(redis.ConnectionError, match="writing"):
            exchange(client, pieces, 2)
        assert exchange(client, pieces, 2) == [b"OK", b"value"], "the pool has it back"


def test_a_reply_that_comes_too_late_is_not_taken_for_the_next_one(
    access: RedisAccess, redis_server: RedisServer
) -> None:
    client = client_of(access, timeout_s=0.3)
    connection = connection_of(client)
    redis_server.pause()
    with pytest.raises(redis.TimeoutError):
        exchange(client, [packed(["ECHO", "late"])], 1)
    assert connection._sock is None, "its reply is still to come"
    redis_server.resume()
    assert exchange(client, [packed(["ECHO", "next"])], 1) == [b"next"]
