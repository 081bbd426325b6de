"""Pods come and go while pictures are classified."""

import pytest
from tests.e2e.cluster import Cluster
from tests.e2e.options import Values
from tests.e2e.release import Release
from tests.e2e.state import name_of

NOTICE_S = 5.0
"""How long a cluster may send requests to a pod that was killed without notice."""

HEALTHY_WITHIN_S = 60.0


def replicas(count: int) -> Values:
    return {"models": {"shapes": {"scaling": {"replicas": count}}}}


@pytest.mark.parametrize("component", ["web", "model"])
def test_a_rollout_fails_no_request(cluster: Cluster, release: Release, component: str) -> None:
    old = {name_of(pod) for pod in release.pods(component)}
    with cluster.classifying(release) as load:
        release.restart(component)
        release.settle()

    assert load.report.failed == [], load.report
    assert not old & {name_of(pod) for pod in release.pods(component)}


@pytest.mark.parametrize("component", ["web", "model"])
def test_a_pod_that_is_deleted_with_its_grace_period_fails_no_request(
    cluster: Cluster, release: Release, component: str
) -> None:
    with cluster.classifying(release) as load:
        deleted = release.delete_pod(component)
        release.settle()

    assert load.report.failed == [], load.report
    assert deleted not in [name_of(pod) for pod in release.pods(component)]


def test_a_model_pod_that_is_killed_fails_no_request(cluster: Cluster, release: Release) -> None:
    with cluster.classifying(release) as load:
        release.delete_pod("model", force=True)
        release.settle()

    assert load.report.failed == [], load.report


def test_a_web_pod_that_is_killed_fails_only_the_requests_it_had(
    cluster: Cluster, release: Release
) -> None:
    with cluster.classifying(release) as load:
        killed_s = load.now_s()
        release.delete_pod("web", force=True)
        release.settle()
        load.wait_for(40, since_s=killed_s + NOTICE_S)

    for each in load.report.failed:
        assert each.is_lost_connection, load.report
        assert killed_s <= each.at + each.seconds, load.report
        assert each.at <= killed_s + NOTICE_S, load.report


def test_while_redis_is_replaced_clients_are_told_to_come_back(
    cluster: Cluster, release: Release
) -> None:
    with cluster.classifying(release) as load:
        deleted_s = load.now_s()
        release.delete_pod("redis")
        release.settle()
        load.wait_for(200, since_s=load.now_s())

    report = load.report
    for each in report.failed:
        assert each.is_clear_refusal or each.is_explained_timeout, report
    assert report.last_failure_s <= deleted_s + HEALTHY_WITHIN_S, report


def test_scaling_the_model_up_and_down_fails_no_request(cluster: Cluster, release: Release) -> None:
    with cluster.classifying(release) as load:
        for count in (3, 1, 2):
            release.upgrade(replicas(count))
            release.settle()
            assert len(release.pods("model")) == count

    assert load.report.failed == [], load.report
