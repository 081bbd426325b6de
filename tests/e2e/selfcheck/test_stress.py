"""The tests of the autoscaler and of the load test use the chart correctly, without a cluster."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.helm import Helm
from tests.chart.objects import of_kind, pod_templates
from tests.chart.pod_security import violations
from tests.e2e.commands import Helm as HelmProgram
from tests.e2e.commands import Kubectl
from tests.e2e.options import SMALL, TWO_OF_EACH
from tests.e2e.stress import StressJob, verdict
from tests.e2e.test_6_autoscaler import LOAD, MOST, SCALED

from imageserve.autoscaler.scaler_status import EventReason
from imageserve.models.stand_in import parse_stand_in

LAYERS = (SMALL, TWO_OF_EACH)


def test_the_rendered_load_is_one_job_and_its_policies(helm_program: Path) -> None:
    helm = HelmProgram(str(helm_program), "pictures")
    values: dict[str, Any] = {"loadtest": {"enabled": True, "parallelism": 2}}

    text = helm.template("one", [*LAYERS, values], "loadtest.yaml")
    job = StressJob.of(text, Kubectl("kubectl"))

    assert job.pods == 2
    found = [each for each in yaml.safe_load_all(text) if each]
    assert {each["metadata"]["namespace"] for each in found} == {"pictures"}
    assert [v for pod in pod_templates(found) for v in violations(pod.spec)] == []


def test_the_chart_accepts_the_release_with_the_autoscaler(chart: Helm) -> None:
    objects = chart.render(*LAYERS, SCALED)
    (model,) = [
        o
        for o in of_kind(objects, "Deployment")
        if o["metadata"]["labels"]["app.kubernetes.io/component"] == "model"
    ]

    assert "replicas" not in model["spec"]
    assert of_kind(objects, "Lease", "Role")


def test_the_load_needs_two_pods_and_no_more() -> None:
    shapes = SCALED["models"]["shapes"]
    model = parse_stand_in(shapes["network"])
    batch = shapes["batchSize"]
    capacity_per_s = batch / (model.batch_ms + batch * model.image_ms) * 1000

    assert capacity_per_s * 0.7 < LOAD["rate"] < MOST * capacity_per_s * 0.7 + 1


def test_the_expected_events_are_ones_that_the_autoscaler_writes() -> None:
    assert {"ScaledUp", "ScaledToZero"} <= {each.value for each in EventReason}


@pytest.mark.parametrize(
    ("conditions", "expected"),
    [
        pytest.param(None, "", id="just created"),
        pytest.param([{"type": "Suspended", "status": "True"}], "", id="held up"),
        pytest.param([{"type": "Failed", "status": "False"}], "", id="not failed"),
        pytest.param(
            [
                {"type": "SuccessCriteriaMet", "status": "True"},
                {"type": "Complete", "status": "True"},
            ],
            "Complete",
            id="complete",
        ),
        pytest.param([{"type": "Failed", "status": "True"}], "Failed", id="failed"),
    ],
)
def test_the_end_of_a_job_is_read(conditions: Any, expected: str) -> None:
    status = {} if conditions is None else {"conditions": conditions}

    assert verdict({"status": status}) == expected
