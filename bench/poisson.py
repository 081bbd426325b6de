"""Jobs that come at random, as from many independent clients.

``python -m bench.poisson REDIS_URL QUEUE MODEL SIZE`` is a sender: for every line ``RATE SECONDS
SEED`` it queues noise pictures at that rate, and answers with one line of JSON: the milliseconds
from when each was due to when its result arrived, and how many were never answered. A sender that
falls behind sends as fast as it can; its delay counts.

Around it the arithmetic, pure, and `Senders`, several of them together.
"""

import json
import math
import subprocess
import sys
import threading
import time
import uuid
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from random import Random

import redis
from tests.queues import RedisQueue

from bench.processes import Bed, python
from imageserve.queue.admission import EnqueueCode, Limits
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.wire import Job, decode_result

PATIENCE_S = 10.0
"""How long to wait for outstanding results at the end."""

_PICTURES = 64
_LIMITS = Limits(max_jobs=10**6, max_bytes=2**40)


@dataclass(frozen=True, slots=True)
class Latencies:
    """The latencies of one measurement's jobs, and how many have none."""

    latencies_ms: Sequence[float]
    missing: int
    """Jobs that were refused, failed, or never answered."""

    @property
    def p50_ms(self) -> float:
        return quantile(self.latencies_ms, 0.5)

    @property
    def p99_ms(self) -> float:
        return math.inf if self.missing else quantile(self.latencies_ms, 0.99)


def arrivals(rate: float, seconds: float, seed: int) -> Iterator[float]:
    """Yield the times, in seconds from now, at which jobs come at ``rate`` per second."""
    drawn = Random(seed)
    at = drawn.expovariate(rate)
    while at < seconds:
        yield at
        at += drawn.expovariate(rate)


def quantile(values: Sequence[float], share: float) -> float:
    """Return the smallest value that at least ``share`` of all do not exceed; NaN of none."""
    if not values:
        return math.nan
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def highest_rate(passes: Callable[[float], bool], most: float, steps: int) -> float:
    """Return the highest rate up to ``most`` that passes, to within most / 2**steps; 0 for none."""
    if passes(most):
        return most
    low, high = 0.0, most
    for _ in range(steps):
        middle = (low + high) / 2
        low, high = (middle, high) if passes(middle) else (low, middle)
    return low


class Senders:
    """Processes that send jobs to one queue."""

    def __init__(self, bed: Bed, count: int, *place: str) -> None:
        """``place`` is Redis's URL, the queue, the model and the size of its pictures."""
        self._popens: list[subprocess.Popen[str]] = [
            bed.start_talking(f"sender-{n}", python("-m", "bench.poisson", *place))
            for n in range(count)
        ]
        self._seed = 0

    def send(self, rate: float, seconds: float) -> Latencies:
        """Send at this rate, all together, and wait for the answers."""
        for popen in self._popens:
            self._seed += 1
            assert popen.stdin is not None
            print(rate / len(self._popens), seconds, self._seed, file=popen.stdin, flush=True)
        outcomes = [json.loads(_line(popen)) for popen in self._popens]
        latencies = [ms for each in outcomes for ms in each["latencies_ms"]]
        return Latencies(latencies, sum(each["missing"] for each in outcomes))


def _line(popen: "subprocess.Popen[str]") -> str:
    assert popen.stdout is not None
    line = popen.stdout.readline()
    if not line:
        raise SystemExit("bench: a sender has ended")
    return line


class _Sender:
    """One process's jobs: the main thread sends, another one listens."""

    def __init__(self, url: str, name: str, model: str, size: int) -> None:
        self._queue = RedisQueue(RedisAccess(url), name)
        self._model = model
        self._shape = (size, size, 3)
        noise = Random(0)
        self._pictures = [noise.randbytes(size * size * 3) for _ in range(_PICTURES)]
        self._channel = self._queue.keys.reply(uuid.uuid4().hex)
        self._due: dict[str, float] = {}
        self._latencies_ms: list[float] = []
        pubsub = redis.Redis.from_url(url).pubsub()
        pubsub.subscribe(self._channel)
        pubsub.get_message(timeout=5)
        threading.Thread(target=self._listen, args=(pubsub,), daemon=True).start()

    def run(self, rate: float, seconds: float, seed: int) -> dict[str, object]:
        self._latencies_ms = []
        began, sent = time.perf_counter(), 0
        for sent, at in enumerate(arrivals(rate, seconds, seed), 1):
            time.sleep(max(0.0, began + at - time.perf_counter()))
            self._send(began + at, self._pictures[sent % _PICTURES])
        end = time.perf_counter() + PATIENCE_S
        while self._due and time.perf_counter() < end:
            time.sleep(0.01)
        self._due.clear()
        latencies = [round(ms, 2) for ms in self._latencies_ms]
        return {"latencies_ms": latencies, "missing": sent - len(latencies)}

    def _send(self, due: float, picture: bytes) -> None:
        job = Job(uuid.uuid4().hex, self._model, self._shape, 5, self._channel, "bench", 60_000)
        self._due[job.id] = due
        if self._queue.enqueue(job, picture, 60_000, _LIMITS).code is not EnqueueCode.ACCEPTED:
            self._due.pop(job.id, None)

    def _listen(self, pubsub: "redis.client.PubSub") -> None:
        while True:
            message = pubsub.get_message(timeout=1)
            if not message or message["type"] != "message":
                continue
            arrived_at = time.perf_counter()
            with suppress(ValueError):
                result = decode_result(message["data"])
                due = self._due.pop(result.id, None)
                if due is not None and result.error is None:
                    self._latencies_ms.append((arrived_at - due) * 1000)


def main(arguments: list[str]) -> None:
    url, name, model, size = arguments
    sender = _Sender(url, name, model, int(size))
    for line in sys.stdin:
        rate, seconds, seed = line.split()
        print(json.dumps(sender.run(float(rate), float(seconds), int(seed))), flush=True)


if __name__ == "__main__":
    main(sys.argv[1:])
