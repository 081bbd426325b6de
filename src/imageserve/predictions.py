"""What a model says about a picture. Pure data: no wire format, no model in here."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Prediction:
    """One label and how likely the model holds it to be, 0..1."""

    label: str
    probability: float
