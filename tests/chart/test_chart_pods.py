"""The pods: security, resources, grace periods, probes, rollouts."""

import re
from typing import Any

import pytest
from tests.chart.helm import ROOT, Helm, Object
from tests.chart.objects import PodTemplate, of_kind, pod_templates, selects, walk
from tests.chart.pod_security import violations
from tests.chart.situations import (
    DIGEST,
    EVERYTHING,
    PASSWORD,
    SITUATIONS,
    Situation,
    each_situation,
)
from tests.chart.test_chart_settings import programs

from imageserve import __version__
from imageserve.config.settings import Settings

PACKAGE = ROOT / "src" / "imageserve"


@each_situation()
def test_pod_security_restricted_lets_every_pod_run(helm4: Helm, situation: Situation) -> None:
    pods = pod_templates(situation.render(helm4))

    assert {str(pod): violations(pod.spec) for pod in pods} == {str(pod): [] for pod in pods}


@each_situation()
def test_no_pod_has_more_than_it_needs(helm4: Helm, situation: Situation) -> None:
    for pod in pod_templates(situation.render(helm4)):
        calls_the_api = pod.labels["app.kubernetes.io/component"] == "autoscaler"
        assert pod.spec["automountServiceAccountToken"] is calls_the_api, pod
        # A Service called "web" would set WEB_PORT=tcp://…, which is one of our settings.
        assert pod.spec["enableServiceLinks"] is False, pod
        for container in pod.containers:
            assert container["securityContext"]["readOnlyRootFilesystem"] is True, pod


@each_situation()
def test_every_container_has_requests_and_a_memory_limit(helm4: Helm, situation: Situation) -> None:
    for pod in pod_templates(situation.render(helm4)):
        for container in pod.containers:
            resources = container["resources"]
            assert {"cpu", "memory"} <= resources["requests"].keys(), pod
            assert "memory" in resources["limits"], pod


@each_situation()
def test_space_on_the_node_and_in_memory_is_limited(helm4: Helm, situation: Situation) -> None:
    for pod in pod_templates(situation.render(helm4)):
        ours = [v for v in pod.spec.get("volumes", []) if v["name"] != "more"]
        assert all("sizeLimit" in v["emptyDir"] for v in ours if "emptyDir" in v), pod


IMAGE = re.compile(r"([\w.-]+(:\d+)?/)*[\w.-]+(:(?!latest$)[\w.-]+|@sha256:[0-9a-f]{64})")


@each_situation()
def test_every_image_has_a_tag_or_a_digest(helm4: Helm, situation: Situation) -> None:
    for pod in pod_templates(situation.render(helm4)):
        for container in pod.containers:
            assert IMAGE.fullmatch(container["image"]), container["image"]
            assert container["imagePullPolicy"] in ("Always", "IfNotPresent", "Never")


def images(objects: list[Object]) -> dict[str, str]:
    pods = [pod for pod in pod_templates(objects) if pod.serves]
    return {c["name"]: c["image"] for pod in pods for c in pod.containers}


REGISTRIES: list[Any] = [
    pytest.param(
        {},
        [f"imageserve/web:{__version__}", f"imageserve/model:{__version__}", "redis:"],
        id="none",
    ),
    pytest.param(
        {"image": {"registry": "r.test:5000/x"}},
        ["r.test:5000/x/imageserve/web:", "r.test:5000/x/imageserve/model:", "redis:"],
        id="ours",
    ),
    pytest.param(
        {"global": {"imageRegistry": "g.test"}},
        ["g.test/imageserve/web:", "g.test/imageserve/model:", "g.test/redis:"],
        id="a parent chart's",
    ),
    pytest.param(
        {
            "global": {"imageRegistry": "g.test"},
            "image": {"registry": "r.test"},
            "web": {"image": {"registry": "w.test", "tag": "7", "digest": DIGEST}},
            "redis": {"image": {"registry": "d.test"}},
        },
        [f"w.test/imageserve/web@{DIGEST}", "r.test/imageserve/model:", "d.test/redis:"],
        id="the nearest one wins, and a digest over a tag",
    ),
]


@pytest.mark.parametrize(("values", "expected"), REGISTRIES)
def test_where_images_come_from(helm4: Helm, values: Any, expected: list[str]) -> None:
    found = images(helm4.render(values, PASSWORD))

    for name, start in zip(("web", "model", "redis"), expected, strict=True):
        assert found[name].startswith(start)


def test_pull_secrets_reach_every_pod(helm4: Helm) -> None:
    pods = pod_templates(helm4.render({"image": {"pullSecrets": ["registry"]}}, PASSWORD))

    assert all(pod.spec["imagePullSecrets"] == [{"name": "registry"}] for pod in pods)


TIMES: list[Any] = [
    pytest.param({}, id="default"),
    pytest.param(
        {
            "limits": {"requestTimeoutSeconds": 120, "uploadTimeoutSeconds": 60.5},
            "web": {"drainSeconds": 25},
            "modelDefaults": {"shutdownSeconds": 300},
        },
        id="long ones",
    ),
]


@pytest.mark.parametrize("values", TIMES)
def test_a_web_pod_may_finish_everything_before_it_is_killed(helm4: Helm, values: Any) -> None:
    objects = helm4.render(values, PASSWORD)

    for pod, container in programs(objects, "web"):
        settings = _settings(container)
        in_hand = settings.request_timeout_s + settings.upload_timeout_s
        # What gunicorn adds; see web/server.py.
        needed = settings.drain_s + round(in_hand + 5)
        assert container["lifecycle"]["preStop"]["exec"]["command"] == ["imageserve", "drain"]
        assert settings.drain_s > 0
        assert pod.spec["terminationGracePeriodSeconds"] > needed


@pytest.mark.parametrize("values", TIMES)
def test_the_grpc_of_a_web_pod_may_finish_everything_too(helm4: Helm, values: Any) -> None:
    objects = helm4.render({"web": {"grpc": {"enabled": True}}}, values, PASSWORD)
    ((pod, container),) = programs(objects, "grpc")
    settings = _settings(container)

    # It drains by itself after SIGTERM; see grpc_server/process.py.
    assert "lifecycle" not in container
    needed = settings.drain_s + settings.request_timeout_s + settings.upload_timeout_s
    assert pod.spec["terminationGracePeriodSeconds"] > needed
    probe = container["readinessProbe"]
    assert probe["grpc"] == {"port": settings.grpc_port}
    assert settings.drain_s > probe["periodSeconds"] * probe["failureThreshold"]


@pytest.mark.parametrize("values", TIMES)
def test_a_worker_may_finish_its_batch_before_it_is_killed(helm4: Helm, values: Any) -> None:
    objects = helm4.render(values, PASSWORD)

    for pod, container in programs(objects, "worker"):
        assert pod.spec["terminationGracePeriodSeconds"] > _settings(container).shutdown_s


def _settings(container: Object) -> Settings:
    files = ("MODELS_FILE", "API_KEYS_FILE", "REDIS_CA_FILE")
    plain = {e["name"]: e["value"] for e in container["env"] if "value" in e}
    return Settings.from_env({k: v for k, v in plain.items() if k not in files})


def test_load_balancers_notice_before_connections_are_refused(helm4: Helm) -> None:
    """The drain is longer than it takes for a pod to be found unready."""
    for _, container in programs(helm4.render(PASSWORD), "web"):
        probe = container["readinessProbe"]
        assert _settings(container).drain_s > probe["periodSeconds"] * probe["failureThreshold"]


def budget(container: Object, kind: str) -> float:
    probe = container[f"{kind}Probe"]
    return float(probe["periodSeconds"] * probe["failureThreshold"])


STARTS = [
    pytest.param("web", {"web": {"startup": {"timeoutSeconds": 61}}}, 61),
    pytest.param("model", {"modelDefaults": {"startup": {"timeoutSeconds": 1801}}}, 1801),
    pytest.param("redis", {"redis": {"startup": {"timeoutSeconds": 901}}}, 901),
    pytest.param("autoscaler", {"autoscaler": {"startup": {"timeoutSeconds": 31}}}, 31),
]


@pytest.mark.parametrize(("name", "values", "seconds"), STARTS)
def test_a_start_may_take_as_long_as_the_values_say(
    helm4: Helm, name: str, values: Any, seconds: int
) -> None:
    pods = pod_templates(helm4.render(values, PASSWORD))
    (pod,) = [pod for pod in pods if pod.spec["containers"][0]["name"] == name]
    container = pod.spec["containers"][0]

    assert seconds <= budget(container, "startup") < seconds + 30
    deadline = pod.owner["spec"].get("progressDeadlineSeconds", 600)
    assert pod.owner["kind"] != "Deployment" or deadline > budget(container, "startup")


@each_situation()
def test_probes_are_patient(helm4: Helm, situation: Situation) -> None:
    for pod in pod_templates(situation.render(helm4)):
        if pod.serves:
            for container in pod.spec["containers"]:
                assert budget(container, "startup") >= 30
                # A busy pod must not be killed for a late answer.
                assert budget(container, "liveness") >= 30
                assert container["livenessProbe"]["timeoutSeconds"] >= 3
                assert container["readinessProbe"]["timeoutSeconds"] >= 2


def test_liveness_does_not_ask_redis(helm4: Helm) -> None:
    """An outage of Redis must not restart every pod."""
    for _, container in programs(helm4.render({"web": {"grpc": {"enabled": True}}}, PASSWORD)):
        assert container["livenessProbe"]["httpGet"]["path"] == "/healthz"
        ready = container["readinessProbe"]
        assert "grpc" in ready or ready["httpGet"]["path"] == "/readyz"


def test_the_probes_of_a_web_pod_have_a_port_that_no_client_reaches(helm4: Helm) -> None:
    objects = helm4.render(PASSWORD)
    ((_, container),) = programs(objects, "web")
    asked = {container[f"{kind}Probe"]["httpGet"]["port"] for kind in ("liveness", "readiness")}
    (port,) = (each for each in container["ports"] if {each["name"]} == asked)
    env = {each["name"]: each.get("value") for each in container["env"]}

    assert env["WEB_PROBE_PORT"] == str(port["containerPort"]) != env["WEB_PORT"]
    services = of_kind(objects, "Service")
    assert port["name"] not in {p["targetPort"] for s in services for p in s["spec"]["ports"]}
    for policy in of_kind(objects, "NetworkPolicy"):
        for rule in policy["spec"].get("ingress", ()):
            assert port["containerPort"] not in {each["port"] for each in rule["ports"]}


def answered_by(*folders: str) -> set[str]:
    """Return the paths that the programs in these folders of the package answer."""
    found = [path.read_text() for each in folders for path in (PACKAGE / each).glob("*.py")]
    route = r"""(?:@app\.(?:get|post)\(|^ +|^[A-Z]+ = )"(/\w+)"(?:[:)]|$)"""
    return set(re.findall(route, "".join(found), re.M))


@each_situation()
def test_every_path_that_is_asked_is_one_that_is_answered(
    helm4: Helm, situation: Situation
) -> None:
    objects = situation.render(helm4)
    by = {
        "web": answered_by("web"),
        "grpc": answered_by("grpc_server"),
        "worker": answered_by("worker"),
        "autoscaler": answered_by("autoscaler"),
    }

    for program, answered in by.items():
        for _, container in programs(objects, program):
            probes = [container[f"{kind}Probe"] for kind in ("startup", "readiness", "liveness")]
            asked = {probe["httpGet"]["path"] for probe in probes if "grpc" not in probe}
            assert asked <= answered
    for monitor in of_kind(objects, "PodMonitor"):
        asked = {e["path"] for e in monitor["spec"]["podMetricsEndpoints"]}
        assert asked <= by["worker"] & by["autoscaler"] & by["grpc"]
    for monitor in of_kind(objects, "ServiceMonitor"):
        assert {e["path"] for e in monitor["spec"]["endpoints"]} <= by["web"]


def test_the_published_paths_are_those_that_clients_call(helm4: Helm) -> None:
    objects = EVERYTHING.render(helm4)
    found = [v for o in of_kind(objects, "Ingress", "HTTPRoute") for v in walk(o["spec"]["rules"])]
    paths = {v for way, v in found if way and way[-1] in ("path", "value") and isinstance(v, str)}

    assert {path for path in paths if path.startswith("/")} == {"/predict", "/models"}
    assert {"/predict", "/models"} <= answered_by("web")


def test_a_path_that_no_program_answers_would_be_found() -> None:
    assert "/healthz" in answered_by("worker")
    assert "/health" not in answered_by("web", "worker")


def test_a_rollout_takes_no_web_pod_away_before_its_successor_is_ready(helm4: Helm) -> None:
    for pod, _ in programs(helm4.render(PASSWORD), "web"):
        assert pod.owner["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0
        assert pod.owner["spec"]["minReadySeconds"] > 0


def worker(helm: Helm, **model: Any) -> PodTemplate:
    (found,) = programs(helm.render({"models": {"shapes": model}}, PASSWORD), "worker")
    return found[0]


GPUS = ["nvidia.com/gpu", "nvidia.com/gpu.shared", "nvidia.com/mig-1g.5gb", "amd.com/gpu"]


@pytest.mark.parametrize("name", GPUS)
def test_a_gpu_is_asked_for_by_its_name(helm4: Helm, name: str) -> None:
    gpu = {
        "count": 2,
        "resourceName": name,
        "runtimeClassName": "nvidia",
        "nodeSelector": {"gpu": "yes"},
    }
    pod = worker(helm4, gpu=gpu, nodeSelector={"zone": "a"}, tolerations=[{"key": "mine"}])
    resources = pod.spec["containers"][0]["resources"]

    assert resources["limits"][name] == 2
    assert resources["requests"].get(name, 2) == 2
    assert pod.spec["runtimeClassName"] == "nvidia"
    assert pod.spec["nodeSelector"] == {"gpu": "yes", "zone": "a"}
    assert {each["key"] for each in pod.spec["tolerations"]} == {"mine", "nvidia.com/gpu"}


def test_pods_on_a_gpu_leave_before_their_successors_come(helm4: Helm) -> None:
    # Otherwise a rollout waits for a GPU that no pod releases.
    rolling = worker(helm4, gpu={"count": 1}).owner["spec"]["strategy"]["rollingUpdate"]

    assert rolling == {"maxSurge": 0, "maxUnavailable": 1}


def test_without_a_gpu_nothing_mentions_one(helm4: Helm) -> None:
    pod = worker(helm4, gpu={"count": 0, "runtimeClassName": "nvidia", "nodeSelector": {"g": "1"}})

    assert "runtimeClassName" not in pod.spec
    assert "nodeSelector" not in pod.spec
    assert "tolerations" not in pod.spec
    assert pod.owner["spec"]["strategy"]["rollingUpdate"]["maxUnavailable"] == 0


def test_pods_share_a_gpu_only_where_they_leave_some_of_it(helm4: Helm) -> None:
    pod = worker(helm4, gpu={"count": 1, "allowGrowth": True})
    env = {each["name"]: each.get("value") for each in pod.spec["containers"][0]["env"]}

    assert env["TF_FORCE_GPU_ALLOW_GROWTH"] == "true"


def test_a_gpu_by_resource_claim(helm4: Helm) -> None:
    claim = {"name": "gpu", "resourceClaimTemplateName": "one"}
    pod = worker(helm4, gpu={"resourceClaims": [claim]})

    assert pod.spec["resourceClaims"] == [claim]
    assert pod.spec["containers"][0]["resources"]["claims"] == [{"name": "gpu"}]


def test_shared_memory_is_made_larger(helm4: Helm) -> None:
    pod = worker(helm4, shm={"sizeLimit": "1Gi"})
    (mount,) = [
        m for m in pod.spec["containers"][0]["volumeMounts"] if m["mountPath"] == "/dev/shm"
    ]
    (volume,) = [v for v in pod.spec["volumes"] if v["name"] == mount["name"]]

    assert volume["emptyDir"] == {"medium": "Memory", "sizeLimit": "1Gi"}


@each_situation()
def test_spreading_counts_the_pods_of_its_own_workload(helm4: Helm, situation: Situation) -> None:
    pods = pod_templates(situation.render(helm4))

    for pod in pods:
        for constraint in pod.spec.get("topologySpreadConstraints", []):
            counted = [p for p in pods if selects(constraint["labelSelector"], p.labels)]
            assert counted == [pod]


def test_high_availability_spreads_web_pods_over_zones(helm4: Helm) -> None:
    (situation,) = [each for each in SITUATIONS if each.name == "values-ha"]
    (found,) = programs(situation.render(helm4), "web")
    spec = found[0].owner["spec"]
    objects = situation.render(helm4)
    hpas = {
        h["spec"]["scaleTargetRef"]["name"]: h for h in of_kind(objects, "HorizontalPodAutoscaler")
    }
    hpa = hpas.get(found[0].owner["metadata"]["name"])
    at_least = hpa["spec"]["minReplicas"] if hpa else spec["replicas"]

    assert at_least >= 2
    keys = {c["topologyKey"] for c in found[0].spec["topologySpreadConstraints"]}
    assert "topology.kubernetes.io/zone" in keys
    assert of_kind(objects, "PersistentVolumeClaim", "StatefulSet")
    assert of_kind(objects, "PodDisruptionBudget")


def restarted(helm: Helm, values: Any) -> set[str]:
    """Return the components whose pods are replaced when the values change to these."""
    old = _templates(helm.render(PASSWORD))
    new = _templates(helm.render(PASSWORD, values))
    return {component for name, (component, template) in new.items() if old[name][1] != template}


def _templates(objects: list[Object]) -> dict[str, tuple[str, Any]]:
    return {
        str(pod): (pod.labels["app.kubernetes.io/component"], pod.owner["spec"]["template"])
        for pod in pod_templates(objects)
        if pod.serves
    }


CHANGES: list[Any] = [
    pytest.param({}, set(), id="nothing"),
    pytest.param({"models": {"shapes": {"interpolation": "box"}}}, {"web", "model"}, id="a model"),
    pytest.param({"redis": {"maxmemory": "500Mi"}}, {"redis"}, id="redis's memory"),
    pytest.param(
        {"redis": {"auth": {"password": "another-real-password"}}},
        {"web", "model", "redis", "autoscaler"},
        id="the password",
    ),
    pytest.param({"web": {"replicas": 5}}, set(), id="a number of pods"),
    pytest.param(
        {"modelDefaults": {"scaling": {"maxReplicas": 9}}}, {"autoscaler"}, id="how to scale"
    ),
    pytest.param({"modelDefaults": {"scaling": {"replicas": 9}}}, set(), id="replicas unused"),
    pytest.param({"ingress": {"enabled": True}}, set(), id="an ingress"),
]


@pytest.mark.parametrize(("values", "expected"), CHANGES)
def test_a_change_restarts_the_pods_that_it_concerns(
    helm4: Helm, values: Any, expected: set[str]
) -> None:
    assert restarted(helm4, values) == expected
