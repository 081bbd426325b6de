"""The answer of a model for one picture: pure data, without wire format and model."""

from dataclasses import dataclass

LABELS, SCORES, EMBEDDING = "labels", "scores", "embedding"
"""What a client may ask for: the likeliest labels, the probabilities of all, an inner layer."""
VECTORS = (SCORES, EMBEDDING)


@dataclass(frozen=True, slots=True)
class Prediction:
    """One label and its probability, 0..1."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Outputs:
    """What a model gives, and how its probabilities are to be read."""

    vectors: tuple[str, ...] = ()
    """Those of `VECTORS` that it gives beside labels."""
    multi_label: bool = False
    """Whether several labels may hold for one picture: then their probabilities do not add up."""
