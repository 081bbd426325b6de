"""Which models are served: one from plain settings, or several from MODELS_FILE.

Web processes and workers read the same entries, so both know a model's queue and input size; only
workers load it. What a model's folder says of itself counts where the settings say nothing; a web
process without the folder has the settings alone.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml

from imageserve.config.settings import INTERPOLATIONS, SHAPES, Settings
from imageserve.errors import ModelLoadError, SettingsError
from imageserve.models import Engine, load_model
from imageserve.models.catalog import default_input_size, is_model_path, short_name
from imageserve.models.folder import FolderFacts, read_facts, size_of

if TYPE_CHECKING:
    from imageserve.models.model import Model

DEFAULT_INTERPOLATION = "bilinear"


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model as the outside sees it, and what a worker needs to load it."""

    name: str
    queue: str
    input_size: tuple[int, int]
    """Height and width in pixels."""
    interpolation: str = "bilinear"
    network: str = SHAPES
    """What to load: a network's name or the path of a model's file or folder."""
    weights: str = "imagenet"
    labels: str | None = None

    @property
    def shape(self) -> tuple[int, int, int]:
        return (*self.input_size, 3)


def model_entries(settings: Settings) -> dict[str, ModelEntry]:
    """Return the models by name, the default one first.

    Raises SettingsError where an entry cannot be used.
    """
    if settings.models_file is None:
        entry = _single(settings)
        return {entry.name: entry}
    entries = _from_file(Path(settings.models_file), settings)
    queues = [entry.queue for entry in entries.values()]
    if len(set(queues)) < len(queues):
        raise SettingsError("MODELS_FILE: two models share a queue; each needs its own")
    return entries


def worker_entry(settings: Settings) -> ModelEntry:
    """Return the one model that a worker of these settings serves."""
    entries = model_entries(settings)
    name = settings.model if settings.models_file else None
    if name is None:
        return next(iter(entries.values()))
    if name not in entries:
        raise SettingsError(
            f"MODEL: {name!r} is not in MODELS_FILE, which has {', '.join(entries)}"
        )
    return entries[name]


def engine_of(settings: Settings) -> Engine:
    """Return the engine that a worker of these settings runs its model with."""
    return Engine(
        runtime=settings.model_runtime,
        backend=settings.keras_backend,
        precision=settings.precision,
        xla=settings.xla,
        threads=settings.model_threads,
    )


def load_entry(entry: ModelEntry, engine: Engine) -> "Model":
    """Load the model of an entry under the entry's name; see `load_model`.

    Raises:
        ModelLoadError: the model cannot be used; the message says what to change.
    """
    model = load_model(
        entry.network,
        weights=entry.weights,
        labels_file=entry.labels,
        input_size=entry.input_size,
        engine=engine,
    )
    model.name = entry.name
    return model


def _single(settings: Settings) -> ModelEntry:
    network = settings.model or SHAPES
    known = _known_size("MODEL", network)
    facts = _facts("MODEL", network, is_needed=settings.input_size is None)
    size = settings.input_size or known or facts.input_size
    if size is None:
        raise SettingsError(f"INPUT_SIZE: must be given for {network!r}")
    return ModelEntry(
        name=short_name(network) or Path(network).resolve().name,
        queue=settings.image_queue,
        input_size=size,
        interpolation=settings.interpolation or facts.interpolation or DEFAULT_INTERPOLATION,
        network=network,
        weights=settings.model_weights,
        labels=settings.model_labels,
    )


def _known_size(setting: str, network: str) -> tuple[int, int] | None:
    try:
        return default_input_size(network)
    except ModelLoadError as error:
        raise SettingsError(f"{setting}: {error}") from error


def _facts(setting: str, network: str, *, is_needed: bool) -> FolderFacts:
    if not is_model_path(network):
        return FolderFacts()
    try:
        return read_facts(Path(network))
    except ModelLoadError as error:
        if not is_needed:
            return FolderFacts()  # Loading the model says what is wrong, and may be tried again.
        raise SettingsError(f"{setting}: {error}") from error


_KEYS = {"queue", "input_size", "interpolation", "network", "weights", "labels"}


def _from_file(path: Path, settings: Settings) -> dict[str, ModelEntry]:
    try:
        content = yaml.safe_load(path.read_text())
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise SettingsError(f"MODELS_FILE: {path} cannot be read: {error}") from error
    if not isinstance(content, dict) or not content:
        raise SettingsError(f"MODELS_FILE: {path} must map model names to their settings")
    return {str(name): _entry(str(name), value, settings) for name, value in content.items()}


def _entry(name: str, value: Any, settings: Settings) -> ModelEntry:
    if not isinstance(value, Mapping):
        raise SettingsError(f"MODELS_FILE: {name}: must be a mapping with at least 'queue'")
    unknown = set(value) - _KEYS
    if unknown:
        raise SettingsError(
            f"MODELS_FILE: {name}: unknown {', '.join(sorted(map(str, unknown)))}; "
            f"known are {', '.join(sorted(_KEYS))}"
        )
    network = str(value.get("network", name))
    facts = _facts(f"MODELS_FILE: {name}", network, is_needed="input_size" not in value)
    usual = settings.interpolation or facts.interpolation or DEFAULT_INTERPOLATION
    interpolation = str(value.get("interpolation", usual))
    if interpolation not in INTERPOLATIONS:
        raise SettingsError(
            f"MODELS_FILE: {name}: interpolation must be one of {', '.join(INTERPOLATIONS)}"
        )
    return ModelEntry(
        name=name,
        queue=_queue(name, value),
        input_size=_input_size(name, network, value.get("input_size", facts.input_size)),
        interpolation=interpolation,
        network=network,
        weights=str(value.get("weights", settings.model_weights)),
        labels=_labels(name, value.get("labels")),
    )


def _labels(name: str, value: Any) -> str | None:
    # Whether the file is there is the worker's business: web processes do not have it.
    if value is not None and not isinstance(value, str):
        raise SettingsError(f"MODELS_FILE: {name}: labels must be the path of a file")
    return value


def _queue(name: str, value: Mapping[str, Any]) -> str:
    queue = value.get("queue")
    if not isinstance(queue, str) or not queue or set(queue) & set(" \t\n{}"):
        raise SettingsError(f"MODELS_FILE: {name}: queue must be a name without spaces and braces")
    return queue


def _input_size(name: str, network: str, value: Any) -> tuple[int, int]:
    # Files and folders are not known by name, so they need the value.
    given = list(value) if isinstance(value, tuple) else value
    size = _known_size(f"MODELS_FILE: {name}", network) if given is None else size_of(given)
    if size is None:
        raise SettingsError(f"MODELS_FILE: {name}: input_size must be a number or [height, width]")
    return size
