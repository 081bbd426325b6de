"""What a model is to the rest of imageserve, and what must hold before one may serve.

No runtime and no queue in here: a model gets decoded pictures and answers with labels. The checks
look at declared shapes and at the answers to two plain pictures; each message says what to change.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from imageserve.errors import ModelLoadError, ModelOutOfMemory
from imageserve.models.foreign import first_line, foreign
from imageserve.models.heads import LOGITS, OTHER, SOFTMAX, no_probabilities, not_served
from imageserve.models.inputs import Input, only, shape_of
from imageserve.predictions import Prediction
from imageserve.preparation import Preparation

Pictures = NDArray[np.uint8]
"""Pictures of one shape, `Preparation.shape`: (n, height, width, colours), 0..255."""
Probabilities = NDArray[np.float32]
"""One row for each picture: (n, classes)."""
Scores = Callable[[Pictures], Probabilities]
"""One model call. Raises ModelOutOfMemory like ``Model.predict``."""

_SUM_TOLERANCE = 1e-3


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

    def predict(self, images: Pictures, top: int) -> list[tuple[Prediction, ...]]:
        """Classify pictures in one model call.

        Returns for each picture its ``min(top, classes)`` likeliest labels, best first.

        Raises:
            ModelOutOfMemory: the device has too little memory for this batch; a smaller may pass.
            Exception: anything else means that the batch failed.
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
    head: str = field(default=OTHER, kw_only=True)
    """What makes its answers, one of `heads`."""
    takes: Input | None = field(default=None, kw_only=True)
    """What its input takes, and what is done to pictures before it; for people to look at."""
    weights_version: str = field(default="", kw_only=True)
    """The version of the weights alone; an exported file keeps it."""

    @property
    def classes(self) -> int:
        """Number of labels."""
        return len(self.labels)

    def predict(self, images: Pictures, top: int) -> list[tuple[Prediction, ...]]:
        """Classify pictures in one call; see ``Model.predict``."""
        return best(self.scores(images), self.labels, top)


def best(scores: Probabilities, labels: Sequence[str], top: int) -> list[tuple[Prediction, ...]]:
    """Return the ``top`` likeliest labels of each row, best first.

    Equal scores keep the order of their classes, so the same scores give the same answer.

    Raises:
        ValueError: a row holds NaN or an infinity, which cannot be sorted.
    """
    broken = np.flatnonzero(~np.isfinite(scores).all(axis=1))
    if broken.size:
        raise ValueError(f"the scores are not finite for picture {broken.tolist()} of the batch")
    classes, kept = _best_classes(scores, top)
    return [
        tuple(Prediction(labels[i], p) for i, p in zip(*row, strict=True))
        for row in zip(classes.tolist(), kept.tolist(), strict=True)
    ]


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


def check_output(
    name: str, outputs: Sequence[Any] | None, labels: Sequence[str], head: str, remedy: str
) -> None:
    """Raise ModelLoadError unless there is one output, with one score for each label.

    Args:
        name: the model, for the message.
        outputs: with a ``shape`` each, where it is known.
        labels: as many as there should be classes.
        head: what makes the first output, one of `heads`.
        remedy: how to leave one of several outputs.
    """
    shape = shape_of(only(name, "output", outputs, remedy))
    if shape and len(shape) != 2:
        raise ModelLoadError(
            f"{name} gives output of shape {foreign(shape)}: it must be (None, classes); "
            "end it with a pooling or Flatten layer and a Dense layer with softmax"
        )
    classes = shape[1] if shape else None
    # What one number of an unknown head is, only the answers tell.
    if head != OTHER or classes != 1:
        _check_classes(name, classes, labels, head)


def _check_classes(name: str, classes: int | None, labels: Sequence[str], head: str) -> None:
    problem = not_served(name, head, classes)
    if problem:
        raise ModelLoadError(problem)
    if classes is not None and classes != len(labels):
        raise ModelLoadError(
            f"{name} has {classes} classes and its labels file {len(labels)} labels: "
            "name a labels file with one label for each class, in class order"
        )


def check_probabilities(model: ScoringModel) -> None:
    """Raise ModelLoadError unless the model answers two plain pictures with probabilities."""
    shape = model.preparation.shape
    height, width = model.preparation.size
    ramp = np.arange(model.preparation.bytes).reshape(1, *shape) % 256
    pictures = np.concatenate([np.zeros_like(ramp), ramp]).astype(np.uint8)
    try:
        answers = model.scores(pictures)
    except Exception as error:  # a custom model can raise anything
        raise ModelLoadError(
            f"{model.name} fails on two plain pictures of {height}x{width} ({first_line(error)}): "
            "try it with RGB 0..255 in the program that saved it"
        ) from error
    check_scores(model, answers, len(pictures))


def check_scores(model: ScoringModel, answers: Probabilities, pictures: int) -> None:
    """Raise ModelLoadError unless each row of ``answers`` holds one probability for each class."""
    name = model.name
    if answers.ndim == 2 and len(answers) == pictures:
        head = model.head or (SOFTMAX if (answers == 1).all() else LOGITS)
        _check_classes(name, answers.shape[1], model.labels, head)
    if answers.shape != (pictures, model.classes):
        raise ModelLoadError(
            f"{name} answers with an array of shape {answers.shape} where "
            f"{(pictures, model.classes)} is expected, one row a picture: keep the batch as the "
            "first side of its output"
        )
    if not np.isfinite(answers).all():
        raise ModelLoadError(
            f"{name} answers with NaN or infinite numbers: its weights are broken, "
            "train or export it anew"
        )
    totals = answers.sum(axis=1)
    farthest = float(totals[np.abs(totals - 1).argmax()])
    lowest, highest = float(answers.min()), float(answers.max())
    if lowest < 0 or abs(farthest - 1) > _SUM_TOLERANCE:
        raise ModelLoadError(no_probabilities(name, model.head, lowest, highest, farthest))


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
