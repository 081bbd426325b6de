"""Where a model pod gets its model: fetched before the worker starts, or mounted from an image."""

import re
import textwrap
from typing import Any

import pytest
import yaml
from tests.chart.helm import ROOT, Helm, Object
from tests.chart.objects import pod_templates
from tests.chart.pod_security import violations
from tests.chart.situations import DIGEST, PASSWORD, SITUATIONS


def fetching(helm: Helm, **model: Any) -> tuple[Object, Object]:
    """Return the container that fetches a model, and the spec of its pod."""
    fetch = {"source": "s3://models/flowers", **model.pop("fetch", {})}
    flowers = {"inputSize": 8, "fetch": fetch, **model}
    objects = helm.render({"models": {"shapes": {"enabled": False}, "flowers": flowers}}, PASSWORD)
    (pod,) = [pod for pod in pod_templates(objects) if "initContainers" in pod.spec]
    (container,) = pod.spec["initContainers"]
    return container, pod.spec


def mounts(container: Object) -> dict[str, Object]:
    return {each["name"]: each for each in container["volumeMounts"]}


def test_a_model_is_fetched_before_its_worker_starts(helm4: Helm) -> None:
    container, spec = fetching(helm4, fetch={"version": "2", "existingSecret": "store"})
    (worker,) = spec["containers"]
    folder = "/var/lib/imageserve/models/flowers/2"

    assert container["args"] == ["models", "fetch", "s3://models/flowers", "--to", folder]
    assert container["envFrom"] == [{"secretRef": {"name": "store"}}]
    assert "envFrom" not in worker, "the worker has no credentials"
    assert (container["image"], container["securityContext"]) == (
        worker["image"],
        worker["securityContext"],
    )
    assert mounts(worker)["versions"] == {**mounts(container)["versions"], "readOnly": True}
    (volume,) = [each for each in spec["volumes"] if each["name"] == "versions"]
    assert volume == {"name": "versions", "emptyDir": {"sizeLimit": "4Gi"}}


def test_a_model_is_fetched_into_the_claim_of_versions(helm4: Helm) -> None:
    versions = {"dir": "/models/", "existingClaim": "c"}
    fetch = {"source": "https://h.test/a.zip", "sha256": "0" * 64, "version": "2"}
    container, spec = fetching(helm4, versions=versions, fetch=fetch)
    (worker,) = spec["containers"]

    assert container["args"][3:] == ["--to", "/models/flowers/2", "--sha256", "0" * 64]
    assert {"name": "versions", "persistentVolumeClaim": {"claimName": "c"}} in spec["volumes"]
    assert "readOnly" not in mounts(container)["versions"]
    assert mounts(worker)["versions"]["readOnly"] is True


def test_another_source_or_checksum_gets_another_folder(helm4: Helm) -> None:
    fetches: list[dict[str, str]] = [{}, {"source": "s3://models/roses"}, {"sha256": "0" * 64}]
    folders = {fetching(helm4, fetch=each)[0]["args"][4] for each in fetches}

    assert len(folders) == 3


def test_a_model_in_an_image_is_mounted_as_it_is(helm4: Helm) -> None:
    (situation,) = [each for each in SITUATIONS if each.name == "a model in an image"]
    (pod,) = [
        pod
        for pod in pod_templates(situation.render(helm4))
        if pod.labels["app.kubernetes.io/component"] == "model"
    ]

    (volume,) = [each for each in pod.spec["volumes"] if "image" in each]
    assert volume["image"]["reference"].endswith(DIGEST)
    assert mounts(pod.spec["containers"][0])["flowers"]["mountPath"] == "/models/flowers"


def documented() -> list[dict[str, Any]]:
    """Return the values that docs/kubernetes.md shows for models from elsewhere."""
    text = (ROOT / "docs" / "kubernetes.md").read_text(encoding="utf-8")
    section = text.split("### Models from a store\n")[1].split("\n### ")[0]
    blocks = re.findall(r"^( *)```yaml\n(.*?)^\1```", section, re.MULTILINE | re.DOTALL)
    return [yaml.safe_load(textwrap.dedent(block)) for _, block in blocks]


@pytest.mark.parametrize(
    ("number", "what"), list(enumerate(["s3://", "https://", "s3://", "/models/flowers"]))
)
def test_what_the_document_shows_renders(helm4: Helm, number: int, what: str) -> None:
    assert len(documented()) == 4
    objects = helm4.render(documented()[number], PASSWORD)
    (pod,) = [
        pod
        for pod in pod_templates(objects)
        if pod.labels.get("app.kubernetes.io/component") == "model"
    ]

    assert violations(pod.spec) == []
    fetched = [each["args"][2] for each in pod.spec.get("initContainers", [])]
    mounted = [each["mountPath"] for each in pod.spec["containers"][0]["volumeMounts"]]
    assert any(each.startswith(what) for each in (*fetched, *mounted))
