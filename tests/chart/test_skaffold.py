"""skaffold.yaml, as it is and with each profile: valid, and in step with images, chart and code."""

import copy
import json
import os
import re
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from tests.chart.helm import CHART, ROOT, Helm, Object
from tests.chart.objects import pod_templates, the
from tests.chart.pod_security import violations
from tests.chart.schemas import NEWEST, read_schema, schema_problems
from tests.chart.test_dockerfiles import instructions, last
from tests.chart.values_file import values

from imageserve_loadtest.scenario import load_scenario

SCENARIOS = ROOT / "loadtest" / "scenarios"
#: Parts of the values, by the image that they run.
PARTS = {
    "web": "web",
    "modelDefaults": "model",
    "autoscaler": "autoscaler",
    "loadtest": "loadtest",
}
CONFIG: Any = yaml.safe_load((ROOT / "skaffold.yaml").read_text())
PROFILES = {each["name"]: each for each in CONFIG["profiles"]}
#: Combinations of profiles, as they are typed on a command line.
COMBINATIONS = [(), ("dev",), ("minikube",), ("gpu",), ("ci",), ("dev", "minikube"), ("ci", "gpu")]
each_combination = pytest.mark.parametrize(
    "profiles", COMBINATIONS, ids=lambda names: "+".join(names) or "no profile"
)


def config(profiles: tuple[str, ...]) -> Any:
    """Return the configuration with these profiles laid over it, one after the other."""
    found = copy.deepcopy(CONFIG)
    for name in profiles:
        profile = PROFILES[name]
        for patch in profile.get("patches", []):
            apply(found, patch)
        _overlay(found, {k: v for k, v in profile.items() if k in ("build", "deploy", "verify")})
    return found


def apply(to: Any, patch: Any) -> None:
    """Apply one JSON patch (RFC 6902): add, replace, remove.

    Raises KeyError or IndexError where its path leads nowhere.
    """
    *way, key = [
        part.replace("~1", "/").replace("~0", "~") for part in patch["path"].split("/")[1:]
    ]
    place = to
    for part in way:
        place = place[int(part)] if isinstance(place, list) else place[part]
    if isinstance(place, list):
        _apply_to_list(place, key, patch)
    elif patch["op"] == "remove":
        del place[key]
    else:
        if patch["op"] == "replace" and key not in place:
            raise KeyError(patch["path"])
        place[key] = copy.deepcopy(patch["value"])


def _apply_to_list(place: list[Any], key: str, patch: Any) -> None:
    if patch["op"] == "add":
        place.insert(len(place) if key == "-" else int(key), copy.deepcopy(patch["value"]))
    elif patch["op"] == "replace":
        place[int(key)] = copy.deepcopy(patch["value"])
    else:
        del place[int(key)]


def _overlay(below: Any, above: Any) -> None:
    for key, value in above.items():
        if isinstance(value, dict) and isinstance(below.get(key), dict):
            _overlay(below[key], value)
        else:
            below[key] = value


def release_of(profiles: tuple[str, ...]) -> Any:
    (release,) = config(profiles)["deploy"]["helm"]["releases"]
    return release


def artifacts_of(profiles: tuple[str, ...]) -> Any:
    return config(profiles)["build"]["artifacts"]


def rendered(helm: Helm, profiles: tuple[str, ...]) -> list[Object]:
    """Return the objects that skaffold would install, with images called as it calls them."""
    release = release_of(profiles)
    files = [ROOT / each for each in release.get("valuesFiles", [])]
    given = [_unflattened(k, v) for k, v in release.get("setValues", {}).items()]
    made = [_unflattened(k, _filled(v)) for k, v in release["setValueTemplates"].items()]
    return helm.render(*files, *given, *made, release=release["name"])


def _unflattened(key: str, value: Any) -> Any:
    for part in reversed(key.split(".")):
        value = {part: value}
    return value


def _filled(template: str) -> str:
    """Fill in what skaffold knows of an image that it has built and not pushed."""
    known = {}
    for artifact in CONFIG["build"]["artifacts"]:
        name = re.sub(r"[/.:-]", "_", artifact["image"])
        known[f"IMAGE_REPO_{name}"] = f"built.test/{artifact['image']}"
        known[f"IMAGE_TAG_{name}"] = "0123abc"
        known[f"IMAGE_DIGEST_{name}"] = ""
    return re.sub(r"\{\{\.(\w+)\}\}", lambda found: known[found[1]], template)


@each_combination
def test_it_is_valid(profiles: tuple[str, ...]) -> None:
    jsonschema.validate(config(profiles), read_schema("skaffold"))


@pytest.mark.skipif("SKAFFOLD_SCHEMA" not in os.environ, reason="SKAFFOLD_SCHEMA names no schema")
@each_combination
def test_it_is_valid_by_a_complete_schema(profiles: tuple[str, ...]) -> None:
    schema = json.loads(Path(os.environ["SKAFFOLD_SCHEMA"]).read_text())

    jsonschema.validate(config(profiles), schema)


FLAWS: list[Any] = [
    pytest.param("/build/artifacts/0/dockre", {}, id="unknown key"),
    pytest.param("/build/artifacts/0/docker/buildArgs", {"DEBUG": 1}, id="wrong type"),
    pytest.param("/apiVersion", "skaffold/v4beta13", id="another version"),
    pytest.param("/deploy/helm/releases/0/artifactOverrides", {}, id="key that is gone"),
    pytest.param("/build/tagPolicy", {"inputDigest": {}, "sha256": {}}, id="two of one"),
]


@pytest.mark.parametrize(("path", "value"), FLAWS)
def test_a_flaw_would_be_found(path: str, value: Any) -> None:
    flawed = config(())
    apply(flawed, {"op": "add", "path": path, "value": value})

    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(flawed, read_schema("skaffold"))


def test_the_profiles_that_we_promise_are_there() -> None:
    assert {"minikube", "gpu", "ci"} <= PROFILES.keys()
    assert set(PROFILES) == {name for names in COMBINATIONS for name in names}


@each_combination
def test_every_artifact_has_a_dockerfile_with_its_stage_and_arguments(
    profiles: tuple[str, ...],
) -> None:
    for artifact in artifacts_of(profiles):
        docker = artifact["docker"]
        path = ROOT / artifact.get("context", ".") / docker["dockerfile"]
        stages = [rest.partition(" AS ")[2] for word, rest in instructions(path) if word == "FROM"]
        known = {rest.partition("=")[0] for word, rest in instructions(path) if word == "ARG"}
        assert docker.get("target", stages[-1]) in stages
        assert docker.get("buildArgs", {}).keys() <= known


@each_combination
def test_every_value_that_it_sets_exists(profiles: tuple[str, ...]) -> None:
    release = release_of(profiles)

    for key in (*release.get("setValues", {}), *release["setValueTemplates"]):
        place = values()
        first, *rest = key.split(".")
        if first == "models":  # Any name; below it what modelDefaults has.
            first, rest = "modelDefaults", rest[1:]
        for part in (first, *rest):
            assert part in place, key
            place = place[part]


@each_combination
def test_the_chart_takes_what_it_sets_and_runs_what_it_builds(
    helm4: Helm, profiles: tuple[str, ...]
) -> None:
    objects = rendered(helm4, profiles)
    built = {f"built.test/{each['image']}:0123abc" for each in artifacts_of(profiles)}
    used = {c["image"] for pod in pod_templates(objects) for c in pod.containers}
    asked = {f"built.test/{image}:0123abc" for image in action_images(profiles)}

    assert {image for image in used if "redis" not in image} | asked == built


def action_images(profiles: tuple[str, ...]) -> set[str]:
    """Return the images that `skaffold exec` runs."""
    actions = config(profiles).get("customActions", [])
    return {container["image"] for action in actions for container in action["containers"]}


@each_combination
def test_what_it_installs_is_valid(helm4: Helm, profiles: tuple[str, ...]) -> None:
    objects = rendered(helm4, profiles)

    assert [p for each in objects for p in schema_problems(each, NEWEST)] == []


@each_combination
def test_synced_files_exist_and_are_where_the_image_has_them(profiles: tuple[str, ...]) -> None:
    for artifact in artifacts_of(profiles):
        for rule in artifact.get("sync", {}).get("manual", []):
            found = sorted(ROOT.glob(rule["src"]))
            assert ROOT / "src" / "imageserve" / "config" / "settings.py" in found
            assert all(str(p.relative_to(ROOT)).startswith(rule["strip"]) for p in found)
            text = (ROOT / artifact["docker"]["dockerfile"]).read_text()
            stage = text.partition(f" AS {artifact['docker']['target']}\n")[2].partition("\nFROM")[
                0
            ]
            # tar runs in the container as its user: it has to own what it replaces.
            uid = last(ROOT / artifact["docker"]["dockerfile"], "USER").partition(":")[0]
            assert re.search(rf"COPY .*--chown={uid}\S* .*{re.escape(rule['dest'])}\n", stage)


def test_synced_pods_may_write_where_files_are_replaced(helm4: Helm) -> None:
    objects = rendered(helm4, ("dev",))
    (web,) = [p for p in pod_templates(objects) if p.spec["containers"][0]["name"] == "web"]

    assert web.spec["containers"][0]["securityContext"]["readOnlyRootFilesystem"] is False
    assert all("sync" in artifact for artifact in artifacts_of(("dev",)))
    assert not any("sync" in artifact for artifact in artifacts_of(()))
    # Still what Pod Security "restricted" lets run.
    assert [v for pod in pod_templates(objects) for v in violations(pod.spec)] == []


@each_combination
def test_forwarded_ports_are_those_of_services(helm4: Helm, profiles: tuple[str, ...]) -> None:
    objects = rendered(helm4, profiles)

    for forward in config(profiles)["portForward"]:
        service = the(objects, "Service", forward["resourceName"])
        assert forward["port"] in [port["port"] for port in service["spec"]["ports"]]


@each_combination
def test_verify_runs_an_image_that_is_built_against_the_web_service(
    helm4: Helm, profiles: tuple[str, ...]
) -> None:
    names = {o["metadata"]["name"] for o in rendered(helm4, profiles) if o["kind"] == "Service"}

    for each in config(profiles)["verify"]:
        container = each["container"]
        env = {variable["name"]: variable["value"] for variable in container["env"]}
        assert container["image"] in {a["image"] for a in artifacts_of(profiles)}
        assert env["SERVICE"].removeprefix("http://") in names
        assert each["timeout"] > 0


def test_the_jobs_of_verify_and_exec_are_ones_that_a_strict_cluster_runs() -> None:
    in_cluster = [(each, [each["container"]]) for each in CONFIG["verify"]]
    in_cluster += [(each, each["containers"]) for each in CONFIG["customActions"]]
    for each, (container,) in in_cluster:
        path = ROOT / each["executionMode"]["kubernetesCluster"]["jobManifestPath"]
        job = yaml.safe_load(path.read_text())
        (pod,) = pod_templates([job])
        assert schema_problems(job, NEWEST) == []
        assert violations(pod.spec) == []
        assert job["spec"]["backoffLimit"] == 0
        (found,) = pod.spec["containers"]
        assert (found["name"], found["image"]) == (container["name"], container["image"])


def test_exec_stress_is_a_load_that_the_image_can_make(helm4: Helm) -> None:
    (action,) = CONFIG["customActions"]
    (container,) = action["containers"]
    program, url, *options = container["args"]
    names = {o["metadata"]["name"] for o in rendered(helm4, ()) if o["kind"] == "Service"}
    scenario = load_scenario(SCENARIOS / f"{options[options.index('--scenario') + 1]}.yaml")

    assert (program, action["name"]) == ("loadtest", "stress")
    assert url.removeprefix("http://") in names
    assert action["timeout"] > 2 * scenario.seconds


def test_the_load_on_a_gpu_learns_what_its_model_answers() -> None:
    def arguments(*profiles: str) -> list[str]:
        (stress,) = config(profiles)["customActions"]
        return list(stress["containers"][0]["args"])

    assert ("--learn" in arguments("gpu"), "--learn" in arguments()) == (True, False)


def test_profiles_for_remote_clusters_push_and_others_need_not() -> None:
    assert config(("ci",))["build"]["local"]["push"] is True
    assert config(("minikube",))["build"]["local"]["push"] is False
    assert release_of(("ci",))["wait"] is True


def test_the_chart_runs_as_the_user_that_owns_the_images() -> None:
    for part, image in PARTS.items():
        context = values()[part]["podSecurityContext"]
        user = last(ROOT / "images" / image / "Dockerfile", "USER")
        assert f"{context['runAsUser']}:{context['runAsGroup']}" == user


def test_the_images_listen_on_the_ports_of_the_chart(helm4: Helm) -> None:
    pods = {p.spec["containers"][0]["name"]: p for p in pod_templates(rendered(helm4, ()))}

    for name in ("web", "model", "autoscaler"):
        port = pods[name].spec["containers"][0]["ports"][0]["containerPort"]
        assert last(ROOT / "images" / name / "Dockerfile", "EXPOSE") == str(port)


def test_the_chart_calls_the_images_as_they_are_built() -> None:
    built = {artifact["image"] for artifact in CONFIG["build"]["artifacts"]}

    assert {values()[part]["image"]["repository"] for part in PARTS} == built
    assert (CHART / "values-gpu.yaml").exists()
