"""Which models are served: one from plain settings, or several from MODELS_FILE.

Web processes and workers read the same entries; only workers load the models. What the settings
leave out is taken from the ``imageserve.yaml`` of the model's folder, then from what the model's
file declares. A web process may have neither: it learns from the workers what pictures need.
"""

from collections.abc import Mapping
from contextlib import suppress
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
from imageserve.models.catalog import default_input_size, is_model_file, is_model_path, short_name
from imageserve.models.folder import FACTS, NO_FACTS, ModelFacts, read_facts
from imageserve.models.source import declared_facts
from imageserve.preparation import Preparation

if TYPE_CHECKING:
    from imageserve.models.model import Model


@dataclass(frozen=True, slots=True)
class ModelEntry:
    """One model as the outside sees it, and what a worker needs to load it."""

    name: str
    queue: str
    preparation: Preparation | None
    """What pictures need as settings and files say, which counts before a worker has said it. None
    where they do not say the input size."""
    network: str = choices.DEFAULT_MODEL
    """What to load: a network's name or the path of a model's file or folder."""
    weights: str = choices.DEFAULT_WEIGHTS
    labels: str | None = None
    given: ModelFacts = NO_FACTS
    """What the settings say of the model: they override what is beside its file."""


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
    return _entry(settings, name, network, others, given_facts(settings), "MODEL")


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
    return _entry(settings, name, network, others, given, "network")


def _entry(
    settings: Settings,
    name: str,
    network: str,
    others: Mapping[str, Any],
    given: ModelFacts,
    key: str,
) -> ModelEntry:
    """Complete an entry. ``others`` has the queue, weights and labels; ``key`` named the network.

    Raises SettingsError.
    """
    return ModelEntry(
        name=name,
        queue=others["queue"],
        preparation=_preparation(settings, network, given, key),
        network=network,
        weights=others.get("weights") or settings.model_weights,
        labels=others.get("labels"),
        given=given,
    )


def _preparation(
    settings: Settings, network: str, given: ModelFacts, key: str
) -> Preparation | None:
    try:
        known_size = default_input_size(network)
    except ModelLoadError as error:
        raise SettingsError(f"{key}: {error}") from error
    beside = NO_FACTS
    if is_model_path(network):
        # Loading the model reports what cannot be read, and is tried again.
        with suppress(ModelLoadError):
            beside = read_facts(Path(network))
        beside = beside.over(declared_facts(network, settings.model_runtime))
    facts = given.over(beside)
    size = facts.input_size or known_size
    if size is None:
        return None
    try:
        return facts.preparation(size)
    except ModelLoadError as error:
        if is_model_path(network) and not is_model_file(network):
            return None  # The folder may say the rest. Loading the model reports what is wrong.
        raise SettingsError(f"{key}: {error}") from error
