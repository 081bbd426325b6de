"""How many pods, cores and bytes a rate of pictures takes: costs in, a plan out. Pure.

Costs are those of `imageserve.measured`, or what the user has measured. Everything is reckoned for
the peak: pods and nodes are counted so that none of them uses more than a stated share of itself.
The model pods are those that the autoscaler asks for at that rate.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from imageserve import measured
from imageserve.autoscaler.load import capacity_batch, capacity_per_s, demand
from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.sizing import BATCHES_PER_WORKER
from imageserve.errors import ImageserveError
from imageserve.preparation import Preparation

WEB_USE = 0.7
"""Share of a web process that the peak may use; ``web.autoscaling`` of the chart aims at it too."""
REDIS_USE = 0.6
"""Share of the core of a Redis that runs its commands."""
NETWORK_USE = 0.6
"""Share of the network of a Redis, each way."""
QUEUE_SHARE = 0.6
"""Most of ``maxmemory`` that the chart lets ``limits.queueBytesLimit`` be."""
MEMORY_USE = 0.8
"""Share of ``maxmemory`` that full queues and kept answers may take together."""

BUFFER_S = 5.0
"""The queue has room for the pictures of so many seconds beside those in work: for bursts, and for
workers that are replaced."""
BATCHES_IN_TIME = 3
"""Full batches that a deadline has room for: the one that runs, one fetched ahead, its own."""
RESULT_TTL_S = 60.0
"""``limits.resultTtlSeconds`` of the chart."""

WEB_SLOTS = 256
WEB_MEMORY = 128 * 2**20
"""``web.slots`` and ``web.memoryBytes`` of the chart."""
QUEUE_BYTES = 256 * 2**20
"""``limits.queueBytesLimit`` of the chart."""
SLOTS_STEP = 64
HTTP_BYTES = 600
"""Head and form around a picture, and its answer: about as many bytes each."""
MAX_CLIENTS = 10_000
"""``maxclients`` of Redis by default."""
WORKER_CONNECTIONS = 7
MEBI = 2**20
MAXMEMORY_STEP = 256 * MEBI
LEAST_MAXMEMORY = 512 * MEBI


@dataclass(frozen=True, slots=True)
class Load:
    """What comes."""

    rate: float
    """Pictures a second."""
    peak: float = 1.0
    """The busiest minutes have so many times as much."""
    size: tuple[int, int] = measured.REFERENCE
    """Width and height of a picture, in pixels."""
    jpeg_bytes: int | None = None
    """Bytes of a picture as it is sent; None: as the benchmark's, by pixels."""
    deadline_s: float = 30.0
    """How long a client waits for its answer."""

    @property
    def peak_rate(self) -> float:
        return self.rate * self.peak

    @property
    def pixels(self) -> int:
        return self.size[0] * self.size[1]

    @property
    def upload_bytes(self) -> int:
        return self.jpeg_bytes or round(self.pixels * measured.JPEG_BYTES_PER_PIXEL)


@dataclass(frozen=True, slots=True)
class Worker:
    """One model pod."""

    name: str
    preparation: Preparation
    bucket_ms: Mapping[int, float]
    """Time of one model call by batch size."""
    source: str
    """Where these times come from."""
    cores: int | None = None
    """With how many cores; None: not known."""
    gpu: bool = False


@dataclass(frozen=True, slots=True)
class Costs:
    """Processor time of a web process for one picture, ms."""

    rest_ms: float
    """HTTP, queue, log and metrics."""
    decode_ms: float
    source: str


@dataclass(frozen=True, slots=True)
class Place:
    """Where it runs, and what its operator has chosen."""

    web_processes: int = 2
    """In one web pod."""
    least_web_pods: int = 2
    least_model_pods: int = 1
    network_gbit: float = 10.0
    """Network of the node that Redis runs on, Gbit/s each way."""
    logged: bool = True
    """Whether Redis keeps the queue on disk, as the chart's own does (``appendonly yes``)."""


@dataclass(frozen=True, slots=True)
class WebTier:
    """The web pods."""

    picture_ms: float
    """Processor time of one picture."""
    in_decoder: bool
    """Whether the pictures are decoded beside the web process, by a process of their own."""
    process_per_s: float
    """Pictures a second of one process that is busy all the time."""
    cores: float
    """Cores that the peak keeps busy, in all pods."""
    pods: int
    processes_per_pod: int
    pod_cores: float
    """What one pod can use: its CPU request."""
    in_progress: int
    """Requests in progress in one process, while a pod is missing."""
    slots: int
    memory_bytes: int
    """Room for them, and for their uploads, which are held until the answer."""
    pod_in_mbit: float
    pod_out_mbit: float
    """Network of one pod at the peak, Mbit/s: uploads in, pixels to Redis and answers out."""

    @property
    def processes(self) -> int:
        return self.pods * self.processes_per_pod


@dataclass(frozen=True, slots=True)
class ModelTier:
    """The model pods."""

    batch: int
    batch_ms: float
    pod_per_s: float
    """Pictures a second of one pod that is busy all the time."""
    utilization: float
    """Share of it that the peak may use."""
    target_wait_s: float
    pods: int
    """Of all queues."""
    pods_per_queue: int
    pod_in_mbit: float
    """Network of one busy pod, Mbit/s."""


@dataclass(frozen=True, slots=True)
class RedisTier:
    """The Redis nodes. Each has one queue with an equal part of the pictures."""

    picture_ms: float
    """Processor time of one picture."""
    picture_bytes: int
    """What crosses the queue: the pixels that the model takes."""
    node_by_cpu: float
    node_by_network: float
    """Pictures a second that one node may have, within the stated shares."""
    nodes: int
    node_cores: float
    """Core that the peak keeps busy, on each node."""
    node_gbit: float
    """Network of each node at the peak, Gbit/s in; as much goes out."""
    node_log_mbyte: float
    """Written to its disk, MB/s; 0 where nothing is kept."""
    waiting: int
    """Pictures that may wait in each queue."""
    in_work: int
    """Pictures of each queue that workers hold: `BATCHES_PER_WORKER` batches each."""
    queue_bytes: int
    """Room for the pixels of both, in bytes."""
    answers_bytes: int
    """Memory of answers that are kept."""
    maxmemory: int
    connections: int
    """Most connections to each node: web processes connect to every node."""

    @property
    def node_per_s(self) -> float:
        """Pictures a second that one node may have."""
        return min(self.node_by_cpu, self.node_by_network)


@dataclass(frozen=True, slots=True)
class Wall:
    """What ends the growth of this plan."""

    name: str
    at_per_s: float
    """Pictures a second at which its share is used up."""


@dataclass(frozen=True, slots=True)
class Plan:
    """All that a rate takes."""

    load: Load
    place: Place
    worker: Worker
    costs: Costs
    web: WebTier
    models: ModelTier
    redis: RedisTier
    walls: tuple[Wall, ...]
    """The nearest first."""


def known_costs(load: Load, preparation: Preparation, speed: float = 1.0) -> Costs:
    """Return the costs as measured, on a machine that is ``speed`` times as fast."""
    decode_ms = measured.decode_ms(load.pixels, preparation.jpeg_scale(load.size)) / speed
    rest_ms = (measured.WEB_MS - measured.DECODE_MS) / speed
    source = measured.TABLES
    if load.size != measured.REFERENCE:
        source += f"; how decoding grows with the picture: {measured.DECODING}"
    return Costs(rest_ms, decode_ms, source)


def plan(load: Load, worker: Worker, costs: Costs, place: Place = Place()) -> Plan:
    """Reckon what a load takes.

    Raises ImageserveError where no batch of the model ends in time.
    """
    payload = worker.preparation.bytes
    picture_ms = measured.redis_ms(payload) * (measured.LOGGED_TIMES if place.logged else 1.0)
    by_cpu = REDIS_USE * 1000 / picture_ms
    by_network = NETWORK_USE * place.network_gbit * 1e9 / 8 / (payload + measured.WIRE_BYTES)
    nodes = max(1, math.ceil(load.peak_rate / min(by_cpu, by_network)))
    models = _model_tier(load, worker, place, nodes)
    web = _web_tier(load, costs, place, models, payload)
    per_node = load.peak_rate / nodes
    waiting = math.ceil(per_node * min(BUFFER_S, load.deadline_s))
    in_work = models.pods_per_queue * BATCHES_PER_WORKER * models.batch
    queue_bytes, answers_bytes, maxmemory = _memory(load, per_node, waiting + in_work, payload)
    connections = web.processes * (web.slots + 1) + models.pods_per_queue * WORKER_CONNECTIONS
    redis = RedisTier(
        picture_ms=picture_ms,
        picture_bytes=payload,
        node_by_cpu=by_cpu,
        node_by_network=by_network,
        nodes=nodes,
        node_cores=per_node * picture_ms / 1000,
        node_gbit=per_node * (payload + measured.WIRE_BYTES) * 8 / 1e9,
        node_log_mbyte=per_node * (payload + measured.WIRE_BYTES) / 1e6 * place.logged,
        waiting=waiting,
        in_work=in_work,
        queue_bytes=queue_bytes,
        answers_bytes=answers_bytes,
        maxmemory=maxmemory,
        connections=connections,
    )
    return Plan(load, place, worker, costs, web, models, redis, _walls(redis))


def _model_tier(load: Load, worker: Worker, place: Place, queues: int) -> ModelTier:
    """Size the model pods as the autoscaler does."""
    in_time_s = load.deadline_s / BATCHES_IN_TIME
    policy = Policy(
        batch_size=max(worker.bucket_ms), target_wait_s=min(Policy().target_wait_s, in_time_s)
    )
    batch = capacity_batch(worker.bucket_ms, policy)
    rate = capacity_per_s(worker.bucket_ms, policy)
    if batch is None or rate is None:
        raise ImageserveError("the model's speed is not known")
    batch_ms = worker.bucket_ms[batch]
    if batch_ms > in_time_s * 1000:
        raise ImageserveError(
            f"a batch of {batch} takes {batch_ms:.0f} ms: {BATCHES_IN_TIME} of them (the one that "
            f"runs, one fetched ahead, its own) do not end within {load.deadline_s:g} s. Give a "
            "longer --clients-deadline, or the times of smaller batches (`imageserve models bench "
            "--json`), or take a faster device"
        )
    pods = max(demand(policy, load.peak_rate, 0, rate, None).pods, place.least_model_pods, queues)
    return ModelTier(
        batch=batch,
        batch_ms=batch_ms,
        pod_per_s=rate,
        utilization=policy.target_utilization,
        target_wait_s=policy.target_wait_s,
        pods=pods,
        pods_per_queue=math.ceil(pods / queues),
        pod_in_mbit=rate * (worker.preparation.bytes + measured.WIRE_BYTES) * 8 / 1e6,
    )


def _web_tier(load: Load, costs: Costs, place: Place, models: ModelTier, payload: int) -> WebTier:
    in_decoder = load.pixels > measured.LOOP_PIXELS
    picture_ms = costs.rest_ms + costs.decode_ms
    # A decoder process works beside the web process, so the slower of the two is the limit.
    longest_ms = max(costs.rest_ms, costs.decode_ms) if in_decoder else picture_ms
    process_per_s = 1000 / longest_ms
    processes = math.ceil(load.peak_rate / (process_per_s * WEB_USE))
    pods = max(place.least_web_pods, math.ceil(processes / place.web_processes))
    # Little's law, for a process while a pod is missing.
    others = max(1, pods - 1) * place.web_processes
    busy_per_s = min(process_per_s, load.peak_rate / others)
    answered_ms = costs.decode_ms + BATCHES_IN_TIME * models.batch_ms
    in_progress = math.ceil(busy_per_s * min(load.deadline_s, answered_ms / 1000))
    pod_per_s = load.peak_rate / pods
    return WebTier(
        picture_ms=picture_ms,
        in_decoder=in_decoder,
        process_per_s=process_per_s,
        cores=load.peak_rate * picture_ms / 1000,
        pods=pods,
        processes_per_pod=place.web_processes,
        pod_cores=math.ceil(10 * place.web_processes * picture_ms / longest_ms) / 10,
        in_progress=in_progress,
        slots=max(WEB_SLOTS, _up(in_progress, SLOTS_STEP)),
        memory_bytes=max(WEB_MEMORY, _up(in_progress * load.upload_bytes, 64 * MEBI)),
        pod_in_mbit=pod_per_s * (load.upload_bytes + HTTP_BYTES) * 8 / 1e6,
        pod_out_mbit=pod_per_s * (payload + measured.WIRE_BYTES + HTTP_BYTES) * 8 / 1e6,
    )


def _memory(load: Load, per_node: float, jobs: int, payload: int) -> tuple[int, int, int]:
    """Return, for one node, bytes of pixels, memory of answers, and ``maxmemory`` for both."""
    queue_bytes = max(QUEUE_BYTES, _up(jobs * payload, MEBI))
    answers_bytes = round(per_node * (load.deadline_s + RESULT_TTL_S) * measured.ANSWERED_BYTES)
    each = measured.allocated_bytes(payload) + measured.JOB_BYTES
    queued = queue_bytes / payload * each
    least = max(LEAST_MAXMEMORY, queue_bytes / QUEUE_SHARE, (queued + answers_bytes) / MEMORY_USE)
    return queue_bytes, answers_bytes, _up(least, MAXMEMORY_STEP)


def _walls(redis: RedisTier) -> tuple[Wall, ...]:
    """Return where this plan's own parts end. More web and model pods always help their tier."""
    nodes = "one Redis" if redis.nodes == 1 else f"the {redis.nodes} Redis nodes"
    walls = [
        Wall(f"processor of {nodes} ({percent(REDIS_USE)})", redis.node_by_cpu * redis.nodes),
        Wall(f"network of {nodes} ({percent(NETWORK_USE)})", redis.node_by_network * redis.nodes),
    ]
    return tuple(sorted(walls, key=lambda wall: wall.at_per_s))


def percent(share: float) -> str:
    return f"{100 * share:.0f} %"


def _up(value: float, step: int) -> int:
    """Round up to a multiple of ``step``."""
    return math.ceil(value / step) * step
