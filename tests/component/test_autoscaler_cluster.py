"""The Kubernetes API as the autoscaler uses it: real HTTP, and the rights of the rendered Role."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import kubernetes_validate
import pytest
from tests.kubernetes_api import KubernetesApi

from imageserve.autoscaler import kubernetes
from imageserve.autoscaler.cluster import Deployment, LeaseRecord, Pod
from imageserve.autoscaler.kubernetes import KubernetesCluster, connect
from imageserve.autoscaler.pod_start import StartStamps
from imageserve.errors import (
    ClusterConflict,
    ClusterError,
    ClusterForbidden,
    ClusterMissing,
    ClusterUnavailable,
    SettingsError,
)

MODEL = "imageserve-model-shapes"
LEASE = "imageserve-autoscaler"
HELD = LeaseRecord("", "pod-1", 15, "2026-01-31T12:00:00.000000Z", "2026-01-31T12:00:02Z", 3)

READY = {"type": "Ready", "status": "True", "lastTransitionTime": "2026-01-31T12:00:45Z"}


@pytest.fixture
def cluster(kubernetes_api: KubernetesApi, tmp_path: Path) -> KubernetesCluster:
    return connect(None, "pod-1", str(kubernetes_api.kubeconfig(tmp_path, "me")))


def test_a_deployment_is_read(kubernetes_api: KubernetesApi, cluster: KubernetesCluster) -> None:
    kubernetes_api.set_replicas(MODEL, 3)
    kubernetes_api.annotate(MODEL, autoscaler_paused="true")

    found = cluster.deployment(MODEL)

    assert (found.replicas, found.ready, found.uid) == (3, 1, f"uid-of-{MODEL}")
    assert found.annotations == {"imageserve.dev/autoscaler-paused": "true"}
    assert cluster.scale(MODEL) == 3


def test_replicas_are_set(kubernetes_api: KubernetesApi, cluster: KubernetesCluster) -> None:
    cluster.set_replicas(cluster.deployment(MODEL), 4)

    (request,) = kubernetes_api.scalings()
    assert kubernetes_api.replicas(MODEL) == 4
    assert request.query["fieldManager"] == ["imageserve-autoscaler"]
    assert request.user == "me"


def test_a_dry_run_sets_nothing(kubernetes_api: KubernetesApi, cluster: KubernetesCluster) -> None:
    cluster.set_replicas(cluster.deployment(MODEL), 4, dry_run=True)

    assert kubernetes_api.replicas(MODEL) == 1
    assert kubernetes_api.scalings() == []


def test_a_deployment_that_has_changed_is_not_overwritten(
    kubernetes_api: KubernetesApi, cluster: KubernetesCluster
) -> None:
    found = cluster.deployment(MODEL)
    kubernetes_api.set_replicas(MODEL, 7)

    with pytest.raises(ClusterConflict):
        cluster.set_replicas(found, 2)

    assert kubernetes_api.replicas(MODEL) == 7


def test_pods_are_read(kubernetes_api: KubernetesApi, cluster: KubernetesCluster) -> None:
    pending = {"type": "PodScheduled", "status": "False", "reason": "Unschedulable"}
    kubernetes_api.add_pod("ready", app="a")["status"]["conditions"] = [READY]
    kubernetes_api.add_pod("pending", app="a")["status"]["conditions"] = [pending]
    costs = {"controller.kubernetes.io/pod-deletion-cost": "-7"}
    kubernetes_api.add_pod("new", app="a")["metadata"]["annotations"] = costs
    kubernetes_api.add_pod("ending", app="a")["metadata"]["deletionTimestamp"] = "2026-01-31T13"
    kubernetes_api.add_pod("another's", app="b")

    found = {pod.name: pod for pod in cluster.pods("app=a")}

    assert [name for name, each in found.items() if each.leaving] == ["ending"]
    assert found["ready"].stamps.total_s == 45
    assert found["pending"].unschedulable
    born_s = found["new"].stamps.created_s
    assert found["new"] == Pod("new", "uid-of-new", StartStamps(born_s), False, -7, placed=False)


def test_the_stamps_of_a_start_are_read(
    kubernetes_api: KubernetesApi, cluster: KubernetesCluster
) -> None:
    def at(second: int) -> str:
        return f"2026-01-31T12:00:{second:02}Z"

    def ran(start: int, end: int) -> dict[str, Any]:
        return {"state": {"terminated": {"startedAt": at(start), "finishedAt": at(end)}}}

    scheduled = {"type": "PodScheduled", "status": "True", "lastTransitionTime": at(2)}
    kubernetes_api.add_pod("ready", app="a")["status"] = {
        "conditions": [scheduled, READY],
        # A sidecar among the init containers goes on running.
        "initContainerStatuses": [ran(9, 12), {"state": {"running": {"startedAt": at(8)}}}],
        "containerStatuses": [{"state": {"running": {"startedAt": at(20)}}, "restartCount": 0}],
    }
    kubernetes_api.add_pod("pulling", app="a")["status"] = {
        "conditions": [scheduled],
        "containerStatuses": [{"state": {"waiting": {"reason": "ContainerCreating"}}}],
    }

    ready, pulling = (pod.stamps for pod in cluster.pods("app=a"))

    assert ready.phases(10.0) == {"scheduled": 2, "image": 15, "model": 13, "warm": 15}
    assert (pulling.running_s, pulling.total_s) == (None, None)
    assert pulling.scheduled_s == ready.scheduled_s


@pytest.mark.parametrize(
    ("node", "phase", "placed"),
    [("n-1", "Running", True), ("", "Pending", False), ("n-1", "Failed", False)],
    ids=["runs", "has no node", "was evicted"],
)
def test_a_pod_on_a_node_takes_room(
    kubernetes_api: KubernetesApi, cluster: KubernetesCluster, node: str, phase: str, placed: bool
) -> None:
    pod = kubernetes_api.add_pod("p", app="a")
    pod["spec"], pod["status"]["phase"] = {"nodeName": node}, phase

    assert cluster.pods("app=a")[0].placed == placed


@pytest.mark.parametrize(
    ("status", "rollout"),
    [
        ({}, False),
        ({"replicas": 2, "updatedReplicas": 2}, False),
        ({"replicas": 2, "updatedReplicas": 1}, True),
        ({"replicas": 2}, True),
    ],
    ids=["new", "done", "begun", "not a pod yet"],
)
def test_a_rollout_is_on_while_old_pods_exist(
    kubernetes_api: KubernetesApi,
    cluster: KubernetesCluster,
    status: dict[str, int],
    rollout: bool,
) -> None:
    kubernetes_api.set_status(MODEL, status)

    assert cluster.deployment(MODEL).rollout == rollout


def test_the_strategy_is_read_with_the_defaults_of_kubernetes(
    kubernetes_api: KubernetesApi, cluster: KubernetesCluster
) -> None:
    spec = kubernetes_api.get("deployments", MODEL)["spec"]
    default = cluster.deployment(MODEL)
    spec["strategy"] = {"rollingUpdate": {"maxSurge": 0, "maxUnavailable": 1}}
    given = cluster.deployment(MODEL)

    assert (default.max_surge, default.max_unavailable) == ("25%", "25%")
    assert (given.max_surge, given.max_unavailable) == (0, 1)


@pytest.mark.parametrize(
    "status",
    [
        {"conditions": [READY], "containerStatuses": [{"restartCount": 1}]},
        {"conditions": [{**READY, "lastTransitionTime": None}]},
        {"conditions": None},
    ],
    ids=["restarted", "no-time", "no-conditions"],
)
def test_without_a_known_first_readiness_there_is_no_start(
    status: dict[str, Any], kubernetes_api: KubernetesApi, cluster: KubernetesCluster
) -> None:
    kubernetes_api.add_pod("pod", app="a")["status"] = status

    assert cluster.pods("app=a")[0].stamps.ready_s is None


def test_a_deletion_cost_is_written(
    kubernetes_api: KubernetesApi, cluster: KubernetesCluster
) -> None:
    kubernetes_api.add_pod("pod", app="a")

    cluster.set_deletion_cost("pod", 1)

    assert cluster.pods("app=a")[0].deletion_cost == 1


def test_a_deletion_cost_that_is_not_a_number_counts_as_0(
    kubernetes_api: KubernetesApi, cluster: KubernetesCluster
) -> None:
    costs = {"controller.kubernetes.io/pod-deletion-cost": "much"}
    kubernetes_api.add_pod("pod", app="a")["metadata"]["annotations"] = costs

    assert cluster.pods("app=a")[0].deletion_cost == 0


def test_an_event_is_one_that_kubernetes_knows(
    kubernetes_api: KubernetesApi, cluster: KubernetesCluster
) -> None:
    cluster.event(cluster.deployment(MODEL), "ScaledUp", "1 -> 2", warning=False)

    (request,) = kubernetes_api.asked("create", "events")
    event = {"apiVersion": "v1", "kind": "Event", **request.body}
    kubernetes_validate.validate(event, "1.34", strict=True)
    assert event["involvedObject"]["uid"] == f"uid-of-{MODEL}"
    assert (event["type"], kubernetes_api.events()) == ("Normal", [("ScaledUp", "1 -> 2")])


def test_the_same_event_again_is_counted(
    kubernetes_api: KubernetesApi, cluster: KubernetesCluster
) -> None:
    about = cluster.deployment(MODEL)

    for message in ("a", "a", "b", "a"):
        cluster.event(about, "Unschedulable", message, warning=True)

    assert kubernetes_api.events() == [("Unschedulable", "a"), ("Unschedulable", "b")]
    assert kubernetes_api.asked("patch", "events")[-1].body["count"] == 3


def test_an_expired_event_is_created_again(
    kubernetes_api: KubernetesApi, cluster: KubernetesCluster
) -> None:
    about = cluster.deployment(MODEL)
    cluster.event(about, "Paused", "a", warning=False)
    kubernetes_api.remove(
        "events", kubernetes_api.asked("create", "events")[0].body["metadata"]["name"]
    )

    cluster.event(about, "Paused", "a", warning=False)

    assert kubernetes_api.reasons() == ["Paused"]


def test_events_go_to_the_other_api_group_where_one_is_refused(
    kubernetes_api: KubernetesApi, cluster: KubernetesCluster
) -> None:
    for rule in kubernetes_api.rules:
        rule["apiGroups"] = [
            group for group in rule["apiGroups"] if group or "events" not in rule["resources"]
        ]

    cluster.event(cluster.deployment(MODEL), "ScaledUp", "1 -> 2", warning=False)

    request = kubernetes_api.asked("create", "events")[-1]
    event = {"apiVersion": "events.k8s.io/v1", "kind": "Event", **request.body}
    kubernetes_validate.validate(event, "1.34", strict=True)
    assert kubernetes_api.events() == [("ScaledUp", "1 -> 2")]


def test_a_lease_is_written_and_read(
    kubernetes_api: KubernetesApi, cluster: KubernetesCluster
) -> None:
    empty = cluster.lease(LEASE)

    written = cluster.write_lease(LEASE, HELD, empty.version)

    assert (empty.holder, empty.duration_s, empty.transitions) == ("", None, 0)
    assert cluster.lease(LEASE) == written
    assert (written.holder, written.duration_s, written.transitions) == ("pod-1", 15, 3)
    lease = {"apiVersion": "coordination.k8s.io/v1", "kind": "Lease"}
    kubernetes_validate.validate(
        {**lease, **kubernetes_api.get("leases", LEASE)}, "1.34", strict=True
    )


def test_a_lease_that_has_changed_is_not_overwritten(cluster: KubernetesCluster) -> None:
    version = cluster.lease(LEASE).version
    cluster.write_lease(LEASE, HELD, version)

    with pytest.raises(ClusterConflict):
        cluster.write_lease(LEASE, HELD, version)


#: Without a version a write never conflicts.
ABOUT = Deployment(MODEL, "uid", "", 1, 1)
Call = Callable[[KubernetesCluster], object]
CALLS: dict[str, tuple[str, str, Call]] = {
    "get deployments": ("get", "deployments", lambda c: c.deployment(MODEL)),
    "get deployments/scale": ("get", "deployments/scale", lambda c: c.scale(MODEL)),
    "patch deployments/scale": (
        "patch",
        "deployments/scale",
        lambda c: c.set_replicas(ABOUT, 2),
    ),
    "list pods": ("list", "pods", lambda c: c.pods("a=b")),
    "patch pods": ("patch", "pods", lambda c: c.set_deletion_cost("pod", 1)),
    "get leases": ("get", "leases", lambda c: c.lease(LEASE)),
    "patch leases": ("patch", "leases", lambda c: c.write_lease(LEASE, HELD, "103")),
    "create events": (
        "create",
        "events",
        lambda c: c.event(ABOUT, "Paused", "a", warning=False),
    ),
}
each_call = pytest.mark.parametrize(("verb", "resource", "call"), CALLS.values(), ids=list(CALLS))


@each_call
def test_a_missing_right_is_named(
    verb: str, resource: str, call: Call, kubernetes_api: KubernetesApi, cluster: KubernetesCluster
) -> None:
    for rule in kubernetes_api.rules:
        if resource in rule["resources"]:
            rule["verbs"] = [each for each in rule["verbs"] if each != verb]

    with pytest.raises(ClusterForbidden, match=rf"may not {verb} {resource}"):
        call(cluster)


@dataclass(frozen=True)
class Failure:
    """A failure of the API, and the error that it becomes."""

    fault: dict[str, Any]
    kind: type[ClusterError]
    message: str


FAILURES = {
    "404": Failure({"status": 404}, ClusterMissing, "not found"),
    "409": Failure({"status": 409}, ClusterConflict, "changed since it was read"),
    "422": Failure({"status": 422}, ClusterError, "refused"),
    "429": Failure({"status": 429}, ClusterUnavailable, "unavailable"),
    "401": Failure({"status": 401}, ClusterUnavailable, "unavailable"),
    "500": Failure({"status": 500}, ClusterUnavailable, "unavailable"),
    "reset": Failure({"how": "reset"}, ClusterUnavailable, "no answer to"),
    "hang": Failure({"how": "hang"}, ClusterUnavailable, "no answer to"),
}


@pytest.fixture(params=FAILURES.values(), ids=list(FAILURES))
def failure(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Failure:
    found: Failure = request.param
    if found.fault.get("how") == "hang":
        monkeypatch.setattr(kubernetes, "READ_TIMEOUT_S", (0.2, 0.2))
        monkeypatch.setattr(kubernetes, "WRITE_TIMEOUT_S", (0.2, 0.2))
    return found


@each_call
def test_every_failure_becomes_a_cluster_error(
    verb: str,
    resource: str,
    call: Call,
    failure: Failure,
    kubernetes_api: KubernetesApi,
    cluster: KubernetesCluster,
) -> None:
    kubernetes_api.fail(verb, resource, **failure.fault)

    with pytest.raises(ClusterError) as caught:
        call(cluster)

    assert type(caught.value) is failure.kind
    assert failure.message in str(caught.value)
    assert f"{verb} {resource}" in str(caught.value)


@each_call
def test_a_failed_call_is_not_sent_again_by_the_library(
    verb: str, resource: str, call: Call, kubernetes_api: KubernetesApi, cluster: KubernetesCluster
) -> None:
    # urllib3 by itself would sleep for as long as Retry-After says.
    kubernetes_api.fail(verb, resource, 429, headers={"Retry-After": "9"})

    with pytest.raises(ClusterUnavailable) as caught:
        call(cluster)

    assert caught.value.retry_after_s == 9
    assert len(kubernetes_api.asked(verb, resource)) == 1


def test_a_slow_answer_is_waited_for(
    kubernetes_api: KubernetesApi, cluster: KubernetesCluster
) -> None:
    kubernetes_api.fail("get", "deployments", how="slow")

    assert cluster.deployment(MODEL).replicas == 1


def test_an_api_that_cannot_be_reached_is_unavailable(tmp_path: Path) -> None:
    api = KubernetesApi([])
    api.port = 1

    with pytest.raises(ClusterUnavailable, match="no answer to get deployments"):
        connect("default", "", str(api.kubeconfig(tmp_path, "me"))).deployment(MODEL)


def test_without_any_cluster_the_settings_are_wrong() -> None:
    with pytest.raises(SettingsError, match="no cluster to talk to"):
        connect(None, "", "/no/kubeconfig")


def test_every_request_names_its_sender_and_content_type(
    kubernetes_api: KubernetesApi, cluster: KubernetesCluster
) -> None:
    kubernetes_api.add_pod("pod", app="a")

    for _, _, call in CALLS.values():
        call(cluster)

    writes = [each for each in kubernetes_api.requests if each.verb in ("create", "patch")]
    assert {each.agent for each in kubernetes_api.requests} == {"imageserve-autoscaler"}
    assert all(each.query["fieldManager"] == ["imageserve-autoscaler"] for each in writes)
    assert {each.verb: each.content_type for each in writes} == {
        "create": "application/json",
        "patch": "application/merge-patch+json",
    }


def test_the_role_allows_every_request_that_is_sent(
    kubernetes_api: KubernetesApi, cluster: KubernetesCluster
) -> None:
    kubernetes_api.add_pod("pod", app="a")

    for _, _, call in CALLS.values():
        call(cluster)
    cluster.event(ABOUT, "Paused", "a", warning=False)

    assert {(each.verb, each.resource) for each in kubernetes_api.requests} == {
        *((verb, resource) for verb, resource, _ in CALLS.values()),
        ("patch", "events"),
    }
