"""Models by name. Only what is asked for is imported: a stand-in needs no Keras and no numpy."""

from pathlib import Path
from typing import TYPE_CHECKING

from imageserve.errors import ModelLoadError
from imageserve.models.catalog import KNOWN, is_model_file, unknown_model
from imageserve.models.labels import read_labels
from imageserve.models.stand_in import is_stand_in, parse_stand_in

if TYPE_CHECKING:
    from imageserve.models.base import Model

__all__ = ["load_model"]


def load_model(
    name: str, *, weights: str, labels_file: str | None, input_size: tuple[int, int] | None
) -> "Model":
    """Load a model, ready to predict; this can take seconds, and minutes with a download.

    Args:
        name: one of the catalog's names, ``stand-in`` with or without options, or the path of a
            ``.keras`` classifier, which gets float32 RGB 0..255 and scales it itself.
        weights: for a network of keras.applications ``imagenet``, ``random`` or the path of a
            weights file; other models bring their own and ignore it.
        labels_file: one label a line, or ImageNet-style JSON; None for the model's own labels.
        input_size: the (height, width) that the model must have; None accepts what it has.

    Raises:
        ModelLoadError: the model cannot be used; the message says what to change.
    """
    if is_stand_in(name):
        return parse_stand_in(name, input_size)
    facts = KNOWN.get(name)
    if facts is None and not is_model_file(name):
        raise unknown_model(name)
    labels = read_labels(_labels_path(name, labels_file))

    from imageserve.models import keras_model

    if facts is not None and facts.model_file is None:
        return keras_model.load_network(name, weights=weights, labels=labels, input_size=input_size)
    path = facts.model_file if facts and facts.model_file else Path(name)
    return keras_model.load_classifier(path, labels=labels, input_size=input_size)


def _labels_path(name: str, labels_file: str | None) -> Path:
    if labels_file:
        return Path(labels_file)
    if name in KNOWN:
        return KNOWN[name].labels_file
    raise ModelLoadError(f"{name} has no labels: name a labels file, one label a line")
