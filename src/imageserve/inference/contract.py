"""What this server says of itself and of its models. Pure.

Every model has the same inputs and outputs: a picture, as a file or as the pixels that its model
takes, and the probabilities of its labels. The answers are dictionaries with the names of the
protocol, which JSON and protocol buffers share.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imageserve.predictions import EMBEDDING, SCORES

SERVER = "imageserve"
EXTENSIONS = (
    "binary_tensor_data",
    "classification",
    "model_configuration",
    "schedule_policy",
    "statistics",
)
"""Those of the protocol's extensions that are served."""

IMAGE, PIXELS = "image", "pixels"
"""The inputs: files as they are, or pictures of the model's own size."""
INPUTS = (IMAGE, PIXELS)
PROBABILITIES = "probabilities"
OUTPUTS: Mapping[str, str] = {PROBABILITIES: SCORES, EMBEDDING: EMBEDDING}
"""Name of an output -> what a job is asked for, as ``imageserve.predictions`` names it."""

BYTES, UINT8, FP32 = "BYTES", "UINT8", "FP32"

UNVERSIONED = "1"
"""The version of a model that has none."""


@dataclass(frozen=True, slots=True)
class ServedModelFacts:
    """One model, as its queue and its live workers tell of it."""

    name: str
    versions: tuple[str, ...] = ()
    """Those that live workers serve, with `UNVERSIONED` for none."""
    shape: tuple[int, int, int] | None = None
    """Height, width and colours of its pixels; None where nobody has said it yet."""
    classes: int = 0
    """Number of its labels; 0 where nobody has said it yet."""
    outputs: tuple[str, ...] = (PROBABILITIES,)
    """Of `OUTPUTS`, those that all its live workers give."""
    most_pictures: int = 1
    """Most pictures of one request."""
    runtime: str = ""
    """What runs it, such as ``keras``; "" where it is not known."""


def version_name(version: str) -> str:
    """Return the name that a version has in addresses and answers."""
    return version or UNVERSIONED


def server_metadata(version: str) -> dict[str, Any]:
    """Return what the server says of itself; ``version`` is that of imageserve."""
    return {"name": SERVER, "version": version, "extensions": list(EXTENSIONS)}


def model_metadata(facts: ServedModelFacts) -> dict[str, Any]:
    """Return the inputs and outputs of a model; -1 stands for any number of pictures."""
    return {
        "name": facts.name,
        "versions": list(facts.versions),
        "platform": _platform(facts),
        "inputs": [
            {"name": IMAGE, "datatype": BYTES, "shape": [-1, 1]},
            {"name": PIXELS, "datatype": UINT8, "shape": [-1, *_sides(facts)]},
        ],
        "outputs": [
            {"name": name, "datatype": FP32, "shape": [-1, _length(facts, name)]}
            for name in facts.outputs
        ],
    }


def model_config(facts: ServedModelFacts) -> dict[str, Any]:
    """Return a model's configuration: the sides without the number of pictures.

    Either input is optional, because a request has one of them.
    """
    return {
        "name": facts.name,
        "platform": _platform(facts),
        "backend": SERVER,
        "max_batch_size": facts.most_pictures,
        "input": [
            {"name": IMAGE, "data_type": "TYPE_STRING", "dims": [1], "optional": True},
            {
                "name": PIXELS,
                "data_type": "TYPE_UINT8",
                "dims": list(_sides(facts)),
                "optional": True,
            },
        ],
        "output": [
            {"name": name, "data_type": "TYPE_FP32", "dims": [_length(facts, name)]}
            for name in facts.outputs
        ],
        "dynamic_batching": {},
        "model_transaction_policy": {"decoupled": False},
    }


def _platform(facts: ServedModelFacts) -> str:
    return f"{SERVER}_{facts.runtime}" if facts.runtime else SERVER


def _sides(facts: ServedModelFacts) -> Sequence[int]:
    return facts.shape or (-1, -1, -1)


def _length(facts: ServedModelFacts, output: str) -> int:
    return facts.classes or -1 if output == PROBABILITIES else -1
