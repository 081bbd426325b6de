"""Makes a model folder of a classifier from elsewhere: preparation and head move into its graph.

What is written is compared with the original, which gets its numbers from numpy instead.
"""

import hashlib
import json
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imageserve.errors import ModelLoadError
from imageserve.models import onnx_graph, onnx_model
from imageserve.models.answers import ACTIVATIONS
from imageserve.models.comparison import (
    Agreement,
    agreement,
    as_pictures,
    drawn_pictures,
    scores_of,
)
from imageserve.models.export import TOLERANCE, check_labels, holds_source, load_exported
from imageserve.models.files import content_version
from imageserve.models.folder import LABELS_FILES, ModelFacts, new_files, write_beside
from imageserve.models.foreign import first_line, foreign
from imageserve.models.heads import LOGITS, OTHER, SIGMOID, SOFTMAX, SUM_TOLERANCE
from imageserve.models.huggingface import CONFIG_FILE, PROCESSOR_FILE
from imageserve.models.inputs import NCHW, Input, understood
from imageserve.models.model import Pictures, Probabilities, ScoringModel
from imageserve.models.onnx_file import VERSION_KEY, OnnxFile, check_beside, read_onnx
from imageserve.models.runtimes import ONNX, Engine
from imageserve.preparation import Preparation

TOLERANCE_16_BITS = 1e-2
"""How far a probability may be from that of an original that computes in 16 bits."""

Numbers = NDArray[Any]


@dataclass(frozen=True, slots=True)
class Original:
    """A classifier from elsewhere."""

    name: str
    path: Path
    """Its ``.onnx`` file."""
    call: Callable[[Numbers], Numbers] | None = None
    """Its own answer to prepared numbers; None where the file is the original itself."""
    output: str | None = None
    """Which of several outputs has the answers."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """How its pictures are prepared, and what its answers become."""

    facts: ModelFacts
    crop_pct: float | None = None
    """Part of the resized picture's side that is left after the crop, as timm says it."""
    activation: str | None = None
    """What logits become where nobody has said it."""

    def for_size(self, size: tuple[int, int]) -> ModelFacts:
        """Return the facts for a model of this height and width."""
        if self.crop_pct is None or self.facts.resize_to is not None:
            return self.facts
        if size[0] != size[1]:
            raise ModelLoadError(
                f"pictures of {size[0]}x{size[1]} are no square: say with --resize-to how long "
                "the shorter side is before the crop"
            )
        return replace(self.facts, resize_to=math.floor(size[0] / self.crop_pct))


_CROP = ModelFacts(resize="crop", scaling="torch")
LIKE: Mapping[str, Wanted] = {
    "torchvision": Wanted(replace(_CROP, interpolation="bilinear"), 0.875, SOFTMAX),
    "timm": Wanted(replace(_CROP, interpolation="bicubic"), 0.875, SOFTMAX),
    "keras": Wanted(ModelFacts(resize="squash", interpolation="bilinear", scaling="none")),
}
"""How the evaluation pipelines of libraries prepare pictures where nothing else is said."""


@dataclass(frozen=True, slots=True)
class Imported:
    """What was written."""

    model: ScoringModel
    """Loaded from the new folder."""
    found: Agreement
    """With the original."""


def import_model(
    original: Original,
    wanted: Wanted,
    labels: tuple[str, ...],
    folder: Path,
    pictures_for: Callable[[Preparation], Sequence[bytes]],
) -> Imported:
    """Write a model folder, if it answers as the original does.

    Args:
        original: what is written.
        wanted: how it is prepared; what its file declares must agree.
        labels: in class order.
        folder: created if it is missing.
        pictures_for: returns decoded pictures to compare the answers to, besides drawn ones.

    Raises ModelLoadError where it cannot be read, written or served, or answers otherwise.
    """
    file = _checked(original, folder)
    taken = _taken(original, file, wanted)
    pictures = _with_drawn(pictures_for(taken.preparation), taken.preparation.shape)
    call = original.call or onnx_model.plain_call(original.path, original.output, taken.batch)
    expected = scores_of(lambda some: _answers(original, call, _as_numbers(some, taken)), pictures)
    activation = _activation(original, file, wanted, expected)
    graph = onnx_graph.read(original.path, original.output)
    tolerance = TOLERANCE_16_BITS if onnx_graph.has_16_bits(graph) else TOLERANCE
    if not (taken.takes_bytes and taken.type == "uint8"):
        onnx_graph.put_in_front(graph, taken)
    if activation in ACTIVATIONS:
        onnx_graph.put_behind(graph, activation)
        expected = ACTIVATIONS[activation](expected)
    version = _version(original, file, taken, activation)
    with new_files(folder) as made:
        onnx_graph.write(graph, made / ONNX.folder_files[0], {VERSION_KEY: version})
        write_beside(made, labels, taken.preparation, **_said(wanted.facts, activation))
        written = load_exported(made, ONNX, Engine())
        check_labels(written, labels)
        agrees = _compared(written, pictures, expected, tolerance)
    return Imported(written, agrees)


def _said(facts: ModelFacts, activation: str | None) -> dict[str, str]:
    """Return the facts that are not in the graph."""
    said = {"activation": "none"} if activation == "none" else {}
    return said | ({"embedding": facts.embedding} if facts.embedding else {})


def _checked(original: Original, folder: Path) -> OnnxFile:
    if holds_source(folder, str(original.path)) or (
        (folder / ONNX.folder_files[0]).exists()
        and (folder / ONNX.folder_files[0]).samefile(original.path)
    ):
        raise ModelLoadError(f"{folder} holds the original: name another folder with --to")
    others = (LABELS_FILES[1], CONFIG_FILE, PROCESSOR_FILE)
    if there := [name for name in others if (folder / name).exists()]:
        raise ModelLoadError(
            f"{folder} holds {there[0]}, which would count for the new model as well: name an "
            "empty or a new folder with --to"
        )
    file = read_onnx(original.path)
    if file is None:
        raise ModelLoadError(f"{original.path} is no ONNX file or cut short: copy it anew")
    check_beside(original.path, file)
    if file.version:
        raise ModelLoadError(
            f"{original.path} was written by imageserve, with its preparation inside: serve its "
            "folder as it is"
        )
    named = [original.output] if original.output else file.outputs
    if len(named) != 1 or named[0] not in file.outputs:
        raise ModelLoadError(
            f"{original.path} has the outputs {foreign(', '.join(file.outputs))}: name the one "
            "with the answers with --output"
        )
    return file


def _taken(original: Original, file: OnnxFile, wanted: Wanted) -> Input:
    """Return what the original takes, prepared as wanted."""
    facts, scaling = wanted.facts, wanted.facts.arithmetic
    size = understood(original.name, file.inputs, facts, scaling).preparation.size
    return understood(original.name, file.inputs, wanted.for_size(size), scaling)


def _with_drawn(decoded: Sequence[bytes], shape: tuple[int, int, int]) -> Pictures:
    drawn = drawn_pictures(shape)
    return np.concatenate([as_pictures(decoded, shape), drawn]) if decoded else drawn


def _as_numbers(pictures: Pictures, taken: Input) -> Numbers:
    """Return what the original takes for pictures; not by the graph that is to be checked."""
    numbers: Numbers = pictures[..., ::-1] if taken.scaling.is_bgr else pictures
    if taken.is_scaled:
        factor, offset = (np.asarray(each) for each in (taken.scaling.factor, taken.scaling.offset))
        numbers = numbers * factor + offset
    if taken.layout == NCHW:
        numbers = numbers.transpose(0, 3, 1, 2)
    return np.ascontiguousarray(numbers, dtype=taken.type)


def _answers(
    original: Original, call: Callable[[Numbers], Numbers], numbers: Numbers
) -> Probabilities:
    try:
        answers = np.asarray(call(numbers))
    except Exception as error:  # whatever its own library may raise
        raise ModelLoadError(
            f"{original.name} fails on prepared pictures of shape {numbers.shape} "
            f"({first_line(error)}): try it in the program that wrote it"
        ) from error
    if answers.dtype.kind != "f":
        raise ModelLoadError(
            f"{original.name} answers with {answers.dtype}, not with a number for each class that "
            "can become its probability: export it without its ArgMax, or name another --output"
        )
    return answers.astype(np.float32).reshape(len(answers), -1)


def _activation(
    original: Original, file: OnnxFile, wanted: Wanted, answers: Probabilities
) -> str | None:
    """Return what is done to the numbers that the original ends in; None where it is nothing.

    Raises ModelLoadError where it is not known.
    """
    said = wanted.facts.activation
    head = file.head if original.output in (None, *file.outputs[:1]) else OTHER
    adds_up = bool(np.abs(answers.sum(axis=1) - 1).max() < SUM_TOLERANCE and answers.min() >= 0)
    is_done = head in (SOFTMAX, SIGMOID) or (head != LOGITS and adds_up and answers.shape[1] > 1)
    if is_done and said in ACTIVATIONS:
        raise ModelLoadError(
            f"{original.name} answers with probabilities already: leave --activation out, or "
            "give none"
        )
    if said or is_done:
        return said
    if wanted.activation is None or answers.shape[1] == 1:
        raise ModelLoadError(
            f"{original.name} answers with numbers from {answers.min():.3g} to "
            f"{answers.max():.3g}: say with --activation softmax that one label holds for a "
            "picture, with sigmoid that several may, or with none that they are probabilities"
        )
    return wanted.activation


def _version(original: Original, file: OnnxFile, taken: Input, activation: str | None) -> str:
    """Return a version that follows from the original and from all that is put into its graph."""
    content = content_version(original.path, *(part.path for part in file.external))
    scaling = taken.scaling
    added = [scaling.factor, scaling.offset, scaling.is_bgr, taken.layout, activation]
    text = json.dumps([content, original.output, *added])
    return hashlib.sha256(text.encode()).hexdigest()[:12]


def _compared(
    written: ScoringModel, pictures: Pictures, expected: Probabilities, tolerance: float
) -> Agreement:
    answers = scores_of(written.scores, pictures)
    if answers.shape[1] == 2 and expected.shape[1] == 1:
        expected = np.concatenate([1 - expected, expected], axis=1)
    found = agreement(answers, expected)
    if not found.largest_difference <= tolerance:
        raise ModelLoadError(
            f"what was written of {written.name} is wrong: a probability differs from that of the "
            f"original by {found.largest_difference:.2g}, more than {tolerance:g}; serve the "
            "original with its preparation in imageserve.yaml"
        )
    return found
