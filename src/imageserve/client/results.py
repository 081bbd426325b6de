"""What comes back."""

from array import array
from collections.abc import Mapping
from dataclasses import dataclass, field

from imageserve.client.errors import ClientError
from imageserve.client.pictures import Picture


@dataclass(frozen=True, slots=True)
class Prediction:
    """One label and how probable it is, 0 to 1."""

    label: str
    probability: float


@dataclass(frozen=True, slots=True)
class Result:
    """The answer for one picture."""

    predictions: tuple[Prediction, ...] = ()
    """Best first; none with ``output="scores"`` or ``"embedding"``."""
    vector: "array[float]" = field(default_factory=lambda: array("f"))
    """The scores or the embedding, float32; ``numpy.asarray()`` takes it without copying it."""
    model_version: str = ""
    request_id: str = ""
    timing_ms: Mapping[str, float] = field(default_factory=dict)
    """Where the server spent its time: ``decode``, ``queue``, ``model``, ``total``."""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one of many pictures."""

    index: int
    """Its place among the pictures that were given, from 0."""
    picture: Picture
    answer: Result | ClientError

    @property
    def error(self) -> ClientError | None:
        return self.answer if isinstance(self.answer, ClientError) else None

    @property
    def result(self) -> Result:
        """Raises the error of this picture where it has one."""
        if isinstance(self.answer, ClientError):
            raise self.answer
        return self.answer
