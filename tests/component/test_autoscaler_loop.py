"""The autoscaler's threads together: each model on its own queue, and none delays another."""

import http.client
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import cast

import pytest
from prometheus_client import REGISTRY
from tests.kubernetes_api import KubernetesApi
from tests.redis_server import eventually

from imageserve.autoscaler import loop
from imageserve.autoscaler.kubernetes import connect
from imageserve.autoscaler.lease import Leadership
from imageserve.autoscaler.loop import Autoscaler, SizedModel
from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.scaler import ModelScaler
from imageserve.autoscaler.scaling_file import ModelScaling, Scaling
from imageserve.autoscaler.shared_budget import SharedBudget, shared_budget
from imageserve.errors import QueueError, QueueUnavailable
from imageserve.probes import ProbeServer
from imageserve.queue.monitor import FirstJobWaiter, Monitor
from imageserve.queue.snapshot import Snapshot, WorkerInfo

WORKER = WorkerInfo("w", "m", (8, 8, 3), 8, {8: 800.0}, "ready", "pod-1", 1_000_000)
BUSY = Snapshot(1_000_000, 100_000, 0, 0, 0, 60_000, {"accepted": 100_000}, (WORKER,))
IDLE = Snapshot(1_000_000, 0, 0, 0, 0, 0, {"accepted": 100_000})
FIRST_JOB = replace(IDLE, queued=1, stats={"accepted": 100_001})
MODELS = ("shapes", "other")


@dataclass
class Queue:
    """One model's queue, as Monitor and FirstJobWaiter would show it."""

    name: str
    state: Snapshot | QueueError = IDLE
    reads: int = 0
    waits: int = 0
    """Calls of ``wait`` that have ended."""
    job: threading.Event = field(default_factory=threading.Event)
    hangs: threading.Event | None = None
    """A read waits for this event."""

    def snapshots(self) -> Mapping[str, Snapshot | QueueError]:
        self.reads += 1
        if self.hangs:
            self.hangs.wait(30)
        return {self.name: self.state}

    def wait(self) -> bool:
        came = self.job.wait(0.05)
        self.waits += 1
        return came


class Follower(Leadership):
    """Loses every election, until the test sets the event."""

    elected: threading.Event | None = None

    def leading(self) -> bool:
        return False

    def start(self, elected: threading.Event) -> None:
        self.elected = elected


class Bench:
    """An autoscaler of two models that runs in threads of this process."""

    def __init__(self, api: KubernetesApi, directory: Path) -> None:
        self.api = api
        self.queues = {name: Queue(name) for name in MODELS}
        self.leadership = Leadership()
        cluster = connect(None, "me", str(api.kubeconfig(directory, "me")))
        policy = Policy(min_replicas=0, batch_size=8)
        models = [
            ModelScaling(name, name, deployment_of(name), f"model={name}", policy, gpus=1)
            for name in MODELS
        ]
        self.scalers = [
            ModelScaler(model, cluster, self.leadership, interval_s=0.05) for model in models
        ]

    @contextmanager
    def running(
        self, interval_s: float = 0.05, budget: SharedBudget | None = None
    ) -> Iterator[Autoscaler]:
        queues = self.queues.values()
        models = [
            SizedModel(scaler, cast(Monitor, queue), cast(FirstJobWaiter, queue))
            for scaler, queue in zip(self.scalers, queues, strict=True)
        ]
        autoscaler = Autoscaler(models, self.leadership, interval_s=interval_s, budget=budget)
        thread = threading.Thread(target=autoscaler.run, daemon=True)
        thread.start()
        try:
            yield autoscaler
        finally:
            autoscaler.stop()
            thread.join(30)
            assert not thread.is_alive()

    def set_queues(self, state: Snapshot | QueueError) -> None:
        for queue in self.queues.values():
            queue.state = state

    def events(self) -> set[tuple[str, str]]:
        """Return the reason and the Deployment of each event."""
        bodies = [each.body for each in self.api.asked("create", "events")]
        return {(body["reason"], body["involvedObject"]["name"]) for body in bodies}

    @property
    def reads(self) -> list[int]:
        return [queue.reads for queue in self.queues.values()]

    def eventually_grow(self, *models: str) -> None:
        for name in models:
            eventually(lambda m=name: self.api.replicas(deployment_of(m)) > 1, f"{name} grows")  # type: ignore[misc]


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


def errors(model: str, source: str) -> float:
    labels = {"model": model, "source": source}
    return REGISTRY.get_sample_value("imageserve_autoscaler_errors_total", labels) or 0.0


def test_every_model_is_sized_at_the_start(bench: Bench) -> None:
    bench.set_queues(BUSY)

    with bench.running(interval_s=60):
        bench.eventually_grow(*MODELS)

    assert bench.reads == [1, 1]


@pytest.mark.parametrize("how", ["hang", "status"])
def test_a_model_whose_api_calls_fail_delays_no_other(how: str, bench: Bench) -> None:
    bench.api.fail("get", "deployments", 500, how=how, name=deployment_of("shapes"))
    bench.set_queues(BUSY)

    with bench.running():
        bench.eventually_grow("other")

        assert bench.api.replicas(deployment_of("shapes")) == 1
        bench.api.recover()
        bench.eventually_grow("shapes")


def test_a_queue_that_hangs_delays_no_other_model(bench: Bench) -> None:
    answer = bench.queues["shapes"].hangs = threading.Event()
    bench.set_queues(BUSY)

    with bench.running():
        bench.eventually_grow("other")

        assert bench.api.replicas(deployment_of("shapes")) == 1
        answer.set()
        bench.eventually_grow("shapes")


def test_only_the_model_whose_queue_cannot_be_read_is_held(bench: Bench, get: Get) -> None:
    bench.queues["shapes"].state = QueueUnavailable("Redis: away")
    bench.queues["other"].state = BUSY
    before = {name: errors(name, "redis") for name in MODELS}

    with bench.running() as autoscaler:
        bench.eventually_grow("other")
        unavailable = ("MetricsUnavailable", deployment_of("shapes"))
        eventually(lambda: unavailable in bench.events(), "an event says so")
        shapes, other = (scaler.status for scaler in bench.scalers)
        partly = "imageserve_redis_up 0.0" in get(autoscaler, "/metrics")[1]
        bench.queues["shapes"].state = BUSY
        bench.eventually_grow("shapes")
        fully = "imageserve_redis_up 1.0" in get(autoscaler, "/metrics")[1]

    assert (shapes.mode, other.mode) == ("unknown (redis)", "known")
    assert errors("shapes", "redis") > before["shapes"]
    assert errors("other", "redis") == before["other"]
    assert ("MetricsUnavailable", deployment_of("other")) not in bench.events()
    assert (partly, fully) == (True, True)


def test_an_outage_is_logged_once_with_its_model(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    bench.queues["shapes"].state = QueueUnavailable("Redis: away")

    with bench.running():
        eventually(lambda: bench.queues["shapes"].reads > 4, "it is read several times")
        bench.queues["shapes"].state = IDLE
        eventually(lambda: bench.scalers[0].initialized, "it is read again")

    lines = [
        (each.levelname, each.__dict__["fields"]["model"], each.getMessage())
        for each in caplog.records
        if "queue" in each.message and "event" not in each.__dict__["fields"]
    ]
    held = "the queue cannot be read, the replicas stay unchanged: Redis: away"
    assert lines == [
        ("ERROR", "shapes", held),
        ("INFO", "shapes", "the queue can be read again"),
    ]


def test_a_bug_in_one_step_ends_no_thread(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    step = bench.scalers[0].step
    calls: list[float] = []

    def buggy(read_at_s: float, queue: Snapshot | QueueError) -> None:
        calls.append(read_at_s)
        if len(calls) == 1:
            raise ZeroDivisionError
        step(read_at_s, queue)

    monkeypatch.setattr(bench.scalers[0], "step", buggy)
    bench.set_queues(BUSY)

    with bench.running():
        bench.eventually_grow(*MODELS)

    assert [r.levelname for r in caplog.records if "bug" in r.message] == ["CRITICAL"]


def test_a_first_job_wakes_its_model_at_once_and_no_other(bench: Bench) -> None:
    for model in MODELS:
        bench.api.add_deployment(deployment_of(model), 0)

    with bench.running(interval_s=3600):
        eventually(lambda: all(s.asleep.is_set() for s in bench.scalers), "both are asleep")
        bench.set_queues(FIRST_JOB)
        bench.queues["shapes"].job.set()
        eventually(lambda: bench.api.replicas(deployment_of("shapes")) == 1, "it has a pod")

        assert bench.api.replicas(deployment_of("other")) == 0
    assert bench.reads == [2, 1]


def test_one_job_wakes_its_model_once(bench: Bench) -> None:
    bench.api.add_deployment(deployment_of("shapes"), 0)
    queue = bench.queues["shapes"]

    with bench.running(interval_s=3600):
        eventually(bench.scalers[0].asleep.is_set, "it is asleep")
        # The step after the wake-up hangs. Still asleep, the model would be woken without a pause.
        answer = queue.hangs = threading.Event()
        queue.state = FIRST_JOB
        queue.job.set()
        eventually(lambda: queue.reads == 2, "the job wakes it")

        assert not bench.scalers[0].asleep.is_set()
        answer.set()
        eventually(lambda: bench.api.replicas(deployment_of("shapes")) == 1, "it has a pod")


def test_nobody_waits_for_a_first_job_while_there_are_pods(bench: Bench) -> None:
    with bench.running(interval_s=3600):
        eventually(lambda: all(s.initialized for s in bench.scalers), "both are sized")
        for queue in bench.queues.values():
            queue.job.set()

        assert not any(s.asleep.is_set() for s in bench.scalers)
    assert bench.reads == [1, 1]
    assert [queue.waits for queue in bench.queues.values()] == [0, 0]


def test_a_failed_wait_is_tried_again(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "RETRY_S", 0.01)
    waits: list[None] = []

    def failing() -> bool:
        waits.append(None)
        raise QueueUnavailable("Redis: away")

    monkeypatch.setattr(bench.queues["shapes"], "wait", failing)
    bench.api.add_deployment(deployment_of("shapes"), 0)

    with bench.running():
        eventually(lambda: len(waits) > 2, "it waits again")


def test_a_new_leader_sizes_its_models_at_once(bench: Bench) -> None:
    bench.leadership = leadership = Follower()
    with bench.running(interval_s=3600):
        eventually(lambda: bench.reads == [1, 1], "both are read")
        assert leadership.elected is not None
        leadership.elected.set()
        eventually(lambda: bench.reads == [2, 2], "both are read again")


def test_after_a_stop_nothing_is_sized(bench: Bench) -> None:
    with bench.running():
        eventually(lambda: min(bench.reads) > 2, "both are sized")
    eventually(lambda: not model_threads(), "all threads have ended")


def model_threads() -> set[str]:
    own = {*MODELS, *(f"first-job-{name}" for name in MODELS)}
    return own & {thread.name for thread in threading.enumerate()}


def test_it_is_ready_when_everything_was_reached(bench: Bench, get: Get) -> None:
    bench.set_queues(QueueUnavailable("Redis: away"))

    with bench.running() as autoscaler:
        eventually(lambda: all(s.status.seen for s in bench.scalers), "the API is reached")
        before = get(autoscaler, "/readyz")
        bench.set_queues(IDLE)
        eventually(lambda: all(s.initialized for s in bench.scalers), "Redis is reached")
        after = get(autoscaler, "/readyz")
        bench.set_queues(QueueUnavailable("Redis: away again"))
        reads = min(bench.reads)
        eventually(lambda: min(bench.reads) > reads + 3, "the outage is seen")
        outage = get(autoscaler, "/readyz")

    assert before == (503, "not ready: shapes: Redis: away\n")
    # Unready in an outage, its metrics and recommendations could not be read.
    assert (after, outage) == ((200, "ready\n"), (200, "ready\n"))


def test_it_is_not_ready_before_the_first_step(bench: Bench, get: Get) -> None:
    bench.queues["shapes"].hangs = threading.Event()

    with bench.running() as autoscaler:
        answer = get(autoscaler, "/readyz")
        bench.queues["shapes"].hangs.set()

    assert answer == (503, "not ready: shapes: not sized yet\n")


def test_it_is_not_ready_while_the_lease_cannot_be_used(
    bench: Bench, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    with bench.running() as autoscaler:
        eventually(lambda: all(s.initialized for s in bench.scalers), "all is reached")
        monkeypatch.setattr(Leadership, "problem", "may not get leases")

        assert get(autoscaler, "/readyz") == (503, "not ready: lease: may not get leases\n")


def test_a_thread_that_hangs_is_not_healthy(
    bench: Bench, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench.api.fail("get", "deployments", how="hang", name=deployment_of("shapes"))

    with bench.running() as autoscaler:
        eventually(lambda: bench.scalers[1].initialized, "the other is sized")
        before = get(autoscaler, "/healthz")
        monkeypatch.setattr(loop, "STUCK_S", 0.0)
        after = get(autoscaler, "/healthz")
        bench.api.recover()

    assert (before, after) == ((200, "ok\n"), (503, "a thread hangs\n"))


def test_metrics_and_recommendations_have_what_is_known(bench: Bench, get: Get) -> None:
    bench.api.remove("deployments", deployment_of("other"))
    bench.set_queues(BUSY)

    with bench.running() as autoscaler:
        eventually(lambda: all(s.initialized for s in bench.scalers), "both have been tried")
        models = json.loads(get(autoscaler, "/recommendations")[1])["models"]
        metrics = get(autoscaler, "/metrics")[1]

    assert models["shapes"]["replicas"] > 1
    assert "other" not in models
    assert 'imageserve_autoscaler_queue_waiting{model="shapes"} 100000.0' in metrics
    assert 'imageserve_autoscaler_queue_waiting{model="other"}' not in metrics
    assert 'imageserve_autoscaler_leader{model="other"}' in metrics


# -- one budget of GPUs ---------------------------------------------------------------------------


def gpus(bench: Bench, count: int) -> SharedBudget:
    models = {scaler.model.name: scaler.model for scaler in bench.scalers}
    budget = shared_budget(Scaling(models, gpu_budget=count))
    assert budget is not None
    return budget


@pytest.fixture
def quick(bench: Bench) -> Bench:
    """Arrivals are known after 2.5 s: before that no pod is taken for another model."""
    for scaler in bench.scalers:
        policy = replace(scaler.model.policy, arrivals_window_s=5.0, burst_window_s=5.0)
        scaler.model = replace(scaler.model, policy=policy)
    return bench


def knows_arrivals(model: SizedModel) -> bool:
    model.wake()
    decision = model.scaler.status.decision
    return decision is not None and decision.arrivals_per_s is not None


def is_at_rest(model: SizedModel) -> bool:
    return not model._due.is_set() and model._busy_since_s is None


def most_at_once(bench: Bench, **replicas: int) -> int:
    """Return the most pods that the Deployments have asked for together."""
    totals = [sum(replicas.values())]
    for each in bench.api.scalings():
        replicas[each.name.removeprefix(deployment_of(""))] = each.body["spec"]["replicas"]
        totals.append(sum(replicas.values()))
    return max(totals)


def test_pods_of_an_idle_model_go_to_a_late_one_at_once(quick: Bench, get: Get) -> None:
    bench = quick
    bench.api.add_deployment(deployment_of("other"), 3)
    bench.set_queues(replace(IDLE, workers=(WORKER,)))

    # The interval is longer than the test: what is taken and given is not left to the next step.
    with bench.running(interval_s=3600, budget=gpus(bench, 4)) as autoscaler:
        eventually(lambda: all(map(knows_arrivals, autoscaler._models)), "both are known")
        # Else a model that was woken before sizes itself once more after it has given.
        eventually(lambda: all(map(is_at_rest, autoscaler._models)), "both are at rest")
        bench.queues["shapes"].state = BUSY
        autoscaler._models[0].wake()
        eventually(lambda: bench.api.replicas(deployment_of("shapes")) == 3, "it gets them")
        models = json.loads(get(autoscaler, "/recommendations")[1])["models"]
        metrics = get(autoscaler, "/metrics")[1]

    # They were taken although none may go for a window of 300 s, and never was there one too many.
    # When it last had a job is not known: the last pod stays for now.
    assert bench.api.replicas(deployment_of("other")) == 1
    assert most_at_once(bench, shapes=1, other=3) == 4
    assert models["other"]["cause"] == "budget"
    assert models["other"]["budget"] == {
        "gpus": 4,
        "gpus_per_pod": 1,
        "wanted_pods": 3,
        "given_pods": 1,
    }
    assert 'imageserve_autoscaler_budget_claimed_replicas{model="other"} 3.0' in metrics
    assert 'imageserve_autoscaler_budget_given_replicas{model="other"} 1.0' in metrics
    said = "the budget of 4 GPUs gives it 1 of 3 pods"

    def is_told() -> bool:
        messages = [message for _, message in bench.api.events() if said in message]
        return any(message.startswith("3 -> 1 replicas") for message in messages)

    # The other model was woken before this event is written.
    eventually(is_told, "an event of what was taken")
    assert ("OverBudget", deployment_of("other")) in bench.events()


@pytest.mark.parametrize("why", ["paused", "unread", "in flight"])
def test_pods_that_may_not_be_taken_stay(why: str, quick: Bench) -> None:
    bench = quick
    bench.api.add_deployment(deployment_of("other"), 3)
    bench.queues["other"].state = replace(IDLE, workers=(WORKER,))
    if why == "paused":
        bench.api.annotate(deployment_of("other"), autoscaler_paused="true")
    elif why == "unread":
        bench.queues["other"].state = QueueUnavailable("Redis: away")
    else:
        # Of batches of 8, two each: all three are busy. One a minute may go.
        bench.queues["other"].state = replace(IDLE, in_flight=48, workers=(WORKER,))
    bench.queues["shapes"].state = BUSY

    with bench.running(budget=gpus(bench, 4)) as autoscaler:
        eventually(lambda: all(map(knows_arrivals, autoscaler._models[:1])), "its load is known")
        left = 2 if why == "in flight" else 3
        eventually(lambda: bench.api.replicas(deployment_of("shapes")) == 4 - left, "it grows")
        reads = min(bench.reads)
        eventually(lambda: min(bench.reads) > reads + 5, "five more steps")

    assert bench.api.replicas(deployment_of("other")) == left
    assert most_at_once(bench, shapes=1, other=3) == 4


def test_the_gpus_of_a_deployment_that_is_gone_are_free(bench: Bench) -> None:
    bench.api.add_deployment(deployment_of("other"), 3)
    bench.queues["other"].state = QueueUnavailable("Redis: away")
    bench.queues["shapes"].state = BUSY

    with bench.running(budget=gpus(bench, 4)):
        eventually(lambda: bench.scalers[0].status.share is not None, "it has a share")
        assert bench.api.replicas(deployment_of("shapes")) == 1
        bench.api.remove("deployments", deployment_of("other"))
        eventually(lambda: bench.api.replicas(deployment_of("shapes")) == 4, "it gets them all")


def test_a_model_without_gpus_has_no_part_in_the_budget(bench: Bench) -> None:
    for scaler in bench.scalers[1:]:
        scaler.model = replace(scaler.model, gpus=0)
    bench.set_queues(BUSY)

    with bench.running(budget=gpus(bench, 1)):
        bench.eventually_grow("other")
        eventually(lambda: bench.scalers[0].status.share is not None, "the other one is limited")

    assert bench.api.replicas(deployment_of("shapes")) == 1
    assert bench.scalers[1].status.share is None


def test_a_pause_at_a_number_beyond_the_budget_holds(bench: Bench) -> None:
    bench.api.annotate(deployment_of("other"), paused_replicas="6")
    bench.set_queues(BUSY)

    with bench.running(budget=gpus(bench, 4)):
        eventually(lambda: bench.api.replicas(deployment_of("other")) == 6, "what the pause says")
        reads = min(bench.reads)
        eventually(lambda: min(bench.reads) > reads + 3, "three more steps")

    assert bench.api.replicas(deployment_of("shapes")) == 1
