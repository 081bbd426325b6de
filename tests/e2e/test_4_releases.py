"""Upgrades, and a second release beside the first."""

from collections.abc import Iterator

import pytest
from tests.e2e.cluster import Cluster
from tests.e2e.commands import CommandError
from tests.e2e.options import Values
from tests.e2e.release import Release
from tests.e2e.state import name_of

ONE_OF_EACH: Values = {"web": {"replicas": 1}, "models": {"shapes": {"scaling": {"replicas": 1}}}}
OTHER_SETTINGS: Values = {"log": {"level": "debug"}, "modelDefaults": {"batchSize": 4}}


@pytest.fixture
def second(cluster: Cluster) -> Iterator[Release]:
    """Another release in the same namespace, not installed yet."""
    release = cluster.release("second", ONE_OF_EACH)
    yield release
    if cluster.helm.has(release.name):
        release.uninstall()


def test_two_releases_live_side_by_side_in_one_namespace(
    cluster: Cluster, release: Release, second: Release
) -> None:
    with cluster.classifying(release) as load:
        second.install()
        second.settle()
        assert cluster.classify(second).failed == []
        assert second.redis_password() != release.redis_password()
        second.uninstall()

    assert load.report.failed == [], load.report
    assert release.waits_for() == []


def test_an_upgrade_with_other_values_fails_no_request(cluster: Cluster, release: Release) -> None:
    old = {name_of(pod) for component in ("web", "model") for pod in release.pods(component)}
    with cluster.classifying(release) as load, release.changed(OTHER_SETTINGS):
        release.settle()
        new = {name_of(pod) for component in ("web", "model") for pod in release.pods(component)}

    assert not old & new, "the values reached no pod"
    assert load.report.failed == [], load.report


def test_an_upgrade_keeps_redis_and_its_password(release: Release) -> None:
    password, pods = release.redis_password(), release.pods("redis")
    with release.changed(OTHER_SETTINGS):
        release.settle()
        assert release.redis_password() == password
    release.settle()

    assert [pod["metadata"]["uid"] for pod in release.pods("redis")] == [
        pod["metadata"]["uid"] for pod in pods
    ]


def test_an_external_redis_that_cannot_be_reached_is_found_before_the_old_one_goes(
    cluster: Cluster, release: Release
) -> None:
    host, _, _ = release.service_address("redis").partition(":")
    wrong: Values = {"redis": {"enabled": False, "external": {"host": host, "port": 1}}}
    before = [pod["metadata"]["uid"] for pod in release.pods("redis")]
    try:
        with pytest.raises(CommandError, match="pre-upgrade"):
            release.upgrade(wrong)

        assert cluster.classify(release).failed == []
        assert [pod["metadata"]["uid"] for pod in release.pods("redis")] == before
    finally:
        release.forget_check()
        release.upgrade()
    release.settle()
