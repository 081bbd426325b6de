"""What a plan says to a person: each number with its formula, the next wall, what is not known."""

from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from imageserve import measured
from imageserve.autoscaler.sizing import BATCHES_PER_WORKER
from imageserve.cli.plan_values import size_text
from imageserve.plan import (
    BATCHES_IN_TIME,
    BUFFER_S,
    MAX_CLIENTS,
    MEBI,
    MEMORY_USE,
    NETWORK_USE,
    REDIS_USE,
    RESULT_TTL_S,
    WEB_USE,
    WORKER_CONNECTIONS,
    Plan,
    percent,
)

Row = tuple[str, str, str]
"""What, how much, and how it was reckoned."""

MANY_NODES = 2
"""So many Redis nodes were measured; more were not."""


def report(plan: Plan, values: Mapping[str, Any]) -> Iterator[str]:
    """Yield the lines of the report."""
    yield _title(plan)
    for name, rows in (
        ("Web pods", _web(plan)),
        ("Model pods", _models(plan)),
        ("Redis", _redis(plan)),
    ):
        yield from ("", name, *_aligned(rows))
    yield from ("", "Next wall", *_walls(plan))
    yield from ("", "Values of the chart (--values prints them for `helm --values`)")
    yield from (f"  {path}: {value}" for path, value in _flat(values))
    yield from ("", "Not known, and what tells it")
    yield from (f"  - {what}: {command}" for what, command in unknown(plan))
    yield from ("", "Measured")
    yield from (f"  {what}: {source}" for what, source in sources(plan))


def _title(plan: Plan) -> str:
    load, worker = plan.load, plan.worker
    height, width = worker.preparation.size
    times = "" if load.peak == 1 else f", {short(load.peak)} times as many at the peak"
    return (
        f"{short(load.rate)} pictures/s{times}, {load.size[0]}x{load.size[1]} as JPEGs of "
        f"{load.upload_bytes / 1000:.0f} KB, to {worker.name} ({width}x{height}), answered within "
        f"{short(load.deadline_s)} s"
    )


def _web(plan: Plan) -> Iterator[Row]:
    web, costs, rate = plan.web, plan.costs, short(plan.load.peak_rate)
    yield (
        "cost of a picture",
        f"{short(web.picture_ms)} ms",
        f"of a core: {short(costs.decode_ms)} to decode, {short(costs.rest_ms)} for HTTP, queue "
        "and log",
    )
    longest_ms = short(1000 / web.process_per_s)
    beside = ", the longer part: a process beside it decodes" if web.in_decoder else ""
    yield "one process", f"{short(web.process_per_s)}/s", f"1,000 ms / {longest_ms} ms{beside}"
    yield (
        "pods",
        f"{web.pods:,}",
        f"{rate}/s / ({short(web.process_per_s)}/s x {percent(WEB_USE)}), {web.processes_per_pod} "
        f"processes a pod, at least {plan.place.least_web_pods} pods; {short(web.cores)} cores are "
        "busy",
    )
    yield "CPU of a pod", f"{short(web.pod_cores)}", "cores, as its request"
    yield (
        "in progress",
        f"{web.in_progress:,}",
        f"requests of a process while a pod is missing: its part of the rate x {BATCHES_IN_TIME} "
        f"batches of {short(plan.models.batch_ms)} ms, and decoding; their uploads are "
        f"{short(web.in_progress * plan.load.upload_bytes / MEBI)} MiB",
    )
    yield (
        "network of a pod",
        f"{short(web.pod_in_mbit)} Mbit/s",
        f"uploads in; {short(web.pod_out_mbit)} Mbit/s out, pixels to Redis",
    )


def _models(plan: Plan) -> Iterator[Row]:
    models, rate = plan.models, short(plan.load.peak_rate)
    yield (
        "batch",
        f"{models.batch}",
        f"takes {short(models.batch_ms)} ms; {BATCHES_IN_TIME} fit into the deadline, one into "
        f"{short(models.target_wait_s)} s",
    )
    yield "one pod", f"{short(models.pod_per_s)}/s", f"in batches of {models.batch}{_device(plan)}"
    yield (
        "pods",
        f"{models.pods:,}",
        f"{rate}/s / ({short(models.pod_per_s)}/s x {percent(models.utilization)}), as the "
        "autoscaler reckons"
        + (f", up to {models.pods_per_queue} for a queue" if plan.redis.nodes > 1 else ""),
    )
    yield "network of a pod", f"{short(models.pod_in_mbit)} Mbit/s", "in, while it is busy"


def _device(plan: Plan) -> str:
    worker = plan.worker
    if worker.gpu:
        return ", on a GPU"
    return "" if worker.cores is None else f", with {worker.cores} cores"


def _redis(plan: Plan) -> Iterator[Row]:
    redis, load = plan.redis, plan.load
    kept = f", x {measured.LOGGED_TIMES} since the queue is kept on disk"
    yield (
        "cost of a picture",
        f"{short(redis.picture_ms)} ms",
        f"of a core, {redis.picture_bytes:,} bytes of pixels{kept if plan.place.logged else ''}",
    )
    yield (
        "one node",
        f"{short(redis.node_per_s)}/s",
        f"the less of {short(redis.node_by_cpu)} ({percent(REDIS_USE)} of a core) and "
        f"{short(redis.node_by_network)} ({percent(NETWORK_USE)} of "
        f"{short(plan.place.network_gbit)} Gbit/s)",
    )
    yield "nodes", f"{redis.nodes:,}", f"{short(load.peak_rate)}/s / {short(redis.node_per_s)}/s"
    each = " of each" if redis.nodes > 1 else ""
    yield f"core{each}", percent(redis.node_cores), "busy: Redis runs its commands on one"
    yield f"network{each}", f"{short(redis.node_gbit)} Gbit/s", "in, and as much out"
    if plan.place.logged:
        yield f"disk{each}", f"{short(redis.node_log_mbyte)} MB/s", "written: the append-only file"
    yield from _redis_memory(plan, each)
    yield (
        f"connections{each}",
        f"{redis.connections:,}",
        f"at most: {plan.web.processes:,} processes x ({plan.web.slots} + 1) + "
        f"{plan.models.pods_per_queue} pods x {WORKER_CONNECTIONS}; Redis allows {MAX_CLIENTS:,} "
        "unless maxclients says more",
    )


def _redis_memory(plan: Plan, each: str) -> Iterator[Row]:
    redis, load = plan.redis, plan.load
    yield (
        f"queue{each}",
        f"{redis.waiting + redis.in_work:,}",
        f"pictures: {redis.waiting:,} may wait ({short(min(BUFFER_S, load.deadline_s))} s), "
        f"{redis.in_work:,} in work ({BATCHES_PER_WORKER} batches a pod)",
    )
    yield (
        f"maxmemory{each}",
        size_text(redis.maxmemory),
        f"up to {short(redis.queue_bytes / MEBI)} MiB of pixels and "
        f"{short(redis.answers_bytes / MEBI)} MiB of answers "
        f"({short(load.deadline_s + RESULT_TTL_S)} s) are at most "
        f"{percent(MEMORY_USE)}; a container with this Redis needs twice as much",
    )


def _walls(plan: Plan) -> Iterator[str]:
    rate = plan.load.peak_rate
    for wall in plan.walls:
        used = percent(rate / wall.at_per_s)
        yield f"  {short(wall.at_per_s)}/s: {wall.name}, now at {used} of it"
    yield "  Web pods and model pods can be added without end; one queue is always on one Redis."
    nodes = plan.redis.nodes
    if nodes > 1:
        yield (
            f"  {nodes} nodes: a Redis Cluster outside the chart, and the model under {nodes:,} "
            "names, each with a queue on"
        )
        yield (
            "  a node of its own; clients take them in turn (?model=). Or "
            f"{nodes:,} releases of the chart behind one load"
        )
        yield (
            f"  balancer, each planned for {short(plan.load.rate / nodes)} pictures/s: clients "
            "notice nothing, and no process"
        )
        yield "  has connections to every node."


def unknown(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield what this plan cannot know, and what tells it."""
    yield (
        "how fast your processors are",
        "imageserve plan --measure (decoding), python -m bench a f (all of it)",
    )
    if plan.worker.gpu:
        yield "how fast the model is on another GPU", "imageserve models bench MODEL --json"
    else:
        yield (
            "how fast the model is on a GPU or on other processors",
            "imageserve models bench MODEL --json there, then --model FILE",
        )
    yield (
        "your pictures: other formats, large and small ones mixed, other bytes a pixel",
        "imageserve loadtest with your pictures",
    )
    yield "memory of a model pod", "kubectl top pod, while it is busy"
    yield (
        "what load balancer, ingress and pod network carry "
        f"({short(plan.load.peak_rate * plan.load.upload_bytes * 8 / 1e9)} Gbit/s of uploads)",
        "the load test inside the cluster (loadtest.enabled)",
    )
    yield "how uneven your load is", "imageserve autoscaler simulate, with recorded arrivals"
    if plan.place.logged:
        yield (
            f"whether the disk of Redis takes {short(plan.redis.node_log_mbyte)} MB/s",
            "redis-cli INFO persistence (aof_delayed_fsync) under load",
        )
    if plan.redis.nodes > MANY_NODES:
        yield (
            f"what {plan.redis.nodes} nodes of one cluster cost: {MANY_NODES} were measured, and a "
            "result is announced on every node",
            "the load test; or several releases",
        )


def sources(plan: Plan) -> Iterator[tuple[str, str]]:
    """Yield where the numbers come from."""
    yield "web", plan.costs.source
    yield "worker", plan.worker.source
    yield "Redis, processor", f"{measured.TABLES}, part (f)"
    yield "Redis, disk and memory", measured.REDIS_DETAILS


def short(value: float) -> str:
    """Write a number with three significant digits, more only before the point."""
    if value >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def _aligned(rows: Iterable[Row]) -> Iterator[str]:
    for what, number, how in rows:
        yield f"  {what:<19} {number:>11}  {how}"


def _flat(values: Mapping[str, Any], above: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{above}{key}.")
        else:
            yield f"{above}{key}", value
