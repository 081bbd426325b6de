"""Chart and programs have the same defaults, except for those in the table below."""

from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
from tests.chart.helm import Helm, Object
from tests.chart.situations import PASSWORD
from tests.chart.test_chart_autoscaler import scaling_of
from tests.chart.test_chart_settings import programs, settings_of

from imageserve.autoscaler.policy import Policy
from imageserve.autoscaler.scaling_file import ModelScaling, Scaling
from imageserve.config.settings import Settings
from imageserve.models.entries import ModelEntry, model_entries
from imageserve.preparation import Preparation

#: The chart's default differs from the program's: why.
DIFFERENCES = {
    "LOG_FORMAT": "Logs of pods are collected by machines. The programs also run in terminals.",
    "QUEUE_BYTES_LIMIT": "The chart's Redis has 512Mi, and pixels may take 0.6 of it. The Redis of "
    "`imageserve run` has twice as much.",
    "WEB_MEMORY_BYTES": "The uploads of both processes of a pod fit into its memory request.",
    "DECODE_MEMORY_BYTES": "What both processes of a pod decode fits into its memory limit of 2Gi.",
    "DRAIN_S": "A cluster takes longer than one machine until no new request reaches a pod.",
    "WEB_PROBE_PORT": "A kubelet asks each pod all the time; elsewhere nobody may ask.",
    "METRICS_PORT": "The autoscaler's port is also a Service, for KEDA; workers keep the default.",
}

#: No defaults: where things are in this release.
PLACES = {
    "REDIS_URL",
    "REDIS_PASSWORD",
    "MODELS_FILE",
    "MODEL",
    "SCALING_FILE",
    "RUN_DIR",
    "POD_NAME",
    "POD_NAMESPACE",
}


@pytest.fixture
def objects(helm4: Helm) -> list[Object]:
    return helm4.render(PASSWORD)


def differences(chart: Any, program: Any) -> Iterator[str]:
    """Yield the names of the fields in which two objects of one class differ."""
    for field in fields(program):
        if getattr(chart, field.name) != getattr(program, field.name):
            yield field.name


def test_variables_have_the_defaults_of_the_settings_or_a_reason(
    objects: list[Object], tmp_path: Path
) -> None:
    found = {
        name.upper()
        for pod, container in programs(objects)
        for name in differences(settings_of(pod, container, objects, tmp_path), Settings())
    }

    assert found - PLACES == set(DIFFERENCES)


def test_the_models_file_has_the_defaults_of_an_entry(
    objects: list[Object], tmp_path: Path
) -> None:
    web = next(programs(objects, "web"))

    (entry,) = model_entries(settings_of(*web, objects, tmp_path)).values()

    assert entry == ModelEntry(entry.name, entry.queue, Preparation((96, 96)))


def test_the_scaling_file_has_the_defaults_of_scaling_and_policy(
    objects: list[Object], tmp_path: Path
) -> None:
    scaling = scaling_of(objects, tmp_path)

    assert list(differences(scaling, Scaling(scaling.models))) == ["lease"]
    (model,) = scaling.models.values()
    place = (model.name, model.queue, model.deployment, model.pod_selector)
    assert model == ModelScaling(*place, Policy())
