"""The model that the settings of ``imageserve models`` name, and its parts."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imageserve.config.choices import DEFAULT_INTERPOLATION, DEFAULT_MODEL
from imageserve.config.settings import Settings
from imageserve.errors import ModelLoadError
from imageserve.models import load_model
from imageserve.models.entries import engine_of, load_entry, worker_entry
from imageserve.models.folder import read_facts
from imageserve.models.runtimes import RUNTIMES, Runtime
from imageserve.models.source import find_source

if TYPE_CHECKING:
    from imageserve.models.model import ScoringModel


def network_of(settings: Settings) -> str:
    """Return the name or path of the model that is loaded."""
    return (
        worker_entry(settings).network if settings.models_file else settings.model or DEFAULT_MODEL
    )


def default_runtime(settings: Settings) -> Runtime:
    """Return the runtime that this model has where MODEL_RUNTIME is not set."""
    source = find_source(network_of(settings), settings.model_labels, None, None)
    return RUNTIMES[source.runtime]


def interpolation_of(settings: Settings) -> str:
    if settings.models_file:
        return worker_entry(settings).interpolation
    own = read_facts(Path(network_of(settings))).interpolation
    return settings.interpolation or own or DEFAULT_INTERPOLATION


def load(settings: Settings, **changes: Any) -> "ScoringModel":
    """Load the model of these settings, with ``changes`` to its engine.

    INPUT_SIZE may be missing here, because no web server has to know it.

    Raises ModelLoadError where it cannot be used, or has no probabilities to look at.
    """
    from imageserve.models.model import ScoringModel

    engine = replace(engine_of(settings), **changes)
    if settings.models_file:
        model = load_entry(worker_entry(settings), engine)
    else:
        model = load_model(
            network_of(settings),
            weights=settings.model_weights,
            labels_file=settings.model_labels,
            input_size=settings.input_size,
            engine=engine,
        )
    if not isinstance(model, ScoringModel):
        raise ModelLoadError("a stand-in classifies nothing: name a model")
    return model
