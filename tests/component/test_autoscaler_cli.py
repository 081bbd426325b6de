"""``imageserve autoscaler``: how its parts are put together, and its errors about settings."""

import time
from dataclasses import replace
from pathlib import Path
from typing import Any, cast

import pytest
import yaml
from tests.kubernetes_api import KubernetesApi

from imageserve.autoscaler.kubernetes import connect
from imageserve.autoscaler.lease import Election, Leadership
from imageserve.autoscaler.memory import STEP_S, Memory, Step
from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.scaling_file import ModelScaling, read_scaling_file
from imageserve.cli import autoscaler, autoscaler_explain
from imageserve.config.settings import Settings
from imageserve.errors import SettingsError
from imageserve.queue.monitor import Monitor
from imageserve.queue.snapshot import Snapshot, WorkerInfo


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


class Kept:
    """A monitor of queues in whose memory the same came an hour and two hours before now."""

    def arrivals(self, queue: str) -> bytes:
        now = int(time.time() // STEP_S)
        jump, quiet = Step(300_000, 1000.0, 6), Step(600, 2.0)
        steps = tuple(jump if n % 12 == 0 else quiet for n in range(30, 0, -1))
        return Memory(now, steps).encoded()


WORKER = WorkerInfo("w", "m", (96, 96, 3), 8, {8: 80.0}, "ready", "pod-1", 1_000_000)
IDLE = Snapshot(1_000_000, 0, 0, 0, 0, 0, {"accepted": 10}, (WORKER,), "run/0")


def explained(
    queue: Snapshot, published: dict[str, Any] | None = None, *, foresight: str = "auto"
) -> dict[str, Any]:
    """Return what is printed of a model that only Redis and, maybe, an autoscaler tell of."""
    model = ModelScaling("m", "q", "d", "a=b", Policy(foresight=foresight))
    reads = [(990.0, {"q": queue}), (1000.0, {"q": queue})]
    away = SettingsError("no cluster")
    monitor = cast(Monitor, Kept())
    return autoscaler_explain._explained(model, reads, away, published, monitor).facts


def test_explain_counts_on_what_is_expected_where_no_autoscaler_runs(
    capsys: pytest.CaptureFixture[str],
) -> None:
    facts = explained(IDLE)

    autoscaler_explain._print_model("m", {"forecast": facts["forecast"]})
    lines = [" ".join(line.split()) for line in capsys.readouterr().out.splitlines()]
    name, part, expects, test, known = lines[:5]
    assert (name, part) == ("m", "forecast")
    assert expects.startswith("expects the forecast expects 1000/s at ")
    assert expects.endswith(" UTC (seen on 2 of 2 hours)")
    assert test.startswith("back_test right 1 of 1 times, with ")
    assert known == "known 0.1 of the last 28 days"
    assert (facts["decision"]["replicas"], facts["decision"]["cause"]) == (4, "forecast")
    assert expects.removeprefix("expects ") in facts["decision"]["reason"]


def test_explain_expects_nothing_where_that_is_off() -> None:
    facts = explained(IDLE, foresight="off")

    assert facts["forecast"] is None
    assert facts["decision"]["replicas"] == 1


def test_without_the_speed_of_a_pod_it_is_not_known_what_is_expected() -> None:
    facts = explained(replace(IDLE, workers=()))

    assert facts["forecast"] == {
        "expects": "not known, as no worker has published its speed yet",
        "known": "0.1 of the last 28 days",
    }


def test_explain_shows_the_forecast_that_the_running_autoscaler_published() -> None:
    forecast = {"expects": "the forecast expects 7/s", "known": "3.0 of the last 28 days"}

    facts = explained(IDLE, {"replicas": 3, "forecast": forecast})

    assert facts["forecast"] == forecast
    assert facts["decision"] == {"replicas": 3, "by": "the running autoscaler"}
