"""A rolling upgrade: pods of release 0.1.0 and of this version work side by side on one Redis.

The old side is the source of that release, run with today's locked libraries.
"""

import signal
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from bench.history import SOURCE, NotInHistory, unpack_source
from tests.system.client import Client
from tests.system.samples import Sample, samples
from tests.system.stack import Stack, running

RELEASE = "27709f3"
"""The commit that is release 0.1.0."""
REQUESTS = 500
CLIENTS = 32


@pytest.fixture(scope="module")
def old_source(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Unpack the source of the release; skip the test where the history does not hold it."""
    try:
        return unpack_source(RELEASE, tmp_path_factory.mktemp("release"))
    except NotInHistory as error:
        pytest.skip(f"release 0.1.0 ({RELEASE}) is not in the history of this checkout: {error}")


@dataclass
class Load:
    """Clients that post pictures until they are stopped, and what went wrong."""

    pictures: list[Sample]
    answered: int = 0
    faults: list[str] = field(default_factory=list)
    _stopping: bool = False
    _changed: threading.Condition = field(default_factory=threading.Condition)

    def wait_for(self, more: int) -> None:
        """Wait until this many more requests have been answered."""
        with self._changed:
            target = self.answered + more
            assert self._changed.wait_for(lambda: self.answered >= target, 30), self.answered

    def stop(self) -> None:
        self._stopping = True

    def post(self, port: int, first: int) -> None:
        """Be one client: every CLIENTS-th picture, again and again."""
        http, turn = Client(port), first
        while not self._stopping:
            picture = self.pictures[turn % len(self.pictures)]
            send = http.predict_form if turn % 2 else http.predict
            try:
                reply = send(picture.data)
                fault = "" if picture.label in reply.text else f"{reply.status}: {reply.text}"
            except OSError as error:
                fault = repr(error)
            with self._changed:
                self.answered += 1
                self.faults += [fault] if fault else []
                self._changed.notify_all()
            turn += CLIENTS - 1  # An odd step: each client sends bodies and forms in turns.


@contextmanager
def load(stack: Stack) -> Iterator[Load]:
    running_load = Load(samples(REQUESTS))
    with ThreadPoolExecutor(CLIENTS) as pool:
        clients = [pool.submit(running_load.post, stack.port, n) for n in range(CLIENTS)]
        try:
            yield running_load
        finally:
            running_load.stop()
        for client in clients:
            client.result()


@pytest.mark.parametrize("web", ["old web", "new web"])
def test_each_version_serves_with_the_other_and_workers_change_under_load(
    web: str, old_source: Path, tmp_path: Path, redis_program: str
) -> None:
    own, other = (old_source, SOURCE) if web == "old web" else (SOURCE, old_source)
    with running(tmp_path, redis_program, workers=0, PYTHONPATH=str(own)) as stack:
        leaving = stack.start_worker(PYTHONPATH=str(other))
        with load(stack) as requests:
            requests.wait_for(REQUESTS)
            coming = stack.start_worker()
            requests.wait_for(REQUESTS // 2)
            leaving.send(signal.SIGTERM)
            assert leaving.wait() == 0, leaving.output()
            requests.wait_for(REQUESTS // 2)
        assert requests.faults == []
        assert len(leaving.done_ids()) >= REQUESTS
        assert len(coming.done_ids()) >= REQUESTS // 2
        stack.wait_for(stack.idle, "all jobs are done")
        counts = stack.stats()
        assert counts["completed"] == counts["accepted"] == requests.answered, counts
        assert not stack.names("p")
