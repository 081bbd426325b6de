"""``imageserve autoscaler``: how its parts are put together, and its errors about settings."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from tests.kubernetes_api import KubernetesApi

from imageserve.autoscaler.kubernetes import connect
from imageserve.autoscaler.lease import Election, Leadership
from imageserve.autoscaler.scaling_file import read_scaling_file
from imageserve.cli import autoscaler, autoscaler_explain
from imageserve.config.settings import Settings
from imageserve.errors import SettingsError


@pytest.fixture
def scaling_file(autoscaler_chart: list[dict[str, Any]], tmp_path: Path) -> str:
    """The file as the chart renders it."""
    config = next(o for o in autoscaler_chart if "scaling.yaml" in o.get("data", {}))
    path = tmp_path / "scaling.yaml"
    path.write_text(config["data"]["scaling.yaml"])
    return str(path)


def test_the_charts_own_file_is_read(scaling_file: str) -> None:
    scaling = read_scaling_file(scaling_file)

    assert list(scaling.models) == ["shapes", "other"]
    assert scaling.models["other"].queue == "other_queue"
    assert (scaling.models["shapes"].deletion_cost, scaling.lease) == (
        True,
        "imageserve-autoscaler",
    )


@pytest.mark.parametrize(
    ("lease", "pod_name", "kind"),
    [
        pytest.param("imageserve-autoscaler", "pod-1", Election, id="several"),
        pytest.param(None, "pod-1", Leadership, id="no lease"),
        pytest.param("imageserve-autoscaler", None, Leadership, id="no name of its own"),
    ],
)
def test_the_election_needs_a_lease_and_a_pod_name(
    lease: str | None,
    pod_name: str | None,
    kind: type[Leadership],
    scaling_file: str,
    kubernetes_api: KubernetesApi,
    tmp_path: Path,
) -> None:
    content = yaml.safe_load(Path(scaling_file).read_text())
    Path(scaling_file).write_text(yaml.safe_dump({**content, "lease": lease}))
    cluster = connect(None, "", str(kubernetes_api.kubeconfig(tmp_path, "me")))
    settings = Settings(pod_name=pod_name)

    leadership = autoscaler._leadership(settings, read_scaling_file(scaling_file), cluster)

    assert type(leadership) is kind


@pytest.mark.parametrize("command", ["run", "explain"])
def test_the_scaling_file_is_required(command: str) -> None:
    arguments = [] if command == "run" else [command]

    with pytest.raises(SettingsError, match="SCALING_FILE: must name the file"):
        autoscaler.main(arguments, {})


def test_an_unknown_model_is_named_with_those_there_are(scaling_file: str) -> None:
    with pytest.raises(SettingsError, match="no model 'cats'; there are shapes, other"):
        autoscaler_explain.main(["--model", "cats"], {"SCALING_FILE": scaling_file})


@pytest.mark.parametrize("arguments", [["--help"], ["explain", "--help"]], ids=" ".join)
def test_its_help_names_the_scaling_file(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        autoscaler.main(arguments, {})

    assert caught.value.code == 0
    assert "SCALING_FILE" in capsys.readouterr().out
