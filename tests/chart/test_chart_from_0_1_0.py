"""The upgrade of an installed 0.1.0: its chart beside this one, as docs/upgrading.md tells."""

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.helm import ROOT, Helm, HelmError
from tests.chart.objects import of_kind, the, title
from tests.chart.situations import PASSWORD, external_redis

PAGE = (ROOT / "docs" / "upgrading.md").read_text(encoding="utf-8")
VALUES = yaml.safe_load(Path(__file__).with_name("values_of_0_1_0.yaml").read_text("utf-8"))
MONITORS = ("serviceMonitor", "podMonitor", "prometheusRule", "grafanaDashboard")
MUCH: Any = {
    "checkApis": False,
    **{name: {"enabled": True} for name in (*MONITORS, "ingress", "loadtest")},
    "web": {"autoscaling": {"enabled": True}},
    "apiKeys": {"enabled": True, "keys": ["0123456789abcdef"]},
    "redis": {"persistence": {"enabled": True}},
}
FIXED = ("selector", "serviceName", "podManagementPolicy", "volumeClaimTemplates")
"""What Kubernetes lets nobody change of a Deployment or a StatefulSet."""


@pytest.fixture
def old(helm4: Helm, old_chart: Path) -> Helm:
    return Helm(helm4.program, helm4.home, old_chart)


@pytest.mark.parametrize(
    "values", [{}, MUCH, {"autoscaling": {"mode": "hpa"}}, external_redis()], ids=str
)
def test_no_object_is_replaced_or_changed_where_kubernetes_forbids_it(
    helm4: Helm, old: Helm, values: Any
) -> None:
    before, after = old.render(PASSWORD, values), helm4.render(PASSWORD, values)

    jobs = {title(each) for each in of_kind(before, "Job")}  # Of the load test, which runs anew.
    assert {title(each) for each in before} - {title(each) for each in after} <= jobs
    for each in of_kind(before, "Deployment", "StatefulSet"):
        now = the(after, each["kind"], each["metadata"]["name"])
        assert [now["spec"].get(field) for field in FIXED] == [
            each["spec"].get(field) for field in FIXED
        ]


def redis_pod(helm: Helm, values: Any) -> Any:
    return the(helm.render(values, PASSWORD), "StatefulSet", "imageserve-redis")["spec"]["template"]


def test_redis_restarts_unless_it_gets_the_values_that_the_page_names(
    helm4: Helm, old: Helm
) -> None:
    (block,) = re.findall(r"^ *```yaml\n(.*?)```", PAGE, re.MULTILINE | re.DOTALL)

    assert redis_pod(helm4, {}) != redis_pod(old, {})
    assert redis_pod(helm4, yaml.safe_load(block)) == redis_pod(old, {})


def test_a_copy_of_all_values_of_0_1_0_renders_and_leaves_redis_alone(
    helm4: Helm, old: Helm
) -> None:
    assert redis_pod(helm4, VALUES) == redis_pod(old, VALUES)


REFUSED: list[tuple[Any, str]] = [
    ({"web": {"extraEnv": [{"name": "FAST_JPEG", "value": "0"}]}}, "web.extraEnv: set twice"),
    (
        {
            "limits": {"maxImagePixels": 20_000_000},
            "web": {"resources": {"limits": {"memory": "1200Mi"}}},
        },
        "web.resources.limits.memory must be at least 2048 Mi",
    ),
    (
        {"redis": {"resources": {"requests": {"memory": "512Mi"}}}},
        "more than 0.6 x redis.maxmemory",
    ),
    (
        {"redis": {"resources": {"requests": {"memory": "8Gi"}, "limits": {"memory": "8Gi"}}}},
        "redis.persistence.size must be at least 2 x redis.maxmemory (not set, so half of",
    ),
]


@pytest.mark.parametrize(("values", "said"), REFUSED)
def test_values_that_0_1_0_took_are_refused_with_what_to_write(
    helm4: Helm, old: Helm, values: Any, said: str
) -> None:
    old.render(PASSWORD, values)
    with pytest.raises(HelmError, match=re.escape(said)):
        helm4.render(PASSWORD, values)
