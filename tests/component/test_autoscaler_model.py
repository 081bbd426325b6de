"""One model sized step by step against a Kubernetes API: what is written, and what is said."""

import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path

import pytest
from prometheus_client import REGISTRY
from tests.deployment_controller import DeploymentController
from tests.kubernetes_api import KubernetesApi

from imageserve.autoscaler.foresight import Foresight
from imageserve.autoscaler.kubernetes import connect
from imageserve.autoscaler.lease import Leadership
from imageserve.autoscaler.memory import STEP_S, Memory, Step
from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.scaler import STALE_S, ModelScaler
from imageserve.autoscaler.scaler_status import Mode
from imageserve.autoscaler.scaling_file import ModelScaling
from imageserve.errors import QueueError, QueueUnavailable
from imageserve.queue.snapshot import Snapshot, WorkerInfo

MODEL = "imageserve-model-shapes"
#: One pod does 100 a second; nothing is waited for on the way down.
POLICY = Policy(
    min_replicas=1,
    max_replicas=4,
    batch_size=8,
    target_utilization=0.7,
    scale_down_window_s=0,
    scale_down_period_s=0,
    scale_to_zero_after_s=0,
)
WORKER = WorkerInfo("w", "shapes", (96, 96, 3), 8, {8: 80.0}, "ready", "pod-1", 1_000_000)
IDLE = Snapshot(1_000_000, 0, 0, 0, 0, 0, {"accepted": 10}, (WORKER,), "run/0")
BUSY = replace(IDLE, queued=100_000, oldest_ms=60_000, stats={"accepted": 10_010})


UNREAD = QueueUnavailable("Redis: away")


class Follower(Leadership):
    def leading(self) -> bool:
        return False


@dataclass
class Bench:
    """A scaler, its API, and the clock of both."""

    api: KubernetesApi
    directory: Path
    now_s: float = 1000.0
    scaler: ModelScaler = field(init=False)
    leadership: Leadership = field(init=False)

    def __post_init__(self) -> None:
        self.make()

    def make(
        self,
        policy: Policy = POLICY,
        *,
        dry_run: bool = False,
        deletion_cost: bool = False,
        leadership: Leadership | None = None,
    ) -> None:
        """Begin with another scaler."""
        model = ModelScaling("shapes", "q", MODEL, "app=shapes", policy, deletion_cost)
        cluster = connect(None, "pod-1", str(self.api.kubeconfig(self.directory, "me")))
        self.leadership = leadership or Leadership()
        self.scaler = ModelScaler(
            model,
            cluster,
            self.leadership,
            interval_s=5.0,
            dry_run=dry_run,
            clock=lambda: self.now_s,
        )

    def step(self, queue: Snapshot | QueueError = IDLE, age_s: float = 0) -> int:
        """Let an interval pass and size once; returns the replicas after it."""
        self.now_s += 5
        self.scaler.step(self.now_s - age_s, queue)
        return self.api.replicas(MODEL)

    @property
    def mode(self) -> Mode:
        return self.scaler.status.mode


@pytest.fixture
def bench(kubernetes_api: KubernetesApi, tmp_path: Path) -> Bench:
    return Bench(kubernetes_api, tmp_path)


def errors(source: str) -> float:
    labels = {"model": "shapes", "source": source}
    return REGISTRY.get_sample_value("imageserve_autoscaler_errors_total", labels) or 0.0


def test_load_gets_pods_and_the_event_says_why(bench: Bench) -> None:
    assert bench.step(BUSY) == 4

    ((reason, message),) = bench.api.events()
    assert reason == "ScaledUp"
    assert message.startswith("1 -> 4 replicas: ")
    assert "100000 wait" in message
    assert bench.mode is Mode.KNOWN


class Kept:
    """A memory in which the same came an hour and two hours before now."""

    def __init__(self) -> None:
        now = int(time.time() // STEP_S)
        jump, quiet = Step(300_000, 1000.0, 6), Step(600, 2.0)
        steps = tuple(jump if n % 12 == 0 else quiet for n in range(30, 0, -1))
        self.value = Memory(now, steps).encoded()

    def arrivals(self, queue: str) -> bytes:
        assert queue == "q"
        return self.value

    def keep_arrivals(self, queue: str, value: bytes, keep_s: int) -> None:
        raise AssertionError("no step has ended")


def test_pods_are_started_for_a_jump_that_is_expected_and_the_event_says_why(bench: Bench) -> None:
    bench.scaler.foresight = Foresight(POLICY, "q", Kept())

    assert bench.step() == 4

    ((reason, message),) = bench.api.events()
    assert reason == "ScaledUp"
    assert "the forecast expects 1000/s at " in message
    assert message.endswith("(seen on 2 of 2 hours)")
    gauges = bench.scaler.status.gauges()
    assert gauges["imageserve_autoscaler_forecast_per_second"] == 1000
    assert gauges["imageserve_autoscaler_forecast_right"] == 1
    assert gauges["imageserve_autoscaler_raw_replicas"] < 4
    published = bench.scaler.status.recommendation()
    assert published is not None
    assert published["forecast"]["expects"] in message
    assert published["forecast"]["back_test"].startswith("right 1 of 1 times")
    assert published["cause"] == "forecast"


def test_while_a_memory_cannot_be_read_pods_follow_the_load(
    bench: Bench, caplog: pytest.LogCaptureFixture
) -> None:
    class Away(Kept):
        def arrivals(self, queue: str) -> bytes:
            raise UNREAD

    bench.scaler.foresight = Foresight(POLICY, "q", Away())

    assert (bench.step(), bench.step(BUSY)) == (1, 4)

    assert "the memory of arrivals is kept in this process only: Redis: away" in caplog.text


def test_without_a_change_nothing_is_written(bench: Bench) -> None:
    bench.step()
    before = len(bench.api.requests)

    bench.step()

    assert [each.verb for each in bench.api.requests[before:]] == ["get"]
    assert bench.api.events() == []


def test_less_load_takes_pods(bench: Bench) -> None:
    bench.api.add_deployment(MODEL, 3)

    bench.step()

    assert bench.api.reasons() == ["ScaledDown"]
    assert bench.api.replicas(MODEL) < 3


def test_the_way_to_zero_and_back(bench: Bench) -> None:
    bench.make(replace(POLICY, min_replicas=0))

    replicas = [bench.step(), bench.step()]
    bench.api.set_ready(MODEL, 0)
    replicas += [bench.step()]
    asleep = bench.scaler.asleep.is_set()
    replicas += [bench.step(replace(IDLE, queued=1, stats={"accepted": 11}, workers=()))]

    assert replicas[-3:] == [0, 0, 1]
    assert (asleep, bench.scaler.asleep.is_set()) == (True, False)
    assert bench.api.reasons() == ["ScaledToZero", "Activated"]


@pytest.mark.parametrize(
    "annotation",
    [{"autoscaler_paused": "true"}, {"paused_replicas": "1"}],
    ids=["paused", "paused at what there is"],
)
def test_a_paused_deployment_is_left_alone(annotation: dict[str, str], bench: Bench) -> None:
    bench.api.annotate(MODEL, **annotation)

    replicas = [bench.step(BUSY), bench.step(BUSY)]
    mode = bench.mode
    bench.api.annotate(MODEL)

    assert (replicas, mode, bench.step(BUSY)) == ([1, 1], Mode.PAUSED, 4)
    assert bench.api.reasons() == ["Paused", "ScaledUp"]


def test_a_paused_deployment_goes_to_the_number_it_is_paused_at(bench: Bench) -> None:
    bench.api.annotate(MODEL, paused_replicas="7")

    # Beyond the bounds, and without Redis: the annotation wins.
    assert bench.step(UNREAD) == 7
    assert bench.api.reasons() == ["Paused", "ScaledUp"]


def test_sizing_continues_from_the_number_of_another_client(bench: Bench) -> None:
    bench.make(replace(POLICY, scale_down_window_s=60))
    bench.step()
    bench.api.set_replicas(MODEL, 3)

    replicas = [bench.step(), bench.step()]

    assert replicas == [3, 3]
    ((reason, message),) = bench.api.events()
    assert reason == "ExternalScale"
    assert "from 1 to 3" in message


def test_a_change_back_right_after_a_write_is_by_another_client(bench: Bench) -> None:
    bench.step(BUSY)
    bench.api.set_replicas(MODEL, 1)
    bench.step(BUSY)

    messages = [message for reason, message in bench.api.events() if reason == "ExternalScale"]
    assert [message.split(";")[0] for message in messages] == [
        "another client has changed the replicas from 4 to 1"
    ]


def test_its_own_change_is_not_by_another_client(bench: Bench) -> None:
    bench.step(BUSY)
    bench.step(BUSY)

    assert bench.api.reasons() == ["ScaledUp"]


def test_its_own_change_is_known_also_where_the_answer_got_lost(bench: Bench) -> None:
    bench.step()
    bench.api.fail("patch", "deployments/scale", how="lost", times=1)

    assert bench.step(BUSY) == 4
    bench.step(BUSY)

    assert "ExternalScale" not in bench.api.reasons()


def test_a_dry_run_writes_an_event_and_no_replicas(bench: Bench) -> None:
    bench.make(dry_run=True)

    replicas = [bench.step(BUSY), bench.step(BUSY)]

    assert replicas == [1, 1]
    assert bench.api.asked("patch", "deployments/scale") == []
    assert bench.api.reasons() == ["WouldScale"]
    recommendation = bench.scaler.status.recommendation()
    assert recommendation is not None
    assert (recommendation["replicas"], bench.mode) == (4, Mode.DRY_RUN)


def test_a_dry_run_repeats_an_event_when_it_is_needed_again(bench: Bench) -> None:
    bench.make(dry_run=True)
    for _ in range(30):
        bench.step(BUSY)  # Until the rate of arrivals is known: the event has it.

    for replicas in (4, 1, 4, 1):
        bench.api.set_replicas(MODEL, replicas)
        bench.step(BUSY)

    (event,) = bench.api.asked("patch", "events")
    assert event.body["count"] == 2


def test_a_follower_decides_and_writes_nothing(bench: Bench) -> None:
    bench.make(leadership=Follower())

    assert bench.step(BUSY) == 1

    assert (bench.api.scalings(), bench.api.events()) == ([], [])
    recommendation = bench.scaler.status.recommendation()
    assert recommendation is not None
    assert (recommendation["replicas"], bench.mode) == (4, Mode.FOLLOWER)


def test_leadership_is_checked_right_before_a_write(bench: Bench) -> None:
    leadership = Leadership()
    bench.make(leadership=leadership)
    bench.step()
    bench.api.fail("get", "deployments", how="slow")
    read = bench.scaler._cluster.deployment

    def read_and_lose_the_lease(name: str) -> object:
        found = read(name)
        leadership.stop()
        return found

    bench.scaler._cluster.deployment = read_and_lose_the_lease  # type: ignore[method-assign,assignment]

    assert bench.step(BUSY) == 1
    assert bench.api.scalings() == []


def test_without_redis_nothing_changes(bench: Bench) -> None:
    bench.api.add_deployment(MODEL, 3)

    replicas = [bench.step(UNREAD) for _ in range(10)]

    assert set(replicas) == {3}
    assert bench.mode is Mode.UNKNOWN_REDIS
    ((reason, message),) = bench.api.events()
    assert reason == "MetricsUnavailable"
    assert "Redis: away" in message
    assert "imageserve_autoscaler_queue_waiting" not in bench.scaler.status.gauges()


def test_each_outage_of_three_steps_is_an_event(bench: Bench) -> None:
    queues: list[Snapshot | QueueError] = [UNREAD, UNREAD, UNREAD, IDLE, UNREAD, UNREAD]
    for queue in queues:
        bench.step(queue)
    events = bench.api.reasons(), len(bench.api.asked("patch", "events"))

    bench.step(UNREAD)

    assert events == (["MetricsUnavailable"], 0)
    assert bench.api.asked("patch", "events")[0].body["count"] == 2


def test_an_empty_queue_of_a_new_redis_is_not_believed(bench: Bench) -> None:
    bench.make(replace(POLICY, scale_down_window_s=60))
    steady = replace(IDLE, queued=2000)
    for n in range(20):
        bench.step(replace(steady, stats={"accepted": 2000 + 1000 * n}))
    before = bench.api.replicas(MODEL)

    after = [bench.step(replace(IDLE, stats={}, run="run/1")) for _ in range(11)]

    assert before == 4
    assert set(after) == {4}


def test_after_a_conflict_the_deployment_is_read_again(bench: Bench) -> None:
    bench.step()
    bench.api.fail("patch", "deployments/scale", 409, times=2)

    assert bench.step(BUSY) == 4
    assert bench.api.reasons() == ["ScaledUp"]


def test_after_three_conflicts_the_step_ends(bench: Bench) -> None:
    bench.step()
    before = errors("conflict")
    bench.api.fail("patch", "deployments/scale", 409)
    assert bench.step(BUSY) == 1
    bench.api.recover()

    assert errors("conflict") == before + 3
    assert bench.step(BUSY) == 4


@pytest.mark.parametrize("verb", ["get", "patch"])
def test_a_missing_right_is_found_before_it_is_needed(verb: str, bench: Bench) -> None:
    rule = next(r for r in bench.api.rules if r["resources"] == ["deployments/scale"])
    rule["verbs"].remove(verb)

    bench.step()

    (event,) = (each.body for each in bench.api.asked("create", "events"))
    assert (event["reason"], event["involvedObject"]["uid"]) == ("RBACDenied", f"uid-of-{MODEL}")
    assert f"may not {verb} deployments/scale" in event["message"]
    assert f"may not {verb} deployments/scale" in bench.scaler.failures.denied
    rule["verbs"].append(verb)
    bench.now_s += 60
    assert bench.step(BUSY) == 4
    assert bench.scaler.failures.denied == ""


def test_a_right_that_is_lost_later_is_reported_until_it_is_back(bench: Bench) -> None:
    bench.step()
    rule = next(r for r in bench.api.rules if r["resources"] == ["deployments/scale"])

    def denied_after(*verbs: str, queue: Snapshot) -> bool:
        rule["verbs"] = list(verbs)
        bench.now_s += 60
        bench.step(queue)
        return bool(bench.scaler.failures.denied)

    assert denied_after("get", queue=BUSY)
    # Nothing has to be written now, but the right is still missing.
    assert denied_after("get", queue=IDLE)
    assert not denied_after("get", "patch", queue=IDLE)
    assert denied_after("get", queue=BUSY)
    (event,) = bench.api.asked("patch", "events")
    assert event.body["count"] == 2


def test_a_dry_run_needs_no_right_to_scale(bench: Bench) -> None:
    bench.api.rules = [r for r in bench.api.rules if r["resources"] != ["deployments/scale"]]
    bench.make(dry_run=True)

    bench.step(BUSY)

    assert bench.api.reasons() == ["WouldScale"]


def test_a_dry_run_refused_for_another_reason_shows_that_the_right_is_there(bench: Bench) -> None:
    # Such as by a webhook that knows no dry run.
    bench.api.fail("patch", "deployments/scale", 422, times=1)

    assert bench.step(BUSY) == 4


def test_a_deployment_that_is_not_there_is_waited_for(bench: Bench) -> None:
    bench.api.remove("deployments", MODEL)
    before = errors("target")

    bench.now_s += 5
    bench.scaler.step(bench.now_s, UNREAD)
    idle = bench.scaler.status
    bench.api.add_deployment(MODEL, 1)
    bench.now_s += 60

    assert (idle.mode, idle.recommendation()) == (Mode.UNKNOWN_API, None)
    assert (errors("target"), bench.scaler.initialized) == (before + 1, True)
    assert bench.step(BUSY) == 4


@pytest.mark.parametrize(
    "fault",
    [{"status": 500}, {"status": 503}, {"how": "reset"}],
    ids=lambda fault: str(next(iter(fault.values()))),
)
def test_a_failing_api_is_left_alone_for_a_while(fault: dict[str, int | str], bench: Bench) -> None:
    bench.step()
    before = errors("api")
    bench.api.fail("get", "deployments", **fault)  # type: ignore[arg-type]

    for _ in range(12):
        bench.step(BUSY)

    # Within a minute: after 5, 10, 20 and 30 seconds at most, and half of that at least.
    assert 3 <= errors("api") - before <= 7
    assert bench.mode is Mode.UNKNOWN_API
    bench.api.recover()
    bench.now_s += 30
    assert bench.step(BUSY) == 4


def test_a_retry_after_is_respected(bench: Bench) -> None:
    bench.step()
    bench.api.fail("get", "deployments", 429, headers={"Retry-After": "60"}, times=1)
    bench.step(BUSY)
    before = len(bench.api.requests)

    for _ in range(11):
        bench.step(BUSY)

    assert len(bench.api.requests) == before
    assert bench.step(BUSY) == 4


def test_a_failing_event_stops_nothing(bench: Bench) -> None:
    bench.api.fail("create", "events", 500)
    before = errors("events")

    assert bench.step(BUSY) == 4
    assert errors("events") == before + 1


def test_an_old_snapshot_changes_nothing(bench: Bench) -> None:
    bench.step()

    assert bench.step(BUSY, age_s=STALE_S + 6) == 1
    assert bench.step(BUSY, age_s=STALE_S + 4) == 4


def test_unschedulable_pods_limit_the_next_ones(bench: Bench) -> None:
    pending = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    bench.make(replace(POLICY, max_replicas=40, max_unschedulable=2))
    bench.api.add_deployment(MODEL, 5, ready=4)
    bench.api.add_pod("pod-5", app="shapes")["status"]["conditions"] = [pending]

    for _ in range(13):
        bench.step()
        bench.api.set_replicas(MODEL, 5)
    replicas = bench.step(BUSY)

    # Four are ready; two more are requested.
    assert replicas == 6
    assert "Unschedulable" in bench.api.reasons()
    assert bench.scaler.status.gauges()["imageserve_autoscaler_unschedulable_replicas"] == 1


def test_starts_are_measured(bench: Bench) -> None:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-31T12:00:45Z"}
    bench.api.add_pod("pod-1", app="shapes")["status"]["conditions"] = [ready]

    bench.step()

    seen = bench.scaler.status.seen
    assert seen is not None
    assert seen.pod_start_s == 45


def test_what_a_heartbeat_tells_of_a_start_counts_without_another_list_of_pods(
    bench: Bench,
) -> None:
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-31T12:00:45Z"}
    ran = [{"state": {"running": {"startedAt": "2026-01-31T12:00:05Z"}}}]
    status = {"conditions": [ready], "containerStatuses": ran}
    bench.api.add_pod("pod-1", app="shapes")["status"] = status
    bench.step()
    lists = len(bench.api.asked("list", "pods"))
    untold = bench.scaler.status.pod_start

    bench.step(replace(IDLE, workers=(replace(WORKER, load_s=30.0),)))

    assert len(bench.api.asked("list", "pods")) == lists
    assert untold["phases_s"] == {"image": 5, "model": 40}
    name = "imageserve_autoscaler_pod_start_phase_seconds"
    assert bench.scaler.status.start_gauges() == {
        "image": {name: 5},
        "model": {name: 30},
        "warm": {name: 10},
    }


def test_idle_pods_are_deleted_first_where_deletion_cost_is_set(bench: Bench) -> None:
    bench.make(deletion_cost=True)
    bench.api.add_deployment(MODEL, 2)
    for name in ("idle", "busy"):
        bench.api.add_pod(name, app="shapes")
    workers = (replace(WORKER, host="idle"), replace(WORKER, host="busy", state="busy"))

    bench.step(replace(IDLE, workers=workers))

    writes = [each for each in bench.api.requests if each.verb == "patch" and not each.dry_run]
    assert [each.name for each in writes[:2]] == ["busy", MODEL]
    assert bench.api.replicas(MODEL) == 1


def test_a_failure_to_set_deletion_costs_does_not_stop_the_scale_down(bench: Bench) -> None:
    bench.make(deletion_cost=True)
    bench.api.add_deployment(MODEL, 2)
    bench.api.add_pod("pod", app="shapes")
    bench.api.fail("patch", "pods", 500)

    assert bench.step() == 1


@pytest.mark.parametrize(
    ("change", "queue"),
    [
        pytest.param(lambda b: b.api.annotate(MODEL, autoscaler_paused="true"), IDLE, id="paused"),
        pytest.param(lambda b: b.api.fail("get", "deployments", 500), IDLE, id="no API"),
        pytest.param(lambda b: b.leadership.stop(), IDLE, id="not leading"),
        pytest.param(lambda _: None, UNREAD, id="no Redis"),
        pytest.param(lambda b: b.api.set_replicas(MODEL, 1), IDLE, id="has a pod"),
    ],
)
def test_a_first_job_is_waited_for_only_where_it_would_start_a_pod(
    change: Callable[[Bench], None], queue: Snapshot | QueueError, bench: Bench
) -> None:
    bench.make(replace(POLICY, min_replicas=0))
    bench.api.add_deployment(MODEL, 0)
    bench.step()
    before = bench.scaler.asleep.is_set()

    change(bench)
    bench.step(queue)

    assert (before, bench.scaler.asleep.is_set()) == (True, False)


# -- rollouts ----------------------------------------------------------------------------------


Number = int | str


def rollout_s(bench: Bench, nodes: int, strategy: tuple[Number, Number] = (0, 1)) -> int:
    """Roll out beside pods without a node; returns how many seconds it has taken.

    Load asks for four pods all the time. ``strategy`` is surge and unavailable.
    """
    controller = DeploymentController(bench.api, MODEL, nodes, *strategy)

    def passed() -> None:
        controller.run()
        bench.step(BUSY)
        controller.run()

    for _ in range(40):
        passed()
    assert bench.api.replicas(MODEL) > nodes == len(controller.ready)
    controller.roll_out()
    began_s = bench.now_s
    while not controller.rolled_out:
        passed()
        assert len(controller.ready) >= nodes - 1
        assert bench.now_s < began_s + 1000, bench.scaler.status
    ended_s = bench.now_s
    for _ in range(40):
        passed()
    assert bench.api.replicas(MODEL) > nodes == len(controller.ready), "it asks for more again"
    return round(ended_s - began_s)


@pytest.mark.parametrize("strategy", [(1, 1), (0, "25%"), ("25%", "25%")], ids=str)
def test_a_rollout_with_another_strategy_that_takes_pods_away_ends(
    bench: Bench, strategy: tuple[Number, Number]
) -> None:
    assert rollout_s(bench, 3, strategy) < 120


@pytest.mark.parametrize("nodes", [1, 2, 3])
def test_a_rollout_beside_a_pending_pod_ends(bench: Bench, nodes: int) -> None:
    # A minute to be sure that no node comes; then pod after pod.
    assert rollout_s(bench, nodes) < 120

    assert any(
        reason == "ScaledDown" and f"-> {nodes} replicas" in message and "rollout" in message
        for reason, message in bench.api.events()
    )


@pytest.mark.parametrize("strategy", [(0, 1), (1, 0), (1, 1), ("25%", "25%")], ids=str)
def test_a_rollout_that_can_never_end_takes_one_more_pod_at_most(
    bench: Bench, strategy: tuple[Number, Number]
) -> None:
    controller = DeploymentController(bench.api, MODEL, 5, *strategy, unfit=1)

    def passed(steps: int) -> None:
        for _ in range(steps):
            controller.run()
            bench.step(BUSY)
            controller.run()

    passed(40)
    controller.roll_out()
    controller.run()
    by_kubernetes = len(controller.ready)
    passed(100)
    serving = len(controller.ready)
    # A template that fits again.
    controller.roll_out()
    passed(40)

    assert 3 <= by_kubernetes <= 4
    assert serving >= by_kubernetes - 1
    assert controller.rolled_out
    assert len(controller.ready) == 4


def test_during_a_rollout_pods_are_listed_even_if_all_that_are_wanted_are_ready(
    bench: Bench,
) -> None:
    bench.step()
    bench.step()
    quiet = len(bench.api.asked("list", "pods"))
    # A rollout with surge: the pod that is too many waits for a node.
    status = {"replicas": 2, "updatedReplicas": 1, "readyReplicas": 1}
    bench.api.set_status(MODEL, status)
    bench.step()
    bench.step()

    assert (quiet, len(bench.api.asked("list", "pods"))) == (1, 3)


def test_without_that_limit_kubernetes_never_ends_it(bench: Bench) -> None:
    """The simulated controllers do what those of Kubernetes do."""
    bench.api.set_replicas(MODEL, 2)
    controller = DeploymentController(bench.api, MODEL, nodes=1)
    controller.run()
    controller.roll_out()
    controller.run()

    assert (len(controller.ready), len(controller.pending)) == (1, 1)
    assert not controller.rolled_out
    bench.api.set_replicas(MODEL, 1)
    controller.run()
    assert controller.rolled_out
