"""What must be true of a Keras classifier before it may serve; each message names the mend.

No Keras in here: the checks look at declared shapes and at the answers to two plain pictures.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imageserve.errors import ModelLoadError

_SUM_TOLERANCE = 1e-3
_INPUT_TYPES = ("float32", "uint8", "int32", "float16", "bfloat16")

Scores = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""One model call: pictures (n, height, width, 3) to scores (n, classes)."""


def checked_input_size(
    name: str, inputs: Sequence[Any] | None, wanted: tuple[int, int] | None
) -> tuple[int, int]:
    """Tell the (height, width) of the pictures, from the input or, where it is open, as wanted.

    Raises ModelLoadError unless there is one input, of RGB pictures, of the wanted size.
    """
    shape = _only_shape(name, "input", inputs)
    if len(shape) != 4 or shape[3] != 3:
        raise ModelLoadError(
            f"{name} takes input of shape {shape}: it must be (None, height, width, 3), RGB"
        )
    open_size = wanted or (None, None)
    height, width = shape[1] or open_size[0], shape[2] or open_size[1]
    if not height or not width:
        raise ModelLoadError(
            f"{name} takes pictures of any size: set the input size "
            "(INPUT_SIZE, or input_size in the folder's imageserve.yaml)"
        )
    if wanted and wanted != (height, width):
        raise ModelLoadError(
            f"{name} takes pictures of {height}x{width} (height x width) and the settings demand "
            f"{wanted[0]}x{wanted[1]}: set the input size to {height}x{width}, or leave it out"
        )
    return height, width


def check_input_type(name: str, dtype: str, scaling: str) -> None:
    """Raise ModelLoadError unless the classifier takes numbers that pixels can be given as."""
    if dtype not in _INPUT_TYPES:
        raise ModelLoadError(
            f"{name} takes input of type {dtype}: it must be one of {', '.join(_INPUT_TYPES)}"
        )
    if "int" in dtype and scaling != "none":
        raise ModelLoadError(
            f"{name} takes whole numbers ({dtype}) and its scaling {scaling!r} makes fractions: "
            "set the scaling to none, or give the model a float32 input"
        )


def check_output(name: str, outputs: Sequence[Any] | None, labels: Sequence[str]) -> None:
    """Raise ModelLoadError unless there is one output, of one score for each label."""
    shape = _only_shape(name, "output", outputs)
    if len(shape) != 2:
        raise ModelLoadError(
            f"{name} gives output of shape {shape}: it must be (None, classes); "
            "end it with a pooling or Flatten layer and a Dense layer with softmax"
        )
    if shape[1] != len(labels):
        raise ModelLoadError(
            f"{name} has {shape[1]} classes and its labels file {len(labels)} labels: "
            "name a labels file with one label for each class, in class order"
        )


def check_probabilities(
    name: str, scores: Scores, input_size: tuple[int, int], classes: int
) -> None:
    """Raise ModelLoadError unless two plain pictures are answered with probabilities."""
    answers = _probe(name, scores, input_size)
    check_scores(name, answers, (2, classes))


def check_scores(name: str, answers: NDArray[np.float32], shape: tuple[int, int]) -> None:
    """Raise ModelLoadError unless each row of ``answers`` holds one probability for each class."""
    if answers.shape != shape:
        raise ModelLoadError(
            f"{name} answers with an array of shape {answers.shape} where {shape} is expected, one "
            "row a picture: let its output keep the batch as its first side"
        )
    if not np.isfinite(answers).all():
        raise ModelLoadError(
            f"{name} answers with NaN or infinite numbers: its weights are broken, "
            "train or export it anew"
        )
    if (answers < 0).any() or np.abs(answers.sum(axis=1) - 1).max() > _SUM_TOLERANCE:
        raise ModelLoadError(
            f"{name} does not answer with probabilities (0 or more, together 1): "
            "add a softmax as its last layer"
        )


def first_line(error: Exception) -> str:
    """Shorten an error of Keras, which can fill screens, to what fits into a sentence."""
    return str(error).strip().partition("\n")[0] or type(error).__name__


def _only_shape(name: str, what: str, tensors: Sequence[Any] | None) -> tuple[int | None, ...]:
    if not tensors or len(tensors) != 1:
        raise ModelLoadError(
            f"{name} declares {len(tensors or ())} {what}s: save a Sequential or functional "
            f"model with one {what}"
        )
    shape: tuple[int | None, ...] = tuple(tensors[0].shape)
    return shape


def _probe(name: str, scores: Scores, input_size: tuple[int, int]) -> NDArray[np.float32]:
    height, width = input_size
    ramp = np.arange(height * width * 3).reshape(1, height, width, 3) % 256
    pictures = np.concatenate([np.zeros_like(ramp), ramp]).astype(np.uint8)
    try:
        return scores(pictures)
    except Exception as error:  # any layer of any custom model can raise anything
        raise ModelLoadError(
            f"{name} fails on two plain pictures of {height}x{width} ({first_line(error)}): "
            "try it in Keras with float32 RGB 0..255"
        ) from error
