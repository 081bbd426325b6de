"""The values that ``imageserve plan --values`` prints are values that the chart takes."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.helm import CHART, Helm, Object

from imageserve import plan
from imageserve.cli import main
from imageserve.queue.self_test import MAXMEMORY_SHARE

PLANS = {
    "one Redis": ("--rate", "1000", "--model", "resnet50", "--picture", "500x375"),
    "several nodes": ("--rate", "10000", "--model", "mobilenet_v2", "--runtime", "onnx"),
    "photos, GPU, a short deadline": (
        *("--rate", "300.5", "--model", "resnet50", "--picture", "4000x3000", "--peak", "3"),
        *("--gpu", "--worker-rate", "1500", "--clients-deadline", "0.7", "--replicas", "3"),
    ),
    "many processes, a name that YAML knows": (
        *("--rate", "900", "--model", "./no/", "--worker-rate", "20", "--web-processes", "8"),
        *("--picture", "3000x2000", "--input-size", "224"),
    ),
    "a file, with a space": (
        *("--rate", "5", "--model", "/nowhere/my flowers.onnx", "--worker-rate", "9"),
        *("--input-size", "96x128"),
    ),
    "nothing on disk": ("--rate", "1", "--model", "shapes", "--worker-rate", "500", "--no-aof"),
}


@pytest.mark.parametrize("options", PLANS.values(), ids=PLANS)
def test_the_chart_renders_them(
    options: tuple[str, ...], helm: Helm, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["plan", *options, "--values"]) == 0
    file = tmp_path / "plan.yaml"
    file.write_text(capsys.readouterr().out)

    objects = helm.render(file)

    values = yaml.safe_load(file.read_text())
    deployments = {each["metadata"]["name"]: each for each in objects if _is_deployment(each)}
    web = deployments.pop("imageserve-web")
    deployments.pop("imageserve-autoscaler")
    assert web["spec"]["replicas"] == values["web"]["replicas"]
    environ = _environ(web)
    assert environ["WEB_SLOTS"] == str(values["web"]["slots"])
    assert environ["QUEUE_LIMIT"] == str(values["limits"]["queueLimit"])
    enabled = [name for name, entry in values["models"].items() if entry.get("enabled", True)]
    assert len(deployments) == len(enabled)
    redis = [each for each in objects if each["kind"] == "StatefulSet"]
    assert len(redis) == values["redis"].get("enabled", True)


def _is_deployment(each: Object) -> bool:
    return bool(each["kind"] == "Deployment")


def _environ(deployment: Object) -> dict[str, Any]:
    container = deployment["spec"]["template"]["spec"]["containers"][0]
    return {each["name"]: each.get("value") for each in container["env"]}


def test_the_defaults_that_a_plan_starts_from_are_those_of_the_chart() -> None:
    values = yaml.safe_load((CHART / "values.yaml").read_text())
    web, limits = values["web"], values["limits"]

    assert web["slots"] == plan.WEB_SLOTS
    assert web["memoryBytes"] == f"{plan.WEB_MEMORY // plan.MEBI}Mi"
    assert web["autoscaling"]["targetCPUUtilizationPercentage"] == round(100 * plan.WEB_USE)
    assert limits["queueBytesLimit"] == f"{plan.QUEUE_BYTES // plan.MEBI}Mi"
    assert limits["resultTtlSeconds"] == plan.RESULT_TTL_S
    # Of which maxmemory is half.
    requested = values["redis"]["resources"]["requests"]["memory"]
    assert requested == f"{2 * plan.LEAST_MAXMEMORY // 2**30}Gi"
    assert plan.QUEUE_SHARE == MAXMEMORY_SHARE
