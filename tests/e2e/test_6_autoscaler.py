"""The autoscaler: load brings pods, idleness takes the last one away, a request brings one back.

The model is the stand-in with a declared time: two pods can bear the load, one cannot.
"""

from collections.abc import Iterator

import pytest
from tests.e2e.cluster import Cluster
from tests.e2e.commands import eventually
from tests.e2e.options import Values
from tests.e2e.release import Release
from tests.e2e.state import name_of

MOST = 2
#: A pod does 8 / (0.2 + 8 x 0.02) = 22 pictures a second; 30 take two of them at 70 % of that.
LOAD = {"rate": 30, "durationSeconds": 120, "timeoutSeconds": 400}
SCALED: Values = {
    "autoscaling": {"mode": "builtin"},
    "autoscaler": {"replicas": 2, "intervalSeconds": 1},
    "web": {"replicas": 1},
    "models": {
        "shapes": {
            "network": "stand-in:batch_ms=200,image_ms=20,size=32",
            "batchSize": 8,
            "scaling": {
                "minReplicas": 0,
                "maxReplicas": MOST,
                "targetUtilization": 0.7,
                "arrivalsWindowSeconds": 10,
                "burstWindowSeconds": 5,
                "scaleDownWindowSeconds": 10,
                "scaleDownPeriodSeconds": 5,
                "scaleToZeroAfterSeconds": 15,
                "podStartSeconds": 20,
            },
        }
    },
}

NO_POD_IS_CONCERNED: Values = {"web": {"service": {"annotations": {"e2e.test/upgraded": "yes"}}}}


@pytest.fixture(scope="module")
def scaled(cluster: Cluster) -> Iterator[Release]:
    """A release with the autoscaler."""
    release = cluster.release("scaled", SCALED)
    try:
        release.install()
        yield release
    finally:
        if cluster.helm.has(release.name):
            release.uninstall()


def reaches(release: Release, count: int) -> None:
    eventually(lambda: release.replicas() == count, lambda: f"{release.replicas()} is {count}")


def leader(cluster: Cluster, release: Release) -> str:
    (lease,) = cluster.kubectl.objects("lease", f"app.kubernetes.io/instance={release.name}")
    return str(lease.get("spec", {}).get("holderIdentity", ""))


def event_reasons(cluster: Cluster, release: Release) -> set[str]:
    about = name_of(release.workload("deployment", "model"))
    chosen = f"--field-selector=involvedObject.name={about}"
    return {each["reason"] for each in cluster.kubectl.json("get", "events", chosen)["items"]}


def test_a_model_without_requests_goes_to_zero(scaled: Release) -> None:
    reaches(scaled, 0)
    eventually(lambda: not scaled.pods("model"), "the last model pod is gone")


def test_a_request_wakes_it_and_is_answered(cluster: Cluster, scaled: Release) -> None:
    reaches(scaled, 0)
    with cluster.stressing(scaled, clients=1, durationSeconds=5) as job:
        assert job.succeeds(), job.logs()

    # Not the replicas: a slow cluster reports the end of the Job after the next idle time.
    eventually(lambda: "Activated" in event_reasons(cluster, scaled), "it was woken")


def test_load_brings_pods_and_idleness_takes_them_away(cluster: Cluster, scaled: Release) -> None:
    with cluster.stressing(scaled, **LOAD) as job:
        reaches(scaled, MOST)
        eventually(lambda: len(scaled.pods("model")) == MOST, f"{MOST} model pods are ready")
        job.succeeds()
    reaches(scaled, 0)

    assert {"ScaledUp", "ScaledToZero"} <= event_reasons(cluster, scaled)


def test_of_two_autoscalers_one_works_and_the_other_takes_its_place(
    cluster: Cluster, scaled: Release
) -> None:
    names = [name_of(pod) for pod in scaled.pods("autoscaler")]
    first = eventually(lambda: leader(cluster, scaled), "an autoscaler holds the lease")
    assert first in names
    cluster.kubectl.delete("pod", first, wait=False)

    eventually(lambda: leader(cluster, scaled) not in ("", first), "another one holds the lease")


def test_an_upgrade_leaves_the_number_of_pods_and_the_lease_alone(
    cluster: Cluster, scaled: Release
) -> None:
    with cluster.stressing(scaled, **LOAD) as job:
        reaches(scaled, MOST)
        holder = leader(cluster, scaled)
        with scaled.changed(NO_POD_IS_CONCERNED):
            assert scaled.replicas() == MOST
            assert leader(cluster, scaled) == holder != ""
        job.succeeds()
