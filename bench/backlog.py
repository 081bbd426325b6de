"""A queue that is filled out of the workers' sight and then handed to them at once."""

import time
import uuid
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random

from tests.queues import RedisQueue

from bench.plan import say
from bench.stacks import Redis
from imageserve.queue.admission import EnqueueCode, Limits
from imageserve.queue.keys import Keys
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.wire import Job

_TIMEOUT_MS = 1_800_000
_PATIENCE_S = 180.0
_PICTURES = 64


@dataclass(frozen=True, slots=True)
class Drained:
    """The time and batches that one backlog took."""

    images: int
    seconds: float
    """From the moment the workers saw the jobs to the last result."""
    batches: int

    @property
    def per_second(self) -> float:
        return self.images / self.seconds


def check_full(drained: Drained, batch_size: int) -> None:
    """Print a note if some batches were not full."""
    if drained.images != drained.batches * batch_size:
        say(f"{drained.images} images took {drained.batches} batches: not all were full")


class Backlog:
    """Jobs of noise pictures on one queue.

    They are queued through ``RedisQueue`` on a staging list, which is then renamed: live workers
    see all jobs at one instant, and take full batches only.
    """

    def __init__(self, server: Redis, queue: str, model: str, size: int) -> None:
        keys = Keys(queue)
        self._real = keys.queue
        self._staged = keys.queue = f"{{{queue}}}:staged"
        self._stats = keys.stats
        self._model = model
        self._shape = (size, size, 3)
        self._queue = RedisQueue(RedisAccess(server.url), queue, keys=keys)
        self._client = server.client()
        self._channel = keys.reply(uuid.uuid4().hex)
        noise = Random(0)
        self._pictures = [noise.randbytes(size * size * 3) for _ in range(_PICTURES)]

    def drain(self, count: int) -> Drained:
        """Queue ``count`` jobs, let the workers have them, wait for the last result."""
        self._fill(count)
        with self._client.pubsub(ignore_subscribe_messages=True) as pubsub:
            pubsub.subscribe(self._channel)
            pubsub.get_message(timeout=1.0)
            before = self._counters()
            began = time.perf_counter()
            self._client.rename(self._staged, self._real)
            missing = count
            while missing:
                missing -= pubsub.get_message(timeout=0.5) is not None
                if time.perf_counter() - began > _PATIENCE_S:
                    raise SystemExit(f"bench: {missing} of {count} jobs were never answered")
            seconds = time.perf_counter() - began
        # FINISH publishes within the script that counts, so the counters are complete by now.
        completed, batches = (
            after - old for after, old in zip(self._counters(), before, strict=True)
        )
        if completed != count:
            raise SystemExit(f"bench: {completed} of {count} jobs were completed")
        return Drained(count, seconds, batches)

    def _fill(self, count: int) -> None:
        limits = Limits(max_jobs=10**6, max_bytes=2**40)
        for i in range(count):
            job = Job(
                id=uuid.uuid4().hex,
                model=self._model,
                shape=self._shape,
                top=5,
                reply=self._channel,
                request_id="bench",
                result_ttl_ms=60_000,
            )
            admission = self._queue.enqueue(job, self._pictures[i % _PICTURES], _TIMEOUT_MS, limits)
            if admission.code is not EnqueueCode.ACCEPTED:
                raise SystemExit(f"bench: a job was refused: {admission.code.name}")

    def _counters(self) -> Sequence[int]:
        values = self._client.hmget(self._stats, ["completed", "batches"])
        return [int(value or 0) for value in values]
