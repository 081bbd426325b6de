"""What sets the number of model pods: the autoscaler and its rights, KEDA, an HPA, or nothing."""

import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart.helm import OLDEST, Helm, HelmError, Object
from tests.chart.objects import of_kind, pod_templates, selects, the, title
from tests.chart.situations import (
    APIS,
    MODES,
    PASSWORD,
    SITUATIONS,
    Situation,
    each_situation,
    external_redis,
)
from tests.chart.test_chart_settings import file_in, programs
from tests.chart.values_file import subschema, values

from imageserve import metrics
from imageserve.autoscaler.cluster import PAUSED
from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.scaling_file import Scaling, read_scaling_file
from imageserve.errors import SettingsError
from imageserve.queue.keys import Keys

NAME = "imageserve-autoscaler"
MODEL = "imageserve-model-shapes"
TWO_MODELS = {
    "models": {"shapes": {}, "Cats_and.Dogs": {"network": "stand-in", "batchSize": 8}},
    "defaultModel": "shapes",
    "limits": {"queueBytesLimit": "64Mi"},
}
DRY = {"autoscaler": {"dryRun": True}}
COST = {"modelDefaults": {"scaling": {"deletionCost": True}}}
each_mode = pytest.mark.parametrize("mode", MODES)


def render(helm: Helm, *values: Any, **how: Any) -> list[Object]:
    return helm.render(*values, PASSWORD, api_versions=APIS, namespace="pictures", **how)


# -- its configuration ----------------------------------------------------------------------------


def scaling_of(objects: list[Object], at: Path) -> Scaling:
    """Read SCALING_FILE as the autoscaler would."""
    (found,) = programs(objects, "autoscaler")
    pod, container = found
    env = {each["name"]: each.get("value", "") for each in container["env"]}
    path = at / "scaling.yaml"
    path.write_text(file_in(pod, container, env["SCALING_FILE"], objects))
    return read_scaling_file(str(path))


@each_situation()
def test_the_autoscaler_can_use_its_file(helm4: Helm, situation: Situation, tmp_path: Path) -> None:
    objects = situation.render(helm4)
    if not list(programs(objects, "autoscaler")):
        return
    workers = {pod.owner["metadata"]["name"]: (pod, c) for pod, c in programs(objects, "worker")}

    scaling = scaling_of(objects, tmp_path)

    assert {model.deployment for model in scaling.models.values()} == set(workers)
    for model in scaling.models.values():
        pod, container = workers[model.deployment]
        env = {each["name"]: each.get("value") for each in container["env"]}
        entries = yaml.safe_load(file_in(pod, container, env["MODELS_FILE"], objects))
        assert env["MODEL"] == model.name
        assert str(model.policy.batch_size) == env["BATCH_SIZE"]
        assert entries[model.name]["queue"] == model.queue
        labels = dict(each.split("=") for each in model.pod_selector.split(","))
        chosen = [p for p in pod_templates(objects) if selects({"matchLabels": labels}, p.labels)]
        assert chosen == [pod]


def chart_name(field: str) -> str:
    """Return how the chart calls a field of Policy: targetWaitSeconds for target_wait_s."""
    first, *rest = re.sub(r"_s$", "_seconds", field).split("_")
    return first + "".join(word.capitalize() for word in rest)


#: Values beside them that are not the autoscaler's: for mode none, for its role, for a guard.
OTHER_VALUES = {"replicas", "deletionCost", "allowColdTimeouts"}
POLICY = {chart_name(f.name): f for f in fields(Policy) if f.name != "batch_size"}


def test_each_value_is_one_field_of_the_policy() -> None:
    scaling = values()["modelDefaults"]["scaling"]

    assert set(scaling) - OTHER_VALUES == set(POLICY)


NUMBERS = [name for name, each in POLICY.items() if each.type is not str]


@pytest.mark.parametrize("name", NUMBERS)
def test_the_schema_takes_what_the_policy_takes(name: str) -> None:
    schema = subschema(("modelDefaults", "scaling", name))
    assert schema is not None
    field = POLICY[name]
    # Other fields that such a large or small value needs.
    beside: dict[str, Any] = {"max_replicas": 10_000, "arrivals_window_s": 3600.0}
    beside |= {"min_replicas": 0} if name == "maxReplicas" else {}
    beside |= {"burst_window_s": 5.0} if name == "arrivalsWindowSeconds" else {}

    assert schema["type"] == ("integer" if field.type is int else "number")
    for value in (schema["minimum"], schema["maximum"]):
        Policy(**{**beside, field.name: value})
    for value in (schema["minimum"] - 1, schema["maximum"] + 1):
        with pytest.raises(SettingsError, match=field.name):
            Policy(**{**beside, field.name: value})


def test_foresight_is_a_choice_and_a_bare_off_is_no_boolean(helm4: Helm, tmp_path: Path) -> None:
    for said, read in (("auto", "auto"), ("off", "off"), (False, "off")):
        given = {"modelDefaults": {"scaling": {"foresight": said}}}
        scaling = scaling_of(render(helm4, TWO_MODELS, given), tmp_path)
        assert {model.policy.foresight for model in scaling.models.values()} == {read}


def test_the_values_of_a_model_reach_the_scaling_file(helm4: Helm, tmp_path: Path) -> None:
    own = {"minReplicas": 2, "maxReplicas": 10_000, "targetUtilization": 0.55, "podStartSeconds": 9}
    said = {"models": {"shapes": {"scaling": {**own, "deletionCost": True}}}}
    objects = render(helm4, TWO_MODELS, said, {"autoscaler": {"intervalSeconds": 2.5}})

    scaling = scaling_of(objects, tmp_path)

    assert scaling.interval_s == 2.5
    shapes, cats = scaling.models["shapes"], scaling.models["Cats_and.Dogs"]
    assert shapes.policy == Policy(
        min_replicas=2, max_replicas=10_000, target_utilization=0.55, pod_start_s=9
    )
    assert shapes.deletion_cost
    assert cats.policy == Policy(batch_size=8)
    assert not cats.deletion_cost


def test_a_budget_of_gpus_reaches_the_scaling_file(helm4: Helm, tmp_path: Path) -> None:
    claims = {"gpu": {"resourceClaims": [{"name": "gpu", "resourceClaimTemplateName": "gpu"}]}}
    weights = {"scaling": {"budgetWeight": 2.5}}
    with_budget = {"autoscaling": {"gpuBudget": 8}}
    counted = {"models": {"shapes": {"gpu": {"count": 2}, **weights}}}
    claimed = {"models": {"shapes": claims}}

    with_counts = scaling_of(render(helm4, TWO_MODELS, counted, with_budget), tmp_path)
    with_claims = scaling_of(render(helm4, TWO_MODELS, claimed, with_budget), tmp_path)
    without = scaling_of(render(helm4, TWO_MODELS, counted), tmp_path)

    assert (with_counts.gpu_budget, without.gpu_budget) == (8, None)
    assert {name: model.gpus for name, model in with_counts.models.items()} == {
        "shapes": 2,
        "Cats_and.Dogs": 0,
    }
    assert with_counts.models["shapes"].policy.budget_weight == 2.5
    assert with_claims.models["shapes"].gpus == 1


def test_it_knows_the_name_and_namespace_of_its_pod(helm4: Helm) -> None:
    ((_, container),) = programs(render(helm4), "autoscaler")
    sources = {each["name"]: each.get("valueFrom", {}) for each in container["env"]}

    assert sources["POD_NAME"] == {"fieldRef": {"fieldPath": "metadata.name"}}
    assert sources["POD_NAMESPACE"] == {"fieldRef": {"fieldPath": "metadata.namespace"}}


# -- its rights -----------------------------------------------------------------------------------

Right = tuple[str, str, tuple[str, ...], str]
"""API group, resource, names (none: all), verb."""


def rights(objects: list[Object]) -> set[Right]:
    roles = of_kind(objects, "Role")
    return {
        (group, resource, tuple(rule.get("resourceNames", ())), verb)
        for role in roles
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


READ = {("apps", "deployments", (MODEL,), "get"), ("", "pods", (), "list")}
EVENTS = {(g, "events", (), verb) for g in ("", "events.k8s.io") for verb in ("create", "patch")}
SCALE = {("apps", "deployments/scale", (MODEL,), verb) for verb in ("get", "patch")}
ELECT = {("coordination.k8s.io", "leases", (NAME,), verb) for verb in ("get", "patch")}
RIGHTS: list[Any] = [
    pytest.param({}, READ | EVENTS | SCALE | ELECT, id="builtin"),
    pytest.param(DRY, READ | EVENTS | ELECT, id="dry run"),
    pytest.param(COST, READ | EVENTS | SCALE | ELECT | {("", "pods", (), "patch")}, id="cost"),
    pytest.param({**DRY, **COST}, READ | EVENTS | ELECT, id="dry run with deletion cost"),
    pytest.param(MODES["keda by recommendation"], READ | EVENTS, id="for keda"),
    pytest.param(MODES["hpa"], READ | EVENTS, id="for an HPA"),
    pytest.param(MODES["keda"], set(), id="keda"),
    pytest.param(MODES["none"], set(), id="none"),
    pytest.param(
        {"autoscaler": {"rbac": {"create": False}, "serviceAccount": {"name": "own"}}},
        set(),
        id="given outside the chart",
    ),
]


@pytest.mark.parametrize(("given", "expected"), RIGHTS)
def test_it_has_the_rights_that_it_needs_and_no_others(
    helm: Helm, given: Any, expected: set[Right]
) -> None:
    assert rights(render(helm, given)) == expected


def test_its_rights_name_each_model(helm4: Helm) -> None:
    deployments = sorted([MODEL, "imageserve-model-cats-and-dogs"])

    for group, resource, names, _ in rights(render(helm4, TWO_MODELS)):
        if group == "apps":
            assert list(names) == deployments, resource


@each_situation()
def test_only_the_autoscaler_has_rights_and_only_in_its_namespace(
    helm4: Helm, situation: Situation
) -> None:
    objects = situation.render(helm4)
    autoscalers = {p.spec["serviceAccountName"] for p, _ in programs(objects, "autoscaler")}
    others = {p.spec.get("serviceAccountName") for p in pod_templates(objects)} - autoscalers

    assert not of_kind(objects, "ClusterRole", "ClusterRoleBinding")
    assert len(of_kind(objects, "Role")) == len(of_kind(objects, "RoleBinding")) <= 1
    for binding in of_kind(objects, "RoleBinding"):
        (subject,) = binding["subjects"]
        assert subject["name"] in autoscalers - others
        assert subject["namespace"] == situation.namespace
        assert binding["roleRef"]["kind"] == "Role"
    for pod in pod_templates(objects):
        is_autoscaler = pod.spec.get("serviceAccountName") in autoscalers
        assert pod.spec["automountServiceAccountToken"] is is_autoscaler, pod
    accounts = of_kind(objects, "ServiceAccount")
    assert all(each["automountServiceAccountToken"] is False for each in accounts)


# -- the lease ------------------------------------------------------------------------------------


@each_mode
def test_the_lease_is_rendered_if_it_is_used_and_has_no_spec(
    helm: Helm, tmp_path: Path, mode: str
) -> None:
    """An upgrade does not change fields that the manifest leaves out."""
    objects = render(helm, MODES[mode])
    leases = of_kind(objects, "Lease")

    assert [each["metadata"]["name"] for each in leases] == ([NAME] if mode == "builtin" else [])
    assert all(each.keys() == {"apiVersion", "kind", "metadata"} for each in leases)
    if list(programs(objects, "autoscaler")):
        assert scaling_of(objects, tmp_path).lease == (NAME if mode == "builtin" else None)


def merged(old: Object, new: Object, live: Object) -> Object:
    """Return what an upgrade with Helm 3 leaves: the patch from old to new, on what is there."""
    result = dict(live)
    for key in old.keys() - new.keys():
        result.pop(key, None)
    for key, value in new.items():
        if isinstance(value, dict) and isinstance(live.get(key), dict):
            below = old.get(key)
            result[key] = merged(below if isinstance(below, dict) else {}, value, live[key])
        else:
            result[key] = value
    return result


def test_an_upgrade_leaves_the_lease_with_its_holder(helm4: Helm) -> None:
    old = the(render(helm4), "Lease", NAME)
    new = the(render(helm4, {"commonLabels": {"team": "b"}}), "Lease", NAME)
    spec = {"holderIdentity": "imageserve-autoscaler-1", "leaseTransitions": 3}

    assert merged(old, new, {**old, "spec": spec}) == {**new, "spec": spec}


def test_a_spec_in_the_manifest_would_be_taken_from_its_holder(helm4: Helm) -> None:
    manifest = {**the(render(helm4), "Lease", NAME), "spec": {"leaseDurationSeconds": 15}}
    live = {**manifest, "spec": {"holderIdentity": "x", "leaseDurationSeconds": 30}}

    assert merged(manifest, manifest, live)["spec"]["leaseDurationSeconds"] == 15


# -- the modes ------------------------------------------------------------------------------------

#: By mode: whether the autoscaler runs, and the kinds that only this mode renders.
MODE_RENDERS: dict[str, tuple[bool, set[str]]] = {
    "builtin": (True, {"Role", "RoleBinding", "Lease"}),
    "keda": (False, {"ScaledObject", "TriggerAuthentication"}),
    "keda by recommendation": (True, {"Role", "RoleBinding", "ScaledObject"}),
    "hpa": (True, {"Role", "RoleBinding", "HorizontalPodAutoscaler"}),
    "none": (False, set()),
}
_SCALING_KINDS = set().union(*(kinds for _, kinds in MODE_RENDERS.values()))


@each_mode
def test_each_mode_renders_its_own_objects(helm: Helm, mode: str) -> None:
    objects = render(helm, MODES[mode])
    runs, kinds = MODE_RENDERS[mode]

    assert {each["kind"] for each in objects} & _SCALING_KINDS == kinds
    assert bool(list(programs(objects, "autoscaler"))) is runs
    assert any("autoscaler" in title(each) for each in objects) is runs


@each_mode
def test_the_pods_of_each_model_are_scaled_by_one_thing_only(
    helm4: Helm, mode: str, tmp_path: Path
) -> None:
    objects = render(helm4, MODES[mode], TWO_MODELS)
    deployments = [o for o in of_kind(objects, "Deployment") if "-model-" in title(o)]

    assert len(deployments) == 2
    for deployment in deployments:
        name = deployment["metadata"]["name"]
        scaled_by = [title(each) for each in scalers(objects) if target(each) == name]
        if any(names == (name,) or name in names for _, r, names, _ in rights(objects) if "/" in r):
            scaled_by.append("the autoscaler")
        if "replicas" in deployment["spec"]:
            scaled_by.append("the chart")
        assert len(scaled_by) == 1, scaled_by
        assert ("replicas" in deployment["spec"]) is (mode == "none")
    if list(programs(objects, "autoscaler")):
        assert scaling_of(objects, tmp_path).dry_run is (mode != "builtin")


def scalers(objects: Iterable[Object]) -> list[Object]:
    return of_kind(objects, "ScaledObject", "HorizontalPodAutoscaler")


def target(scaler: Object) -> str:
    return str(scaler["spec"]["scaleTargetRef"]["name"])


def test_a_dry_run_changes_nothing(helm4: Helm, tmp_path: Path) -> None:
    assert scaling_of(render(helm4, DRY), tmp_path).dry_run
    assert not scaling_of(render(helm4), tmp_path).dry_run


def test_keda_is_required_unless_apis_are_not_checked(helm: Helm) -> None:
    with pytest.raises(HelmError, match="Install KEDA first"):
        helm.render(MODES["keda"], PASSWORD)
    assert scalers(helm.render(MODES["keda"], PASSWORD, {"checkApis": False}))


def test_keda_counts_waiting_and_in_flight_jobs(helm4: Helm) -> None:
    objects = render(helm4, MODES["keda"], TWO_MODELS)
    found = {target(each): each["spec"] for each in scalers(objects)}

    for name, queue, batch in (
        (MODEL, "image_queue", 32),
        ("imageserve-model-cats-and-dogs", "image_queue_Cats_and.Dogs", 8),
    ):
        waiting, leased = (trigger["metadata"] for trigger in found[name]["triggers"])
        assert (waiting["listName"], waiting["listLength"]) == (queue, str(batch))
        assert (leased["listName"], leased["listLength"]) == (Keys(queue).leases, str(2 * batch))
        for each in (waiting, leased):
            assert each["address"] == "imageserve-redis.pictures.svc:6379"
        # Two targets: the larger number counts. A formula would add them up.
        assert "scalingModifiers" not in found[name].get("advanced", {})


def test_keda_gets_the_limits_of_the_model(helm4: Helm) -> None:
    scaling = {
        "minReplicas": 0,
        "maxReplicas": 7,
        "scaleToZeroAfterSeconds": 450.5,
        "scaleDownWindowSeconds": 7200,
        "allowColdTimeouts": True,
    }
    (found,) = scalers(render(helm4, MODES["keda"], {"modelDefaults": {"scaling": scaling}}))
    spec = found["spec"]
    behavior = spec["advanced"]["horizontalPodAutoscalerConfig"]["behavior"]

    assert (spec["minReplicaCount"], spec["maxReplicaCount"]) == (0, 7)
    assert spec["cooldownPeriod"] == 451
    # The most that a HorizontalPodAutoscaler takes.
    assert behavior == {"scaleDown": {"stabilizationWindowSeconds": 3600}}


def triggers(objects: list[Object]) -> list[Any]:
    return [each for o in of_kind(objects, "ScaledObject") for each in o["spec"]["triggers"]]


def secrets_of(objects: list[Object]) -> dict[str, str]:
    found = of_kind(objects, "TriggerAuthentication")
    references = [each for o in found for each in o["spec"]["secretTargetRef"]]
    return {each["parameter"]: f"{each['name']}:{each['key']}" for each in references}


def test_keda_finds_the_release_s_redis_and_its_password(helm4: Helm) -> None:
    objects = render(helm4, MODES["keda"])

    assert secrets_of(objects) == {"password": "imageserve-redis:redis-password"}
    assert all(
        each["authenticationRef"]["name"] == "imageserve-redis" for each in triggers(objects)
    )


def test_keda_finds_an_external_redis(helm4: Helm) -> None:
    redis = external_redis(
        port=6380,
        database=3,
        username="me",
        existingSecret="redis",
        tls={"enabled": True, "caSecret": "ca"},
    )
    objects = helm4.render(MODES["keda"], redis, api_versions=APIS)

    assert secrets_of(objects) == {"password": "redis:redis-password", "ca": "ca:ca.crt"}
    for each in triggers(objects):
        metadata = each["metadata"]
        assert metadata["address"] == "redis.data.test:6380"
        assert metadata["databaseIndex"] == "3"
        assert metadata["enableTLS"] == "true"
        ((_, container),) = programs(objects, "worker")
        assert metadata["usernameFromEnv"] in {e["name"] for e in container["env"]}


def test_keda_asks_an_open_redis_without_a_password(helm4: Helm) -> None:
    objects = helm4.render(MODES["keda"], external_redis(), api_versions=APIS)

    assert not of_kind(objects, "TriggerAuthentication")
    assert all("authenticationRef" not in each for each in triggers(objects))


@each_situation([each for each in SITUATIONS if each.name == "keda with sentinels"])
def test_keda_asks_the_sentinels(helm4: Helm, situation: Situation) -> None:
    objects = situation.render(helm4)

    assert secrets_of(objects)["sentinelPassword"] == "sentinel:sentinel-password"
    for each in triggers(objects):
        assert each["type"] == "redis-sentinel"
        assert each["metadata"]["addresses"] == "s1.test:26379,s2.test:26380"
        assert each["metadata"]["sentinelMaster"] == "mymaster"


@each_situation([each for each in SITUATIONS if each.name == "keda with an external cluster"])
def test_keda_asks_the_cluster(helm4: Helm, situation: Situation) -> None:
    for each in triggers(situation.render(helm4)):
        assert each["type"] == "redis-cluster"
        assert each["metadata"]["addresses"] == "n1.test:6379"
        assert "databaseIndex" not in each["metadata"]


def test_keda_follows_the_recommendation(helm4: Helm) -> None:
    objects = render(helm4, MODES["keda by recommendation"], TWO_MODELS)
    service = the(objects, "Service", NAME)
    (port,) = service["spec"]["ports"]
    found = {target(each): each["spec"] for each in scalers(objects)}

    for name, place in (
        (MODEL, "models.shapes.replicas"),
        # A dot that belongs to a name is escaped.
        ("imageserve-model-cats-and-dogs", "models.Cats_and\\.Dogs.replicas"),
    ):
        (trigger,) = found[name]["triggers"]
        assert trigger["metadata"] == {
            "url": f"http://{NAME}.pictures.svc:{port['port']}/recommendations",
            "valueLocation": place,
            "targetValue": "1",
        }
        assert found[name]["cooldownPeriod"] == 0


def test_an_hpa_follows_the_recommendation(helm4: Helm) -> None:
    more = {"autoscaling": {"hpa": {"metricLabels": {"zone": "a"}}}}
    objects = render(helm4, MODES["hpa"], TWO_MODELS, more)
    found = {target(each): each["spec"] for each in scalers(objects)}

    for name, model in ((MODEL, "shapes"), ("imageserve-model-cats-and-dogs", "Cats_and.Dogs")):
        ((metric,),) = [found[name]["metrics"]]
        external = metric["external"]
        assert external["target"] == {"type": "AverageValue", "averageValue": "1"}
        assert external["metric"]["selector"]["matchLabels"] == {
            "model": model,
            "app_kubernetes_io_instance": "imageserve",
            "zone": "a",
        }


def test_the_metric_that_an_hpa_asks_for_is_one_that_the_autoscaler_has() -> None:
    assert metrics.__file__ is not None
    asked = values()["autoscaling"]["hpa"]["metricName"]

    assert f'"{asked}"' in Path(metrics.__file__).read_text()


@pytest.mark.parametrize("mode", ["keda", "hpa"])
def test_another_behavior_of_an_hpa_replaces_ours(helm4: Helm, mode: str) -> None:
    own = {"scaleUp": {"selectPolicy": "Min"}}
    (found,) = scalers(render(helm4, MODES[mode], {"autoscaling": {mode: {"behavior": own}}}))
    inside = found["spec"]
    if mode == "keda":
        inside = inside["advanced"]["horizontalPodAutoscalerConfig"]

    assert inside["behavior"] == own


# -- the notes ------------------------------------------------------------------------------------

#: By mode: what the notes say, and the three commands.
NOTED = {
    "builtin": ("1 to 4 of shapes", ["autoscaler explain", "kubectl describe", f"{PAUSED}=true"]),
    "keda": ("KEDA runs as many pods as each queue", ["get", "describe", "keda.sh/paused=true"]),
    "keda by recommendation": (
        "as the autoscaler recommends",
        ["get", "describe", "keda.sh/paused=true"],
    ),
    "hpa": ("as the autoscaler recommends", ["get", "describe", "external.metrics.k8s.io"]),
    "none": ("scaling.replicas of each", ["kubectl get", "queue status", "scaling.replicas=2"]),
}


@each_mode
def test_the_notes_say_what_this_mode_does(helm4: Helm, mode: str) -> None:
    notes = helm4.notes(MODES[mode], PASSWORD, {"checkApis": False}, namespace="pictures")
    part = notes.partition("\nModel pods (")[2].partition("\n\nRedis has no volume")[0]
    commands = [line.strip() for line in part.splitlines() if line.startswith("   ")]
    said, parts = NOTED[mode]

    assert said in part
    assert len(commands) == len(parts) == 3
    assert [c for c, expected in zip(commands, parts, strict=True) if expected not in c] == []


def test_the_notes_mention_a_dry_run(helm4: Helm) -> None:
    assert "changes nothing: autoscaler.dryRun is on" in helm4.notes(DRY, PASSWORD)


def test_the_default_is_the_builtin_one(helm: Helm) -> None:
    assert helm.render(PASSWORD, kube_version=OLDEST) == helm.render(
        MODES["builtin"], PASSWORD, kube_version=OLDEST
    )
