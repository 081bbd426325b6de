"""What a model is to the rest of imageserve, and how scores become predictions.

No Keras in here, and no queue: a model gets decoded pictures and gives labels.
"""

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imageserve.predictions import Prediction


class Model(Protocol):
    """A classifier of RGB pictures that all have one size."""

    name: str
    version: str
    """What tells two models of one name apart: 1 to 64 letters, digits, dots, dashes, underscores.

    A folder's ``imageserve.yaml`` may say it. Otherwise it is the beginning of the SHA-256 of the
    model's file or of its weights file, or the word that stands for the weights (``imagenet``,
    ``random``). It names what was learnt, not the engine: an exported model keeps its version.
    """
    input_size: tuple[int, int]
    """Height and width of the pictures, in pixels."""
    classes: int
    """How many labels the model tells apart."""

    def predict(self, images: NDArray[np.uint8], top: int) -> list[tuple[Prediction, ...]]:
        """Classify pictures of shape (n, height, width, 3), RGB 0..255, in one model call.

        Answers for each picture its ``min(top, classes)`` likeliest labels, best first.

        Raises:
            ModelOutOfMemory: the device has too little memory for this batch; a smaller may pass.
            Exception: anything else means that the batch failed.
        """


class ScoringModel(Model, Protocol):
    """A model that has learnt something, whose probabilities can be looked at."""

    labels: tuple[str, ...]
    runtime: str
    """What runs it: ``keras`` or ``onnx``."""

    def scores(self, images: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Give the probabilities (n, classes) of pictures (n, height, width, 3).

        Raises:
            ModelOutOfMemory: the device has too little memory for this batch; a smaller may pass.
        """


def best(
    scores: NDArray[np.float32], labels: Sequence[str], top: int
) -> list[tuple[Prediction, ...]]:
    """Pick the ``top`` likeliest labels of each row of ``scores`` (n, classes), best first.

    Equal scores keep the order of their classes, so the same scores give the same answer.

    Raises:
        ValueError: a row holds NaN or an infinity, on which no order can be built.
    """
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if broken.size:
        raise ValueError(f"the scores are not finite for picture {broken.tolist()} of the batch")
    classes, kept = _best_classes(scores, top)
    return [
        tuple(Prediction(labels[i], p) for i, p in zip(*row, strict=True))
        for row in zip(classes.tolist(), kept.tolist(), strict=True)
    ]


def _best_classes(
    scores: NDArray[np.float32], top: int
) -> tuple[NDArray[np.intp], NDArray[np.float32]]:
    """Return the classes (n, kept) with the highest scores of each row, and these scores.

    All rows at once: row by row it takes several times as long, and the device waits meanwhile.
    """
    n, classes = scores.shape
    kept = min(top, classes)
    # argpartition alone would choose freely among classes that tie for the last place.
    last = classes - max(kept, 1)
    least = np.partition(scores, last, axis=1)[:, last]
    rows, candidates = np.nonzero(scores >= least[:, np.newaxis])
    order = np.lexsort((candidates, -scores[rows, candidates], rows))
    begins = np.searchsorted(rows, np.arange(n))  # lexsort leaves the rows where they are.
    chosen = candidates[order[begins[:, np.newaxis] + np.arange(kept)]]
    return chosen, np.take_along_axis(scores, chosen, axis=1)
