"""The autoscaler's threads together: one reading for all, and no model in another's way."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from imageserve.queue.observations import Reading
from tests.kubernetes_api import KubernetesApi
from tests.redis_server import eventually

from imageserve.autoscaler import autoscaler as loop
from imageserve.autoscaler.autoscaler import Autoscaler
from imageserve.autoscaler.kubernetes_cluster import connect
from imageserve.autoscaler.lease import Leadership
from imageserve.autoscaler.model_scaler import ModelScaler
from imageserve.autoscaler.scaling_file import ModelScaling
from imageserve.autoscaler.sizing import Policy
from imageserve.errors import QueueError, QueueUnavailable
from imageserve.probes import ProbeServer
from imageserve.queue.snapshot import Snapshot, WorkerInfo

WORKER = WorkerInfo("w", "m", (8, 8, 3), 8, {8: 800.0}, "ready", "pod-1", 1_000_000)
BUSY = Snapshot(1_000_000, 100_000, 0, 0, 0, 60_000, {"accepted": 100_000}, (WORKER,))
IDLE = Snapshot(1_000_000, 0, 0, 0, 0, 0, {"accepted": 100_000})
MODELS = ("shapes", "other")


class Redis:
    """What is read, by the test's hand."""

    def __init__(self) -> None:
        self.snapshot = IDLE
        self.error: QueueError | None = None
        self.reads = 0
        self.job = threading.Event()

    def read(self) -> Reading:
        self.reads += 1
        if self.error:
            raise self.error
        return Reading("run/0", dict.fromkeys(MODELS, self.snapshot))

    def wait(self) -> bool:
        """Look for a first job, as JobLook does."""
        return self.job.wait(0.05)


class Bench:
    """An autoscaler of two models that runs in threads of this process."""

    def __init__(self, api: KubernetesApi, directory: Path) -> None:
        self.api = api
        self.redis = Redis()
        self.leadership = Leadership()
        cluster = connect(None, "me", str(api.kubeconfig(directory, "me")))
        policy = Policy(min_replicas=0, batch_size=8)
        models = [
            ModelScaling(name, name, deployment_of(name), f"model={name}", policy)
            for name in MODELS
        ]
        self.scalers = [
            ModelScaler(model, cluster, self.leadership, interval_s=0.05) for model in models
        ]

    @contextmanager
    def running(self, interval_s: float = 0.05) -> Iterator[Autoscaler]:
        looks = dict.fromkeys(MODELS, self.redis)
        autoscaler = Autoscaler(
            self.redis, self.scalers, self.leadership, looks, interval_s=interval_s
        )
        thread = threading.Thread(target=autoscaler.run, daemon=True)
        thread.start()
        try:
            yield autoscaler
        finally:
            autoscaler.stop()
            thread.join(30)
            assert not thread.is_alive()


def deployment_of(model: str) -> str:
    return f"imageserve-model-{model}"


@pytest.fixture
def bench(kubernetes_api: KubernetesApi, tmp_path: Path) -> Bench:
    return Bench(kubernetes_api, tmp_path)


@pytest.fixture
def get() -> Iterator[Callable[[Autoscaler, str], tuple[int, str]]]:
    ports: dict[Autoscaler, int] = {}
    with ExitStack() as servers:

        def ask(autoscaler: Autoscaler, path: str) -> tuple[int, str]:
            if autoscaler not in ports:
                server = ProbeServer(0, autoscaler.answers())
                server.start()
                servers.callback(server._server.server_close)
                servers.callback(server._server.shutdown)
                ports[autoscaler] = server.port
            connection = http.client.HTTPConnection("127.0.0.1", ports[autoscaler], timeout=10)
            servers.callback(connection.close)
            connection.request("GET", path)
            answer = connection.getresponse()
            return answer.status, answer.read().decode()

        yield ask


Get = Callable[[Autoscaler, str], tuple[int, str]]


def test_every_model_is_sized_on_one_reading(bench: Bench) -> None:
    bench.redis.snapshot = BUSY

    with bench.running(interval_s=60):
        for model in MODELS:
            eventually(lambda m=model: bench.api.replicas(deployment_of(m)) > 1, f"{model} grows")  # type: ignore[misc]

    assert bench.redis.reads == 1


@pytest.mark.parametrize("how", ["hang", "status"])
def test_a_model_in_trouble_is_in_nobodys_way(how: str, bench: Bench) -> None:
    bench.api.fail("get", "deployments", 500, how=how, name=deployment_of("shapes"))
    bench.redis.snapshot = BUSY

    with bench.running():
        eventually(lambda: bench.api.replicas(deployment_of("other")) > 1, "the other grows")

        assert bench.api.replicas(deployment_of("shapes")) == 1
        bench.api.mend()
        eventually(lambda: bench.api.replicas(deployment_of("shapes")) > 1, "it grows, too")


def test_a_bug_in_one_step_ends_neither_its_model_nor_the_others(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step = bench.scalers[0].step
    calls: list[object] = []

    def buggy(sample: object) -> None:
        calls.append(sample)
        if len(calls) == 1:
            raise ZeroDivisionError
        step(sample)  # type: ignore[arg-type]

    monkeypatch.setattr(bench.scalers[0], "step", buggy)
    bench.redis.snapshot = BUSY

    with bench.running():
        for model in MODELS:
            eventually(lambda m=model: bench.api.replicas(deployment_of(m)) > 1, f"{model} grows")  # type: ignore[misc]

    assert [r.levelname for r in caplog.records if "bug" in r.message] == ["CRITICAL"]


def test_a_first_job_is_not_waited_for_until_the_next_interval(bench: Bench) -> None:
    for model in MODELS:
        bench.api.add_deployment(deployment_of(model), 0)

    with bench.running(interval_s=3600):
        eventually(lambda: all(s.asleep.is_set() for s in bench.scalers), "both are asleep")
        bench.redis.snapshot = replace(IDLE, queued=1, stats={"accepted": 100_001})
        bench.redis.job.set()
        for model in MODELS:
            eventually(lambda m=model: bench.api.replicas(deployment_of(m)) == 1, f"{model} wakes")  # type: ignore[misc]


def test_nobody_looks_for_jobs_of_a_model_that_is_awake(bench: Bench) -> None:
    with bench.running(interval_s=3600):
        eventually(lambda: all(s.met for s in bench.scalers), "both are sized")
        bench.redis.job.set()

        assert not any(s.asleep.is_set() for s in bench.scalers)
    assert bench.redis.reads == 1


def test_a_look_that_fails_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "LOOK_PAUSE_S", 0.01)
    looks: list[None] = []

    def failing() -> bool:
        looks.append(None)
        raise QueueUnavailable("Redis: away")

    monkeypatch.setattr(bench.redis, "wait", failing)
    bench.api.add_deployment(deployment_of("shapes"), 0)

    with bench.running():
        eventually(lambda: len(looks) > 2, "it looks again")


def test_it_is_ready_when_all_has_been_reached(bench: Bench, get: Get) -> None:
    bench.redis.error = QueueUnavailable("Redis: away")

    with bench.running() as autoscaler:
        eventually(lambda: all(s.report.seen for s in bench.scalers), "the API is reached")
        before = get(autoscaler, "/readyz")
        bench.redis.error = None
        eventually(lambda: all(s.met for s in bench.scalers), "Redis is reached")
        after = get(autoscaler, "/readyz")
        bench.redis.error = QueueUnavailable("Redis: away again")
        reads = bench.redis.reads
        eventually(lambda: bench.redis.reads > reads + 3, "it is noticed")
        outage = get(autoscaler, "/readyz")

    assert before == (503, "not ready: shapes: Redis: away\n")
    # An outage must not take the metrics' and the recommendations' only source away.
    assert (after, outage) == ((200, "ready\n"), (200, "ready\n"))


def test_it_is_not_ready_while_the_lease_cannot_be_used(
    bench: Bench, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench.running() as autoscaler:
        eventually(lambda: all(s.met for s in bench.scalers), "all is reached")
        monkeypatch.setattr(Leadership, "problem", "may not get leases")

        assert get(autoscaler, "/readyz") == (503, "not ready: lease: may not get leases\n")


def test_a_thread_that_hangs_is_an_illness(
    bench: Bench, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.api.fail("get", "deployments", how="hang", name=deployment_of("shapes"))

    with bench.running() as autoscaler:
        eventually(lambda: bench.scalers[1].met, "the other is sized")
        before = get(autoscaler, "/healthz")
        monkeypatch.setattr(loop, "STUCK_S", 0.0)
        after = get(autoscaler, "/healthz")
        bench.api.mend()

    assert (before, after) == ((200, "ok\n"), (503, "a thread hangs\n"))


def test_what_is_known_can_be_asked_for(bench: Bench, get: Get) -> None:
    bench.api.remove("deployments", deployment_of("other"))
    bench.redis.snapshot = BUSY

    with bench.running() as autoscaler:
        eventually(lambda: all(s.met for s in bench.scalers), "both have been tried")
        models = json.loads(get(autoscaler, "/recommendations")[1])["models"]
        metrics = get(autoscaler, "/metrics")[1]

    assert models["shapes"]["replicas"] > 1
    assert "other" not in models
    assert 'imageserve_autoscaler_queue_waiting{model="shapes"} 100000.0' in metrics
    assert 'imageserve_autoscaler_queue_waiting{model="other"}' not in metrics
    assert 'imageserve_autoscaler_leader{model="other"}' in metrics
