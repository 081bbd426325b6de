"""Fixtures of the tests that put a few parts together."""

import threading
from collections.abc import Iterator
from contextlib import suppress
from typing import Protocol

import pytest
import redis
from tests.queues import RedisQueue
from tests.redis_server import PATIENCE_S, eventually

from imageserve.queue.listener import ReplyListener
from imageserve.queue.redis.connection import RedisAccess


class Listened(Protocol):
    """What a listener can connect to: a server, or one node of a cluster."""

    @property
    def url(self) -> str: ...

    def client(self) -> "redis.Redis": ...


class Listen(Protocol):
    def __call__(
        self,
        server: Listened,
        *queues: RedisQueue,
        wait: bool = True,
        access: RedisAccess | None = None,
    ) -> ReplyListener: ...


@pytest.fixture
def listen(monkeypatch: pytest.MonkeyPatch) -> Iterator[Listen]:
    """Start a listener on a server. It ends with the test; in production it never ends."""
    servers: list[Listened] = []
    over, parked = threading.Event(), threading.Semaphore(0)
    listen_once = ReplyListener._listen

    def listen_until_the_test_ends(listener: ReplyListener) -> None:
        if over.is_set():
            parked.release()
            threading.Event().wait()
        listen_once(listener)

    monkeypatch.setattr(ReplyListener, "_listen", listen_until_the_test_ends)

    def start(
        server: Listened,
        *queues: RedisQueue,
        wait: bool = True,
        access: RedisAccess | None = None,
    ) -> ReplyListener:
        listener = ReplyListener(access or RedisAccess(server.url), queues)
        listener.start()
        servers.append(server)
        if wait:
            eventually(lambda: listener.connected, "a connected listener")
        return listener

    yield start
    over.set()
    for server in servers:
        with suppress(redis.RedisError):
            server.client().execute_command("CLIENT", "KILL", "TYPE", "pubsub")
    for _ in servers:
        assert parked.acquire(timeout=PATIENCE_S)
