"""The load test inside the cluster: its success is its verdict, and its logs are one report."""

from tests.e2e.cluster import Cluster
from tests.e2e.release import Release

PODS = 2

#: A node that has to pull the image starts its pod later. The verdict needs both to send at once
#: for at least half of this time.
LOAD_S = 60


def test_a_load_from_inside_is_answered_and_merged_into_one_report(
    cluster: Cluster, release: Release
) -> None:
    load = {"parallelism": PODS, "rate": 8, "durationSeconds": LOAD_S, "slo": ["p99=20s"]}
    with cluster.stressing(release, **load) as job:
        assert job.succeeds(), job.logs()
        report = job.merged()

    assert report["verdict"]["holds"] is True
    assert report["pods"] == PODS


def test_a_share_of_the_capacity_is_one_that_the_service_can_bear(
    cluster: Cluster, release: Release
) -> None:
    """The load of `skaffold exec stress`: the web pods, not the model, limit a fast model."""
    with cluster.stressing(release, scenario="steady", slo=["p99=20s", "refused=10%"]) as job:
        assert job.succeeds(), job.logs()
        report = job.merged()

    assert report["load"]["capacity_of"] in ("web", "model")


def test_a_verdict_that_does_not_hold_fails_the_job(cluster: Cluster, release: Release) -> None:
    # No service answers within a microsecond.
    with cluster.stressing(release, rate=5, durationSeconds=5, slo=["p50=0.001ms"]) as job:
        assert not job.succeeds(), job.logs()
