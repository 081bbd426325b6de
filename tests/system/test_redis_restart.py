"""The chart's Redis ends with jobs in it and starts again on its volume: what is kept."""

import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from bench.chaos.scenarios import append_only_file
from tests.redis_server import RedisServer, eventually
from tests.system.client import in_background
from tests.system.samples import Sample, samples
from tests.system.stack import Place, Stack, running

FIRST, LAST = 12, 4
"""Jobs: of three batches, two of which a worker holds, and those of the last second."""
TORN_BYTES = 20
AWAY = "could not be queued"


class RedisOfTheChart(RedisServer):
    """Reads the redis.conf that the chart renders; only where it listens and writes differs."""

    def __init__(self, executable: str, directory: Path, *args: str, config: str) -> None:
        super().__init__(executable, directory, *args)
        directory.mkdir(parents=True)
        self._config = directory / "redis.conf"
        self._config.write_text(config.replace("dir /data\n", f"dir {directory}\n"))

    def _command(self) -> list[str]:
        here = ["--bind", "127.0.0.1", "--port", str(self.port)]
        return [self.executable, str(self._config), *here, *self._args]


@pytest.fixture
def stack(
    autoscaler_chart: list[dict[str, Any]], tmp_path: Path, redis_program: str
) -> Iterator[Stack]:
    (config,) = [o["data"] for o in autoscaler_chart if "redis.conf" in o.get("data", {})]
    place = Place(redis=partial(RedisOfTheChart, config=config["redis.conf"]))
    model = "stand-in:batch_ms=300,image_ms=0,size=64"
    with running(
        tmp_path / "stack",
        redis_program,
        place=place,
        MODEL=model,
        BATCH_SIZE="4",
        OUTAGE_PATIENCE_S="20",
    ) as stack:
        yield stack


def wait_until_written(redis: RedisServer) -> None:
    """While the disk is busy, ``everysec`` holds back writes for up to two seconds."""
    client = redis.client()

    def is_written() -> bool:
        return int(client.info("persistence")["aof_buffer_length"]) == 0

    eventually(is_written, "Redis has written what it holds")


def sigkill(redis: RedisServer, safe_bytes: int) -> None:
    """A crash: what it has written is in the hands of the kernel."""
    del safe_bytes
    wait_until_written(redis)
    redis.kill()


def sigterm(redis: RedisServer, safe_bytes: int) -> None:
    """A pod that is ended."""
    del safe_bytes
    redis.stop()


def loss_of_the_node(redis: RedisServer, safe_bytes: int) -> None:
    """What was not on the disk yet is gone, and the last command is torn."""
    redis.kill()
    os.truncate(append_only_file(redis.directory), safe_bytes + TORN_BYTES)


@contextmanager
def jobs_in_redis(stack: Stack, pictures: list[Sample]) -> Iterator[tuple[list[Any], int]]:
    """Bring jobs into all states, and freeze the worker; yields the answers to come.

    And the size that the append-only file had before the last jobs came.
    """
    (worker,) = stack.workers
    first, last = pictures[:-LAST], pictures[-LAST:]
    worker.pause()
    with in_background([partial(stack.http.predict, p.data) for p in first]) as early:
        stack.wait_for(lambda: stack.waiting() == FIRST, "all wait")
        worker.resume()
        stack.wait_for(stack.leased, "a batch is in flight")
        worker.pause()
        waiting = stack.waiting()
        assert waiting
        wait_until_written(stack.redis)
        safe_bytes = append_only_file(stack.redis.directory).stat().st_size
        with in_background([partial(stack.http.predict, p.data) for p in last]) as late:
            stack.wait_for(lambda: stack.waiting() == waiting + LAST, "the last ones wait, too")
            yield [*early, *late], safe_bytes


def answered_through(
    stack: Stack, pictures: list[Sample], end: Callable[[RedisServer, int], None]
) -> tuple[set[str], set[str]]:
    """End Redis and start it again; return the jobs that it had, and those that were done.

    Every request gets the label of its picture, one that comes meanwhile too.
    """
    (worker,) = stack.workers
    earlier, done_earlier = job_ids(stack), len(worker.done_ids())
    with jobs_in_redis(stack, pictures) as (answers, safe_bytes):
        before, noticed = job_ids(stack) - earlier, len(stack.web.lines(AWAY))
        end(stack.redis, safe_bytes)
        with in_background([partial(stack.http.predict, pictures[0].data)]) as meanwhile:
            stack.wait_for(lambda: len(stack.web.lines(AWAY)) > noticed, "somebody notices")
            stack.redis.start()
            worker.resume()
    labels = [each.result().labels[0] for each in (*answers, *meanwhile)]
    assert labels == [p.label for p in (*pictures, pictures[0])]
    stack.wait_for(stack.idle, "every job has ended")
    done = Counter(worker.done_ids()[done_earlier:])
    assert set(done.values()) == {1}
    return before, set(done)


def job_ids(stack: Stack) -> set[str]:
    """Return the jobs that Redis knows."""
    return {name.decode().rpartition(":")[2] for name in stack.names("id")}


def test_what_waits_and_what_is_in_flight_outlives_the_end_of_redis(stack: Stack) -> None:
    """Only a node that is lost takes the last second along; those pictures are queued again."""
    count = FIRST + LAST
    for turn, (end, lost) in enumerate([(sigkill, 0), (sigterm, 0), (loss_of_the_node, LAST)]):
        before, done = answered_through(stack, samples(count, first=turn * count), end)
        assert len(before - done) == lost, end
    # The counters have forgotten the same jobs.
    assert stack.stats()["completed"] == stack.stats()["accepted"] >= 3 * count + 3
