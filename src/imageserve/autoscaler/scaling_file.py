"""SCALING_FILE: which models are sized, and how. Read strictly: a wrong value names its key."""

import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Any

import yaml

from imageserve.autoscaler.lease import Timing
from imageserve.autoscaler.policy import Policy
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


@dataclass(frozen=True, slots=True)
class Scaling:
    """The whole file."""

    models: Mapping[str, ModelScaling]
    interval_s: float = 5.0
    dry_run: bool = False
    lease: str | None = None
    """None: there is only one autoscaler."""
    timing: Timing = field(default_factory=Timing)


def read_scaling_file(path: str) -> Scaling:
    """Read and check the file.

    Raises SettingsError that names the key where something cannot be used.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"SCALING_FILE: {path} cannot be read: {error}") from error
    try:
        return _scaling(content)
    except SettingsError as error:
        raise SettingsError(f"SCALING_FILE: {path}: {error}") from error


def _scaling(content: Any) -> Scaling:
    given = _read(content, _TOP, "")
    models = given.pop("models", None)
    if not isinstance(models, dict) or not models:
        raise SettingsError("models: must map at least one model's name to its settings")
    named = {str(name): _model(str(name), value) for name, value in models.items()}
    for attribute in ("queue", "deployment"):
        if len({getattr(model, attribute) for model in named.values()}) < len(named):
            raise SettingsError(f"models: two of them share a {attribute}; each needs its own")
    timing = {ours: given.pop(key) for key, ours in _TIMING.items() if key in given}
    return Scaling(models=named, timing=_timing(**timing), **given)


def _timing(**given: Any) -> Timing:
    timing = Timing(**given)
    if not timing.retry_s < timing.renew_deadline_s < timing.duration_s:
        raise SettingsError(
            "lease_renew_deadline_s: must be above lease_retry_s and below lease_duration_s"
        )
    return timing


def _model(name: str, content: Any) -> ModelScaling:
    where = f"models.{name}."
    given = _read(content, _MODEL, where)
    missing = {"queue", "deployment", "pod_selector", "batch_size"} - set(given)
    if missing:
        raise SettingsError(f"{where}{min(missing)}: is missing")
    sizes = _mapping(given.pop("policy", {}), f"{where}policy")
    policy = _policy(sizes, given.pop("batch_size"), f"{where}policy.")
    return ModelScaling(name=name, policy=policy, **given)


def _policy(given: Mapping[str, Any], batch_size: int, where: str) -> Policy:
    known = {each.name for each in fields(Policy)} - {"batch_size"}
    _refuse_unknown(given, known, where)
    try:
        return Policy(**given, batch_size=batch_size)
    except SettingsError as error:
        raise SettingsError(f"{where}{error}") from error


def _read(content: Any, known: Mapping[str, Callable[[Any], Any]], where: str) -> dict[str, Any]:
    content = _mapping(content, where.rstrip(".") or "the file")
    _refuse_unknown(content, set(known), where)
    return {key: _value(known[key], value, where + key) for key, value in content.items()}


def _mapping(content: Any, what: str) -> dict[Any, Any]:
    if not isinstance(content, dict):
        raise SettingsError(f"{what}: must be a mapping of keys to values")
    return content


def _refuse_unknown(content: Mapping[Any, Any], known: set[str], where: str) -> None:
    for key in content:
        if key not in known:
            raise SettingsError(f"{where}{key}: is unknown; known are {', '.join(sorted(known))}")


def _value(parse: Callable[[Any], Any], value: Any, key: str) -> Any:
    try:
        return parse(value)
    except ValueError as error:
        raise SettingsError(f"{key}: {error} (it is {value!r})") from error


def _seconds(low: float, high: float) -> Callable[[Any], float]:
    def parse(value: Any) -> float:
        is_number = isinstance(value, int | float) and not isinstance(value, bool)
        if not is_number or not low <= value <= high:
            raise ValueError(f"must be a number from {low:g} to {high:g}")
        return float(value)

    return parse


def _whole(low: int, high: int) -> Callable[[Any], int]:
    def parse(value: Any) -> int:
        # To Python, True is a number.
        if type(value) is not int or not low <= value <= high:
            raise ValueError(f"must be a whole number from {low} to {high}")
        return value

    return parse


def _bool(value: Any) -> bool:
    if not isinstance(value, bool):
        raise ValueError("must be true or false")
    return value


def _queue(value: Any) -> str:
    if not isinstance(value, str) or not re.fullmatch(r"[^\s{}]{1,200}", value):
        raise ValueError("must be 1 to 200 characters without spaces and braces")
    return value


_OBJECT_NAME = re.compile(r"[a-z0-9]([-a-z0-9.]{0,251}[a-z0-9])?")


def _object_name(value: Any) -> str:
    if not isinstance(value, str) or not _OBJECT_NAME.fullmatch(value):
        raise ValueError("must be the name of a Kubernetes object")
    return value


def _optional_name(value: Any) -> str | None:
    return None if value is None else _object_name(value)


def _selector(value: Any) -> str:
    if not isinstance(value, str) or "=" not in value:
        raise ValueError("must be a label selector, such as key=value,key=value")
    return value


def _as_it_is(value: Any) -> Any:
    return value


_TIMING = {
    "lease_duration_s": "duration_s",
    "lease_renew_deadline_s": "renew_deadline_s",
    "lease_retry_s": "retry_s",
}

_TOP: Mapping[str, Callable[[Any], Any]] = {
    "interval_s": _seconds(0.1, 60),
    "dry_run": _bool,
    "lease": _optional_name,
    "lease_duration_s": _whole(1, 3600),
    "lease_renew_deadline_s": _seconds(0.1, 3600),
    "lease_retry_s": _seconds(0.05, 3600),
    "models": _as_it_is,
}

_MODEL: Mapping[str, Callable[[Any], Any]] = {
    "queue": _queue,
    "deployment": _object_name,
    "pod_selector": _selector,
    "batch_size": _whole(1, 1024),
    "deletion_cost": _bool,
    "policy": _as_it_is,
}
