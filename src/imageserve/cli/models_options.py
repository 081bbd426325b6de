"""Which model an action of ``imageserve models`` is about, and what runs it."""

import argparse
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from imageserve.config.choices import DEFAULT_INTERPOLATION, DEFAULT_MODEL
from imageserve.config.settings import Settings
from imageserve.errors import ModelLoadError
from imageserve.models import load_model
from imageserve.models.entries import engine_of, load_entry, worker_entry
from imageserve.models.folder import read_facts
from imageserve.models.source import find_source
from imageserve.models.stand_in import is_stand_in

if TYPE_CHECKING:
    from imageserve.models.base import ScoringModel

_OPTIONS = {
    "labels": ("MODEL_LABELS", "FILE", "labels, one a line"),
    "weights": ("MODEL_WEIGHTS", "WEIGHTS", "imagenet, random or a weights file"),
    "input_size": ("INPUT_SIZE", "SIZE", "height and width, such as 224 or 224x320"),
}


def add_model_options(parser: argparse.ArgumentParser) -> None:
    """Add the model and what it is loaded from; each default is the setting's."""
    parser.add_argument(
        "model",
        nargs="?",
        metavar="MODEL",
        help="a known name, a .keras or .onnx file, or a model folder (default: what MODEL or "
        "MODELS_FILE say, as for a worker)",
    )
    for name, (variable, metavar, about) in _OPTIONS.items():
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, metavar=metavar, help=f"{about} (default: {variable})")


def settings_of(
    options: argparse.Namespace, environ: Mapping[str, str], **more: str | None
) -> Settings:
    """Read the settings with the options in place of the environment's.

    Raises:
        SettingsError: a value cannot be used.
    """
    given = {variable: getattr(options, name) for name, (variable, *_) in _OPTIONS.items()}
    given |= more
    if options.model:
        given |= {"MODEL": options.model, "MODELS_FILE": ""}
    return Settings.from_env({**environ, **{k: v for k, v in given.items() if v is not None}})


def network_of(settings: Settings) -> str:
    """Return what is loaded: a name or a path."""
    if settings.models_file:
        return worker_entry(settings).network
    return settings.model or DEFAULT_MODEL


def is_onnx_only(settings: Settings) -> bool:
    """Whether these settings name a model that Keras does not have.

    Raises:
        ModelLoadError: they name none.
    """
    source = find_source(network_of(settings), settings.model_labels, None, None)
    return source.runtime == "onnx"


def interpolation_of(settings: Settings) -> str:
    """Return how pictures for this model are resized."""
    if settings.models_file:
        return worker_entry(settings).interpolation
    own = read_facts(Path(network_of(settings))).interpolation
    return settings.interpolation or own or DEFAULT_INTERPOLATION


def load(settings: Settings, **changes: Any) -> "ScoringModel":
    """Load the model of these settings, its engine changed as asked.

    A file need not be told its input size here: nobody else has to know it.

    Raises:
        ModelLoadError: it cannot be used, or has no probabilities to look at.
    """
    engine = replace(engine_of(settings), **changes)
    network = network_of(settings)
    if is_stand_in(network):
        raise ModelLoadError("a stand-in classifies nothing: name a model")
    if settings.models_file:
        return cast("ScoringModel", load_entry(worker_entry(settings), engine))
    model = load_model(
        network,
        weights=settings.model_weights,
        labels_file=settings.model_labels,
        input_size=settings.input_size,
        engine=engine,
    )
    return cast("ScoringModel", model)
