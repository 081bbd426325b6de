"""What an upgrade keeps: the Redis password, selectors, and pods that it does not concern."""

import json
import shutil
from base64 import b64decode
from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.chart import values_file
from tests.chart.api_server import cluster
from tests.chart.helm import CHART, Helm, HelmError, Object, objects_of
from tests.chart.objects import of_kind, pod_templates, the, title
from tests.chart.situations import EVERYTHING, MODES, PASSWORD, external_redis

SECRET = "imageserve-redis"


def upgraded(helm: Helm, kubeconfig: Path, *values: Any) -> list[Object]:
    """Render against a cluster, as an upgrade does."""
    return objects_of(helm.text_for(kubeconfig, *values, namespace="pictures"))


def installed(objects: list[Object], kind: str) -> Object:
    """Return an object of Redis as Helm leaves it in the cluster: with the name of its release."""
    owner = {
        "meta.helm.sh/release-name": "imageserve",
        "meta.helm.sh/release-namespace": "pictures",
    }
    found = the(objects, kind, "imageserve-redis")
    return {**found, "metadata": {**found["metadata"], "annotations": owner}}


def installed_secret(objects: list[Object]) -> Object:
    return installed(objects, "Secret")


def password(objects: list[Object]) -> str:
    return b64decode(the(objects, "Secret", SECRET)["data"]["redis-password"]).decode()


def test_a_random_password_is_made_for_each_installation(helm: Helm) -> None:
    first, second = (password(Helm(helm.program, helm.home).render()) for _ in range(2))

    assert first != second
    assert len(first) >= 32


def test_a_release_uses_one_password_in_one_rendering(helm4: Helm) -> None:
    """Its checksum is in every pod that needs a restart when it changes."""
    sums = {
        pod.owner["spec"]["template"]["metadata"]["annotations"]["checksum/redis-secret"]
        for pod in pod_templates(Helm(helm4.program, helm4.home).render())
        if pod.serves
    }

    assert len(sums) == 1


def test_an_upgrade_keeps_the_password_and_changes_nothing(helm: Helm, tmp_path: Path) -> None:
    first = helm.render(namespace="pictures", release="imageserve")
    secret = installed_secret(first)

    with cluster(tmp_path, [secret]) as kubeconfig:
        again = upgraded(helm, kubeconfig)
        once_more = upgraded(Helm(helm.program, helm.home), kubeconfig)

    assert password(again) == password(first)
    assert again == once_more
    templates = {str(p): p.owner["spec"].get("template") for p in pod_templates(first)}
    assert {str(p): p.owner["spec"].get("template") for p in pod_templates(again)} == templates


def test_a_password_that_is_given_wins_over_the_old_one(helm: Helm, tmp_path: Path) -> None:
    secret = installed_secret(helm.render(namespace="pictures"))

    with cluster(tmp_path, [secret]) as kubeconfig:
        again = upgraded(helm, kubeconfig, PASSWORD)

    assert password(again) == PASSWORD["redis"]["auth"]["password"]


def test_a_secret_without_the_entry_gets_one(helm: Helm, tmp_path: Path) -> None:
    secret = installed_secret(helm.render(namespace="pictures"))

    with cluster(tmp_path, [{**secret, "data": {"other": ""}}]) as kubeconfig:
        again = upgraded(helm, kubeconfig)

    assert len(password(again)) >= 32


OWN: Any = {
    "redis": {
        "auth": {"existingSecret": "mine", "secretKey": "word"},
        "persistence": {"enabled": True, "existingClaim": "data"},
    }
}
NEEDED: list[Object] = [
    {"apiVersion": "v1", "kind": kind, "metadata": {"name": name, "namespace": "pictures"}, **more}
    for kind, name, more in (
        ("Secret", "mine", {"data": {"word": "YQ=="}}),
        ("PersistentVolumeClaim", "data", {}),
    )
]


def refused_upgrade(helm: Helm, directory: Path, found: list[Object]) -> str:
    with cluster(directory, found) as kubeconfig, pytest.raises(HelmError) as caught:
        upgraded(helm, kubeconfig, OWN)
    return str(caught.value)


@pytest.mark.parametrize(
    ("found", "said"),
    [
        pytest.param(NEEDED[1:], 'Secret "mine" with the entry "word"', id="no Secret"),
        pytest.param(
            [{**NEEDED[0], "data": {"other": ""}}, NEEDED[1]], 'entry "word"', id="no entry"
        ),
        pytest.param(NEEDED[:1], 'no claim "data"', id="no claim"),
    ],
)
def test_a_running_redis_is_not_ended_for_one_that_cannot_start(
    helm: Helm, tmp_path: Path, found: list[Object], said: str
) -> None:
    running = installed(helm.render(PASSWORD, namespace="pictures"), "StatefulSet")

    assert said in refused_upgrade(helm, tmp_path, [running, *found])
    with cluster(tmp_path, [running, *NEEDED]) as kubeconfig:
        assert of_kind(upgraded(helm, kubeconfig, OWN), "StatefulSet")
    with cluster(tmp_path, found) as kubeconfig:
        assert upgraded(helm, kubeconfig, OWN), "they may follow a first installation"


def test_plain_manifests_need_a_password(helm: Helm) -> None:
    with pytest.raises(HelmError, match=r"redis\.auth\.password"):
        helm.render({"manifests": True})


def selectors(objects: list[Object]) -> dict[str, Any]:
    return {title(o): o["spec"]["selector"] for o in of_kind(objects, "Deployment", "StatefulSet")}


LATER: list[Any] = [
    {"commonLabels": {"team": "other"}},
    {"web": {"podLabels": {"a": "b"}}, "modelDefaults": {"podLabels": {"a": "b"}}},
    {"models": {"shapes": {"network": "stand-in", "queue": "other"}}},
    {"autoscaling": {"mode": "none"}, "web": {"autoscaling": {"enabled": True}}},
]


@pytest.mark.parametrize("values", LATER, ids=str)
def test_selectors_never_change(helm4: Helm, values: Any) -> None:
    # Kubernetes would refuse the upgrade.
    old, new = selectors(helm4.render(PASSWORD)), selectors(helm4.render(PASSWORD, values))

    assert {name: old[name] for name in new} == new


def with_values(helm: Helm, tmp_path: Path, values: Any) -> Helm:
    """The chart with other values of its own, as ``--reuse-values`` renders it."""
    chart = tmp_path / "imageserve"
    shutil.copytree(CHART, chart)
    # JSON is YAML, and here much faster.
    (chart / "values.yaml").write_text(json.dumps(values))
    return Helm(helm.program, helm.home, chart)


BEFORE = yaml.safe_load(
    Path(__file__).with_name("values_of_0_1_0.yaml").read_text(encoding="utf-8")
)
INSTEAD = "upgrade with --reset-then-reuse-values instead of --reuse-values"


def is_in(values: Any, path: tuple[str, ...]) -> bool:
    return not path or (path[0] in values and is_in(values[path[0]], path[1:]))


NEW_KEYS = [path for path in values_file.leaves() if not is_in(BEFORE, path)]


@pytest.mark.parametrize("values", [PASSWORD, external_redis()], ids=["own Redis", "external"])
def test_values_of_an_older_chart_are_refused_with_the_way_out(
    helm: Helm, tmp_path: Path, values: Any
) -> None:
    with pytest.raises(HelmError, match=INSTEAD):
        with_values(helm, tmp_path, BEFORE).text(values)


@pytest.mark.parametrize("path", NEW_KEYS, ids=".".join)
def test_a_value_that_an_older_chart_did_not_have_is_never_something_else(
    helm4: Helm, tmp_path: Path, path: tuple[str, ...]
) -> None:
    values = json.loads(json.dumps(values_file.values()))
    del values_file.at(values, path[:-1])[path[-1]]
    try:
        found = with_values(helm4, tmp_path, values).text(external_redis())
    except HelmError as error:
        found = str(error)

    assert INSTEAD in found or found == helm4.text(external_redis())


def test_the_notes_keep_values_as_an_upgrade_needs_it(helm4: Helm) -> None:
    notes = helm4.notes(MODES["none"], PASSWORD)

    assert "--reset-then-reuse-values --set modelDefaults.scaling.replicas" in notes
    assert "--reuse-values" not in notes


@pytest.fixture
def newer(helm4: Helm, tmp_path: Path) -> Helm:
    """The chart with a later version of its own, of the same program."""
    chart = tmp_path / "imageserve"
    shutil.copytree(CHART, chart)
    about = yaml.safe_load((chart / "Chart.yaml").read_text())
    (chart / "Chart.yaml").write_text(yaml.safe_dump({**about, "version": "99.9.9"}))
    return Helm(helm4.program, helm4.home, chart)


def test_a_new_version_of_the_chart_alone_restarts_no_pod(helm4: Helm, newer: Helm) -> None:
    how: Any = {"api_versions": EVERYTHING.how()["api_versions"]}
    old = pod_templates(helm4.render(*EVERYTHING.values, **how))
    new = pod_templates(newer.render(*EVERYTHING.values, **how))
    running = [(o, n) for o, n in zip(old, new, strict=True) if o.serves]

    assert all(o.owner["spec"]["template"] == n.owner["spec"]["template"] for o, n in running)
    assert "99.9.9" in newer.text(*EVERYTHING.values, **how)
