"""Part (f): how many images/s one Redis can carry, and what a second one adds.

The processes that keep Redis busy want more CPU than Redis does, and this machine has few cores. So
what is measured is Redis's own CPU time for an image; its inverse is the rate at which the one
core that runs commands would be full.
"""

import statistics
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

from bench.picture import photo_jpeg
from bench.plan import Plan, say
from bench.processes import Bed, free_port, python, redis_server, wait_until
from bench.report import Section, Verdict, number, percent, ratios, spread
from bench.stacks import Redis, start_redis

PIXELS_BYTES = 224 * 224 * 3
LEAST_ADDED = 0.9
SLOTS = 16384
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
    jpeg_bytes = len(photo_jpeg())
    ways = {
        f"pixels, {PIXELS_BYTES // 1000} KB": ([QUEUES[0]], PIXELS_BYTES, False),
        f"JPEG, {jpeg_bytes // 1000} KB": ([QUEUES[0]], jpeg_bytes, False),
        "pixels, one node of a cluster": ([QUEUES[0]], PIXELS_BYTES, True),
        "pixels, a queue on each of two nodes": (list(QUEUES), PIXELS_BYTES, True),
    }
    runs: dict[str, list[Carried]] = {name: [] for name in ways}
    with Bed() as bed:
        single, cluster = [start_redis(bed, "single")], _start_cluster(bed)
        for turn in range(plan.rounds):
            for name, (queues, size, clustered) in ways.items():
                say(f"round {turn + 1}: {name}")
                servers = cluster if clustered else single
                runs[name].append(_carry(bed, servers, queues, size, plan, clustered))
    return _section(runs)


def _carry(
    bed: Bed,
    servers: Sequence[Redis],
    queues: Sequence[str],
    size: int,
    plan: Plan,
    clustered: bool,
) -> Carried:
    nodes = ",".join(f"127.0.0.1:{server.port}" for server in servers)
    url = f"redis+cluster://{nodes}" if clustered else servers[0].url
    carriers = [_Carrier(bed, f"carrier-{queue}", url, queue, size) for queue in queues]
    wait_until(lambda: all(carrier.done() for carrier in carriers), "jobs are carried")
    time.sleep(plan.warm_up_s)
    images, cpu_s, began = _count(carriers), _cpu_s(servers), time.perf_counter()
    time.sleep(plan.seconds)
    after, cpu_after_s, ended = _count(carriers), _cpu_s(servers), time.perf_counter()
    for carrier in carriers:
        carrier.end()
    used = tuple(late - early for early, late in zip(cpu_s, cpu_after_s, strict=True))
    return Carried(after - images, ended - began, used)


def _count(carriers: Sequence[_Carrier]) -> int:
    return sum(carrier.done() for carrier in carriers)


def _cpu_s(servers: Sequence[Redis]) -> list[float]:
    return [server.process.cpu_s() for server in servers]


def _start_cluster(bed: Bed) -> list[Redis]:
    """Start two masters with half of the slots each."""
    nodes = [_start_node(bed, f"node-{n}") for n in (1, 2)]
    bounds = [0, SLOTS // 2, SLOTS]
    for epoch, (node, (first, end)) in enumerate(zip(nodes, pairwise(bounds), strict=True), 1):
        client = node.client()
        client.execute_command("CLUSTER", "SET-CONFIG-EPOCH", epoch)
        client.execute_command("CLUSTER", "ADDSLOTS", *range(first, end))
    nodes[0].client().execute_command("CLUSTER", "MEET", "127.0.0.1", nodes[1].port)
    wait_until(
        lambda: all(
            b"cluster_state:ok" in node.client().execute_command("CLUSTER", "INFO")
            for node in nodes
        ),
        "the cluster agrees",
        *(node.process for node in nodes),
    )
    return nodes


def _start_node(bed: Bed, name: str) -> Redis:
    port = free_port()
    while port + 10_000 > 65_535:  # Its bus listens there.
        port = free_port()
    directory = bed.directory / name
    directory.mkdir()
    own = ["--bind", "127.0.0.1", "--port", str(port), "--dir", str(directory), "--save", ""]
    process = bed.start(name, [redis_server(), *own, "--cluster-enabled", "yes"])
    node = Redis(port, process)
    wait_until(lambda: _answers(node), f"{name} answers", process)
    return node


def _answers(node: Redis) -> bool:
    import redis

    try:
        return bool(node.client().ping())
    except redis.ConnectionError:
        return False


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
            f"For scale: {number(PIXELS_BYTES * 8 * 1000 / 1e9)} Gbit/s each way carry the pixels "
            "of 1,000 images/s."
        ],
    )
