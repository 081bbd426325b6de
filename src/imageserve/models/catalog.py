"""The models known by name, and what can be told of them without loading any.

The web process imports this to know the input size; it must never bring numpy or Keras along.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from imageserve.errors import ModelLoadError
from imageserve.models.labels import IMAGENET_LABELS
from imageserve.models.stand_in import is_stand_in, parse_stand_in

_SHAPES = Path(__file__).with_name("shapes")


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What is fixed about a model that is known by name."""

    input_size: tuple[int, int]
    """Height and width, in pixels."""
    labels_file: Path
    """Where the labels are unless the settings name another file."""
    model_file: Path | None = None
    """The bundled classifier; None for a network of keras.applications, which gets its weights."""


KNOWN: Mapping[str, NetworkFacts] = {
    "resnet50": NetworkFacts((224, 224), IMAGENET_LABELS),
    "mobilenet_v2": NetworkFacts((224, 224), IMAGENET_LABELS),
    "shapes": NetworkFacts((96, 96), _SHAPES / "labels.txt", _SHAPES / "shapes.keras"),
}


def default_input_size(model: str) -> tuple[int, int] | None:
    """Tell the (height, width) a model takes; None for a file, which only loading can tell.

    Raises:
        ModelLoadError: no model has this name, or a stand-in's options are wrong.
    """
    if is_stand_in(model):
        return parse_stand_in(model).input_size
    if model in KNOWN:
        return KNOWN[model].input_size
    if is_model_file(model):
        return None
    raise unknown_model(model)


def is_model_file(model: str) -> bool:
    """Whether this model name is the path of a classifier saved by Keras."""
    return model.endswith(".keras")


def unknown_model(model: str) -> ModelLoadError:
    """Make the error that lists what a model may be called."""
    known = ", ".join([*KNOWN, "stand-in"])
    return ModelLoadError(
        f"unknown model {model!r}: known are {known}, and the path of a .keras file"
    )
