"""What a model is to the rest of imageserve.

No runtime and no queue in here: a model gets decoded pictures and answers with labels. What must
hold before one may serve is in `inputs` and `answers`.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from imageserve.errors import ModelOutOfMemory
from imageserve.models.foreign import first_line
from imageserve.models.inputs import Input
from imageserve.predictions import EMBEDDING, FEW_LABELS, SCORES, Asked, Outputs, Prediction
from imageserve.preparation import Preparation

Pictures = NDArray[np.uint8]
"""Pictures of one shape, `Preparation.shape`: (n, height, width, colours), 0..255."""
Probabilities = NDArray[np.float32]
"""One row for each picture: (n, classes)."""
Vectors = NDArray[np.float32]
"""One row for each picture: (n, numbers)."""
Scores = Callable[[Pictures], Probabilities]
"""One model call. Raises ModelOutOfMemory like ``Model.predict``."""


class Model(Protocol):
    """A classifier of pictures that are all prepared in one way."""

    name: str
    version: str
    """Tells two models of one name apart: 1 to 64 letters, digits, dots, dashes, underscores.

    ``imageserve.yaml`` may set it. Otherwise it is the beginning of the SHA-256 of the model's
    files or of its weights file, or the name of the weights (``imagenet``, ``random``); behind a
    dash follows one of its labels and of ``imageserve.yaml``. An exported model keeps the version
    of its source, because the weights are the same.
    """
    runtime: str
    """The name of what runs it: a key of `RUNTIMES`, or ``stand-in``."""
    preparation: Preparation
    """What is done to pictures before they are given to ``predict``."""

    @property
    def classes(self) -> int:
        """Number of labels."""

    @property
    def outputs(self) -> Outputs:
        """What it gives."""

    def predict(self, images: Pictures, top: int) -> list[tuple[Prediction, ...]]:
        """Classify pictures in one model call.

        Returns for each picture its ``min(top, classes)`` likeliest labels, best first.

        Raises:
            ModelOutOfMemory: the device has too little memory for this batch; a smaller may pass.
            Exception: anything else means that the batch failed.
        """

    def predict_more(
        self, images: Pictures, asked: Sequence[Asked]
    ) -> tuple[list[tuple[Prediction, ...]], Mapping[str, Vectors]]:
        """Do what ``predict`` does for the first pictures, each of which is ``asked`` for its own.

        Returns their labels, and rows of those vectors that one of them wants and this model gives;
        maybe of others too.
        """


@dataclass(eq=False)
class ScoringModel:
    """A model that also gives the probabilities of all classes: every one but the stand-in.

    Made by the ``load`` of a runtime, which does all the checks. Used by one thread.
    """

    name: str
    version: str
    runtime: str
    """The name of what runs it, a key of `RUNTIMES`."""
    preparation: Preparation
    labels: tuple[str, ...]
    scores: Scores
    with_embedding: Callable[[Pictures], tuple[Probabilities, Vectors]] | None = field(
        default=None, kw_only=True
    )
    """One call that gives the embedding as well; None where the facts name no inner layer."""
    takes: Input | None = field(default=None, kw_only=True)
    """What its input takes, and what is done to pictures before it; for people to look at."""
    activation: str | None = field(default=None, kw_only=True)
    """What its facts say is done to the numbers that its file ends in; an export keeps it."""
    embedding: str | None = field(default=None, kw_only=True)
    """The inner layer or tensor that its facts name; an export keeps it."""
    multi_label: bool = field(default=False, kw_only=True)
    """See `Outputs`."""
    weights_version: str = field(default="", kw_only=True)
    """The version of the weights alone; an exported file keeps it."""

    @property
    def classes(self) -> int:
        """Number of labels."""
        return len(self.labels)

    def predict(self, images: Pictures, top: int) -> list[tuple[Prediction, ...]]:
        """Classify pictures in one call; see ``Model.predict``."""
        return best(self.scores(images), self.labels, top)

    @property
    def outputs(self) -> Outputs:
        """What it gives."""
        vectors = (SCORES, EMBEDDING) if self.with_embedding else (SCORES,)
        return Outputs(vectors, self.multi_label)

    def predict_more(
        self, images: Pictures, asked: Sequence[Asked]
    ) -> tuple[list[tuple[Prediction, ...]], Mapping[str, Vectors]]:
        """Classify pictures and return vectors, in one call; see ``Model.predict_more``."""
        vectors: dict[str, Vectors] = {}
        if self.with_embedding and any(each.want == EMBEDDING for each in asked):
            scores, vectors[EMBEDDING] = self.with_embedding(images)
            check_finite("embedding", vectors[EMBEDDING])
        else:
            scores = self.scores(images)
        predictions = best_of_each(scores[: len(asked)], self.labels, asked)
        return predictions, {SCORES: scores, **vectors}


def best(scores: Probabilities, labels: Sequence[str], top: int) -> list[tuple[Prediction, ...]]:
    """Return the ``top`` likeliest labels of each row, best first.

    Equal scores keep the order of their classes, so the same scores give the same answer.

    Raises:
        ValueError: a row holds NaN or an infinity, which cannot be sorted.
    """
    check_finite("scores", scores)
    classes, kept = _best_classes(scores, top)
    return [
        tuple(Prediction(labels[i], p, i) for i, p in zip(*row, strict=True))
        for row in zip(classes.tolist(), kept.tolist(), strict=True)
    ]


def best_of_each(
    scores: Probabilities, labels: Sequence[str], asked: Sequence[Asked]
) -> list[tuple[Prediction, ...]]:
    """Return the likeliest labels of each row that it is asked for, best first; see `best`.

    Many labels are made for those rows alone that are asked for them: to sort a thousand for each
    picture of a batch may take longer than the model.
    """
    few = max((each.top for each in asked if each.top <= FEW_LABELS), default=1)
    answers = best(scores, labels, few)
    for place, each in enumerate(asked):
        if each.top > FEW_LABELS:
            answers[place] = _many(scores[place], labels, each)
    return answers


def _many(row: NDArray[np.float32], labels: Sequence[str], asked: Asked) -> tuple[Prediction, ...]:
    classes = np.argsort(-row, kind="stable")[: asked.top]
    likely = int(np.count_nonzero(row >= asked.least))
    classes = classes[: max(likely, 1)]
    return tuple(
        Prediction(labels[i], p, i)
        for i, p in zip(classes.tolist(), row[classes].tolist(), strict=True)
    )


def check_finite(what: str, rows: Vectors) -> None:
    """Raise ValueError where a row holds NaN or an infinity."""
    broken = np.flatnonzero(~np.isfinite(rows).all(axis=1))
    if broken.size:
        raise ValueError(f"the {what} are not finite for picture {broken.tolist()} of the batch")


def _best_classes(scores: Probabilities, top: int) -> tuple[NDArray[np.intp], Probabilities]:
    """Return the classes (n, kept) with the highest scores of each row, and these scores.

    All rows at once: row by row takes several times as long, while the device waits.
    """
    n, classes = scores.shape
    kept = min(top, classes)
    # argpartition alone chooses any of the classes that tie for the last place.
    last = classes - max(kept, 1)
    least = np.partition(scores, last, axis=1)[:, last]
    rows, candidates = np.nonzero(scores >= least[:, np.newaxis])
    order = np.lexsort((candidates, -scores[rows, candidates], rows))
    begins = np.searchsorted(rows, np.arange(n))  # lexsort leaves the rows where they are.
    chosen = candidates[order[begins[:, np.newaxis] + np.arange(kept)]]
    return chosen, np.take_along_axis(scores, chosen, axis=1)


def in_pieces(images: Pictures, size: int) -> list[Pictures]:
    """Divide a batch into parts of ``size`` pictures, the last one filled up with black ones."""
    missing = -len(images) % size
    if missing:
        black = np.zeros((missing, *images.shape[1:]), images.dtype)
        images = np.concatenate([images, black])
    return [images[i : i + size] for i in range(0, len(images), size)]


def if_memory(images: Pictures, error: Exception, *signs: str) -> Exception:
    """Return ModelOutOfMemory if the text of ``error`` has one of the signs, else ``error``."""
    return out_of_memory(images, error) if any(s in str(error) for s in signs) else error


def out_of_memory(images: Pictures, error: Exception) -> ModelOutOfMemory:
    return ModelOutOfMemory(
        f"too little device memory for a batch of {len(images)}: {first_line(error)}"
    )
