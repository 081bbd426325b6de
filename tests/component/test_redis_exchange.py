"""Round trips on pooled connections: large values, broken ones, and replies that come too late."""

import socket
import threading
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import redis
from tests.redis_server import Executable, RedisSentinel, RedisServer, executables, running

from imageserve.queue.redis.connection import RedisAccess, connect
from imageserve.queue.redis.exchange import exchange, fetch, packed, packed_set


@pytest.fixture
def redis_executable() -> Executable:
    """One server: what is tested is the client's side."""
    return executables()[0]


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
    value = bytes(range(256)) * 2**12
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

    def command(text: str) -> Any:
        return client.echo(text)

    def packed_one(text: str) -> Any:
        return exchange(client, [packed(["ECHO", text])], 1)[0]

    for echo in (command, packed_one):
        connection = connection_of(client)
        redis_server.pause()
        with pytest.raises(redis.TimeoutError):
            echo("late")
        assert connection._sock is None, "its reply is still to come"
        redis_server.resume()
        assert echo("next") == b"next"


def test_values_are_read_into_one_place_as_far_as_they_fit(shared_redis: RedisServer) -> None:
    client = client_of(RedisAccess(shared_redis.url))
    values = {"a": b"a" * 9000, "empty": b"", "b": b"\r\n" * 10_000, "large": b"l" * 30_000}
    client.mset({**values, "c": b"c"})
    room = bytearray(29_001)
    found = fetch(client, ["a", "missing", "empty", "b", "large", "c"], memoryview(room))
    assert found == [values["a"], None, b"", values["b"], values["large"], b"c"]
    assert room == values["a"] + values["b"] + b"c"
    assert exchange(client, [packed(["ECHO", "next"])], 1) == [b"next"]


def test_an_error_instead_of_values_is_raised_as_usual(shared_redis: RedisServer) -> None:
    client = client_of(RedisAccess(shared_redis.url))
    with pytest.raises(redis.ResponseError, match="wrong number of arguments"):
        fetch(client, [], memoryview(b""))
    assert exchange(client, [packed(["ECHO", "next"])], 1) == [b"next"]


@pytest.mark.parametrize(
    ("said", "closed", "error"),
    [
        pytest.param(b"", True, redis.ConnectionError, id="nothing"),
        pytest.param(b"*1", True, redis.ConnectionError, id="half a line"),
        pytest.param(b"*1\r\n$9\r\nabc", True, redis.ConnectionError, id="half a value"),
        pytest.param(b"*1\r\n$3\r\nabc", True, redis.ConnectionError, id="no end"),
        pytest.param(b"*1\r\n$9\r\nabc", False, redis.TimeoutError, id="half a value, hangs"),
        pytest.param(b"*1\r\n:5\r\n", False, redis.InvalidResponse, id="a number as a value"),
    ],
)
def test_a_reply_that_breaks_off_is_an_outage(
    said: bytes, closed: bool, error: type[Exception]
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        thread = threading.Thread(target=answer, args=(server, said, closed))
        thread.start()
        access = RedisAccess(f"redis://127.0.0.1:{server.getsockname()[1]}/0")
        client = client_of(access, timeout_s=0.3)
        connection = connection_of(client)
        with pytest.raises(error):
            fetch(client, ["a"], memoryview(bytearray(100)))
        assert connection._sock is None
        thread.join()


def answer(server: socket.socket, said: bytes, closed: bool) -> None:
    connection, _ = server.accept()
    with connection:
        connection.recv(1000)
        connection.sendall(b"+PONG\r\n")
        connection.recv(1000)
        connection.sendall(said)
        if not closed:
            connection.recv(1000)
