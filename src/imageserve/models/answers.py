"""From the numbers a model ends in to the probabilities of its labels, checked on two pictures.

The arithmetic is numpy's, for all runtimes alike: a softmax of 32 x 1000 numbers takes a tenth of
a millisecond. A model that ends in a softmax pays nothing.
"""

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from imageserve.errors import ModelLoadError
from imageserve.models.foreign import first_line, foreign
from imageserve.models.heads import SIGMOID, SOFTMAX, Head, Numbers
from imageserve.models.inputs import only, shape_of
from imageserve.models.model import (
    Pictures,
    Probabilities,
    Scores,
    ScoringModel,
    Vectors,
)

OTHERWISE = 0.1
"""How far the numbers of one picture may be apart in two calls, as a part of the largest: 16 bits
and other kernels for a single picture make less, normalization over the batch more."""

M = TypeVar("M", bound=ScoringModel)
Step = Callable[[NDArray[np.float32]], NDArray[np.float32]]


def check_output(
    head: Head, outputs: Sequence[Any] | None, labels: Sequence[str], remedy: str
) -> None:
    """Raise ModelLoadError unless there is one output, with one number for each label.

    Args:
        head: of the model.
        outputs: with a ``shape`` each, where it is known.
        labels: as many as there should be classes.
        remedy: how to leave one of several outputs.
    """
    shape = shape_of(only(head.model, "output", outputs, remedy))
    sides = [side for side in shape[1:] if side != 1]
    if len(sides) > 1:
        raise _no_row(head.model, shape)
    classes = sides[0] if sides else 1
    if shape and classes is not None:
        _check_classes(head, classes, labels)


def _no_row(name: str, shape: Sequence[int | None]) -> ModelLoadError:
    return ModelLoadError(
        f"{name} gives output of shape {foreign(tuple(shape))}: it must be (None, classes); "
        "end it with a pooling or Flatten layer and a Dense layer with softmax"
    )


def _check_classes(head: Head, classes: int, labels: Sequence[str]) -> None:
    problem = head.classes_problem(classes, len(labels))
    if problem:
        raise ModelLoadError(problem)


def in_probabilities(model: M, kind: str, embedding: int = 0) -> M:
    """Return a model whose ``scores`` are probabilities, from one with the numbers it ends in.

    ``kind`` is what makes these, one of `heads`. Behind them each row may hold the ``embedding``, a
    vector of this length. Raises ModelLoadError that says what to write where it is not known how
    the numbers become probabilities, or what is wrong with them.
    """
    whole = model.scores
    if embedding:
        model = replace(model, scores=lambda images: whole(images)[:, :-embedding])
    head = Head(model.name, kind, model.activation)
    steps, numbers = _understood(model, head)
    is_binary = numbers.classes == 1 and model.classes == 2
    steps += [_no_and_yes] if is_binary else []
    return replace(
        model,
        scores=_after(model.scores, steps) if steps else model.scores,
        with_embedding=_both(whole, embedding, steps) if embedding else None,
        multi_label=head.is_multi_label(numbers) and not is_binary,
    )


def _understood(model: ScoringModel, head: Head) -> tuple[list[Step], Numbers]:
    """Return what makes rows of probabilities of the model's numbers, and how these look."""
    pictures = _two_plain_pictures(model)
    given = _numbers(model, pictures)
    if given.shape[:1] != pictures.shape[:1]:
        raise _no_batch(model.name, given, (len(pictures), model.classes))
    rows = _as_row(given)
    if rows.shape[1] != max(given.shape[1:], default=1):
        raise _no_row(model.name, (None, *given.shape[1:]))
    _check_classes(head, rows.shape[1], model.labels)
    _check_finite(model.name, rows)
    numbers = _told(rows)
    problem = head.problem(numbers)
    if problem:
        raise ModelLoadError(problem)
    _check_alone(model.name, rows[1:], _as_row(_numbers(model, pictures[1:])))
    steps: list[Step] = [_as_row] if given.ndim != 2 else []
    steps += [ACTIVATIONS[model.activation]] if model.activation in ACTIVATIONS else []
    return steps, numbers


def check_scores(model: ScoringModel, answers: Probabilities, pictures: int) -> None:
    """Raise ModelLoadError unless each row of ``answers`` holds one probability for each class."""
    if answers.shape != (pictures, model.classes):
        raise _no_batch(model.name, answers, (pictures, model.classes))
    _check_finite(model.name, answers)
    numbers = _told(answers)
    if not (numbers.within if model.multi_label else numbers.add_up):
        raise ModelLoadError(
            f"{model.name} answers some pictures with numbers from {numbers.lowest:.3g} to "
            f"{numbers.highest:.3g} that add up to {numbers.total:.3g}, which are no "
            "probabilities: say with 'activation' in imageserve.yaml what they are"
        )


def _two_plain_pictures(model: ScoringModel) -> Pictures:
    ramp = np.arange(model.preparation.bytes).reshape(1, *model.preparation.shape) % 256
    return np.concatenate([np.zeros_like(ramp), ramp]).astype(np.uint8)


def _numbers(model: ScoringModel, pictures: Pictures) -> NDArray[np.float32]:
    height, width = model.preparation.size
    try:
        return model.scores(pictures)
    except Exception as error:  # a custom model can raise anything
        raise ModelLoadError(
            f"{model.name} fails on two plain pictures of {height}x{width} ({first_line(error)}): "
            "try it with RGB 0..255 in the program that saved it"
        ) from error


def _no_batch(name: str, answers: NDArray[Any], expected: tuple[int, int]) -> ModelLoadError:
    return ModelLoadError(
        f"{name} answers with an array of shape {answers.shape} where {expected} is expected, one "
        "row a picture: keep the batch as the first side of its output"
    )


def _check_finite(name: str, answers: NDArray[np.float32]) -> None:
    if not np.isfinite(answers).all():
        raise ModelLoadError(
            f"{name} answers with NaN or infinite numbers: its weights are broken, "
            "train or export it anew"
        )


def _check_alone(name: str, beside: Probabilities, alone: Probabilities) -> None:
    """Raise ModelLoadError unless the numbers of a picture are the same without one beside it."""
    apart = np.abs(beside - alone).max()
    if not apart <= OTHERWISE * np.abs(beside).max():
        raise ModelLoadError(
            f"{name} gives a picture other numbers beside another one than alone (by {apart:.2g}), "
            "as in training: export it for inference (in PyTorch after model.eval(), in Keras "
            "without training=True)"
        )


def _told(rows: NDArray[np.float32]) -> Numbers:
    totals = rows.sum(axis=1)
    farthest = float(totals[np.abs(totals - 1).argmax()])
    return Numbers(rows.shape[1], float(rows.min()), float(rows.max()), farthest)


# -- arithmetic ------------------------------------------------------------------------------------


def _after(scores: Scores, steps: Sequence[Step]) -> Scores:
    def probabilities(images: Pictures) -> Probabilities:
        numbers = scores(images)
        for step in steps:
            numbers = step(numbers)
        return numbers

    return probabilities


def _both(
    whole: Scores, embedding: int, steps: Sequence[Step]
) -> Callable[[Pictures], tuple[Probabilities, Vectors]]:
    def both(images: Pictures) -> tuple[Probabilities, Vectors]:
        numbers, vectors = np.split(whole(images), [-embedding], axis=1)
        for step in steps:
            numbers = step(numbers)
        return numbers, vectors

    return both


def in_one_row(*answers: NDArray[Any]) -> NDArray[np.float32]:
    """Put several answers to the same pictures side by side: (n, numbers of all)."""
    return np.concatenate([_as_row(np.asarray(each, np.float32)) for each in answers], axis=1)


def softmax(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return rows that add up to 1. The largest of a row is taken off first: no overflow."""
    powers = np.exp(numbers - numbers.max(axis=1, keepdims=True))
    return np.asarray(powers / powers.sum(axis=1, keepdims=True))


def sigmoid(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return 1 / (1 + exp(-x)); the power of a very low number is infinite, and gives 0."""
    with np.errstate(over="ignore"):
        return np.asarray(1 / (1 + np.exp(-numbers)))


def _no_and_yes(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Return the probabilities of two labels, the second of which each number is of."""
    return np.concatenate([1 - numbers, numbers], axis=1)


def _as_row(numbers: NDArray[np.float32]) -> NDArray[np.float32]:
    """Drop the sides of length 1 that a network without a Flatten leaves."""
    return numbers.reshape(len(numbers), -1)


ACTIVATIONS: dict[str, Step] = {SOFTMAX: softmax, SIGMOID: sigmoid}
"""Those of `choices.ACTIVATIONS` that do something."""
