"""Part (f): how many images/s one Redis can carry, and what a second one adds.

The processes that keep Redis busy want more CPU than Redis does, and this machine has few cores. So
what is measured is Redis's own CPU time for an image; its inverse is the rate at which the one
core that runs commands would be full.
"""

import statistics
import subprocess
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from tests.redis_server import RedisCluster, RedisServer, running

from bench.picture import photo_jpeg
from bench.plan import Plan, say
from bench.processes import Bed, cpu_s, python, redis_server, wait_until
from bench.report import Section, Verdict, number, percent, ratios, spread

PIXELS_BYTES = 224 * 224 * 3
LEAST_ADDED = 0.9
_NOT_LOGGED = ("--appendonly", "no")
_LOGGED = ("--appendonly", "yes", "--appendfsync", "everysec", "--save", "")
QUEUES = ("resnet", "shapes")
"""Two names whose slots lie in different halves of the cluster."""


@dataclass(frozen=True, slots=True)
class Carried:
    """What went through during one measurement."""

    images: int
    seconds: float
    redis_cpu_s: tuple[float, ...]
    """Of each server."""

    @property
    def cpu_ms(self) -> float:
        """CPU time for an image, of all servers together."""
        return 1000 * sum(self.redis_cpu_s) / self.images

    @property
    def ceiling(self) -> float:
        """Images/s with a full core of every server, at this split between them."""
        return self.images / max(self.redis_cpu_s)


class _Carrier:
    """A helper process that carries jobs, and tells how many."""

    def __init__(self, bed: Bed, name: str, url: str, queue: str, size: int) -> None:
        command = python("-m", "bench.carrier", url, queue, str(size))
        self._popen: subprocess.Popen[str] = bed.start_talking(name, command)

    def done(self) -> int:
        assert self._popen.stdin is not None
        assert self._popen.stdout is not None
        self._popen.stdin.write("\n")
        self._popen.stdin.flush()
        return int(self._popen.stdout.readline() or 0)

    def end(self) -> None:
        assert self._popen.stdin is not None
        self._popen.stdin.close()
        self._popen.wait()


def ceiling_section(plan: Plan) -> Section:
    sizes = {"pixels": PIXELS_BYTES, "JPEG": len(photo_jpeg())}
    runs: dict[str, list[Carried]] = defaultdict(list)
    with Bed() as bed:
        single = RedisServer(redis_server(), bed.directory / "single", *_NOT_LOGGED)
        logged = RedisServer(redis_server(), bed.directory / "logged", *_LOGGED)
        cluster = RedisCluster(redis_server(), bed.directory / "cluster", *_NOT_LOGGED)
        with running(single), running(logged), running(cluster):
            for turn in range(plan.rounds):
                say(f"round {turn + 1}")
                for name, size in sizes.items():
                    carried = _carry(bed, single.url, [single], QUEUES[:1], size, plan)
                    runs[f"{name}, {size // 1000} KB"].append(carried)
                carried = _carry(bed, logged.url, [logged], QUEUES[:1], PIXELS_BYTES, plan)
                runs["pixels, append-only file"].append(carried)
                for name, queues in (
                    ("pixels, one node of a cluster", QUEUES[:1]),
                    ("pixels, a queue on each of two nodes", QUEUES),
                ):
                    carried = _carry(bed, cluster.url, cluster.nodes, queues, PIXELS_BYTES, plan)
                    runs[name].append(carried)
    return _section(runs)


def _carry(
    bed: Bed,
    url: str,
    servers: Sequence[RedisServer],
    queues: Sequence[str],
    size: int,
    plan: Plan,
) -> Carried:
    carriers = [_Carrier(bed, f"carrier-{queue}", url, queue, size) for queue in queues]
    wait_until(lambda: all(carrier.done() for carrier in carriers), "jobs are carried")
    time.sleep(plan.warm_up_s)
    images, cpu_before_s, began = _count(carriers), _cpu_s(servers), time.perf_counter()
    time.sleep(plan.seconds)
    after, cpu_after_s, ended = _count(carriers), _cpu_s(servers), time.perf_counter()
    for carrier in carriers:
        carrier.end()
    used = tuple(late - early for early, late in zip(cpu_before_s, cpu_after_s, strict=True))
    return Carried(after - images, ended - began, used)


def _count(carriers: Sequence[_Carrier]) -> int:
    return sum(carrier.done() for carrier in carriers)


def _cpu_s(servers: Sequence[RedisServer]) -> list[float]:
    return [cpu_s(server.pid) for server in servers]


def _section(runs: Mapping[str, Sequence[Carried]]) -> Section:
    rows = [
        [
            name,
            spread([each.images / each.seconds for each in carried]),
            spread([each.cpu_ms for each in carried]),
            spread([each.ceiling for each in carried]),
        ]
        for name, carried in runs.items()
    ]
    *_, one, two = ([each.ceiling for each in carried] for carried in runs.values())
    added = statistics.median(ratios(two, one)) / 2
    verdict = Verdict(
        f"two nodes: >= {percent(2 * LEAST_ADDED)} of one",
        f"{percent(2 * added)}",
        added >= LEAST_ADDED,
    )
    return Section(
        "(f) One Redis, and past it",
        ("payload", "images/s carried here", "Redis CPU-ms per image", "ceiling, images/s"),
        rows,
        [verdict],
        [
            "The ceiling is one image divided by Redis's CPU time for it: the rate at which the "
            "core that runs its commands is full. Queued one by one, claimed and finished by 32. "
            "Nothing is kept on disk but in the third row, which is set up as the chart's Redis. "
            f"For scale: {number(PIXELS_BYTES * 8 * 1000 / 1e9)} Gbit/s each way carry the pixels "
            "of 1,000 images/s."
        ],
    )
