"""The objects that the cluster tests create are valid, and fit the chart's own policies."""

from base64 import b64decode
from typing import Any

import pytest
from tests.chart.helm import Helm, Object
from tests.chart.network import Flow, Peer, allowed, pod_peer
from tests.chart.objects import of_kind, pod_templates
from tests.chart.pod_security import violations
from tests.e2e.cluster import PROGRAMS, SAMPLES
from tests.e2e.manifests import client_labels, closed_to_all, config_map, namespace, pod
from tests.e2e.options import SMALL, TWO_OF_EACH

MOST_IN_A_CONFIG_MAP = 1 << 20
RUN = "0a1b2c"
PULLED: dict[str, Any] = {
    "image": {"registry": "registry.test", "pullSecrets": ["login"], "pullPolicy": "Always"},
    "web": {"nodeSelector": {"disk": "fast"}, "tolerations": [{"operator": "Exists"}]},
}
NARROW: dict[str, Any] = {
    "networkPolicy": {"web": {"from": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]}}
}


def web_of(objects: list[Object]) -> Object:
    found = of_kind(objects, "Deployment")
    (web,) = [o for o in found if o["metadata"]["labels"]["app.kubernetes.io/component"] == "web"]
    return web


def client_of(objects: list[Object]) -> Object:
    web = web_of(objects)
    labels = client_labels(web, RUN)
    return pod("e2e-client", web, labels, ("files", "pictures"), "python3", "/client/client.py")


def everything(objects: list[Object]) -> list[Object]:
    labels = {"imageserve-e2e": RUN}
    return [
        client_of(objects),
        config_map("files", RUN, sorted(PROGRAMS.glob("*.py"))),
        config_map("pictures", RUN, sorted(SAMPLES.iterdir())),
        namespace("imageserve-e2e-0a1b2c"),
        closed_to_all("closed", labels),
    ]


@pytest.mark.parametrize("version", ["1.29.0", "1.34.0"])
def test_a_cluster_takes_every_object(chart: Helm, version: str) -> None:
    pytest.importorskip("kubernetes_validate")
    from tests.chart.schemas import schema_problems

    for values in ({}, PULLED):
        for each in everything(chart.render(SMALL, TWO_OF_EACH, values)):
            assert schema_problems(each, version) == []


@pytest.mark.parametrize("values", [{}, PULLED], ids=["default", "registry"])
def test_the_client_fits_pod_security_restricted(chart: Helm, values: dict[str, Any]) -> None:
    client = client_of(chart.render(SMALL, values))

    assert violations(client["spec"]) == []
    (container,) = client["spec"]["containers"]
    assert container["securityContext"]["readOnlyRootFilesystem"] is True


def test_the_client_runs_where_and_as_the_web_pods_do(chart: Helm) -> None:
    objects = chart.render(SMALL, PULLED)
    client, web = client_of(objects)["spec"], web_of(objects)["spec"]["template"]["spec"]

    assert client["imagePullSecrets"] == [{"name": "login"}]
    for key in ("nodeSelector", "tolerations", "securityContext", "imagePullSecrets"):
        assert client[key] == web[key]
    for key in ("image", "imagePullPolicy", "securityContext"):
        assert client["containers"][0][key] == web["containers"][0][key]


@pytest.mark.parametrize("values", [{}, NARROW], ids=["default", "narrow"])
def test_the_policies_let_the_client_reach_web_and_nothing_else(
    chart: Helm, values: dict[str, Any]
) -> None:
    objects = chart.render(SMALL, values, namespace="pictures")
    client = pod_peer(pod_templates([client_of(objects)])[0], "pictures")
    other = Peer("10.42.0.9", "pictures", {"imageserve-e2e": RUN})
    ends = {p.labels["app.kubernetes.io/component"]: p for p in pod_templates(objects)}
    web, redis = (pod_peer(ends[name], "pictures") for name in ("web", "redis"))

    assert allowed(objects, "pictures", Flow(client, web, 8000))
    assert not allowed(objects, "pictures", Flow(client, redis, 6379))
    assert not allowed(objects, "pictures", Flow(other, redis, 6379))
    assert allowed(objects, "pictures", Flow(web, redis, 6379))


def test_no_service_and_no_workload_selects_the_client(chart: Helm) -> None:
    objects = chart.render(SMALL)
    labels = client_of(objects)["metadata"]["labels"].items()

    for each in of_kind(objects, "Service"):
        assert not each["spec"]["selector"].items() <= labels
    for each in of_kind(objects, "Deployment", "StatefulSet", "PodDisruptionBudget"):
        assert not each["spec"]["selector"]["matchLabels"].items() <= labels


def test_the_files_fit_into_config_maps() -> None:
    for files in (sorted(PROGRAMS.glob("*.py")), sorted(SAMPLES.iterdir())):
        content = config_map("files", RUN, files)["binaryData"]

        assert sum(len(b64decode(each)) for each in content.values()) < MOST_IN_A_CONFIG_MAP
        assert content.keys() == {each.name for each in files}
    assert (SAMPLES / "labels.csv").exists()
