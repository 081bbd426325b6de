"""SCALING_FILE: its keys, their defaults, and errors for wrong values."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from imageserve.autoscaler.lease import Timing
from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.scaling_file import ModelScaling, read_scaling_file
from imageserve.errors import SettingsError

SHAPES = {
    "queue": "image_queue",
    "deployment": "imageserve-model-shapes",
    "pod_selector": "app=imageserve,model=shapes",
    "batch_size": 8,
    "policy": {"min_replicas": 0, "max_replicas": 3, "target_wait_s": 1.5},
}
FILE: dict[str, Any] = {"models": {"shapes": SHAPES}}


def written(content: object, directory: Path) -> str:
    path = directory / "scaling.yaml"
    path.write_text(yaml.safe_dump(content))
    return str(path)


def changed(path: str, value: object) -> dict[str, Any]:
    """Return FILE with one key set; the path's parts are joined by dots."""
    content = copy.deepcopy(FILE)
    *parents, last = path.split(".")
    place = content
    for part in parents:
        place = place[part]
    place[last] = value
    return content


def test_every_key_is_taken(tmp_path: Path) -> None:
    content = {
        **changed("models.shapes.gpus", 2),
        "gpu_budget": 8,
        "interval_s": 2,
        "dry_run": True,
        "lease": "imageserve-autoscaler",
        "lease_duration_s": 6,
        "lease_renew_deadline_s": 4,
        "lease_retry_s": 1,
    }

    scaling = read_scaling_file(written(content, tmp_path))

    assert (scaling.interval_s, scaling.dry_run) == (2.0, True)
    assert (scaling.lease, scaling.timing) == ("imageserve-autoscaler", Timing(6, 4.0, 1.0))
    assert scaling.models == {
        "shapes": ModelScaling(
            name="shapes",
            queue="image_queue",
            deployment="imageserve-model-shapes",
            pod_selector="app=imageserve,model=shapes",
            policy=Policy(min_replicas=0, max_replicas=3, batch_size=8, target_wait_s=1.5),
            deletion_cost=False,
            gpus=2,
        )
    }
    assert scaling.gpu_budget == 8


def test_a_missing_key_has_its_default(tmp_path: Path) -> None:
    scaling = read_scaling_file(written(FILE, tmp_path))

    assert (scaling.interval_s, scaling.dry_run, scaling.lease) == (5.0, False, None)
    assert (scaling.gpu_budget, scaling.models["shapes"].gpus) == (None, 0)
    assert scaling.timing == Timing(duration_s=15, renew_deadline_s=10.0, retry_s=2.0)


@pytest.mark.parametrize(
    ("path", "value", "said"),
    [
        pytest.param("interval_s", 0, "interval_s: must be a number from 0.1", id="too often"),
        pytest.param("interval_s", 61, "interval_s: must be a number", id="too seldom"),
        pytest.param("interval_s", True, "interval_s: must be a number", id="true is no number"),
        pytest.param("interval_s", float("nan"), "interval_s: must be a number", id="NaN"),
        pytest.param("interval", 5, "interval: is unknown; known are interval_s", id="unknown key"),
        pytest.param("dry_run", "yes", "dry_run: must be true or false", id="text for a flag"),
        pytest.param("lease", "A B", "lease: must be the name of a Kube", id="no object's name"),
        pytest.param("lease", "", "lease: must be the name of a Kube", id="an empty name"),
        pytest.param("lease_duration_s", 2.5, "lease_duration_s: must be a whole", id="fraction"),
        pytest.param("lease_duration_s", 8, "lease_renew_deadline_s: must be above", id="order"),
        pytest.param("models", {}, "models: must map at least one", id="no model"),
        pytest.param("models", None, "models: must map at least one", id="nothing for models"),
        pytest.param("models.shapes", 3, "models.shapes: must be a mapping", id="no mapping"),
        pytest.param("models.shapes.queue", "a b", "models.shapes.queue: must be 1", id="queue"),
        pytest.param("models.shapes.batch_size", 0, "models.shapes.batch_size: ", id="batch"),
        pytest.param("models.shapes.pod_selector", "x", "models.shapes.pod_selector: ", id="label"),
        pytest.param("models.shapes.deletion_cost", 1, "models.shapes.deletion_cost: ", id="flag"),
        pytest.param("models.shapes.color", 1, "models.shapes.color: is unknown", id="model's key"),
        pytest.param(
            "models.shapes.policy", 5, "models.shapes.policy: must be a mapping", id="policy"
        ),
        pytest.param(
            "models.shapes.policy.min_pods",
            1,
            "models.shapes.policy.min_pods: is unknown",
            id="unknown in the policy",
        ),
        pytest.param(
            "models.shapes.policy.batch_size",
            1,
            "models.shapes.policy.batch_size: is unknown",
            id="batch_size has its place above",
        ),
        pytest.param(
            "models.shapes.policy.target_wait_s",
            "2s",
            "models.shapes.policy.target_wait_s: must be a number",
            id="with a unit",
        ),
        pytest.param(
            "models.shapes.policy.max_replicas",
            1.5,
            "models.shapes.policy.max_replicas: must be a whole number",
            id="half a pod",
        ),
        pytest.param(
            "models.shapes.policy.min_replicas",
            9,
            "models.shapes.policy.max_replicas: must not be below min_replicas",
            id="bounds the wrong way round",
        ),
        pytest.param(
            "models.second",
            {**SHAPES, "deployment": "second"},
            "models: two of them share a queue",
            id="one queue for two",
        ),
        pytest.param(
            "models.second",
            {**SHAPES, "queue": "second"},
            "models: two of them share a deployment",
            id="one Deployment for two",
        ),
    ],
)
def test_a_wrong_value_names_its_key(path: str, value: object, said: str, tmp_path: Path) -> None:
    with pytest.raises(SettingsError) as caught:
        read_scaling_file(written(changed(path, value), tmp_path))

    assert str(caught.value).startswith("SCALING_FILE: ")
    assert said in str(caught.value)


@pytest.mark.parametrize(
    ("gpus", "fewest", "budget", "said"),
    [
        pytest.param(0, 1, 4, "gpu_budget: no model has gpus", id="nobody takes one"),
        pytest.param(2, 3, 5, "gpu_budget: 5 GPUs are fewer than the 6", id="the sum of minimums"),
        pytest.param(2, 0, 1, "1 GPUs have no room for a pod of shapes", id="no room for a pod"),
        pytest.param(2, 1, 0, "gpu_budget: must be a whole number", id="no GPU at all"),
    ],
)
def test_a_budget_that_is_too_small_is_refused(
    gpus: int, fewest: int, budget: int, said: str, tmp_path: Path
) -> None:
    content = changed("models.shapes", {**SHAPES, "gpus": gpus, "policy": {"min_replicas": fewest}})

    with pytest.raises(SettingsError, match=said):
        read_scaling_file(written({**content, "gpu_budget": budget}, tmp_path))


@pytest.mark.parametrize("key", ["queue", "deployment", "pod_selector", "batch_size"])
def test_a_missing_required_key_is_an_error(key: str, tmp_path: Path) -> None:
    content = copy.deepcopy(FILE)
    del content["models"]["shapes"][key]

    with pytest.raises(SettingsError, match=rf"models.shapes.{key}: is missing"):
        read_scaling_file(written(content, tmp_path))


@pytest.mark.parametrize(
    "text", ["", "just text", "- a", "a: [", "\x00"], ids=["empty", "text", "list", "torn", "zero"]
)
def test_a_file_that_cannot_be_parsed_is_refused(text: str, tmp_path: Path) -> None:
    path = tmp_path / "scaling.yaml"
    path.write_text(text)

    with pytest.raises(SettingsError, match=r"^SCALING_FILE: "):
        read_scaling_file(str(path))


def test_a_file_that_is_not_there_is_refused() -> None:
    with pytest.raises(SettingsError, match="/no/such: cannot be read"):
        read_scaling_file("/no/such")
