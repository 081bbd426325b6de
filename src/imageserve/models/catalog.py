"""The models known by name, and what can be told of them without loading any.

The web process imports this to know the input size; it must never bring numpy or Keras along.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from imageserve.errors import ModelLoadError
from imageserve.models.labels import IMAGENET_LABELS
from imageserve.models.networks import NETWORKS, Network
from imageserve.models.stand_in import is_stand_in, parse_stand_in

_SHAPES = Path(__file__).with_name("shapes")
_FILE_ENDINGS = (".keras", ".onnx")


@dataclass(frozen=True, slots=True)
class NetworkFacts:
    """What is fixed about a model that is known by name."""

    input_size: tuple[int, int]
    """Height and width, in pixels."""
    parameters: int
    labels_file: Path
    """Where the labels are unless the settings name another file."""
    model_file: Path | None = None
    """The bundled classifier; None for a network of keras.applications, which gets its weights."""
    network: Network | None = None
    """The network of keras.applications; None for a bundled classifier."""


def _of_network(network: Network) -> NetworkFacts:
    size = (network.size, network.size)
    return NetworkFacts(size, network.parameters, IMAGENET_LABELS, network=network)


KNOWN: Mapping[str, NetworkFacts] = {
    "shapes": NetworkFacts((96, 96), 53_142, _SHAPES / "labels.txt", _SHAPES / "shapes.keras"),
    **{name: _of_network(network) for name, network in NETWORKS.items()},
}


def default_input_size(model: str) -> tuple[int, int] | None:
    """Tell the (height, width) a model takes; None for a file or folder, which must be read for it.

    Raises:
        ModelLoadError: no model has this name, or a stand-in's options are wrong.
    """
    if is_stand_in(model):
        return parse_stand_in(model).input_size
    if model in KNOWN:
        return KNOWN[model].input_size
    if is_model_path(model):
        return None
    raise unknown_model(model)


def is_model_file(model: str) -> bool:
    """Whether this model name is the path of a classifier in one file."""
    return model.endswith(_FILE_ENDINGS)


def is_model_path(model: str) -> bool:
    """Whether this model name is the path of a file or of a folder; a folder's has a slash."""
    return is_model_file(model) or "/" in model


def short_name(model: str) -> str:
    """Return the name a model goes by: its own, or that of its file or folder without the rest."""
    if is_stand_in(model):
        return model.partition(":")[0]
    if is_model_file(model):
        return PurePath(model).stem
    return PurePath(model).name


def unknown_model(model: str) -> ModelLoadError:
    """Make the error that says what a model may be called."""
    # Keras's own names, too: ResNet50V2 finds resnet50_v2.
    wanted = model.lower().replace("-", "_")
    near = difflib.get_close_matches(wanted, [*KNOWN, "stand-in"], n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return ModelLoadError(
        f"unknown model {model!r}: {hint}'imageserve models list' shows the known names; a file "
        "ends in .keras or .onnx, and a folder is written with a slash, such as ./flowers"
    )
