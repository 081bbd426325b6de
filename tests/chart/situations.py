"""Values to render the chart with: the shipped files, and corner cases."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import pytest
from tests.chart.helm import CHART, OLDEST, Helm, Object, Values

#: The kinds of other people's controllers that the chart can render, as a cluster lists them.
APIS = (
    "monitoring.coreos.com/v1",
    "monitoring.coreos.com/v1/ServiceMonitor",
    "monitoring.coreos.com/v1/PodMonitor",
    "monitoring.coreos.com/v1/PrometheusRule",
    "gateway.networking.k8s.io/v1",
    "gateway.networking.k8s.io/v1/HTTPRoute",
    "gateway.networking.k8s.io/v1/GRPCRoute",
    "keda.sh/v1alpha1",
    "keda.sh/v1alpha1/ScaledObject",
    "keda.sh/v1alpha1/TriggerAuthentication",
)
#: Without it each rendering has another random password.
PASSWORD = {"redis": {"auth": {"password": "not-a-real-password"}}}
DIGEST = "sha256:" + "0123456789abcdef" * 4
KEYS = ["a-key-of-sixteen", "another-of-sixteen"]


@dataclass(frozen=True)
class Situation:
    """Values for one release, and the objects that the user created before it."""

    name: str
    values: tuple[Values, ...] = ()
    outside: tuple[str, ...] = ()
    """As in relations.reference_problems."""
    release: str = "imageserve"
    namespace: str = "pictures"
    oldest: str = OLDEST
    """The Kubernetes that it takes."""

    def render(self, helm: Helm, **how: Any) -> list[Object]:
        return helm.render(*self.values, **{**self.how(), **how})

    def text(self, helm: Helm, **how: Any) -> str:
        return helm.text(*self.values, **{**self.how(), **how})

    def how(self) -> dict[str, Any]:
        return {"api_versions": APIS, "kube_version": self.oldest, **self.named()}

    def named(self) -> dict[str, str]:
        return {"release": self.release, "namespace": self.namespace}


ON = {"enabled": True}
ALL_ON: dict[str, Any] = {
    "commonLabels": {"team": "vision"},
    "image": {"registry": "registry.test:5000/team", "pullSecrets": ["registry"]},
    "apiKeys": {"enabled": True, "keys": KEYS},
    "tracing": {"endpoint": "http://collector.monitoring:4318", "share": 0.25},
    "web": {
        "corsOrigins": ["https://app.test", "http://localhost:3000"],
        "grpc": {"enabled": True, "port": 9001},
        "page": ON,
        "autoscaling": {"enabled": True, "behavior": {"scaleDown": {"selectPolicy": "Min"}}},
        "image": {"digest": DIGEST, "pullPolicy": "Always"},
        "service": {
            "annotations": {"a.test/b": "c"},
            "labels": {"exposed": "yes"},
            "extraSpec": {"internalTrafficPolicy": "Cluster"},
        },
        "serviceAccount": {"annotations": {"a.test/role": "web"}},
        "podAnnotations": {"a.test/pod": "web"},
        "podLabels": {"tier": "web"},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    },
    "models": {
        "shapes": {"podLabels": {"tier": "model"}},
        "resnet": {
            "network": "resnet50",
            "weights": "/weights/resnet50.weights.h5",
            "inputSize": [224, 320],
            "resize": "crop",
            "resizeTo": 352,
            "pixelScaling": {"divide": 255, "mean": [0.485, 0.456, 0.406], "std": 0.25},
            "gpu": {"count": 1, "runtimeClassName": "nvidia", "nodeSelector": {"gpu": "yes"}},
            "shm": {"sizeLimit": "256Mi"},
            "cache": {"existingClaim": "weights"},
            "scaling": {"minReplicas": 0, "podStartSeconds": 20, "deletionCost": True},
            "image": {"repository": "other/model", "tag": "1.2.3"},
        },
        "flowers": {
            "inputSize": 224,
            "fetch": {
                "source": "s3://models/flowers/2026-02",
                "existingSecret": "store",
                "extraEnv": [{"name": "AWS_ENDPOINT_URL", "value": "https://store.test"}],
            },
        },
    },
    "defaultModel": "shapes",
    "autoscaling": {"gpuBudget": 8},
    "autoscaler": {
        "replicas": 2,
        "image": {"digest": DIGEST},
        "serviceAccount": {"annotations": {"a.test/role": "autoscaler"}},
        "podAnnotations": {"a.test/pod": "autoscaler"},
        "podLabels": {"tier": "autoscaler"},
        "nodeSelector": {"kubernetes.io/arch": "amd64"},
        "tolerations": [{"key": "a", "operator": "Exists"}],
        "affinity": {"nodeAffinity": {}},
        "priorityClassName": "high",
        "extraEnv": [{"name": "TZ", "value": "UTC"}],
        "extraVolumes": [{"name": "more", "emptyDir": {}}],
        "extraVolumeMounts": [{"name": "more", "mountPath": "/more"}],
    },
    "loadtest": {
        "enabled": True,
        "parallelism": 3,
        "image": {"digest": DIGEST},
        "podAnnotations": {"a.test/pod": "loadtest"},
        "podLabels": {"tier": "loadtest"},
    },
    "redis": {
        "persistence": {"enabled": True, "storageClassName": "fast", "keep": True},
        "podDisruptionBudget": ON,
        "maxmemory": "2Gi",
        "resources": {"limits": {"memory": "4Gi"}},
        "extraConfig": ["slowlog-max-len 256"],
    },
    "ingress": {
        "enabled": True,
        "className": "own",
        "annotations": {"a.test/size": "32m"},
        "hosts": ["pictures.test"],
        "tls": [{"hosts": ["pictures.test"], "secretName": "pictures-tls"}],
    },
    "httpRoute": {
        "enabled": True,
        "parentRefs": [{"name": "gateway", "namespace": "gateways", "sectionName": "https"}],
        "hostnames": ["pictures.test"],
        "filters": [
            {
                "type": "ResponseHeaderModifier",
                "responseHeaderModifier": {"set": [{"name": "X-A", "value": "b"}]},
            }
        ],
    },
    "grpcRoute": {
        "enabled": True,
        "parentRefs": [{"name": "gateway", "namespace": "gateways", "sectionName": "https"}],
        "hostnames": ["grpc.pictures.test"],
        "filters": [
            {
                "type": "ResponseHeaderModifier",
                "responseHeaderModifier": {"set": [{"name": "X-A", "value": "b"}]},
            }
        ],
    },
    "serviceMonitor": {"enabled": True, "interval": "30s", "labels": {"release": "prometheus"}},
    "podMonitor": {"enabled": True, "interval": "30s", "labels": {"release": "prometheus"}},
    "prometheusRule": {"enabled": True, "alertLabels": {"team": "vision"}},
    "grafanaDashboard": {"enabled": True, "annotations": {"folder": "imageserve"}},
}
MONITORS = dict.fromkeys(("serviceMonitor", "podMonitor", "prometheusRule"), ON)


def keda(**values: Any) -> dict[str, Any]:
    return {"autoscaling": {"mode": "keda", "keda": values}}


MODES: dict[str, Any] = {
    "builtin": {"autoscaling": {"mode": "builtin"}},
    "keda": keda(),
    "keda by recommendation": keda(source="recommendation"),
    "hpa": {"autoscaling": {"mode": "hpa"}},
    "none": {"autoscaling": {"mode": "none"}},
}


def external_redis(**external: Any) -> dict[str, Any]:
    return {"redis": {"enabled": False, "external": {"host": "redis.data.test", **external}}}


def shapes(**values: Any) -> dict[str, Any]:
    return {"models": {"shapes": values}}


PULLED = {
    "global": {"imageRegistry": "mirror.test", "imagePullSecrets": ["mirror"], "other": {"a": 1}}
}
SHIPPED = tuple(
    Situation(
        path.stem,
        (path, *(() if "external" in path.stem else (PASSWORD,))),
    )
    for path in sorted(CHART.glob("values-*.yaml"))
)
DEFAULT = Situation("default", (PASSWORD,))
EVERYTHING = Situation(
    "all-on",
    (ALL_ON, PASSWORD),
    outside=("Secret/pictures-tls", "Secret/store", "PersistentVolumeClaim/weights"),
)
KEDA = Situation("keda", (MODES["keda"], PASSWORD))
SITUATIONS = (
    DEFAULT,
    *SHIPPED,
    EVERYTHING,
    KEDA,
    Situation("keda by recommendation", (MODES["keda by recommendation"], PASSWORD)),
    Situation("hpa", (MODES["hpa"], PASSWORD)),
    Situation("a fixed number of model pods", (MODES["none"], PASSWORD)),
    Situation(
        "an autoscaler that only says what it would do",
        ({"autoscaler": {"dryRun": True}}, PASSWORD),
    ),
    Situation(
        "models that sleep",
        (
            {"modelDefaults": {"scaling": {"minReplicas": 0, "allowColdTimeouts": True}}},
            {"prometheusRule": ON},
            PASSWORD,
        ),
    ),
    Situation(
        "rights given outside the chart",
        (
            {
                "autoscaler": {
                    "rbac": {"create": False},
                    "serviceAccount": {"create": False, "name": "a"},
                }
            },
            PASSWORD,
        ),
        outside=("ServiceAccount/a",),
    ),
    Situation(
        "keda with an external redis, TLS, own CA and an ACL user",
        (
            MODES["keda"],
            external_redis(
                port=6380,
                database=3,
                username="imageserve",
                existingSecret="redis",
                tls={"enabled": True, "caSecret": "ca", "caKey": "own.crt"},
            ),
        ),
        outside=("Secret/redis:redis-password", "Secret/ca", "Secret/ca:own.crt"),
    ),
    Situation("keda with an external redis, open to all", (MODES["keda"], external_redis())),
    Situation(
        "keda with sentinels",
        (
            MODES["keda"],
            external_redis(
                host="",
                existingSecret="redis",
                sentinel={
                    "enabled": True,
                    "nodes": ["s1.test:26379", "s2.test:26380"],
                    "masterName": "mymaster",
                    "existingSecret": "sentinel",
                },
            ),
        ),
        outside=("Secret/redis:redis-password", "Secret/sentinel:sentinel-password"),
    ),
    Situation(
        "keda with an external cluster",
        (
            MODES["keda"],
            external_redis(
                host="",
                existingSecret="redis",
                cluster={"enabled": True, "nodes": ["n1.test:6379"]},
            ),
        ),
        outside=("Secret/redis:redis-password",),
    ),
    Situation(
        "a load test of a scenario, with API keys in a Secret",
        (
            {
                "loadtest": {"enabled": True, "scenarioConfigMap": "own"},
                "apiKeys": {"enabled": True, "existingSecret": "keys"},
            },
            PASSWORD,
        ),
        outside=("Secret/keys", "Secret/keys:keys", "ConfigMap/own", "ConfigMap/own:scenario.yaml"),
    ),
    Situation("random password"),
    Situation(
        "redis password in a Secret",
        ({"redis": {"auth": {"existingSecret": "own", "secretKey": "pw"}}},),
        outside=("Secret/own:pw",),
    ),
    Situation("redis on a volume", ({"redis": {"persistence": ON}}, PASSWORD)),
    Situation(
        "redis on a claim",
        ({"redis": {"persistence": {"enabled": True, "existingClaim": "c"}}}, PASSWORD),
        outside=("PersistentVolumeClaim/c",),
    ),
    Situation(
        "valkey",
        ({"redis": {"image": {"repository": "valkey/valkey", "tag": "8.1.4"}}}, PASSWORD),
    ),
    Situation("external redis", (external_redis(),)),
    Situation(
        "external redis with TLS, own CA and an ACL user",
        (
            external_redis(
                port=6380,
                database=3,
                username="imageserve",
                existingSecret="redis",
                maxmemory="2Gi",
                tls={"enabled": True, "caSecret": "ca", "caKey": "own.crt"},
            ),
        ),
        outside=("Secret/redis:redis-password", "Secret/ca", "Secret/ca:own.crt"),
    ),
    Situation(
        "sentinels with passwords",
        (
            external_redis(
                host="",
                existingSecret="redis",
                sentinel={
                    "enabled": True,
                    "nodes": ["s1.test:26379", "s2.test:26380"],
                    "masterName": "mymaster",
                    "existingSecret": "sentinel",
                },
            ),
        ),
        outside=("Secret/redis:redis-password", "Secret/sentinel:sentinel-password"),
    ),
    Situation(
        "external cluster",
        (
            external_redis(
                host="",
                existingSecret="redis",
                tls={"enabled": True},
                cluster={"enabled": True, "nodes": ["n1.test:6379", "n2.test:6380"]},
            ),
        ),
        outside=("Secret/redis:redis-password",),
    ),
    Situation(
        "several models",
        (
            {
                "models": {
                    "shapes": {"enabled": False},
                    "Cats_and.Dogs": {
                        "network": "/models/cats.keras",
                        "labels": "/models/cats.txt",
                        "inputSize": 160,
                    },
                    "mobilenet_v2": {"queue": "fast", "weights": "random"},
                    "probe": {"network": "stand-in", "scaling": {"maxReplicas": 3}},
                },
                "defaultModel": "mobilenet_v2",
                "limits": {"queueBytesLimit": "64Mi"},
            },
            PASSWORD,
        ),
    ),
    Situation(
        "a model in versions, on another engine",
        (
            shapes(
                runtime="onnx",
                threads=2,
                versions={"dir": "/versions", "existingClaim": "versions"},
            ),
            {"modelDefaults": {"precision": "bfloat16", "xla": True}},
            PASSWORD,
        ),
        outside=("PersistentVolumeClaim/versions",),
    ),
    Situation(
        "a model that is fetched into versions",
        (
            {
                "models": {
                    "shapes": {"enabled": False},
                    "flowers": {
                        "inputSize": 224,
                        "versions": {"dir": "/models/", "existingClaim": "versions"},
                        "fetch": {
                            "source": "https://models.test/flowers.tar.gz",
                            "sha256": DIGEST.removeprefix("sha256:"),
                            "version": "2026-02",
                            "extraEnv": [{"name": "SSL_CERT_FILE", "value": "/ca/ca.crt"}],
                        },
                        "extraVolumes": [{"name": "ca", "secret": {"secretName": "ca"}}],
                        "extraVolumeMounts": [{"name": "ca", "mountPath": "/ca"}],
                    },
                }
            },
            PASSWORD,
        ),
        outside=("PersistentVolumeClaim/versions", "Secret/ca"),
    ),
    Situation(
        "a model in an image",
        (
            {
                "models": {
                    "shapes": {"enabled": False},
                    "flowers": {
                        "network": "/models/flowers",
                        "inputSize": 224,
                        "extraVolumes": [
                            {
                                "name": "flowers",
                                "image": {"reference": f"registry.test/flowers@{DIGEST}"},
                            }
                        ],
                        "extraVolumeMounts": [
                            {"name": "flowers", "mountPath": "/models/flowers", "readOnly": True}
                        ],
                    },
                }
            },
            PASSWORD,
        ),
        oldest="1.35.0",
    ),
    Situation(
        "a slice of a GPU",
        (
            shapes(gpu={"count": 1, "resourceName": "nvidia.com/mig-1g.5gb"}, strategy={}),
            PASSWORD,
        ),
    ),
    Situation(
        "a shared GPU",
        (
            shapes(
                gpu={
                    "count": 1,
                    "resourceName": "nvidia.com/gpu.shared",
                    "allowGrowth": True,
                    "tolerations": [],
                },
                scaling={"minReplicas": 4},
                shm={"sizeLimit": "1Gi"},
            ),
            PASSWORD,
        ),
    ),
    Situation(
        "a GPU by resource claim",
        (
            shapes(
                gpu={
                    "resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "one-gpu"}],
                }
            ),
            PASSWORD,
        ),
        oldest="1.31.0",
    ),
    Situation("api keys", ({"apiKeys": {"enabled": True, "keys": KEYS}}, PASSWORD)),
    Situation(
        "api keys in a Secret",
        ({"apiKeys": {"enabled": True, "existingSecret": "keys"}}, PASSWORD),
        outside=("Secret/keys", "Secret/keys:keys"),
    ),
    Situation(
        "ingress and route for any host",
        (
            {
                "ingress": ON,
                "httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}], "timeouts": False},
            },
            PASSWORD,
        ),
    ),
    Situation("monitors", (MONITORS, PASSWORD)),
    Situation("web autoscaling", ({"web": {"autoscaling": ON}}, PASSWORD)),
    Situation("gRPC", ({"web": {"grpc": ON, "autoscaling": ON}, **MONITORS}, PASSWORD)),
    Situation(
        "a port on the nodes",
        ({"web": {"service": {"type": "NodePort", "nodePort": 30080}}}, PASSWORD),
    ),
    Situation("images from a mirror", (PULLED, PASSWORD)),
    Situation(
        "no policies, budgets, accounts and tests",
        (
            {
                "networkPolicy": {"enabled": False},
                "tests": {"enabled": False},
                "web": {
                    "podDisruptionBudget": {"enabled": False},
                    "serviceAccount": {"create": False},
                },
                "modelDefaults": {
                    "podDisruptionBudget": {"enabled": False},
                    "serviceAccount": {"create": False, "name": "models"},
                },
                "autoscaler": {
                    "podDisruptionBudget": {"enabled": False},
                    "serviceAccount": {"create": False, "name": "scaler"},
                },
                "redis": {"serviceAccount": {"create": False}},
            },
            PASSWORD,
        ),
        outside=("ServiceAccount/models", "ServiceAccount/default", "ServiceAccount/scaler"),
    ),
    Situation(
        "a release and a namespace that look like numbers",
        ({"fullnameOverride": "pictures", **MONITORS}, PASSWORD),
        release="1234",
        namespace="5678",
    ),
    Situation(
        "fractions of seconds",
        (
            {
                "limits": {"requestTimeoutSeconds": 2.5, "uploadTimeoutSeconds": 0.75},
                "web": {"drainSeconds": 1.5},
                "modelDefaults": {"shutdownSeconds": 1.5, "leaseSeconds": 0.5},
                "httpRoute": {"enabled": True, "parentRefs": [{"name": "g"}]},
                "prometheusRule": ON,
            },
            PASSWORD,
        ),
    ),
    Situation(
        "wildcard hosts",
        (
            {
                "ingress": {"enabled": True, "hosts": ["*.pictures.test", "pictures.test"]},
                "httpRoute": {
                    "enabled": True,
                    "parentRefs": [{"name": "g"}],
                    "hostnames": ["*.pictures.test"],
                },
            },
            PASSWORD,
        ),
    ),
    Situation(
        "values that YAML reads otherwise",
        (
            {
                "commonLabels": {"a": "yes", "b": "1", "c": "1e3", "d": ""},
                "redis": {
                    "image": {"tag": "7.10"},
                    "extraConfig": ['client-output-buffer-limit pubsub 32mb 8mb 60 # "x": y'],
                },
                "modelDefaults": {
                    "labels": "yes",
                    "nodeSelector": {"gpu": "true"},
                    "extraEnv": [{"name": "TZ", "value": "1"}],
                },
                "web": {
                    "image": {"tag": "20260101"},
                    "podAnnotations": {"a.test/x": "null", "a.test/y": "a: b # c"},
                },
            },
            PASSWORD,
        ),
    ),
    Situation("manifests", ({"manifests": True}, PASSWORD)),
    Situation(
        "long names",
        (
            {
                "models": {
                    "shapes": {"enabled": False},
                    "m" * 63: {"network": "stand-in"},
                    "m" * 62 + "n": {"network": "stand-in"},
                },
                "defaultModel": "m" * 63,
                "limits": {"queueBytesLimit": "64Mi"},
                **MONITORS,
            },
            PASSWORD,
        ),
        release="r" * 53,
    ),
)


def each_situation(situations: Iterable[Situation] = SITUATIONS) -> pytest.MarkDecorator:
    """Run a test once per situation."""
    return pytest.mark.parametrize(
        "situation", list(situations), ids=lambda situation: situation.name
    )
