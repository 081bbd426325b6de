"""What a model of a test is made of that gives labels alone."""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from imageserve.predictions import Asked, Outputs, Prediction


class LabelsOnly(ABC):
    """Give ``predict`` and the attributes of a model; the rest is here."""

    outputs = Outputs()

    @abstractmethod
    def predict(self, images: NDArray[np.uint8], top: int) -> list[tuple[Prediction, ...]]:
        """Return the likeliest labels of each picture, best first."""

    def predict_more(
        self, images: NDArray[np.uint8], asked: Sequence[Asked]
    ) -> tuple[list[tuple[Prediction, ...]], Mapping[str, NDArray[np.float32]]]:
        return self.predict(images, max(each.top for each in asked))[: len(asked)], {}
