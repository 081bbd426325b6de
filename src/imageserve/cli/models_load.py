"""The model that the settings of ``imageserve models`` name, and its parts."""

from dataclasses import replace
from typing import TYPE_CHECKING, Any

from imageserve.config.choices import DEFAULT_MODEL
from imageserve.config.settings import Settings
from imageserve.errors import ImageserveError, ModelLoadError, SettingsError
from imageserve.models import Engine, load_model
from imageserve.models.entries import engine_of, given_facts, load_entry, worker_entry
from imageserve.models.foreign import reason_of
from imageserve.models.runtimes import RUNTIMES, Runtime
from imageserve.models.source import Source, find_source

if TYPE_CHECKING:
    from imageserve.models.model import ScoringModel


def network_of(settings: Settings) -> str:
    """Return the name or path of the model that is loaded."""
    return (
        worker_entry(settings).network if settings.models_file else settings.model or DEFAULT_MODEL
    )


def source_of(settings: Settings) -> Source:
    """Return what is loaded, as an entry of these settings has it."""
    entry = worker_entry(settings)
    return find_source(entry.network, entry.labels, settings.model_runtime, entry.given)


def default_runtime(settings: Settings) -> Runtime:
    """Return the runtime that this model has where MODEL_RUNTIME is not set."""
    source = find_source(network_of(settings), settings.model_labels)
    return RUNTIMES[source.runtime]


def load(settings: Settings, **changes: Any) -> "ScoringModel":
    """Load the model of these settings, with ``changes`` to its engine.

    As a worker does, from the entry that web servers read too: what is loaded here, starts there.

    Raises ModelLoadError where it cannot be used, or has no probabilities to look at, and
    SettingsError where the entry cannot be used.
    """
    from imageserve.models.model import ScoringModel

    engine = replace(engine_of(settings), **changes)
    try:
        entry = worker_entry(settings)
    except SettingsError:
        if not settings.models_file:
            _say_more(settings, engine)
        raise
    try:
        model = load_entry(entry, engine)
    except ImageserveError:
        raise
    except Exception as error:  # a model may raise anything
        raise ModelLoadError(reason_of(error)) from error
    if not isinstance(model, ScoringModel):
        raise ModelLoadError("a stand-in classifies nothing: name a model")
    return model


def _say_more(settings: Settings, engine: Engine) -> None:
    """Raise ModelLoadError where a model that lacks an entry has a fault of its own as well."""
    load_model(
        network_of(settings),
        weights=settings.model_weights,
        labels_file=settings.model_labels,
        given=given_facts(settings),
        engine=engine,
    )
