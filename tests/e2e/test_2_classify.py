"""Pictures get their labels, one by one and together, with keys and without."""

import csv

from tests.e2e.answers import Report
from tests.e2e.cluster import SAMPLES, Cluster
from tests.e2e.options import Values
from tests.e2e.release import Release

KEY = "a-key-for-the-cluster-tests"
KEYS_ON: Values = {"apiKeys": {"enabled": True, "keys": [KEY]}}
WITH_KEY = f"--header=X-API-Key: {KEY}"
WITH_WRONG_KEY = "--header=X-API-Key: some-key-of-another-server"


def all_samples() -> list[str]:
    with (SAMPLES / "labels.csv").open(newline="") as lines:
        return [row["file"] for row in csv.DictReader(lines)]


def refusals(report: Report) -> set[tuple[int, str]]:
    return {(each.status, each.code) for each in report.answers}


def test_every_sample_picture_gets_its_label_first(cluster: Cluster, release: Release) -> None:
    report = cluster.classify(release)

    assert report.failed == [], report
    assert [each.files for each in report.answers] == [(name,) for name in all_samples()]


def test_several_pictures_in_one_request_get_their_labels_in_order(
    cluster: Cluster, release: Release
) -> None:
    report = cluster.classify(release, "--together=5")

    assert report.failed == [], report
    assert [name for each in report.answers for name in each.files] == all_samples()
    assert len(report.answers[0].labels) == 5


def test_api_keys_are_switched_on_and_off_by_an_upgrade(cluster: Cluster, release: Release) -> None:
    with release.changed(KEYS_ON):
        release.settle()
        assert cluster.classify(release, WITH_KEY).failed == []
        assert refusals(cluster.classify(release)) == {(401, "unauthorized")}
        assert refusals(cluster.classify(release, WITH_WRONG_KEY)) == {(403, "forbidden")}
    release.settle()

    assert cluster.classify(release).failed == []


def test_no_client_with_a_key_notices_the_switch(cluster: Cluster, release: Release) -> None:
    with cluster.classifying(release, WITH_KEY) as load:
        with release.changed(KEYS_ON):
            release.settle()
        release.settle()

    assert load.report.failed == [], load.report
