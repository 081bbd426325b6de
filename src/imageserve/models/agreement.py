"""Whether two engines say the same of the same pictures."""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from imageserve.models.classifier_checks import Scores

Pictures = NDArray[np.uint8]
"""Of one size: (n, height, width, 3), RGB 0..255."""
Probabilities = NDArray[np.float32]
"""One row for each picture: (n, classes)."""

SAMPLES = 64
_BATCH = 16


@dataclass(frozen=True, slots=True)
class Agreement:
    """How alike the probabilities of two engines are, over some pictures."""

    pictures: int
    same_best: int
    """Pictures whose likeliest label is the same."""
    largest_difference: float
    """Of one probability."""


def agreement(scores: Probabilities, expected: Probabilities) -> Agreement:
    """Compare what two engines say of the same pictures."""
    same = scores.argmax(axis=1) == expected.argmax(axis=1)
    return Agreement(len(scores), int(same.sum()), float(np.abs(scores - expected).max()))


def scores_of(call: Scores, pictures: Pictures) -> Probabilities:
    """Call a model on pictures in batches that any machine can hold."""
    starts = range(0, len(pictures), _BATCH)
    return np.concatenate([call(pictures[start : start + _BATCH]) for start in starts])


def as_pictures(decoded: Sequence[bytes], input_size: tuple[int, int]) -> Pictures:
    """Put decoded pictures of one (height, width) into an array."""
    return np.stack([np.frombuffer(one, np.uint8).reshape(*input_size, 3) for one in decoded])


def drawn_pictures(input_size: tuple[int, int], count: int = SAMPLES, seed: int = 7) -> Pictures:
    """Draw pictures with coarse and fine structure, each time the same.

    Plain noise looks alike to most networks, and plain colours to many.
    """
    random = np.random.default_rng(seed)
    height, width = input_size
    sum_of_scales = np.zeros((count, height, width, 3), np.float32)
    for cells in (2, 5, 13, 31):
        rows, columns = np.arange(height) * cells // height, np.arange(width) * cells // width
        colours = random.normal(0, 45, (count, cells, cells, 3)).astype(np.float32)
        sum_of_scales += colours[:, rows][:, :, columns]
    tint = random.uniform(60, 200, (count, 1, 1, 3)).astype(np.float32)
    pictures: Pictures = np.clip(sum_of_scales + tint, 0, 255).astype(np.uint8)
    return pictures
