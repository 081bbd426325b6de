"""The autoscaler on a Redis Cluster of three masters, one of them away."""

import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from tests.kubernetes_api import KubernetesApi
from tests.redis_server import (
    Executable,
    RedisCluster,
    RedisClusterNode,
    eventually,
    oldest_and_newest,
    running,
)

from imageserve.autoscaler.kubernetes import connect
from imageserve.autoscaler.lease import Leadership
from imageserve.autoscaler.loop import Autoscaler, SizedModel
from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.scaler import ModelScaler
from imageserve.autoscaler.scaler_status import Mode
from imageserve.autoscaler.scaling_file import ModelScaling
from imageserve.errors import QueueError
from imageserve.queue.monitor import FirstJobWaiter, Monitor
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.snapshot import WorkerInfo, encode_worker_info

PARTIAL = ("--cluster-require-full-coverage", "no")
"""Nodes go on serving their slots while those of another have no node."""

SLOW_WORKER = WorkerInfo("w", "model", (8, 8, 3), 8, {8: 800.0}, "ready", "pod-1")
CROWD = 300
"""More jobs than a pod of ten pictures per second can do soon."""

RIGHTS = {
    "apiGroups": ["", "apps"],
    "resources": ["deployments", "deployments/scale", "pods", "events"],
    "verbs": ["get", "list", "patch", "create"],
}
"""The Role of the chart names its own Deployments."""

POLICY = Policy(min_replicas=0, batch_size=8, pod_start_s=1)


@pytest.fixture(params=oldest_and_newest(), ids=str)
def cluster(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[RedisCluster]:
    executable: Executable = request.param
    with running(RedisCluster(executable.found(), tmp_path, *PARTIAL, masters=3)) as cluster:
        yield cluster


@pytest.fixture
def queues(cluster: RedisCluster) -> list[str]:
    """One queue on each node."""
    return cluster.queue_names()


class Models:
    """One model per queue, with real connections, sized in threads of this process."""

    def __init__(
        self, cluster: RedisCluster, queues: list[str], api: KubernetesApi, directory: Path
    ) -> None:
        self.cluster = cluster
        self.queues = queues
        self.api = api
        api.rules = [RIGHTS]
        access = RedisAccess(cluster.url)
        connection = connect(None, "me", str(api.kubeconfig(directory, "me")))
        leadership = Leadership()
        for queue in queues:
            api.add_deployment(queue, 1)
        self.scalers = [
            ModelScaler(
                ModelScaling(queue, queue, queue, f"model={queue}", POLICY),
                connection,
                leadership,
                interval_s=0.2,
            )
            for queue in queues
        ]
        models = [
            SizedModel(scaler, Monitor(access, [queue]), FirstJobWaiter(access, queue))
            for scaler, queue in zip(self.scalers, queues, strict=True)
        ]
        self.autoscaler = Autoscaler(models, leadership, interval_s=0.2)

    def crowd(self, queue: str) -> None:
        """Write a long queue and a slow worker."""
        client = self.cluster.node_of(queue).client()
        seconds, _ = client.time()
        client.zadd(f"{{{queue}}}:workers", {SLOW_WORKER.id: seconds * 1000})
        client.hset(f"{{{queue}}}:workers:info", SLOW_WORKER.id, encode_worker_info(SLOW_WORKER))
        client.hset(f"{{{queue}}}:stats", "accepted", str(CROWD))
        client.rpush(queue, *["{}"] * CROWD)

    def modes(self) -> list[Mode]:
        return [scaler.status.mode for scaler in self.scalers]

    def replicas(self) -> list[int]:
        return [self.api.replicas(queue) for queue in self.queues]

    def unread(self) -> list[float]:
        """Return how often each queue could not be read."""
        name = "imageserve_autoscaler_errors_total"
        labels = [{"model": queue, "source": "redis"} for queue in self.queues]
        return [REGISTRY.get_sample_value(name, each) or 0.0 for each in labels]


@pytest.fixture
def models(
    cluster: RedisCluster, queues: list[str], kubernetes_api: KubernetesApi, tmp_path: Path
) -> Iterator[Models]:
    models = Models(cluster, queues, kubernetes_api, tmp_path)
    thread = threading.Thread(target=models.autoscaler.run, daemon=True)
    thread.start()
    try:
        eventually(lambda: models.modes() == [Mode.KNOWN] * 3, "all queues are read")
        yield models
    finally:
        models.autoscaler.stop()
        thread.join(30)


@pytest.mark.parametrize(
    ("leave", "come_back"),
    [
        pytest.param(RedisClusterNode.kill, RedisClusterNode.start, id="killed"),
        pytest.param(RedisClusterNode.pause, RedisClusterNode.resume, id="hangs"),
    ],
)
def test_only_the_model_of_a_lost_node_is_held(
    leave: Callable[[RedisClusterNode], None],
    come_back: Callable[[RedisClusterNode], None],
    models: Models,
) -> None:
    lost, *others = models.queues
    before = models.unread()
    models.crowd(lost)
    eventually(lambda: models.replicas()[0] > 1, "it grows")
    held = models.api.replicas(lost)
    node = models.cluster.node_of(lost)
    node.client().delete(lost)

    leave(node)
    eventually(lambda: models.modes()[0] is Mode.UNKNOWN_REDIS, "the queue cannot be read")
    for queue in others:
        models.crowd(queue)
    eventually(lambda: min(models.replicas()[1:]) > 1, "the other two grow")

    assert models.modes() == [Mode.UNKNOWN_REDIS, Mode.KNOWN, Mode.KNOWN]
    assert models.api.replicas(lost) == held
    assert models.unread()[0] > before[0]
    assert models.unread()[1:] == before[1:]
    come_back(node)
    eventually(lambda: models.modes()[0] is Mode.KNOWN, "the queue is read again")


def test_a_first_job_wakes_a_model_while_another_node_is_lost(models: Models) -> None:
    lost, asleep, _ = models.queues
    models.api.add_deployment(asleep, 0)
    eventually(models.scalers[1].asleep.is_set, "it is asleep")

    models.cluster.node_of(lost).kill()
    models.cluster.node_of(asleep).client().rpush(asleep, "{}")

    eventually(lambda: models.api.replicas(asleep) == 1, "it has a pod")


def test_only_the_run_of_an_emptied_node_changes(cluster: RedisCluster, queues: list[str]) -> None:
    for queue in queues:
        cluster.node_of(queue).client().hset(f"{{{queue}}}:stats", "accepted", "5")
    monitor = Monitor(RedisAccess(cluster.url), queues)

    def runs() -> list[str]:
        snapshots = monitor.snapshots()
        return ["" if isinstance(s, QueueError) else s.run for s in map(snapshots.get, queues) if s]

    before = runs()
    cluster.nodes[0].client().flushall()
    after = runs()

    assert (after[0] == before[0], after[1:]) == (False, before[1:])
    assert all(before)
