"""Every situation, for the oldest and the newest Kubernetes: rendered by both helms, and valid."""

from typing import Any

import pytest
from tests.chart.helm import CHART, OLDEST, Helm, HelmError
from tests.chart.schemas import NEWEST, schema_problems
from tests.chart.situations import (
    EVERYTHING,
    KEDA,
    PASSWORD,
    SITUATIONS,
    Situation,
    each_situation,
)

VALUES_FILES = sorted(CHART.glob("values-*.yaml"))
REPEATABLE = [each for each in SITUATIONS if each.name != "random password"]


def test_every_situation_that_we_promise_has_a_values_file() -> None:
    promised = {"minikube", "gpu", "external-redis", "ha"}

    assert promised <= {path.stem.removeprefix("values-") for path in VALUES_FILES}


@pytest.mark.parametrize("path", [None, *VALUES_FILES], ids=lambda p: p.stem if p else "default")
def test_helm_lint_finds_nothing(helm: Helm, path: Any) -> None:
    said = helm.lint(*([path] if path else []))

    assert "0 chart(s) failed" in said
    assert "[WARNING]" not in said


@pytest.mark.parametrize("kube_version", [OLDEST, NEWEST])
@each_situation()
def test_a_cluster_would_take_every_object(
    helm4: Helm, situation: Situation, kube_version: str
) -> None:
    kube_version = max(kube_version, situation.oldest)

    objects = situation.render(helm4, kube_version=kube_version)

    assert [p for each in objects for p in schema_problems(each, kube_version)] == []


@each_situation(REPEATABLE)
def test_helm_3_and_helm_4_render_the_same_and_so_does_a_second_time(
    helm: Helm, helm4: Helm, situation: Situation
) -> None:
    again = Helm(helm.program, helm.home)

    assert situation.text(again) == situation.text(helm4)


def test_an_older_kubernetes_is_refused(helm: Helm) -> None:
    with pytest.raises(HelmError, match="incompatible with Kubernetes"):
        helm.render(PASSWORD, kube_version="1.28.9")


def test_a_cluster_of_a_vendor_is_taken(helm4: Helm) -> None:
    # Their versions have suffixes, which a plain ">=1.29" would refuse.
    assert helm4.render(PASSWORD, kube_version="v1.31.4-gke.1183000")


METADATA = {"name": "x"}
BUDGET = {"kind": "PodDisruptionBudget", "metadata": METADATA, "spec": {"maxUnavailable": 1}}
FLAWS = [
    pytest.param({"apiVersion": "v1", "kind": "Server", "metadata": METADATA}, id="unknown kind"),
    pytest.param({"apiVersion": "policy/v1beta1", **BUDGET}, id="an API that was removed"),
    pytest.param(
        {"apiVersion": "v1", "kind": "Service", "metadata": METADATA, "spec": {"prots": []}},
        id="unknown field",
    ),
    pytest.param(
        {"apiVersion": "policy/v1", **BUDGET, "spec": {"maxUnavailable": [1]}}, id="wrong type"
    ),
    pytest.param(
        {"apiVersion": "keda.sh/v1alpha1", "kind": "ScaledJob", "metadata": METADATA},
        id="custom kind without a schema",
    ),
    pytest.param(
        {
            "apiVersion": "monitoring.coreos.com/v1",
            "kind": "ServiceMonitor",
            "metadata": METADATA,
            "spec": {"selector": {}, "endpoints": [{"port": "http", "every": "3s"}]},
        },
        id="unknown field of a custom kind",
    ),
    pytest.param(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "HTTPRoute",
            "metadata": METADATA,
            "spec": {"parentRefs": [{"name": "g"}], "rules": [{"timeouts": {"request": "1.5s"}}]},
        },
        id="wrong value in a custom kind",
    ),
    pytest.param(
        {
            "apiVersion": "gateway.networking.k8s.io/v1",
            "kind": "GRPCRoute",
            "metadata": METADATA,
            "spec": {"parentRefs": [{"name": "g"}], "rules": [{"timeouts": {"request": "1s"}}]},
        },
        id="a field of another kind of route",
    ),
]


@pytest.mark.parametrize("flawed", FLAWS)
def test_a_cluster_would_refuse(flawed: dict[str, Any]) -> None:
    assert schema_problems(flawed, NEWEST)


def test_the_whole_chart_is_in_the_matrix(helm4: Helm) -> None:
    """Each kind that the chart can render is rendered with everything on, or where KEDA scales."""
    kinds = {o["kind"] for s in (EVERYTHING, KEDA) for o in s.render(helm4)}

    everywhere = {o["kind"] for s in SITUATIONS for o in s.render(helm4)}

    assert kinds == everywhere
