"""Real ``imageserve autoscaler`` processes, a real Redis, and a Kubernetes API over HTTP."""

import itertools
import json
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kubernetes_api import KubernetesApi, Request
from tests.promtool import promtool
from tests.queues import RedisQueue
from tests.redis_server import RedisServer, eventually, free_port
from tests.system.stack import START_S, Program, clean_environment

from imageserve.cli import autoscaler_explain
from imageserve.queue.admission import Limits
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.snapshot import WorkerInfo
from imageserve.queue.wire import Job

MODEL = "imageserve-model-shapes"
LEASE = "imageserve-autoscaler"
#: A pod does ten per second; three hundred waiting jobs need more pods than there may be.
SLOW_WORKER = WorkerInfo("w", "shapes", (8, 8, 3), 8, {8: 800.0}, "ready", "pod-1")
CROWD = 300
POLICY = {
    "min_replicas": 1,
    "max_replicas": 4,
    "scale_down_window_s": 2,
    "scale_down_period_s": 0,
    "scale_up_period_s": 0,
    "target_drain_s": 1,
    "pod_start_s": 1,
}
QUICK_LEASE = {
    "lease": LEASE,
    "lease_duration_s": 5,
    "lease_renew_deadline_s": 4,
    "lease_retry_s": 0.3,
}


def show(text: str) -> None:
    print(text)  # noqa: T201 - seen where a test fails, and with -s


class Place:
    """A Redis, a Kubernetes API, and autoscalers."""

    def __init__(self, directory: Path, redis_program: str, api: KubernetesApi) -> None:
        self.directory = directory
        self.api = api
        self.redis = RedisServer(redis_program, directory / "redis")
        self.redis.start()
        self.queue = RedisQueue(RedisAccess(self.redis.url), "image_queue")
        self.programs: dict[str, Program] = {}
        self._numbers = itertools.count()

    def scaling_file(self, rendered: list[dict[str, Any]], **changes: Any) -> None:
        """Write the chart's file with another policy; ``changes`` are top-level keys."""
        config = next(o for o in rendered if "scaling.yaml" in o.get("data", {}))
        scaling = yaml.safe_load(config["data"]["scaling.yaml"])
        del scaling["lease"]
        policy = changes.pop("policy", POLICY)
        scaling["models"] = {"shapes": {**scaling["models"]["shapes"], "policy": policy}}
        path = self.directory / "scaling.yaml"
        path.write_text(yaml.safe_dump({**scaling, "interval_s": 0.2, **changes}))

    def env(self, name: str) -> dict[str, str]:
        return {
            "SCALING_FILE": str(self.directory / "scaling.yaml"),
            "REDIS_URL": self.redis.url,
            "POD_NAME": name,
            "METRICS_PORT": str(free_port()),
            "LOG_FORMAT": "json",
        }

    def start(self, name: str = "pod-a", *options: str) -> Program:
        config = self.api.kubeconfig(self.directory, name)
        arguments = ["autoscaler", "--kubeconfig", str(config), *options]
        log = self.directory / f"{name}.log"
        self.programs[name] = Program(name, arguments, self.env(name), log)
        return self.programs[name]

    def start_ready(self, name: str = "pod-a", *options: str) -> Program:
        program = self.start(name, *options)
        eventually(lambda: ask(program, "/readyz")[0] == 200, "it is ready", START_S)
        return program

    def crowd(self) -> None:
        """Queue more jobs than the most pods can do soon, and publish a slow worker."""
        for _ in range(CROWD):
            self.put()
        self.queue.heartbeat(SLOW_WORKER)

    def put(self) -> None:
        name = f"job-{next(self._numbers)}"
        job = Job(name, "shapes", (2, 2, 3), 5, "", "trace", 3_600_000)
        self.queue.enqueue(job, bytes(12), 3_600_000, Limits())

    def strangers(self) -> list[Request]:
        """Return the writes of processes that did not hold the lease."""
        return [each for each in self.api.scalings() if each.user != each.holder]

    def writes_of(self, name: str) -> int:
        return sum(each.user == name for each in self.api.scalings())

    def contend(self, name: str) -> None:
        """Undo each write until this autoscaler has written several times."""
        start = self.writes_of(name)

        def wrote() -> bool:
            self.queue.heartbeat(SLOW_WORKER)
            if self.api.replicas(MODEL) > 1:
                self.api.set_replicas(MODEL, 1)
            return self.writes_of(name) >= start + 3

        eventually(wrote, f"{name} writes", START_S)

    def has_sized(self, replicas: int, what: str) -> None:
        """Wait for so many replicas. A worker that is silent for 15 s would count no longer."""

        def sized() -> bool:
            self.queue.heartbeat(SLOW_WORKER)
            return bool(self.api.replicas(MODEL) == replicas)

        eventually(sized, what)

    def holder(self) -> str:
        found: str = self.api.get("leases", LEASE).get("spec", {}).get("holderIdentity", "")
        return found

    def end(self) -> None:
        for program in self.programs.values():
            program.end()
            show(f"--- {program.name}\n{program.output()[-4000:]}")
        self.redis.stop()


@pytest.fixture
def place(tmp_path: Path, redis_program: str, kubernetes_api: KubernetesApi) -> Iterator[Place]:
    place = Place(tmp_path, redis_program, kubernetes_api)
    try:
        yield place
    finally:
        place.end()


def ask(program: Program, path: str) -> tuple[int, str]:
    try:
        address = f"http://127.0.0.1:{program.metrics_port}{path}"
        with urllib.request.urlopen(address, timeout=5) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        with error:
            return error.code, error.read().decode()
    except OSError:
        return 0, ""


def redis_errors(program: Program) -> float:
    text = ask(program, "/metrics")[1]
    found = re.search(r'errors_total\{model="shapes",source="redis"\} (\S+)', text)
    return float(found[1]) if found else 0.0


def downs(api: KubernetesApi) -> list[float]:
    """Return the times of all scale-downs."""
    numbers = [(each.at_s, each.body["spec"]["replicas"]) for each in api.scalings()]
    pairs = itertools.pairwise(numbers)
    return [at_s for (_, before), (at_s, after) in pairs if after < before]


def test_of_two_only_the_leader_writes_also_after_one_was_frozen(
    place: Place, autoscaler_chart: list[dict[str, Any]]
) -> None:
    place.scaling_file(autoscaler_chart, **QUICK_LEASE)
    place.crowd()
    both = {name: place.start(name) for name in ("pod-a", "pod-b")}
    eventually(place.holder, "one leads", START_S)
    first = place.holder()
    second = next(name for name in both if name != first)
    place.contend(first)

    both[first].pause()
    place.contend(second)
    both[first].resume()
    renewals = len(place.api.asked("get", "leases"))
    # The one that was frozen reads the lease several times.
    eventually(lambda: len(place.api.asked("get", "leases")) > renewals + 2, "it follows")
    place.contend(second)

    assert place.strangers() == []


def test_another_takes_over_after_a_kill_and_a_stop_releases_the_lease(
    place: Place, autoscaler_chart: list[dict[str, Any]]
) -> None:
    place.scaling_file(autoscaler_chart, **QUICK_LEASE)
    place.crowd()
    killed = place.start("pod-a")
    place.contend("pod-a")
    stopped = place.start_ready("pod-b")

    killed.kill()
    at_s = time.monotonic()
    place.contend("pod-b")
    took_s = next(e.at_s for e in place.api.scalings() if e.user == "pod-b") - at_s
    show(f"took over {took_s:.1f} s after SIGKILL; lease 5 s, retry 0.3 s")
    place.start_ready("pod-c")
    stopped.send(signal.SIGTERM)
    at_s = time.monotonic()
    status = stopped.wait()
    show(f"ended {time.monotonic() - at_s:.1f} s after SIGTERM")
    place.contend("pod-c")

    assert place.strangers() == []
    # Two tries after the end of the lease; the rest is for a busy machine.
    assert took_s < 5 + 2 * 0.3 + 15
    assert status == 0
    released = [
        e for e in place.api.asked("patch", "leases") if not e.body["spec"]["holderIdentity"]
    ]
    assert [each.user for each in released] == ["pod-b"]


def test_no_outage_of_redis_removes_a_pod(
    place: Place, autoscaler_chart: list[dict[str, Any]]
) -> None:
    place.scaling_file(autoscaler_chart)
    place.crowd()
    program = place.start_ready()
    place.has_sized(4, "all pods that there may be")

    def outlast() -> None:
        # Each error is a step without the queue.
        before = redis_errors(program)
        ends_s = time.monotonic() + POLICY["scale_down_window_s"]
        eventually(
            lambda: redis_errors(program) >= before + 2 and time.monotonic() > ends_s,
            "it notices",
        )

    place.redis.pause()
    outlast()
    place.redis.resume()
    eventually(lambda: "queue_waiting" in ask(program, "/metrics")[1], "it sees the queue again")
    place.redis.kill()
    outlast()
    place.redis.start()
    eventually(lambda: "queue_waiting" in ask(program, "/metrics")[1], "it sees the queue again")
    place.queue.heartbeat(SLOW_WORKER)
    emptied_s = time.monotonic()
    place.redis.client().flushall()
    eventually(lambda: downs(place.api), "an empty queue is believed in the end")

    assert min(downs(place.api)) >= emptied_s + POLICY["scale_down_window_s"]
    assert ask(program, "/healthz")[0] == 200


def test_after_a_restart_of_redis_without_data_no_pod_is_removed_at_once(
    place: Place, autoscaler_chart: list[dict[str, Any]]
) -> None:
    place.scaling_file(autoscaler_chart)
    place.crowd()
    place.start_ready()
    place.has_sized(4, "all pods that there may be")

    place.redis.kill()
    for path in (place.redis.directory / "appendonlydir").glob("*"):
        path.unlink()
    (place.redis.directory / "appendonly.aof").unlink(missing_ok=True)
    back_s = time.monotonic()
    place.redis.start()
    assert place.redis.client().dbsize() == 0
    eventually(lambda: downs(place.api), "an empty queue is believed in the end")

    assert min(downs(place.api)) >= back_s + POLICY["scale_down_window_s"]


def test_a_first_job_wakes_a_model_at_once(
    place: Place, autoscaler_chart: list[dict[str, Any]]
) -> None:
    policy = {**POLICY, "min_replicas": 0}
    place.scaling_file(autoscaler_chart, interval_s=60, policy=policy)
    place.api.add_deployment(MODEL, 0)
    place.start_ready()
    client = place.redis.client()
    eventually(lambda: client.info("clients")["blocked_clients"], "it waits for a job")

    at_s = time.monotonic()
    place.put()
    eventually(place.api.scalings, "replicas are asked for")

    took_s = place.api.scalings()[0].at_s - at_s
    show(f"asked for a pod {took_s * 1000:.0f} ms after the first job")
    # A minute passes between two steps: the job has woken it.
    assert took_s < 5
    assert place.api.replicas(MODEL) == 1
    assert client.llen("image_queue") == 1


def test_a_paused_model_is_reported_and_left_alone(
    place: Place, autoscaler_chart: list[dict[str, Any]]
) -> None:
    place.scaling_file(autoscaler_chart)
    place.api.annotate(MODEL, autoscaler_paused="true")
    place.crowd()
    program = place.start_ready()
    eventually(lambda: "Paused" in place.api.reasons(), "an event says so")
    metrics = ask(program, "/metrics")[1]
    recommended = json.loads(ask(program, "/recommendations")[1])

    place.api.annotate(MODEL)
    place.has_sized(4, "it goes on")

    assert recommended["models"]["shapes"]["replicas"] == 1
    assert 'imageserve_autoscaler_paused{model="shapes"} 1.0' in metrics
    assert 'imageserve_autoscaler_leader{model="shapes"} 1.0' in metrics
    assert f'imageserve_autoscaler_queue_waiting{{model="shapes"}} {CROWD}.0' in metrics


def test_prometheus_takes_the_metrics_without_a_remark(
    place: Place, autoscaler_chart: list[dict[str, Any]]
) -> None:
    place.scaling_file(autoscaler_chart)
    place.crowd()
    program = place.start_ready()
    eventually(lambda: "queue_waiting" in ask(program, "/metrics")[1], "it has sized")

    assert promtool("check", "metrics", text=ask(program, "/metrics")[1]) == ""


def test_a_dry_run_recommends_and_writes_no_replicas(
    place: Place, autoscaler_chart: list[dict[str, Any]]
) -> None:
    place.scaling_file(autoscaler_chart, dry_run=True)
    place.crowd()
    program = place.start_ready()
    eventually(lambda: "WouldScale" in place.api.reasons(), "it says what it would do")

    # Another client does it: a dry run writes no event about that.
    place.api.set_replicas(MODEL, 4)
    eventually(
        lambda: 'current_replicas{model="shapes"} 4.0' in ask(program, "/metrics")[1], "seen"
    )

    recommended = json.loads(ask(program, "/recommendations")[1])["models"]["shapes"]
    assert (recommended["replicas"], recommended["current"]) == (4, 4)
    assert place.api.asked("patch", "deployments/scale") == []
    assert "ExternalScale" not in place.api.reasons()


def test_readyz_names_a_missing_right(place: Place, autoscaler_chart: list[dict[str, Any]]) -> None:
    rule = next(r for r in place.api.rules if r["resources"] == ["deployments/scale"])
    rule["verbs"].remove("patch")
    place.scaling_file(autoscaler_chart)
    program = place.start()

    eventually(lambda: "may not patch" in ask(program, "/readyz")[1], "it says so", START_S)

    assert ask(program, "/readyz")[0] == 503
    assert ask(program, "/healthz")[0] == 200


def explain(place: Place, *options: str, env: Mapping[str, str] | None = None) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "imageserve", "autoscaler", "explain", "--seconds", "0.2", *options],
        env={**clean_environment(), **place.env("explain"), **(env or {})},
        capture_output=True,
        text=True,
        timeout=START_S,
        check=True,
    )
    return done.stdout


def add_started_pod(place: Place, name: str) -> None:
    """Add a pod that was ready 6 s after its creation, and whose container ran 5 s of them."""
    scaling = yaml.safe_load((place.directory / "scaling.yaml").read_text())
    selector = scaling["models"]["shapes"]["pod_selector"]
    ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-31T12:00:06Z"}
    ran = [{"state": {"running": {"startedAt": "2026-01-31T12:00:01Z"}}}]
    labels = dict(each.split("=") for each in selector.split(","))
    status = {"conditions": [ready], "containerStatuses": ran}
    place.api.add_pod(name, **labels)["status"] = status


def test_explain_prints_observation_and_decision(
    place: Place, autoscaler_chart: list[dict[str, Any]]
) -> None:
    place.scaling_file(autoscaler_chart)
    place.crowd()
    place.queue.heartbeat(replace(SLOW_WORKER, load_s=2.0))
    add_started_pod(place, "pod-1")
    kubeconfig = place.api.kubeconfig(place.directory, "me")

    facts = json.loads(explain(place, "--json", "--kubeconfig", str(kubeconfig)))["shapes"]

    assert facts["queue"]["waiting"] == CROWD
    assert facts["workers"] == {"live": 1, "bucket_ms": {"8": 800.0}}
    assert facts["deployment"] | {"replicas": 1, "bounds": [1, 4]} == facts["deployment"]
    assert facts["decision"]["replicas"] == 4
    assert facts["pod start"]["phases_s"] == {"image": 1, "model": 2, "warm": 3}
    assert {each.verb for each in place.api.requests} == {"get", "list"}


def test_explain_prints_what_the_running_autoscaler_has_decided(
    place: Place, autoscaler_chart: list[dict[str, Any]]
) -> None:
    place.scaling_file(autoscaler_chart, interval_s=60)
    place.crowd()
    add_started_pod(place, "pod-of-another-worker")
    program = place.start_ready()

    def published() -> dict[str, Any]:
        models = json.loads(ask(program, "/recommendations")[1])["models"]
        return dict(models.get("shapes", {}))

    eventually(published, "it has decided")
    port = {"METRICS_PORT": str(program.metrics_port)}
    text = explain(place, "--kubeconfig", "/no/kubeconfig", env=port)

    assert text.count("pictures/s arrive") + text.count("arrivals are not known") == 1
    assert re.search(r"by +the running autoscaler\n", text)
    assert re.search(r"usual_s +6.0\n +phases_s +image: 1.0, model: 5.0\n", text)
    gauge = 'imageserve_autoscaler_pod_start_phase_seconds{model="shapes",phase="model"} 5.0\n'
    assert gauge in ask(program, "/metrics")[1]
    assert published()["reason"] in text


def test_explain_counts_the_arrivals_where_no_autoscaler_runs(
    place: Place, autoscaler_chart: list[dict[str, Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    place.scaling_file(autoscaler_chart)
    place.crowd()
    ended = threading.Event()

    def put_some() -> None:
        while not ended.wait(0.02):
            place.put()

    putting = threading.Thread(target=put_some)
    putting.start()
    options = ["--json", "--seconds", "1", "--kubeconfig", "/no/kubeconfig"]
    autoscaler_explain.main(options, place.env("explain"))
    ended.set()
    putting.join()

    decision = json.loads(capsys.readouterr().out)["shapes"]["decision"]
    assert 1 < decision["arrivals_per_s"] <= 51
    assert f"{decision['arrivals_per_s']:.1f} pictures/s arrive" in decision["reason"]
    assert "no autoscaler answers here" in decision["by"]


def test_explain_shows_the_share_of_a_budget_of_all_models(
    place: Place, autoscaler_chart: list[dict[str, Any]]
) -> None:
    place.scaling_file(autoscaler_chart)
    path = place.directory / "scaling.yaml"
    scaling = yaml.safe_load(path.read_text())
    shapes = {**scaling["models"]["shapes"], "gpus": 1}
    other = {**shapes, "queue": "other_queue", "deployment": "imageserve-model-other"}
    models = {"shapes": shapes, "other": {**other, "gpus": 2}}
    path.write_text(yaml.safe_dump({**scaling, "gpu_budget": 4, "models": models}))
    place.crowd()
    kubeconfig = str(place.api.kubeconfig(place.directory, "me"))

    facts = json.loads(explain(place, "--model", "shapes", "--json", "--kubeconfig", kubeconfig))
    program = place.start_ready()
    place.has_sized(2, "what the other model leaves")
    port = {"METRICS_PORT": str(program.metrics_port)}
    text = explain(place, "--model", "shapes", "--kubeconfig", kubeconfig, env=port)

    decision = facts["shapes"]["decision"]
    assert list(facts) == ["shapes"]
    assert (decision["replicas"], decision["cause"]) == (2, "budget")
    assert decision["reason"].endswith("; the budget of 4 GPUs gives it 2 of 4 pods")
    assert decision["budget"]["given_pods"] == 2
    assert re.search(r"budget +gpus: 4, gpus_per_pod: 1, wanted_pods: 4, given_pods: 2\n", text)
    assert place.api.replicas("imageserve-model-other") == 1


def test_explain_works_where_only_redis_can_be_reached(
    place: Place, autoscaler_chart: list[dict[str, Any]]
) -> None:
    place.scaling_file(autoscaler_chart)
    place.crowd()

    text = explain(place, "--model", "shapes", "--kubeconfig", "/no/kubeconfig")

    assert re.search(r"waiting +300\n", text)
    assert re.search(r"problem +no cluster to talk to", text)
    assert re.search(r"replicas +4\n", text)
