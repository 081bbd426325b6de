"""At a shutdown and in a crowd idle connections are ended, and no request that has just come is."""

import os
from collections.abc import Iterator
from typing import Any

import gevent
import pytest
from greenlet import greenlet
from gunicorn.config import Config
from gunicorn.workers.ggevent import GeventWorker

from imageserve.config.settings import Settings
from imageserve.web.server import WebServer, Worker


class Connection:
    """A kept connection, moved by hand: `greenlet.switch` is its next request or its answer."""

    def __init__(self, worker: Worker) -> None:
        self.is_ended = False
        self.served = 0
        self.error: BaseException | None = None
        self._sock = None  # Nothing is received in these tests.
        self._test = greenlet.getcurrent()
        self.greenlet = greenlet(lambda: worker.handle(None, self, None))
        self.greenlet.switch()

    def be_handled(self, worker: Any) -> None:
        """Do what gunicorn does: wait for the head of a request, serve it, wait again."""
        with worker.timeout_ctx():
            pass  # The first request is there at once.
        while self._came(worker):
            try:
                self._test.switch()  # It is being served.
            except BaseException as error:
                self.error = error
                raise
            self.served += 1
        self.is_ended = True

    def _came(self, worker: Any) -> bool:
        came = []
        with worker.timeout_ctx():
            self._test.switch()
            came.append("request")
        return bool(came)  # Nothing: the time was over, and the context is left without an error.


@pytest.fixture
def worker(monkeypatch: pytest.MonkeyPatch) -> Iterator[Worker]:
    """A web process that has been told to stop; its connections are those of this test."""

    def handle(worker: Any, listener: Any, client: Connection, addr: Any) -> None:
        client.be_handled(worker)

    monkeypatch.setattr(GeventWorker, "handle", handle)
    worker = Worker(1, os.getppid(), [], WebServer(Settings()), 30, Config(), None)
    worker.alive = False
    yield worker
    worker.tmp.close()


def turn() -> None:
    """Let the event loop run what was asked of it."""
    gevent.sleep(0)


def test_an_idle_connection_is_ended(worker: Worker) -> None:
    connection = Connection(worker)
    worker.notify()
    assert not connection.is_ended
    turn()
    assert connection.is_ended


def test_a_request_that_comes_in_the_same_turn_is_not_cut_off(worker: Worker) -> None:
    connection = Connection(worker)
    worker.notify()
    connection.greenlet.switch()
    turn()
    assert connection.error is None
    connection.greenlet.switch()
    assert connection.served == 1


def test_a_connection_that_is_idle_again_in_the_same_turn_is_ended_in_the_next(
    worker: Worker,
) -> None:
    connection = Connection(worker)
    worker.notify()
    connection.greenlet.switch()
    connection.greenlet.switch()
    turn()
    assert (connection.served, connection.is_ended) == (1, False)
    worker.notify()
    turn()
    assert connection.is_ended


def test_where_connections_are_crowded_each_new_one_ends_the_one_that_is_idle_for_longest(
    worker: Worker,
) -> None:
    worker.alive = True
    worker.worker_connections = 4
    first, second, busy = (Connection(worker) for _ in range(3))
    busy.greenlet.switch()
    turn()
    assert not first.is_ended, "three of four are no crowd"

    Connection(worker)
    turn()
    assert (first.is_ended, second.is_ended, busy.is_ended) == (True, False, False)

    Connection(worker)
    turn()
    assert (second.is_ended, busy.is_ended, busy.error) == (True, False, None)
