"""Which models are served: one from plain settings, or several from MODELS_FILE.

Web processes and workers read the same entries, so both know a model's queue and input size; only
workers load it. What the settings leave out is taken from the ``imageserve.yaml`` of the model's
folder, then from what the model's file declares; a web process may have neither.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageserve.config import choices
from imageserve.config.reader import (
    by_name,
    fields_of,
    optional,
    queue_name,
    read_file,
    text,
)
from imageserve.config.settings import Settings
from imageserve.errors import ModelLoadError, SettingsError
from imageserve.models import Engine, load_model
from imageserve.models.catalog import default_input_size, is_model_path, short_name
from imageserve.models.folder import FACTS, NO_FACTS, ModelFacts, read_facts
from imageserve.models.source import declared_size
from imageserve.preparation import Preparation

if TYPE_CHECKING:
    from imageserve.models.model import Model


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model as the outside sees it, and what a worker needs to load it."""

    name: str
    queue: str
    preparation: Preparation
    """What pictures need as far as settings and files say, before a worker has said it."""
    network: str = choices.DEFAULT_MODEL
    """What to load: a network's name or the path of a model's file or folder."""
    weights: str = choices.DEFAULT_WEIGHTS
    labels: str | None = None
    given: ModelFacts = NO_FACTS
    """What the settings say of the model: they override what is beside its file."""

    @property
    def input_size(self) -> tuple[int, int]:
        """Height and width in pixels."""
        return self.preparation.size


def model_entries(settings: Settings) -> dict[str, ModelEntry]:
    """Return the models by name, the default one first.

    Raises SettingsError where an entry cannot be used.
    """
    if settings.models_file is None:
        entry = _single(settings)
        return {entry.name: entry}
    parse = by_name(partial(_from_file, settings))
    entries = read_file(Path(settings.models_file), parse, "MODELS_FILE")
    if len({entry.queue for entry in entries.values()}) < len(entries):
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


def given_facts(settings: Settings) -> ModelFacts:
    """Return what the variables say of the model."""
    return ModelFacts(input_size=settings.input_size, interpolation=settings.interpolation)


def load_entry(entry: ModelEntry, engine: Engine) -> "Model":
    """Load the model of an entry under the entry's name; see `load_model`."""
    model = load_model(
        entry.network,
        weights=entry.weights,
        labels_file=entry.labels,
        given=entry.given,
        engine=engine,
    )
    model.name = entry.name
    return model


def _single(settings: Settings) -> ModelEntry:
    network = settings.model or choices.DEFAULT_MODEL
    name = short_name(network) or Path(network).resolve().name
    others = {"queue": settings.image_queue, "labels": settings.model_labels}
    return _entry(settings, name, network, others, given_facts(settings), ("MODEL", "INPUT_SIZE"))


# Whether the labels file exists is for the worker to find out: web processes do not have it.
_others = {
    "queue": queue_name,
    "network": optional(text),
    "weights": optional(text),
    "labels": optional(text),
}
_fields = fields_of(
    {**_others, **{key: optional(parse) for key, parse in FACTS.items()}}, required=["queue"]
)


def _from_file(settings: Settings, name: str, content: Any) -> ModelEntry:
    told = _fields(content)
    others = {key: told.pop(key, None) for key in _others}
    network = others["network"] or name
    given = ModelFacts(**told)
    if given.interpolation is None:
        given = replace(given, interpolation=settings.interpolation)
    return _entry(settings, name, network, others, given, ("network", "input_size"))


def _entry(
    settings: Settings,
    name: str,
    network: str,
    others: Mapping[str, Any],
    given: ModelFacts,
    keys: tuple[str, str],
) -> ModelEntry:
    """Complete an entry with what the model's folder says.

    ``others`` has the queue, weights and labels; ``keys`` are the names of network and input size
    for errors.
    """
    network_key, size_key = keys
    known_size = _known_size(network_key, network)
    is_needed = not (given.input_size or known_size)
    facts = given.over(_facts(network_key, network, is_needed=is_needed))
    input_size = facts.input_size or known_size
    if input_size is None and is_model_path(network):
        input_size = declared_size(network, settings.model_runtime)
    if input_size is None:
        raise SettingsError(
            f"{size_key}: must be given for {network!r}, whose files do not say it here"
        )
    return ModelEntry(
        name=name,
        queue=others["queue"],
        preparation=_preparation(network_key, facts, input_size),
        network=network,
        weights=others.get("weights") or settings.model_weights,
        labels=others.get("labels"),
        given=given,
    )


def _preparation(key: str, facts: ModelFacts, size: tuple[int, int]) -> Preparation:
    try:
        return facts.preparation(size)
    except ModelLoadError as error:
        raise SettingsError(f"{key}: {error}") from error


def _known_size(key: str, network: str) -> tuple[int, int] | None:
    try:
        return default_input_size(network)
    except ModelLoadError as error:
        raise SettingsError(f"{key}: {error}") from error


def _facts(key: str, network: str, *, is_needed: bool) -> ModelFacts:
    if not is_model_path(network):
        return NO_FACTS
    try:
        return read_facts(Path(network))
    except ModelLoadError as error:
        if not is_needed:
            return NO_FACTS  # Loading the model reports the error, and is tried again.
        raise SettingsError(f"{key}: {error}") from error
