"""The end: nothing is left behind."""

from tests.e2e.cluster import Cluster
from tests.e2e.commands import eventually
from tests.e2e.release import Release


def test_uninstalling_leaves_nothing_behind(
    cluster: Cluster, before: set[str], release: Release
) -> None:
    assert release.remains() != []
    release.uninstall()

    left: list[str] = []

    def remain() -> list[str]:
        if cluster.options.namespace:
            return release.remains()
        # In a namespace of our own nothing else may be there either, labelled or not.
        return [*release.remains(), *sorted(cluster.everything() - before)]

    def gone() -> bool:
        left[:] = remain()
        return not left

    eventually(gone, lambda: f"nothing is left: {left}")
    assert not cluster.helm.has(release.name)
