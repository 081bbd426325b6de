"""Part (k): two web servers that hold one key to its quota, and what that costs ENQUEUE."""

import http.client
import threading
import time
import uuid
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, cast

from tests.queues import RedisQueue

from bench.picture import photo_jpeg
from bench.plan import Plan, say
from bench.processes import Bed, free_port
from bench.report import Section, Verdict, number, percent, spread
from bench.stacks import QUEUE, Redis, start_redis, start_web, start_worker, wait_for_workers
from imageserve.queue.admission import EnqueueCode, Limits
from imageserve.queue.keys import Keys
from imageserve.queue.quota import Quota
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.wire import Job

KEY = "the-key-of-this-benchmark"
QUOTA = Quota("bench", 50, 100)
SECONDS, QUICK_SECONDS = 60.0, 6.0
MOST_OFF = 0.02
CLIENTS = 4
"""For each web server."""
REFUSED_PAUSE_S = 0.02
JOBS, PIXELS_BYTES = 2000, 224 * 224 * 3


class Clients:
    """Clients of several web servers with one key; they heed no Retry-After."""

    def __init__(self, ports: Sequence[int], picture: bytes, key: str, clients: int) -> None:
        self.answers: Counter[tuple[int, int]] = Counter()
        """By port and status."""
        self._picture = picture
        self._headers = {"X-API-Key": key}
        self._over = threading.Event()
        self._pool = ThreadPoolExecutor(clients * len(ports))
        self._sent: list[Future[None]] = [
            self._pool.submit(self._send, port) for port in ports for _ in range(clients)
        ]

    def _send(self, port: int) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
        while not self._over.is_set():
            connection.request("POST", "/predict", self._picture, self._headers)
            answer = connection.getresponse()
            answer.read()
            self.answers[port, answer.status] += 1
            if answer.status != 200:
                self._over.wait(REFUSED_PAUSE_S)
        connection.close()

    def go(self) -> None:
        """Send no more, and wait for the answers that are on their way."""
        self._over.set()
        for each in self._sent:
            each.result()
        self._pool.shutdown()

    def count(self, status: int) -> int:
        return sum(count for (_, each), count in self.answers.items() if each == status)


@contextmanager
def clients_of(ports: Sequence[int], picture: bytes, key: str, clients: int) -> Iterator[Clients]:
    """Send pictures until the end of the block, and wait for the answers."""
    sending = Clients(ports, picture, key, clients)
    try:
        yield sending
    finally:
        sending.go()


@dataclass(frozen=True, slots=True)
class Held:
    """What became of the pictures of one key."""

    seconds: float
    accepted: int
    refused: int
    decoded: int
    """How many pictures were decoded for that."""

    @property
    def expected(self) -> float:
        return QUOTA.burst + QUOTA.rate * self.seconds

    @property
    def off(self) -> float:
        return self.accepted / self.expected - 1


def quotas_section(plan: Plan) -> Section:
    seconds = QUICK_SECONDS if plan.is_quick else SECONDS
    with Bed() as bed:
        held = _hold(bed, seconds)
        server = start_redis(bed, "costs-redis")
        costs = _costs(server, 3 if plan.is_quick else 9)
    return section(held, costs)


def _hold(bed: Bed, seconds: float) -> Held:
    say(f"two web servers and one key, for {seconds:g} s")
    keys = bed.directory / "keys"
    keys.write_text(f"{KEY} name={QUOTA.name} rate={QUOTA.rate:g} burst={QUOTA.burst}\n")
    server = start_redis(bed, "quotas-redis")
    worker = start_worker(bed, "quotas-worker", server, "stand-in")
    ports = [free_port(), free_port()]
    settings = {"API_KEYS_FILE": str(keys)}
    for port in ports:
        start_web(bed, f"quotas-web-{port}", server, "stand-in", port, settings)
    wait_for_workers(server, QUEUE, worker)
    began = time.monotonic()
    with clients_of(ports, photo_jpeg(), KEY, CLIENTS) as clients:
        time.sleep(seconds)
        elapsed_s, accepted = time.monotonic() - began, _accepted(server)
    if strange := {status for _, status in clients.answers} - {200, 429}:
        raise SystemExit(f"bench: pictures were answered {strange}")
    decoded = sum(_decoded(port) for port in ports)
    return Held(elapsed_s, accepted, clients.count(429), decoded)


def _accepted(server: Redis) -> int:
    return int(cast(bytes, server.client().hget(Keys(QUEUE).stats, "accepted")) or 0)


def _decoded(port: int) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=60)
    connection.request("GET", "/metrics")
    text = connection.getresponse().read().decode()
    counts = [line for line in text.splitlines() if "decode_seconds_count" in line]
    return int(sum(float(line.rpartition(" ")[2]) for line in counts))


def _costs(server: Redis, rounds: int) -> Mapping[str, list[float]]:
    """Return Redis's own time for an ENQUEUE, in us: without a quota, with one, and refused by it.

    In turns, as others use the machine too.
    """
    queue, client = RedisQueue(RedisAccess(server.url), QUEUE), server.client()
    ample, spent = Quota("ample", 10**5, 10**6), Quota("spent", 1e-6, 1)
    kinds = {"no quota": None, "within its quota": ample, "over its quota": spent}
    pixels, costs = bytes(PIXELS_BYTES), defaultdict[str, list[float]](list)
    queue.cancel(_put(queue, 1, pixels, spent))
    for _ in range(rounds):
        for kind, quota in kinds.items():
            client.delete(queue.keys.queue, queue.keys.waiting)
            client.config_resetstat()
            sent = _put(queue, JOBS, pixels, quota)
            used: Any = client.info("commandstats")
            costs[kind].append(float(used["cmdstat_evalsha"]["usec_per_call"]))
            queue.cancel(sent)
    return costs


def _put(queue: RedisQueue, count: int, pixels: bytes, quota: Quota | None) -> list[str]:
    """Send jobs; return their ids."""
    ids = [uuid.uuid4().hex for _ in range(count)]
    limits = Limits(max_jobs=10**6, max_bytes=2**40, quota=quota)
    for job_id in ids:
        job = Job(job_id, "m", (224, 224, 3), 5, "reply", "trace", 60_000)
        code = queue.enqueue(job, pixels, 60_000, limits).code
        if code not in (EnqueueCode.ACCEPTED, EnqueueCode.RATE_LIMITED):
            raise SystemExit(f"bench: the queue refused a job: {code.name}")
    return ids


def section(held: Held, costs: Mapping[str, Sequence[float]]) -> Section:
    """Write the tables as one, and compare with the target."""
    rows = [
        ["pictures accepted, and expected", f"{held.accepted}, {number(held.expected)}"],
        ["refused with 429", f"{held.refused}"],
        ["decoded", f"{held.decoded}"],
        *([f"ENQUEUE, {kind}, us of Redis", spread(each)] for kind, each in costs.items()),
    ]
    verdict = Verdict(
        f"within {percent(MOST_OFF)} of rate x {held.seconds:.0f} s + burst",
        f"{100 * held.off:+.2f} %",
        abs(held.off) <= MOST_OFF,
    )
    return Section(
        "(k) Quotas",
        ("", ""),
        rows,
        [verdict],
        [
            f"One key of {QUOTA.rate:g} pictures a second and {QUOTA.burst} at once, "
            f"{CLIENTS} clients without patience on each of two web servers of two processes, "
            f"for {held.seconds:.1f} s. A refused client comes again after "
            f"{1000 * REFUSED_PAUSE_S:.0f} ms. ENQUEUE with {PIXELS_BYTES // 1000} KB of pixels "
            f"and up to {JOBS} jobs that wait."
        ],
    )
