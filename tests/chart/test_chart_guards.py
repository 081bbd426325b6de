"""Values that cannot work are refused with a sentence each, and unknown ones by the schema."""

import re
from pathlib import Path
from typing import Any

import pytest
from tests.chart import values_file
from tests.chart.helm import CHART, Helm, HelmError
from tests.chart.situations import PASSWORD
from tests.chart.test_chart_upgrade import installed, refused_upgrade

GUARDS = (CHART / "templates" / "validate.yaml").read_text()


def models(**entries: Any) -> dict[str, Any]:
    """These models instead of the bundled one, few enough bytes for several."""
    return {
        "models": {"shapes": {"enabled": False}, **entries},
        "limits": {"queueBytesLimit": "8Mi"},
    }


def shapes(**values: Any) -> dict[str, Any]:
    return {"models": {"shapes": values}}


def external(**values: Any) -> dict[str, Any]:
    return {"redis": {"enabled": False, "auth": {"password": ""}, "external": values}}


def web(**values: Any) -> dict[str, Any]:
    return {"web": values}


def redis(**values: Any) -> dict[str, Any]:
    return {"redis": values}


def scaling(**values: Any) -> dict[str, Any]:
    return shapes(scaling=values)


def budget(gpus: int, mode: str = "builtin", **gpu_models: Any) -> dict[str, Any]:
    """Models with GPUs that share a budget."""
    given = models(**{name: {**STAND_IN, **each} for name, each in gpu_models.items()})
    return {**given, "defaultModel": "a", "autoscaling": {"mode": mode, "gpuBudget": gpus}}


def autoscaler(**values: Any) -> dict[str, Any]:
    return {"autoscaler": values}


def loadtest(**values: Any) -> dict[str, Any]:
    return {"loadtest": {"enabled": True, **values}}


STAND_IN = {"network": "stand-in"}
HPA = {"autoscaling": {"mode": "hpa"}}
FROM_ZERO = {"minReplicas": 0, "allowColdTimeouts": True}
ENV = [{"name": "TZ", "value": "UTC"}]
TWO_TMP = [{"name": "tmp", "emptyDir": {}}]
OVER_TMP = [{"name": "tmp", "mountPath": "/tmp"}]

REFUSED: list[tuple[dict[str, Any], str]] = [
    (
        {**models(a={**STAND_IN, "queue": "q"}, b={**STAND_IN, "queue": "q"}), "defaultModel": "a"},
        'models.a and models.b have the same queue "q"',
    ),
    (
        {**models(**{"a.b": STAND_IN, "a-b": STAND_IN}), "defaultModel": "a.b"},
        "models.a.b and models.a-b would create objects of the same name",
    ),
    (
        models(a={"network": "/m.onnx", "inputSize": 8}),
        "models.a: a .keras or .onnx file needs labels",
    ),
    (
        models(a={"network": "/models/a", "resize": "pad", "resizeTo": 256}),
        "models.a: resizeTo is for resize: crop and squash: leave it out",
    ),
    (
        models(a={"network": "/models/a", "inputSize": [96, 257], "resizeTo": 256}),
        "models.a: resizeTo is less than a side of inputSize, 257: make it at least as large",
    ),
    (shapes(pad=0), "models.shapes: pad is for resize: pad: choose this, or leave pad out"),
    (
        models(a={"network": "/models/a", "resize": "crop", "pad": 114}),
        "models.a: pad is for resize: pad",
    ),
    (shapes(cropRounding="down"), "models.shapes: cropRounding is for resizeTo"),
    (
        shapes(antialias=False, interpolation="bicubic"),
        "models.shapes: antialias: false is for the interpolations nearest and bilinear",
    ),
    (
        shapes(inputSize=8, fetch={"source": "s3://models/flowers"}),
        "models.shapes: fetch.source takes the place of network: leave network out",
    ),
    (
        models(a={"inputSize": 8, "fetch": {"source": "https://host.test/a.zip"}}),
        "models.a: fetch.source from https:// needs fetch.sha256",
    ),
    (
        models(a={"network": "stand-in", "fetch": {"existingSecret": "s"}}),
        "models.a: fetch needs source",
    ),
    (
        models(
            a={
                "inputSize": 8,
                "fetch": {
                    "source": "hf://owner/name",
                    "extraEnv": [{"name": "LOG_LEVEL", "value": "debug"}],
                },
            }
        ),
        "models.a.fetch.extraEnv: set twice: LOG_LEVEL",
    ),
    (
        shapes(versions={"existingClaim": "c"}),
        "models.shapes: versions.existingClaim needs versions.dir",
    ),
    (models(resnet={}), 'models.resnet: unknown network "resnet"'),
    (models(a={"network": "stand-inn"}), 'models.a: unknown network "stand-inn"'),
    (
        shapes(gpu={"count": 1, "resourceClaims": [{"name": "g", "resourceClaimName": "g"}]}),
        "models.shapes: set gpu.count or gpu.resourceClaims, not both",
    ),
    (
        shapes(resources={"limits": {"nvidia.com/gpu": 1}}),
        "models.shapes: set gpu.count instead of nvidia.com/gpu in resources",
    ),
    (
        shapes(shm={"sizeLimit": "3Gi"}),
        "models.shapes: shm.sizeLimit counts against resources.limits.memory",
    ),
    (
        models(a={"network": "resnet50", "weightsDownload": "never"}),
        "models.a: the weights imagenet must be downloaded, but weightsDownload is never",
    ),
    (
        shapes(extraEnv=[{"name": "BATCH_SIZE", "value": "1"}]),
        "models.shapes.extraEnv: set twice: BATCH_SIZE",
    ),
    (shapes(extraVolumes=TWO_TMP), "models.shapes.extraVolumes: named twice: tmp"),
    (shapes(extraVolumeMounts=OVER_TMP), "models.shapes.extraVolumeMounts: mounted twice: /tmp"),
    (models(), "models: no model is enabled"),
    ({"defaultModel": "other"}, 'defaultModel: no enabled model has the name "other"'),
    (models(a=STAND_IN, b=STAND_IN), "defaultModel: choose one of a, b for"),
    (
        budget(4, a={"gpu": {"count": 1}}, b={"gpu": {"count": 2}, "scaling": {"minReplicas": 2}}),
        "autoscaling.gpuBudget: 4 GPUs are fewer than the 5 of scaling.minReplicas of all models",
    ),
    (
        budget(4, a={"gpu": {"count": 3}}, b={"gpu": {"count": 2}, "scaling": FROM_ZERO}),
        "autoscaling.gpuBudget: 4 GPUs have no room for a pod of models.b (2) beside "
        "scaling.minReplicas of the others (3)",
    ),
    (
        budget(4, a={}),
        "autoscaling.gpuBudget: no model has gpu.count or gpu.resourceClaims",
    ),
    (
        budget(4, a={"gpu": {"count": 1}}, b={"gpu": {"count": 1, "resourceName": "amd.com/gpu"}}),
        "autoscaling.gpuBudget: all models must use GPUs of one kind, not amd.com/gpu and "
        "nvidia.com/gpu",
    ),
    (
        budget(4, "none", a={"gpu": {"count": 1}}),
        "autoscaling.gpuBudget: only the autoscaler knows it: set autoscaling.mode to builtin",
    ),
    (scaling(minReplicas=5), "models.shapes: scaling.minReplicas must not be larger than"),
    (
        scaling(burstWindowSeconds=121),
        "models.shapes: scaling.burstWindowSeconds must not be larger than",
    ),
    (
        scaling(minReplicas=0),
        "limits.requestTimeoutSeconds is 30 and scaling.podStartSeconds 60. Raise the first",
    ),
    (
        {**HPA, **scaling(**FROM_ZERO)},
        "models.shapes: a HorizontalPodAutoscaler scales to zero from Kubernetes 1.37 on",
    ),
    (
        {**HPA, **scaling(deletionCost=True)},
        "models.shapes: scaling.deletionCost needs autoscaling.mode",
    ),
    (
        {"autoscaling": {"mode": "keda"}},
        "autoscaling.mode keda: the cluster does not have keda.sh/",
    ),
    (
        autoscaler(serviceAccount={"create": False}),
        "autoscaler.serviceAccount: create is false and name is empty",
    ),
    (autoscaler(rbac={"create": False}), "autoscaler.rbac.create is false: set autoscaler.s"),
    (
        autoscaler(extraEnv=[{"name": "POD_NAME", "value": "x"}]),
        "autoscaler.extraEnv: set twice: POD_NAME",
    ),
    (autoscaler(extraVolumes=TWO_TMP), "autoscaler.extraVolumes: named twice: tmp"),
    (autoscaler(extraVolumeMounts=OVER_TMP), "autoscaler.extraVolumeMounts: mounted twice: /tmp"),
    (
        autoscaler(image={"tag": "latest"}),
        "image imageserve/autoscaler:latest: latest is not a version",
    ),
    (loadtest(image={"tag": "latest"}), "image imageserve/loadtest:latest: latest is not a"),
    (loadtest(scenario="a", scenarioConfigMap="b"), "loadtest: set scenario or scenarioConfigMap"),
    (
        loadtest(durationSeconds=900),
        "loadtest.timeoutSeconds must be larger than loadtest.durationSeconds",
    ),
    (web(image={"tag": "latest"}), "image imageserve/web:latest: latest is not a version"),
    (shapes(image={"tag": "latest"}), "image imageserve/model:latest: latest is not a version"),
    (redis(image={"tag": "latest"}), "image redis:latest: latest is not a version"),
    (redis(external={"host": "h"}), "redis.external is set, but redis.enabled is true"),
    (redis(maxmemory="513Mi"), "redis.resources.limits.memory must be at least 2 x"),
    (
        redis(resources={"requests": {"memory": None}, "limits": {"memory": None}}),
        "redis: set maxmemory, or resources.requests.memory, of which it is half",
    ),
    (redis(persistence={"size": "1023Mi"}), "redis.persistence.size must be at least 2 x"),
    (redis(auth={"existingSecret": "s"}), "redis.auth: set password or existingSecret, not both"),
    (
        {"manifests": True, **redis(auth={"password": ""})},
        "manifests: set redis.auth.existingSecret or redis.auth.password",
    ),
    (redis(extraConfig=["maxmemory 1"]), "redis.extraConfig: the chart sets maxmemory itself"),
    (
        redis(extraConfig=["maxmemory-policy   allkeys-lru"]),
        "redis.extraConfig: the chart sets maxmemory-policy itself",
    ),
    (
        redis(extraEnv=[{"name": "REDISCLI_AUTH", "value": "x"}]),
        "redis.extraEnv: set twice: REDISCLI_AUTH",
    ),
    (
        redis(extraVolumes=[{"name": "data", "emptyDir": {}}]),
        "redis.extraVolumes: named twice: data",
    ),
    (
        redis(extraVolumeMounts=[{"name": "x", "mountPath": "/data"}]),
        "redis.extraVolumeMounts: mounted twice: /data",
    ),
    (
        external(host="h", sentinel={"enabled": True, "nodes": ["s:1"], "masterName": "m"}),
        "redis.external: set only one of host, sentinel and cluster",
    ),
    (
        external(sentinel={"enabled": True, "nodes": ["s:1"]}),
        "redis.external.sentinel needs nodes and masterName",
    ),
    (
        external(sentinel={"enabled": True, "masterName": "m"}),
        "redis.external.sentinel needs nodes and masterName",
    ),
    (
        external(host="h", cluster={"enabled": True, "nodes": ["n:1"]}),
        "redis.external: set only one of host, sentinel and cluster",
    ),
    (external(cluster={"enabled": True}), "redis.external.cluster needs nodes"),
    (
        external(database=1, cluster={"enabled": True, "nodes": ["n:1"]}),
        "redis.external.database must be 0",
    ),
    (external(), "redis.enabled is false: set host, sentinel or cluster"),
    (
        external(host="h", username="u"),
        "redis.external.username needs the password in redis.external.existingSecret",
    ),
    (
        {"limits": {"queueBytesLimit": "308Mi"}},
        "limits.queueBytesLimit x 1 models is 322961408 bytes, more than 0.6 x redis.maxmemory "
        "(not set, so half of redis.resources.requests.memory)",
    ),
    (
        {"limits": {"queueBytesLimit": "308Mi"}, **redis(maxmemory="512Mi")},
        "more than 0.6 x redis.maxmemory, which is",
    ),
    (
        external(host="h", maxmemory="400Mi"),
        "bytes, more than 0.6 x redis.external.maxmemory, which is 251658240",
    ),
    ({"limits": {"maxImageBytes": "33Mi"}}, "limits.maxImageBytes must not be larger than"),
    ({"limits": {"maxBodyBytes": "129Mi"}}, "limits.maxBodyBytes must not be larger than"),
    (web(processes=3), "web.resources.limits.memory must be at least"),
    (
        web(autoscaling={"enabled": True, "minReplicas": 9}),
        "web.autoscaling.minReplicas must not be larger than maxReplicas",
    ),
    (
        web(autoscaling={"enabled": True}, resources={"requests": {"cpu": None}}),
        "web.autoscaling needs web.resources.requests.cpu",
    ),
    (
        web(grpc={"enabled": True, "resources": {"limits": {"memory": "1000Mi"}}}),
        "web.grpc.resources.limits.memory must be at least 1024 Mi",
    ),
    (web(grpc={"enabled": True, "port": 80}), "web.grpc.port must be another port"),
    (
        web(grpc={"enabled": True, "nodePort": 30081}),
        "web.grpc.nodePort needs web.service.type NodePort or LoadBalancer",
    ),
    (
        web(
            grpc={"enabled": True, "resources": {"requests": {"cpu": None}}},
            autoscaling={"enabled": True},
        ),
        "web.autoscaling needs web.grpc.resources.requests.cpu",
    ),
    (web(service={"nodePort": 30080}), "web.service.nodePort needs a Service of type NodePort"),
    (
        web(service={"extraSpec": {"selector": {}}}),
        "web.service.extraSpec: the chart sets selector itself",
    ),
    (web(extraEnv=[{"name": "WEB_PORT", "value": "1"}]), "web.extraEnv: set twice: WEB_PORT"),
    (web(extraEnv=[*ENV, *ENV]), "web.extraEnv: set twice: TZ"),
    (web(extraVolumes=TWO_TMP), "web.extraVolumes: named twice: tmp"),
    (web(extraVolumeMounts=OVER_TMP), "web.extraVolumeMounts: mounted twice: /tmp"),
    (
        {"apiKeys": {"enabled": True}},
        "apiKeys.enabled needs apiKeys.existingSecret or apiKeys.keys",
    ),
    (
        {"apiKeys": {"enabled": True, "existingSecret": "s", "keys": ["sixteen-or-longer"]}},
        "apiKeys: set existingSecret or keys, not both",
    ),
    ({"apiKeys": {"existingSecret": "s"}}, "apiKeys: keys are set, but apiKeys.enabled is false"),
    ({"apiKeys": {"keys": ["sixteen-or-longer"]}}, "keys are set, but apiKeys.enabled is false"),
    ({"httpRoute": {"enabled": True}, "checkApis": False}, "httpRoute.enabled needs"),
    (
        {"grpcRoute": {"enabled": True}, "web": {"grpc": {"enabled": True}}, "checkApis": False},
        "grpcRoute.enabled needs grpcRoute.parentRefs",
    ),
    (
        {"grpcRoute": {"enabled": True, "parentRefs": [{"name": "g"}]}, "checkApis": False},
        "grpcRoute.enabled needs web.grpc.enabled",
    ),
    *(
        (
            {
                "httpRoute": {"enabled": True, "parentRefs": [{"name": "g", **listener}], **http},
                "grpcRoute": {"enabled": True, "parentRefs": [{"name": "g"}], **grpc},
                "web": {"grpc": {"enabled": True}},
                "checkApis": False,
            },
            "a listener accepts only one of two routes with a host name in common",
        )
        for listener, http, grpc in (
            ({}, {}, {}),
            ({"sectionName": "https"}, {"hostnames": ["a.test"]}, {}),
            ({}, {"hostnames": ["a.test", "b.test"]}, {"hostnames": ["b.test"]}),
        )
    ),
    *(
        (
            {kind: {"enabled": True, **more}, "web": {"grpc": {"enabled": True}}},
            f"{kind}.enabled: the cluster does not have {api}",
        )
        for kind, api, more in (
            ("httpRoute", "gateway.networking.k8s.io/v1", {"parentRefs": [{"name": "g"}]}),
            (
                "grpcRoute",
                "gateway.networking.k8s.io/v1/GRPCRoute",
                {"parentRefs": [{"name": "g"}]},
            ),
            ("serviceMonitor", "monitoring.coreos.com/v1", {}),
            ("podMonitor", "monitoring.coreos.com/v1", {}),
            ("prometheusRule", "monitoring.coreos.com/v1", {}),
        )
    ),
    *(
        (values, f"{where}: the chart sets the label app.kubernetes.io/name itself")
        for values, where in (
            ({"commonLabels": {"app.kubernetes.io/name": "x"}}, "commonLabels"),
            (web(podLabels={"app.kubernetes.io/name": "x"}), "web.podLabels"),
            (web(service={"labels": {"app.kubernetes.io/name": "x"}}), "web.service.labels"),
            (redis(podLabels={"app.kubernetes.io/name": "x"}), "redis.podLabels"),
            (autoscaler(podLabels={"app.kubernetes.io/name": "x"}), "autoscaler.podLabels"),
            (loadtest(podLabels={"app.kubernetes.io/name": "x"}), "loadtest.podLabels"),
            (shapes(podLabels={"app.kubernetes.io/name": "x"}), "models.shapes.podLabels"),
        )
    ),
]


def refusal(helm: Helm, values: dict[str, Any], release: str = "imageserve") -> str:
    with pytest.raises(HelmError) as refused:
        helm.render(PASSWORD, values, release=release)
    return str(refused.value)


def test_a_release_that_names_no_service_is_refused(helm4: Helm) -> None:
    # Helm takes "7up"; a Service of Kubernetes older than 1.36 does not.
    assert "- the name of a Service must begin with a letter" in refusal(helm4, {}, "7up")
    assert helm4.render(PASSWORD, {"fullnameOverride": "up"}, release="7up")


@pytest.mark.parametrize(("values", "said"), REFUSED, ids=[said for _, said in REFUSED])
def test_values_that_cannot_work_are_refused(helm4: Helm, values: Any, said: str) -> None:
    text = refusal(helm4, values)

    problems = re.findall(r"^- (.*)", text, re.MULTILINE)
    assert any(said in each for each in problems), text
    assert len(problems) == 1, "each row shows one guard"


def test_helm_3_refuses_with_the_same_sentence(helm: Helm) -> None:
    assert "- models: no model is enabled" in refusal(helm, models())


def test_an_hpa_may_go_to_zero_where_kubernetes_can(helm: Helm) -> None:
    values = {**HPA, **scaling(**FROM_ZERO)}

    assert helm.render(PASSWORD, values, kube_version="v1.37.1-eks-1")
    with pytest.raises(HelmError, match=r"from Kubernetes 1\.37 on"):
        helm.render(PASSWORD, values, kube_version="v1.36.9-eks-1")


def test_all_problems_are_reported_at_once(helm4: Helm) -> None:
    text = refusal(helm4, {**models(), **web(image={"tag": "latest"})})

    assert "models: no model" in text
    assert "image imageserve/web:latest" in text


def sentences() -> list[str]:
    """Return the sentences of validate.yaml, as regular expressions."""
    found = re.findall(r'append \$problems \(?(?:printf )?"((?:[^"\\]|\\.)*)"', GUARDS)
    return [re.sub(r"%(\\\.0)?[a-z]", ".*", re.escape(each)) for each in found]


def sentence_of(problem: str) -> str:
    """Return the sentence that a problem was written from: the longest of those that fit."""
    fitting = [each for each in sentences() if re.fullmatch(each, problem)]
    return max(fitting, key=len)


def test_every_guard_has_a_row_above_or_looks_into_the_cluster(helm4: Helm, tmp_path: Path) -> None:
    running = installed(helm4.render(PASSWORD, namespace="pictures"), "StatefulSet")
    texts = [refusal(helm4, {}, "7up"), *(refusal(helm4, values) for values, _ in REFUSED)]
    texts.append(refused_upgrade(helm4, tmp_path, [running]))
    problems = [p for text in texts for p in re.findall(r"^- (.*)", text, re.MULTILINE)]

    assert set(sentences()) - {sentence_of(each) for each in problems} == set()


def test_all_guards_are_in_one_file() -> None:
    assert len(sentences()) == GUARDS.count("append $problems")
    refusing = re.compile(r"\{\{-?\s*fail\b|\(fail\b|\|\s*fail\b|\brequired \"")
    found = {name for name, text in values_file.templates().items() if refusing.search(text)}
    # And one where numbers and sizes are read: a missing value has no name there.
    assert found == {"templates/validate.yaml", "templates/_values.tpl"}


ACCEPTED: list[Any] = [
    pytest.param(redis(maxmemory="512Mi"), id="memory just enough"),
    pytest.param({"limits": {"queueBytesLimit": "307Mi"}}, id="queues just small enough"),
    pytest.param(redis(persistence={"size": "1Gi"}), id="a volume just large enough"),
    pytest.param(redis(resources={"limits": {"memory": None}}), id="no limit, no check"),
    pytest.param({"limits": {"queueBytesLimit": 1_000_000}}, id="bytes as a number"),
    pytest.param({"global": {"anything": {"goes": True}}}, id="values of a parent chart"),
    pytest.param({"limits": {"maxBodyBytes": "128Mi"}}, id="a body as large as the memory for it"),
    pytest.param(redis(extraConfig=["maxmemory-samples 10"]), id="a setting of a similar name"),
    pytest.param(models(a={"network": "vgg19"}), id="any network of Keras"),
    pytest.param(models(a={"network": "/models/a"}), id="a model folder"),
    pytest.param(models(a={"network": "/m.onnx", "labels": "/l.txt"}), id="a model's file"),
    pytest.param(
        models(a={"network": "/models/a", "pad": 114, "cropRounding": "down", "antialias": False}),
        id="values whose others are in the folder",
    ),
    pytest.param(
        budget(4, a={"gpu": {"count": 2}}, b={"gpu": {"count": 2}, "scaling": FROM_ZERO}),
        id="a budget with room for a pod of each",
    ),
    pytest.param(scaling(minReplicas=4), id="as many pods at least as at most"),
    pytest.param(scaling(minReplicas=0, podStartSeconds=30), id="a start that clients wait for"),
    pytest.param(scaling(**FROM_ZERO), id="a start that clients need not wait for"),
    pytest.param(
        {"autoscaling": {"mode": "hpa", "hpa": {"scaleToZero": True}}, **scaling(**FROM_ZERO)},
        id="a feature gate that is on",
    ),
    pytest.param(
        {"autoscaling": {"mode": "none"}, **scaling(minReplicas=9)},
        id="limits that no program reads",
    ),
    pytest.param(
        {"autoscaling": {"mode": "none"}, **autoscaler(rbac={"create": False})},
        id="an autoscaler that is not rendered",
    ),
    pytest.param(
        loadtest(scenario="own", durationSeconds=900), id="a duration that the scenario replaces"
    ),
]


@pytest.mark.parametrize("values", ACCEPTED)
def test_values_that_just_work_are_accepted(helm: Helm, values: Any) -> None:
    assert helm.render(PASSWORD, values)


# Schema: rules for single values.
UNKNOWN: list[Any] = [
    {"wbe": {}},
    {"web": {"replica": 3}},
    {"web": {"autoscaling": {"min": 3}}},
    {"web": {"service": {"ports": 80}}},
    {"image": {"tag": "1"}},
    {"models": {"shapes": {"batch": 3}}},
    {"models": {"shapes": {"gpu": {"counts": 1}}}},
    {"modelDefaults": {"scaling": {"replica": 1}}},
    {"modelDefaults": {"scaling": {"targetWait": 1}}},
    {"autoscaler": {"interval": 5}},
    {"autoscaling": {"keda": {"triggers": []}}},
    {"autoscaling": {"hpa": {"metrics": []}}},
    {"loadtest": {"seconds": 5}},
    {"redis": {"auth": {"passphrase": "x"}}},
    {"redis": {"external": {"sentinel": {"master": "x"}}}},
    {"redis": {"external": {"tls": {"ca": "x"}}}},
    {"networkPolicy": {"web": {"to": []}}},
    {"serviceMonitor": {"namespace": "x"}},
    {"autoscaling": {"enabled": True}},
    {"tests": {"image": "x"}},
]


def _path_of(values: Any) -> str:
    path = []
    while isinstance(values, dict) and values:
        key, values = next(iter(values.items()))
        path.append(key)
    return ".".join(path)


@pytest.mark.parametrize("values", UNKNOWN, ids=_path_of)
def test_an_unknown_key_is_refused(helm4: Helm, values: Any) -> None:
    assert "additional properties" in refusal(helm4, values)


def test_helm_3_refuses_an_unknown_key_too(helm: Helm) -> None:
    # Each helm has its own words for it.
    assert re.search(r"replica\b", refusal(helm, {"web": {"replica": 3}}))


WRONG: list[Any] = [
    {"web": {"replicas": "two"}},
    {"web": {"replicas": -1}},
    {"web": {"replicas": 1.5}},
    {"web": {"autoscaling": {"enabled": "yes"}}},
    {"web": {"autoscaling": {"targetCPUUtilizationPercentage": 0}}},
    {"web": {"service": {"type": "ExternalName"}}},
    {"web": {"service": {"port": 65_536}}},
    {"web": {"image": {"digest": "sha256:short"}}},
    {"web": {"image": {"repository": ""}}},
    {"image": {"pullPolicy": "Sometimes"}},
    {"log": {"level": "loud"}},
    {"limits": {"queueBytesLimit": "64 megabytes"}},
    {"limits": {"requestTimeoutSeconds": 0}},
    {"limits": {"imageFormats": ["tiff"]}},
    {"limits": {"imageFormats": []}},
    {"models": {"shapes": {"inputSize": [224]}}},
    {"models": {"shapes": {"inputSize": 7}}},
    {"models": {"shapes": {"batchSize": 0}}},
    {"models": {"shapes": {"interpolation": "cubic"}}},
    {"models": {"shapes": {"resize": "stretch"}}},
    {"models": {"shapes": {"resizeTo": 7}}},
    {"models": {"shapes": {"cropRounding": "up"}}},
    {"models": {"shapes": {"antialias": "no"}}},
    {"models": {"shapes": {"pad": 256}}},
    {"models": {"shapes": {"colour": "cmyk"}}},
    {"models": {"shapes": {"layout": "chwn"}}},
    {"models": {"shapes": {"pixelScaling": "0-1"}}},
    {"models": {"shapes": {"pixelScaling": {"mean": "0.5"}}}},
    {"models": {"shapes": {"pixelScaling": {"gamma": 2}}}},
    {"models": {"shapes": {"activation": "relu"}}},
    {"web": {"fastJpeg": "no"}},
    {"web": {"fastResize": "no"}},
    {"models": {"shapes": {"runtime": "tensorrt"}}},
    {"models": {"shapes": {"backend": "numpy"}}},
    {"models": {"shapes": {"precision": "int8"}}},
    {"models": {"shapes": {"versions": {"dir": "relative"}}}},
    {"models": {"shapes": {"queue": "two words"}}},
    {"models": {"shapes": {"gpu": {"count": -1}}}},
    {"models": {"shapes": {"scaling": {"replicas": "1"}}}},
    {"models": {"two words": {}}},
    {"models": []},
    {"autoscaling": {"mode": "sometimes"}},
    {"autoscaling": {"keda": {"source": "prometheus"}}},
    {"autoscaler": {"replicas": 3}},
    {"autoscaler": {"intervalSeconds": 0}},
    {"models": {"shapes": {"scaling": {"maxReplicas": 0}}}},
    {"models": {"shapes": {"scaling": {"targetUtilization": 1.5}}}},
    {"loadtest": {"rate": 0}},
    {"loadtest": {"arrivals": "bursty"}},
    {"loadtest": {"slo": ["fast please"]}},
    {"apiKeys": {"keys": ["short"]}},
    {"apiKeys": {"keys": ["short priority=background"]}},
    {"apiKeys": {"keys": ["sixteen-or-longer priority=high"]}},
    {"apiKeys": {"keys": ["sixteen-or-longer rate=5"]}},
    {"apiKeys": {"keys": ["sixteen-or-longer name=a burst=5"]}},
    {"apiKeys": {"keys": ["sixteen-or-longer name=a/b"]}},
    {"apiKeys": {"keys": ["sixteen-or-longer models=a,,b"]}},
    {"apiKeys": {"keys": ["sixteen-or-longer name=a rate=many"]}},
    {"redis": {"maxmemory": "lots"}},
    {"redis": {"auth": {"password": "short"}}},
    {"redis": {"external": {"port": "6379"}}},
    {"redis": {"external": {"sentinel": {"nodes": ["no-port"]}}}},
    {"networkPolicy": {"dns": {"ports": ["dns"]}}},
    {"serviceMonitor": {"interval": "half a minute"}},
    {"fullnameOverride": "Not_A_Name"},
]


@pytest.mark.parametrize("values", WRONG, ids=lambda v: f"{_path_of(v)}: {_value_of(v)}")
def test_a_value_of_the_wrong_kind_is_refused(helm4: Helm, values: Any) -> None:
    text = refusal(helm4, values)

    assert "specifications of the schema" in text
    # The refusal must be for this value.
    assert f"at '/{next(iter(values))}" in text or "invalid propertyName" in text


def _value_of(values: Any) -> Any:
    while isinstance(values, dict) and values:
        values = next(iter(values.values()))
    return values
