"""What the network policies let through: every flow that the system needs, and no other."""

from typing import Any

import pytest
from tests.chart.helm import Helm, Object
from tests.chart.network import Flow, Peer, allowed, pod_peer
from tests.chart.objects import of_kind, pod_templates
from tests.chart.situations import APIS, MODES, PASSWORD, SITUATIONS, Situation, each_situation

NS = "pictures"
DNS = Peer("10.42.9.9", "kube-system", {"k8s-app": "kube-dns"}, {"dns": 53})
CONTROLLER = Peer("10.42.8.8", "gateways", {"app.kubernetes.io/name": "envoy"})
PROMETHEUS = Peer("10.42.8.9", "monitoring", {"app.kubernetes.io/name": "prometheus"})
NEIGHBOUR = Peer("10.42.8.7", NS, {"app.kubernetes.io/name": "somebody-else"})
OPERATOR = Peer("10.42.8.6", "keda", {"app": "keda-operator"})
INTERNET = Peer("203.0.113.9")
API_SERVER = Peer("192.168.7.1")
INTRANET = Peer("192.168.7.7")
METADATA = Peer("169.254.169.254")

HERE = [each for each in SITUATIONS if each.name != "no policies, budgets, accounts and tests"]
OWN_REDIS = [each for each in HERE if "external" not in each.name and "sentinel" not in each.name]
FAR_REDIS = [each for each in HERE if each not in OWN_REDIS]


class Release:
    """The pods of a release, by component, and what they may do."""

    def __init__(self, objects: list[Object]) -> None:
        self.objects = objects
        self.peers: dict[str, list[Peer]] = {}
        for pod in pod_templates(objects):
            component = pod.labels["app.kubernetes.io/component"]
            self.peers.setdefault(component, []).append(pod_peer(pod, NS))

    def may(self, source: Peer, target: Peer, port: int, protocol: str = "TCP") -> bool:
        return allowed(self.objects, NS, Flow(source, target, port, protocol))

    def all(self, *components: str) -> list[Peer]:
        return [peer for name in components for peer in self.peers.get(name, [])]


@pytest.fixture
def release(helm4: Helm, situation: Situation) -> Release:
    return Release(situation.render(helm4, namespace=NS))


@each_situation(HERE)
def test_clients_reach_the_web_pods(release: Release) -> None:
    for web in release.all("web"):
        assert release.may(CONTROLLER, web, 8000)
        assert release.may(NEIGHBOUR, web, 8000)
        assert all(release.may(test, web, 8000) for test in release.all("test"))


@each_situation(HERE)
def test_from_outside_the_web_port_is_reached_and_nothing_else(release: Release) -> None:
    # Node ports, load balancers and controllers on the host's network are no pods.
    assert all(release.may(INTERNET, web, 8000) for web in release.all("web"))
    for pod in release.all("web", "model", "autoscaler", "redis", "test", "loadtest"):
        assert not any(release.may(INTERNET, pod, port) for port in (9100, 9090, 6379))
    for pod in release.all("model", "autoscaler", "redis", "test", "loadtest"):
        assert not release.may(INTERNET, pod, 8000)


def test_the_web_port_can_be_kept_to_the_pods_of_the_cluster(helm4: Helm) -> None:
    values: dict[str, Any] = {"networkPolicy": {"web": {"from": [{"namespaceSelector": {}}]}}}
    release = Release(helm4.render(values, namespace=NS))

    for web in release.all("web"):
        assert release.may(NEIGHBOUR, web, 8000)
        assert not release.may(INTERNET, web, 8000)


GRPC = [each for each in HERE if each.name in ("gRPC", "all-on")]


@each_situation(GRPC)
def test_clients_reach_grpc_and_prometheus_its_metrics(release: Release) -> None:
    for web in release.all("web"):
        assert all(release.may(source, web, 8002) for source in (INTERNET, NEIGHBOUR, CONTROLLER))
        assert release.may(PROMETHEUS, web, 9100)


def test_without_grpc_its_ports_are_closed(helm4: Helm) -> None:
    release = Release(helm4.render(namespace=NS))

    for web in release.all("web"):
        assert not any(release.may(PROMETHEUS, web, port) for port in (8002, 9100))


@each_situation(HERE)
def test_prometheus_reads_every_metric(release: Release) -> None:
    assert all(release.may(PROMETHEUS, web, 8000) for web in release.all("web"))
    assert all(release.may(PROMETHEUS, model, 9100) for model in release.all("model"))
    assert all(release.may(PROMETHEUS, pod, 9090) for pod in release.all("autoscaler"))


@each_situation(OWN_REDIS)
def test_only_the_programs_that_use_redis_reach_it(release: Release) -> None:
    (redis,) = release.all("redis")

    for pod in release.all("web", "model", "autoscaler"):
        assert release.may(pod, redis, 6379)
    others = release.all("test", "loadtest")
    for source in [*others, NEIGHBOUR, CONTROLLER, PROMETHEUS, INTERNET]:
        assert not release.may(source, redis, 6379)
    asked_by_keda = {o["spec"]["triggers"][0]["type"] for o in scaled_objects(release)} == {"redis"}
    assert release.may(OPERATOR, redis, 6379) is asked_by_keda


def scaled_objects(release: Release) -> list[Object]:
    return of_kind(release.objects, "ScaledObject")


def test_keda_reaches_the_recommendation(helm4: Helm) -> None:
    how = {"namespace": NS, "api_versions": APIS}
    release = Release(helm4.render(MODES["keda by recommendation"], PASSWORD, **how))
    narrow: dict[str, Any] = {"networkPolicy": {"metrics": {"from": [{"podSelector": {}}]}}}
    narrowed = Release(helm4.render(MODES["keda by recommendation"], narrow, PASSWORD, **how))

    for each in (release, narrowed):
        (pod,) = each.all("autoscaler")
        assert each.may(OPERATOR, pod, 9090)
        assert not each.may(OPERATOR, pod, 8080)
    assert not narrowed.may(PROMETHEUS, pod, 9090)


@pytest.mark.parametrize("port", [443, 6443, 8443])
def test_the_autoscaler_alone_reaches_the_api_of_the_cluster(helm4: Helm, port: int) -> None:
    release = Release(helm4.render(PASSWORD, namespace=NS))

    for pod in release.all("autoscaler"):
        assert release.may(pod, API_SERVER, port)
        assert not release.may(pod, METADATA, 80)
        assert not any(release.may(pod, other, 8000) for other in release.all("web"))
        assert not any(release.may(pod, other, 9100) for other in release.all("model"))
    for pod in release.all("web", "model", "redis", "test"):
        assert not release.may(pod, API_SERVER, port)


@each_situation(HERE)
def test_a_load_test_reaches_the_web_pods_and_nothing_else(release: Release) -> None:
    for pod in release.all("loadtest"):
        assert all(release.may(pod, web, 8000) for web in release.all("web"))
        assert not any(release.may(pod, model, 9100) for model in release.all("model"))
        assert not release.may(pod, INTERNET, 443)
        assert not release.may(pod, METADATA, 80)


def test_a_load_test_gets_in_where_only_some_may_call(helm4: Helm) -> None:
    values: dict[str, Any] = {
        "networkPolicy": {"web": {"from": [{"namespaceSelector": {"matchLabels": {"a": "b"}}}]}},
        "loadtest": {"enabled": True},
    }
    release = Release(helm4.render(values, PASSWORD, namespace=NS))

    for pod in release.all("loadtest"):
        assert all(release.may(pod, web, 8000) for web in release.all("web"))
    assert not any(release.may(NEIGHBOUR, web, 8000) for web in release.all("web"))


@each_situation(OWN_REDIS)
def test_redis_opens_no_connections(release: Release) -> None:
    (redis,) = release.all("redis")

    for target, port in ((DNS, 53), (INTERNET, 443), (NEIGHBOUR, 80), (METADATA, 80)):
        assert not release.may(redis, target, port)
    assert not any(release.may(redis, pod, 8000) for pod in release.all("web"))


@each_situation(FAR_REDIS)
def test_an_external_redis_is_reached(helm4: Helm, situation: Situation) -> None:
    objects = situation.render(helm4)
    release = Release(objects)
    ports = {6380} if "TLS" in situation.name or situation.name.startswith("values") else {6379}
    if "sentinel" in situation.name:
        ports = {6379, 26379, 26380}

    for pod in release.all("web", "model", "autoscaler"):
        for port in ports:
            assert release.may(pod, INTRANET, port)
            assert release.may(pod, INTERNET, port)
        assert not release.may(pod, INTRANET, 5432)


@each_situation(HERE)
def test_pods_that_use_host_names_can_resolve_them(release: Release) -> None:
    for pod in release.all("web", "model", "autoscaler", "test", "loadtest"):
        assert release.may(pod, DNS, 53, "UDP")
        assert release.may(pod, DNS, 53, "TCP")


@each_situation(HERE)
def test_no_pod_calls_what_it_does_not_need(release: Release) -> None:
    for pod in release.all("web", "test"):
        assert not release.may(pod, INTERNET, 443)
        assert not release.may(pod, METADATA, 80)
        assert not any(release.may(pod, model, 9100) for model in release.all("model"))
    for pod in release.all("model"):
        # The API of the cluster, the cloud's metadata, web pods, the house network.
        assert not release.may(pod, INTRANET, 443)
        assert not release.may(pod, METADATA, 443)
        assert not release.may(pod, METADATA, 80)
        assert not any(release.may(pod, web, 8000) for web in release.all("web"))


def weights(helm: Helm, **model: object) -> bool:
    """Whether the pods of a model reach the internet."""
    release = Release(helm.render({"models": {"shapes": model}}, PASSWORD, namespace=NS))
    (pod,) = release.all("model")
    return release.may(pod, INTERNET, 443)


def test_only_models_that_download_their_weights_reach_the_internet(helm4: Helm) -> None:
    assert not weights(helm4)
    assert weights(helm4, network="resnet50")
    assert not weights(helm4, network="resnet50", weights="/weights/resnet50.h5")
    assert not weights(helm4, network="resnet50", weights="random")
    assert weights(helm4, weightsDownload="always")
    assert not weights(
        helm4, network="resnet50", weightsDownload="never", cache={"existingClaim": "weights"}
    )


def test_a_model_that_downloads_gives_no_access_to_another(helm4: Helm) -> None:
    values = {
        "models": {"shapes": {}, "resnet50": {}},
        "defaultModel": "shapes",
        "limits": {"queueBytesLimit": "64Mi"},
    }
    objects = helm4.render(values, PASSWORD, namespace=NS)
    pods = {p.labels["imageserve-model"]: p for p in pod_templates(objects) if "model" in str(p)}
    release = Release(objects)

    assert release.may(pod_peer(pods["resnet50"], NS), INTERNET, 443)
    assert not release.may(pod_peer(pods["shapes"], NS), INTERNET, 443)


FETCHING: dict[str, Any] = {
    "models": {"flowers": {"inputSize": 8, "fetch": {"source": "s3://models/flowers"}}},
    "defaultModel": "shapes",
    "limits": {"queueBytesLimit": "64Mi"},
}


def test_only_pods_that_fetch_their_model_reach_a_store(helm4: Helm) -> None:
    objects = helm4.render(FETCHING, PASSWORD, namespace=NS)
    pods = {p.labels["imageserve-model"]: p for p in pod_templates(objects) if "model" in str(p)}
    release = Release(objects)

    flowers, shapes = (pod_peer(pods[name], NS) for name in ("flowers", "shapes"))
    assert release.may(flowers, INTERNET, 443)
    assert not release.may(flowers, INTERNET, 80)
    assert not release.may(flowers, INTRANET, 443)
    assert not release.may(shapes, INTERNET, 443)
    assert "initContainers" not in pods["shapes"].spec


def test_a_store_inside_the_cluster_can_be_named(helm4: Helm) -> None:
    store = Peer("10.1.2.3", "stores", {"app": "minio"})
    policy = {
        "to": [
            {
                "namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "stores"}},
                "podSelector": {"matchLabels": {"app": "minio"}},
            }
        ],
        "ports": [9000],
    }
    values = {"networkPolicy": {"fetch": policy}}
    release = Release(helm4.render(FETCHING, values, PASSWORD, namespace=NS))

    assert [release.may(pod, store, 9000) for pod in release.all("model")].count(True) == 1
    assert not any(release.may(pod, INTERNET, 443) for pod in release.all("model"))


def test_who_may_call_can_be_narrowed(helm4: Helm) -> None:
    gateways = {"namespaceSelector": {"matchLabels": {"kubernetes.io/metadata.name": "gateways"}}}
    values = {"networkPolicy": {"web": {"from": [gateways]}, "metrics": {"from": [gateways]}}}
    release = Release(helm4.render(values, PASSWORD, namespace=NS))
    (web,), (model,) = release.all("web"), release.all("model")

    assert release.may(CONTROLLER, web, 8000)
    assert not release.may(NEIGHBOUR, web, 8000)
    assert all(release.may(test, web, 8000) for test in release.all("test"))
    assert not release.may(PROMETHEUS, model, 9100)


def test_load_balancers_from_outside_can_be_let_in(helm4: Helm) -> None:
    values = {"networkPolicy": {"web": {"from": [{"ipBlock": {"cidr": "203.0.113.0/24"}}]}}}
    release = Release(helm4.render(values, PASSWORD, namespace=NS))

    assert all(release.may(INTERNET, web, 8000) for web in release.all("web"))


def test_where_the_api_of_the_cluster_is_can_be_narrowed(helm4: Helm) -> None:
    values: dict[str, Any] = {
        "networkPolicy": {
            "kubernetesApi": {"to": [{"ipBlock": {"cidr": "192.168.7.1/32"}}], "ports": [6443]}
        }
    }
    release = Release(helm4.render(values, PASSWORD, namespace=NS))
    (pod,) = release.all("autoscaler")

    assert release.may(pod, API_SERVER, 6443)
    assert not release.may(pod, API_SERVER, 443)
    assert not release.may(pod, INTERNET, 6443)


@pytest.mark.parametrize(
    ("endpoint", "port"),
    [
        ("http://collector.monitoring:4318", 4318),
        ("https://traces.test/v1/traces", 443),
        ("http://traces.test", 80),
        ("http://[2001:db8::1]:4318", 4318),
    ],
)
def test_the_collector_of_traces_is_reached_by_those_that_make_them(
    helm4: Helm, endpoint: str, port: int
) -> None:
    values = {"tracing": {"endpoint": endpoint}}
    release = Release(helm4.render(values, PASSWORD, namespace=NS))

    for pod in release.all("web", "model"):
        assert release.may(pod, INTRANET, port)
        assert not release.may(pod, INTRANET, 4317)
    for pod in release.all("redis", "test"):
        assert not release.may(pod, INTRANET, port)


@pytest.mark.parametrize("name", ["dns", "externalRedis", "weights", "tracing"])
def test_where_pods_may_call_can_be_narrowed(helm4: Helm, name: str) -> None:
    situations: dict[str, Any] = {
        "dns": {},
        "externalRedis": {"redis": {"enabled": False, "external": {"host": "h"}}},
        "weights": {"models": {"shapes": {"network": "resnet50"}}},
        "tracing": {"tracing": {"endpoint": "http://collector:4318"}},
    }
    to = {"networkPolicy": {name: {"to": [{"ipBlock": {"cidr": "198.51.100.0/24"}}]}}}
    port = {"dns": 53, "externalRedis": 6379, "weights": 443, "tracing": 4318}[name]
    password = {} if name == "externalRedis" else PASSWORD
    release = Release(helm4.render(situations[name], to, password, namespace=NS))
    (model,) = release.all("model")

    assert release.may(model, Peer("198.51.100.7"), port)
    assert not release.may(model, INTERNET, port)


def test_other_ports_of_name_servers(helm4: Helm) -> None:
    # OpenShift's listen on 5353.
    values = {"networkPolicy": {"dns": {"ports": [5353]}}}
    release = Release(helm4.render(values, PASSWORD, namespace=NS))

    assert all(release.may(pod, DNS, 5353, "UDP") for pod in release.all("web", "model"))
    assert not any(release.may(pod, DNS, 53, "UDP") for pod in release.all("web", "model"))


def test_the_pods_of_another_release_are_not_let_in(helm4: Helm) -> None:
    one = Release(helm4.render(PASSWORD, release="one", namespace=NS))
    other = Release(helm4.render(PASSWORD, release="other", namespace=NS))
    both = Release([*one.objects, *other.objects])

    for pod in one.all("web", "model"):
        assert all(both.may(pod, redis, 6379) for redis in one.all("redis"))
        assert not any(both.may(pod, redis, 6379) for redis in other.all("redis"))
    assert not any(
        both.may(test, web, 8000) for test in one.all("test") for web in other.all("web")
    )


def test_every_pod_of_the_release_is_behind_a_default_deny(helm4: Helm) -> None:
    objects = helm4.render(PASSWORD, namespace=NS, api_versions=APIS)
    (deny,) = [
        p
        for p in of_kind(objects, "NetworkPolicy")
        if "ingress" not in p["spec"] and "egress" not in p["spec"]
    ]
    release = Release([*[o for o in objects if o["kind"] != "NetworkPolicy"], deny])

    for source in release.all("web", "model", "autoscaler", "redis", "test"):
        assert not any(release.may(source, t, 80) for t in (*release.all("web"), INTERNET))
