"""The answer of a model for one picture: pure data, without wire format and model."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prediction:
    """One label and its probability, 0..1."""

    label: str
    probability: float
