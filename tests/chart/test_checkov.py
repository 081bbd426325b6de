"""What checkov says of the rendered chart and of the images.

Its pins do not go with ours, so it lives in an environment of its own: ``CHECKOV`` names the
program (``make check-security``). It needs no network.
"""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.chart.helm import ROOT, Helm
from tests.chart.situations import DEFAULT, EVERYTHING

pytestmark = pytest.mark.skipif(
    "CHECKOV" not in os.environ, reason="CHECKOV names no checkov; make check-security does"
)

#: Findings that we accept, by check: kinds or single objects (none: all), and why.
ACCEPTED: dict[str, tuple[set[str], str]] = {
    "CKV_K8S_11": (set(), "no CPU limits: they stall pods that decode pictures"),
    "CKV_K8S_15": (set(), "images are pulled once: tags are versions, never latest"),
    "CKV_K8S_43": (set(), "the user may set digests; see web.image.digest"),
    "CKV_K8S_35": (set(), "the Redis password is a variable: every program of ours reads those"),
    "CKV_K8S_8": ({"Pod"}, "the test pod serves nothing"),
    "CKV_K8S_9": ({"Pod"}, "the test pod serves nothing"),
    "CKV_K8S_38": (
        {"Deployment.pictures.imageserve-autoscaler"},
        "the autoscaler calls the API; test_chart_autoscaler.py checks that no other pod can",
    ),
    "CKV_DOCKER_7": (set(), "the base is an argument; test_dockerfiles.py checks its default"),
    "CKV_DOCKER_2": (set(), "Kubernetes asks by probes, not by HEALTHCHECK"),
}


def findings(framework: str, *paths: Path) -> list[str]:
    """Return the findings that we do not accept."""
    options = ["--framework", framework, "--skip-download", "--compact", "--quiet", "-o", "json"]
    done = subprocess.run(
        [os.environ["CHECKOV"], *options, *(part for p in paths for part in ("--file", str(p)))],
        env={**os.environ, "LOG_LEVEL": "ERROR"},
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    report = json.loads(done.stdout)
    # One that found nothing at all has no results, only the summary.
    summary = report.get("summary", report)
    assert summary["parsing_errors"] == 0, done.stdout
    assert summary["passed"] + summary["failed"] > 0, "nothing was checked"
    return [
        f"{each['check_id']} {each['check_name']}: {each['resource']}"
        for each in report.get("results", {}).get("failed_checks", [])
        if not _is_accepted(each)
    ]


def _is_accepted(finding: Any) -> bool:
    kinds, _ = ACCEPTED.get(finding["check_id"], ({""}, ""))
    resource = finding["resource"]
    return not kinds or resource in kinds or resource.partition(".")[0] in kinds


@pytest.mark.timeout(300)
def test_checkov_finds_nothing_in_the_chart(helm4: Helm, tmp_path: Path) -> None:
    for situation in (DEFAULT, EVERYTHING):
        (tmp_path / f"{situation.name}.yaml").write_text(situation.text(helm4))

    assert findings("kubernetes", *sorted(tmp_path.iterdir())) == []


@pytest.mark.timeout(300)
def test_checkov_finds_nothing_in_the_images() -> None:
    assert findings("dockerfile", *sorted((ROOT / "images").glob("*/Dockerfile"))) == []


@pytest.mark.timeout(300)
def test_checkov_would_find_something(tmp_path: Path) -> None:
    pod = {"containers": [{"name": "x", "image": "x", "securityContext": {"privileged": True}}]}
    bad = {"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "x"}, "spec": pod}
    (tmp_path / "bad.json").write_text(json.dumps(bad))

    assert any("CKV_K8S_16" in each for each in findings("kubernetes", tmp_path / "bad.json"))
