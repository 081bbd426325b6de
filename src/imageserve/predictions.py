"""The answer of a model for one picture: pure data, without wire format and model."""

import sys
from array import array
from dataclasses import dataclass, field

LABELS, SCORES, EMBEDDING = "labels", "scores", "embedding"
"""What a client may ask for: the likeliest labels, the probabilities of all, an inner layer."""
VECTORS = (SCORES, EMBEDDING)

FLOAT_BYTES = 4
"""Of one number of a vector: float32, little-endian."""

FEW_LABELS = 100
"""So many labels of a picture take a model, the queue and a web process next to nothing."""


PIECE = 2000
"""Numbers, or labels, that are written at once: one or two milliseconds."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """One label and its probability, 0..1."""

    label: str
    probability: float
    index: int | None = field(default=None, compare=False)
    """The number of its class, from 0; None where the worker does not say it, as in 0.1.0."""


@dataclass(frozen=True, slots=True)
class Asked:
    """What one picture is asked of a model for."""

    top: int
    """Most labels."""
    least: float = 0.0
    """Labels of a lower probability need not be made, but for the likeliest."""
    want: str = ""
    """One of `VECTORS`; "" for labels alone."""

    @property
    def is_usual(self) -> bool:
        """Whether ``Model.predict`` gives it at no cost for the other pictures of a batch."""
        return self.top <= FEW_LABELS and not self.want


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a model gives, and how its probabilities are to be read."""

    vectors: tuple[str, ...] = ()
    """Those of `VECTORS` that it gives beside labels."""
    multi_label: bool = False
    """Whether several labels may hold for one picture: then their probabilities do not add up."""


def floats(vector: bytes) -> "array[float]":
    """Return the numbers of one or more vectors."""
    numbers = array("f", vector)
    if sys.byteorder == "big":
        numbers.byteswap()
    return numbers
