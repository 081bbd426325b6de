"""A rolling upgrade: pods of release 0.1.0 and of this version work side by side on one Redis.

The old side is the source of that release, run with today's locked libraries.
"""

import signal
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from bench.history import SOURCE
from tests.redis_server import free_port
from tests.system.client import Client, Reply
from tests.system.samples import EXACT, SIZE, Sample, samples
from tests.system.stack import Stack, running

from imageserve.decoding import decode
from imageserve.models.stand_in import stand_in_label
from imageserve.preparation import Preparation

REQUESTS = 500
CLIENTS = 32


@dataclass
class Load:
    """Clients that post pictures until they are stopped, and what went wrong."""

    pictures: list[Sample]
    is_right: Callable[[Sample, Reply], bool]
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
                right = self.is_right(picture, reply)
                fault = "" if right else f"{reply.status}: {reply.headers} {reply.text}"
            except OSError as error:
                fault = repr(error)
            with self._changed:
                self.answered += 1
                self.faults += [fault] if fault else []
                self._changed.notify_all()
            turn += CLIENTS - 1  # An odd step: each client sends bodies and forms in turns.


def has_label(picture: Sample, reply: Reply) -> bool:
    return picture.label in reply.text


@contextmanager
def load(
    stack: Stack, is_right: Callable[[Sample, Reply], bool] = has_label, count: int = REQUESTS
) -> Iterator[Load]:
    running_load = Load(samples(count, policy=EXACT), is_right)
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
    with running(tmp_path, redis_program, workers=0, PYTHONPATH=str(own), FAST_RESIZE="0") as stack:
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


# -- to a version that needs what 0.1.0 cannot do --------------------------------------------------


CROP = Preparation((SIZE, SIZE), resize="crop", resize_to=80, interpolation="bicubic")
SOME = 80


def is_of_its_version(picture: Sample, reply: Reply) -> bool:
    """Version 1 squeezes, version 2 cuts the middle out: each must get its own pixels."""
    if reply.status != 200:
        return False
    cropped = stand_in_label(decode(picture.data, CROP, EXACT))
    return {"1": picture.label, "2": cropped}[reply.headers["x-model-version"]] in reply.text


@pytest.mark.parametrize("web", ["old web", "new web"])
def test_a_version_that_crops_takes_over_when_the_last_old_worker_has_ended(
    web: str, old_source: Path, tmp_path: Path, redis_program: str
) -> None:
    file = tmp_path / "models.yaml"
    file.write_text(
        "stand-in: {queue: image_queue, network: 'stand-in:batch_ms=5,image_ms=0,version=2', "
        f"input_size: {SIZE}, resize: crop, resize_to: 80, interpolation: bicubic}}\n"
    )
    own = old_source if web == "old web" else SOURCE
    with running(tmp_path, redis_program, workers=0, PYTHONPATH=str(own), FAST_RESIZE="0") as stack:
        old = stack.start_worker(PYTHONPATH=str(old_source))
        cropping = stack.start_worker(
            PYTHONPATH=str(SOURCE),
            MODELS_FILE=str(file),
            MODEL="stand-in",
            METRICS_PORT=str(free_port()),
        )
        with load(stack, is_of_its_version, SOME) as requests:
            requests.wait_for(SOME)
            probe = Client(cropping.metrics_port).get("/readyz")
            assert (probe.status, "stands by" in probe.text) == (200, True), "a rollout goes on"
            assert not cropping.batches()
            if web == "new web":
                (shown,) = stack.http.get("/models").json["models"].values()
                assert shown["preparation"]["resize"] == "squash"
                old.send(signal.SIGTERM)
                assert old.wait() == 0, old.output()
                stack.wait_for(cropping.batches, "the new worker takes over")
                requests.wait_for(SOME)
                # Back again: what is queued for the new one, the old one does not touch.
                back = stack.start_worker(PYTHONPATH=str(old_source))
                stack.wait_for(back.batches, "the old worker takes over")
                cropping.send(signal.SIGTERM)
                assert cropping.wait() == 0, cropping.output()
                requests.wait_for(SOME)
        assert requests.faults == []
        stack.wait_for(stack.idle, "all jobs are done")
        assert not stack.names("p")
