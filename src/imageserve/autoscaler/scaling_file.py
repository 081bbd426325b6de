"""SCALING_FILE: which models are sized, and how."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imageserve.autoscaler.lease import Timing
from imageserve.autoscaler.policy import PARSERS, Policy
from imageserve.config.reader import (
    by_name,
    fields_of,
    matching,
    number,
    parsed,
    queue_name,
    read_file,
    switch,
    whole,
)
from imageserve.errors import SettingsError


@dataclass(frozen=True, slots=True)
class ModelScaling:
    """One model: its queue, its Deployment, and how many pods that may have."""

    name: str
    queue: str
    deployment: str
    pod_selector: str
    policy: Policy
    deletion_cost: bool = False
    gpus: int = 0
    """Of one pod. 0: it takes no part in the budget."""


@dataclass(frozen=True, slots=True)
class Scaling:
    """The whole file."""

    models: Mapping[str, ModelScaling]
    interval_s: float = 5.0
    dry_run: bool = False
    lease: str | None = None
    """None: there is only one autoscaler."""
    timing: Timing = field(default_factory=Timing)
    gpu_budget: int | None = None
    """GPUs of all models together; None: each model has its own bounds only."""


def read_scaling_file(path: str | None) -> Scaling:
    """Read and check the file of SCALING_FILE.

    Raises SettingsError that names the key where something cannot be used, or no file is set.
    """
    if path is None:
        raise SettingsError("SCALING_FILE: must name the file that lists the models to size")
    return read_file(Path(path), _scaling, "SCALING_FILE")


def _scaling(content: Any) -> Scaling:
    given = _file(content)
    models = given["models"].values()
    for attribute in ("queue", "deployment"):
        if len({getattr(model, attribute) for model in models}) < len(models):
            raise SettingsError(f"models: two of them share a {attribute}; each needs its own")
    _check_budget(given.get("gpu_budget"), models)
    times = [key for key in given if key.startswith("lease_")]
    timing = _timing(**{key.removeprefix("lease_"): given.pop(key) for key in times})
    return Scaling(**given, timing=timing)


def _check_budget(gpus: int | None, models: Collection[ModelScaling]) -> None:
    """Raise SettingsError unless all models can have their fewest pods, and each of them one."""
    if gpus is None:
        return
    fewest = {model.name: model.policy.min_replicas * model.gpus for model in models}
    if not any(model.gpus for model in models):
        raise SettingsError("gpu_budget: no model has gpus, the GPUs of one pod")
    if sum(fewest.values()) > gpus:
        raise SettingsError(
            f"gpu_budget: {gpus} GPUs are fewer than the {sum(fewest.values())} of min_replicas of "
            "all models together"
        )
    for model in models:
        if max(fewest[model.name], model.gpus) > gpus - sum(fewest.values()) + fewest[model.name]:
            raise SettingsError(
                f"gpu_budget: {gpus} GPUs have no room for a pod of {model.name} beside "
                "min_replicas of the others"
            )


def _timing(**given: Any) -> Timing:
    timing = Timing(**given)
    if not timing.retry_s < timing.renew_deadline_s < timing.duration_s:
        raise SettingsError(
            "lease_renew_deadline_s: must be above lease_retry_s and below lease_duration_s"
        )
    return timing


def _model(name: str, content: Any) -> ModelScaling:
    given = _model_fields(content)
    fields = {**given.pop("policy", {}), "batch_size": given.pop("batch_size")}
    policy = parsed("policy", lambda fields: Policy(**fields), fields)
    return ModelScaling(name=name, policy=policy, **given)


_object_name = matching(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?", "the name of a Kubernetes object")

_model_fields = fields_of(
    {
        "queue": queue_name,
        "deployment": _object_name,
        "pod_selector": matching("(?s).*=.*", "a label selector, such as key=value,key=value"),
        "batch_size": PARSERS["batch_size"],
        "deletion_cost": switch,
        "gpus": whole(0, 1000),
        "policy": fields_of({key: PARSERS[key] for key in PARSERS if key != "batch_size"}),
    },
    required=["queue", "deployment", "pod_selector", "batch_size"],
)

_file = fields_of(
    {
        "interval_s": number(0.1, 60),
        "dry_run": switch,
        # "" is refused: without a lease, several autoscalers would act at once.
        "lease": lambda value: None if value is None else _object_name(value),
        "gpu_budget": whole(1, 100_000),
        "lease_duration_s": whole(1, 3600),
        "lease_renew_deadline_s": number(0.1, 3600),
        "lease_retry_s": number(0.05, 3600),
        "models": by_name(_model),
    },
    required=["models"],
)
