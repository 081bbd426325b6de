"""Replays a trace against a real service that the autoscaler sizes, and in the simulator."""

import threading
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from statistics import fmean
from typing import Any, cast

import yaml
from tests.redis_server import eventually
from tests.system.stack import START_S, Stack, running

from bench.chaos.load import Load, Record, Shape
from bench.sizing.actuator import LocalCluster
from imageserve.autoscaler.lease import Leadership
from imageserve.autoscaler.load import average_table
from imageserve.autoscaler.loop import Autoscaler, SizedModel
from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.scaler import ModelScaler
from imageserve.autoscaler.scaling_file import ModelScaling
from imageserve.queue.monitor import Monitor
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.snapshot import decode_worker_info
from imageserve_loadtest.simulator.scalers import INTERVAL_S, Imageserve
from imageserve_loadtest.simulator.simulation import Setting, Simulation
from imageserve_loadtest.simulator.trace import Trace

QUEUE = "image_queue"
BATCH_SIZE, BATCH_MS, IMAGE_MS = 4, 20.0, 35.0
"""A worker does 25 pictures a second, as many as a pod of the simulator's tables."""

TIMEOUT_S = 30.0
IMAGE_S = 45.0
"""Of a pod's start, before compression; a worker adds one or two real seconds of its own."""

SHORTEST_WINDOW_S = 5.0
"""The least that a policy takes for the windows of arrivals."""


@dataclass(frozen=True, slots=True)
class Plan:
    """One replay: seconds of the trace are divided by ``compression``, rates stay."""

    trace: Trace
    """Already compressed."""
    compression: float
    policy: Policy
    """Already compressed."""
    seed: int = 1


@dataclass(frozen=True, slots=True)
class Share:
    """What a run, real or simulated, came to."""

    in_time: float
    """Share of all requests that were answered in time."""
    worker_hours: float
    """Of compressed time."""


@dataclass(frozen=True, slots=True)
class Proof:
    """Both runs of one plan."""

    plan: Plan
    real: Share
    simulated: Share
    requests: int
    pod_start_s: float
    bucket_ms: Mapping[int, float]
    most_workers: int
    changes: int
    ends: Mapping[str, int]
    """How many requests ended how."""
    load_s: float
    """What a worker told of the loading of its model."""
    decisions: tuple[tuple[tuple[float, int], ...], tuple[tuple[float, int], ...]]
    """When the number of workers was set, and to how many: real and simulated."""

    @property
    def points_apart(self) -> float:
        """Difference of the shares in time, in points."""
        return 100 * abs(self.real.in_time - self.simulated.in_time)

    @property
    def hours_apart(self) -> float:
        """Difference of the worker-hours, in percent of the simulated ones."""
        return 100 * abs(self.real.worker_hours / self.simulated.worker_hours - 1)


def compressed_policy(compression: float, **changes: Any) -> Policy:
    """Return the default policy with all its times compressed; ``changes`` are set afterwards."""
    usual = Policy(batch_size=BATCH_SIZE, max_replicas=8, foresight="off")
    times = {
        f.name: getattr(usual, f.name) / compression for f in fields(Policy) if _is_time(f.name)
    }
    for name in ("arrivals_window_s", "burst_window_s"):
        times[name] = max(SHORTEST_WINDOW_S, times[name])
    return replace(usual, **{**times, **changes})


def _is_time(name: str) -> bool:
    return name.endswith("_s")


def replay(plan: Plan, directory: Path, redis: str) -> Proof:
    """Run both. Raises SystemExit where the load tool failed or a worker ended by itself."""
    env = {
        "MODEL": f"stand-in:batch_ms={BATCH_MS:g},image_ms={IMAGE_MS:g},size=64",
        "BATCH_SIZE": str(BATCH_SIZE),
        "REQUEST_TIMEOUT_S": f"{TIMEOUT_S / plan.compression:g}",
        "WEB_PROCESSES": "1",
    }
    with running(directory, redis, workers=0, redis_args=(), place=None, **env) as stack:
        cluster = LocalCluster(stack, "workers", IMAGE_S / plan.compression)
        cluster.start(1)
        eventually(lambda: cluster.ready, "the first worker is ready", START_S)
        eventually(stack.worker_infos, "its heartbeat has come", START_S)
        infos = [decode_worker_info("w", 0, text) for text in stack.worker_infos()]
        began_s = time.time()
        with _autoscaler(plan, stack, cluster):
            records = _loaded(plan, stack)
        cluster.stop()
    if cluster.failure:
        raise SystemExit(f"bench: {cluster.failure}")
    bucket_ms = average_table(info.bucket_ms for info in infos)
    return _proof(plan, cluster, began_s, records, bucket_ms, infos[0].load_s)


@contextmanager
def _autoscaler(plan: Plan, stack: Stack, cluster: LocalCluster) -> Iterator[None]:
    """Run the autoscaler's own threads on this queue and these processes."""
    model = ModelScaling("stand-in", QUEUE, cluster.name, "app=workers", plan.policy)
    interval_s, leadership = INTERVAL_S / plan.compression, Leadership()
    scaler = ModelScaler(model, cast(Any, cluster), leadership, interval_s=interval_s)
    monitor = Monitor(RedisAccess(stack.redis.url), [QUEUE])
    autoscaler = Autoscaler([SizedModel(scaler, monitor)], leadership, interval_s=interval_s)
    thread = threading.Thread(target=autoscaler.run, name="autoscaler", daemon=True)
    thread.start()
    try:
        yield
    finally:
        autoscaler.stop()
        thread.join(START_S)


def _loaded(plan: Plan, stack: Stack) -> list[Record]:
    trace = plan.trace
    rows = zip(trace.seconds, trace.seconds[1:], trace.rates, strict=False)
    phases = [{"seconds": end - start, "rate_per_s": rate} for start, end, rate in rows]
    path = stack.directory / "trace.yaml"
    path.write_text(yaml.safe_dump({"phases": phases, "timeout_s": 2 * TIMEOUT_S}))
    shape = Shape(("--scenario", str(path)), trace.length_s)
    url = f"http://{stack.place.host}:{stack.port}"
    load = Load(stack.directory, trace.name, url, shape, plan.seed)
    stack.programs.append(load.program)
    _, records = load.finish()
    return records


def _proof(
    plan: Plan,
    cluster: LocalCluster,
    began_s: float,
    records: list[Record],
    bucket_ms: Mapping[int, float],
    load_s: float,
) -> Proof:
    """Simulate what has happened since the autoscaler began, at the same instants."""
    timeout_s = TIMEOUT_S / plan.compression
    instants = sorted(record.intended - began_s for record in records)
    # The autoscaler has seen an empty queue for a moment before the load began.
    length_s = instants[0] + plan.trace.length_s
    trace = Trace(plan.trace.name, (0.0, length_s), (0.0, 0.0))
    starts = [s for pod in cluster.pods_ever[1:] if (s := pod.stamps.total_s) is not None]
    pod_start_s = fmean(starts) if starts else plan.policy.pod_start_s
    setting = Setting(bucket_ms, pod_start_s, timeout_s)
    rule = Imageserve(plan.policy, INTERVAL_S / plan.compression)
    simulated = Simulation(setting, trace, instants, rule).run()
    good = sum(record.status == 200 and record.latency_s <= timeout_s for record in records)
    seconds = sum(pod.seconds(began_s, began_s + length_s) for pod in cluster.pods_ever)
    return Proof(
        plan,
        Share(good / len(records), seconds / 3600),
        Share(simulated.in_time_share, simulated.replica_hours),
        requests=len(records),
        pod_start_s=pod_start_s,
        bucket_ms=bucket_ms,
        most_workers=max((n for _, n in cluster.changes), default=1),
        changes=len(cluster.changes),
        ends=Counter(record.code or str(record.status) for record in records),
        load_s=load_s,
        decisions=(
            tuple((round(s - began_s, 2), n) for s, n in cluster.changes),
            tuple((round(s, 2), n) for s, n in simulated.replicas),
        ),
    )
