"""A release is installed, and its own test passes."""

from tests.e2e.release import Release
from tests.e2e.state import restarts


def test_a_release_is_installed_and_every_pod_becomes_ready(release: Release) -> None:
    assert release.waits_for() == []
    assert len(release.pods("web")) == 2
    assert len(release.pods("model")) == 2
    assert len(release.pods("redis")) == 1


def test_no_container_had_to_be_restarted_on_the_way(release: Release) -> None:
    for component in ("web", "model", "redis"):
        assert restarts(release.pods(component)) == {}


def test_helm_test_passes(release: Release) -> None:
    release.test()
