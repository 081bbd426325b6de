"""A model that only waits as long as it is told to, for tests and benchmarks. Needs no numpy.

It classifies nothing. Its label is a fingerprint of the picture, so that a test notices an answer
that goes to the wrong request.
"""

import hashlib
import math
import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from imageserve.errors import ModelLoadError, ModelOutOfMemory
from imageserve.models.files import agreed_size
from imageserve.predictions import EMBEDDING, SCORES, Asked, Outputs, Prediction
from imageserve.preparation import Preparation

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from imageserve.models.folder import ModelFacts

RUNTIME = "stand-in"
"""What runs it: the name beside those of `RUNTIMES`."""

_PROBABILITY = 0.9


def stand_in_label(pixels: bytes) -> str:
    """Return the label that a StandIn gives to these pixels: 12 hexadecimal digits."""
    return hashlib.blake2b(pixels).hexdigest()[:12]


@dataclass(eq=False)
class StandIn:
    """Answers after ``batch_ms + n * image_ms`` with the fingerprint of each picture.

    With ``poison`` it fails on purpose, for fault tests, on a picture whose first pixel is

    * (255, 0, 255): raises RuntimeError, like a model that fails on this picture;
    * (0, 255, 255): ends the process at once, like a crash of the driver;
    * (255, 255, 0): raises ModelOutOfMemory unless the picture is alone in its batch.
    """

    preparation: Preparation = field(default_factory=lambda: Preparation((224, 224)))
    batch_ms: float = 15.0
    image_ms: float = 0.5
    poison: bool = False
    version: str = "1"
    sleep: Callable[[float], object] = time.sleep
    name: str = "stand-in"
    classes: int = 1000
    embedding: int = 0
    """The length of its embedding; 0: it has none."""
    runtime: str = RUNTIME

    @property
    def outputs(self) -> Outputs:
        """Scores, and the embedding if it has one."""
        return Outputs((SCORES, EMBEDDING) if self.embedding else (SCORES,))

    def predict(self, images: "NDArray[np.uint8]", top: int) -> list[tuple[Prediction, ...]]:
        """Sleep for the declared time, then answer; see ``Model.predict``."""
        if self.poison:
            _take_poison(images)
        self.sleep((self.batch_ms + len(images) * self.image_ms) / 1000)
        labels = [stand_in_label(image.tobytes()) for image in images]
        return [self._answer(label, min(top, self.classes)) for label in labels]

    def _answer(self, label: str, top: int) -> tuple[Prediction, ...]:
        """Return a picture's label, and labels that share the rest of the probability.

        Each of these has half of the one before.
        """
        first, rest = stand_in_class(label, self.classes), 1 - _PROBABILITY
        fillers = [
            Prediction(f"other-{i}", rest * 0.5**i, (first + i) % self.classes)
            for i in range(1, top)
        ]
        return Prediction(label, _PROBABILITY, first), *fillers

    def predict_more(
        self, images: "NDArray[np.uint8]", asked: Sequence[Asked]
    ) -> "tuple[list[tuple[Prediction, ...]], Mapping[str, NDArray[np.float32]]]":
        """Answer with the numbers of each picture's label too; see ``Model.predict_more``.

        Of the scores the one at `stand_in_class` is the highest. The embedding repeats the bytes of
        the label.
        """
        import numpy as np

        answers = self.predict(images, max(each.top for each in asked))[: len(asked)]
        labels = [answer[0].label for answer in answers]
        scores = np.full((len(asked), self.classes), 0, np.float32)
        for row, label in zip(scores, labels, strict=True):
            row[stand_in_class(label, self.classes)] = _PROBABILITY
        vectors = {SCORES: scores}
        if self.embedding and any(each.want == EMBEDDING for each in asked):
            rows = [np.resize(np.frombuffer(x.encode(), np.uint8), self.embedding) for x in labels]
            vectors[EMBEDDING] = np.stack(rows).astype(np.float32)
        return answers, vectors


def stand_in_class(label: str, classes: int) -> int:
    """Return the place of the highest score of a picture that has this label."""
    return int(label, 16) % classes


def is_stand_in(model: str) -> bool:
    """Whether this model name asks for a stand-in."""
    return model == "stand-in" or model.startswith("stand-in:")


def parse_stand_in(model: str, given: "ModelFacts | None" = None) -> StandIn:
    """Make the stand-in for a name such as ``stand-in:batch_ms=400,image_ms=0,size=64``.

    Options are ``batch_ms`` and ``image_ms`` (milliseconds), ``size`` (pixels, for height and
    width), ``classes``, ``embedding`` (numbers, 0 for none), ``poison`` (0 or 1) and ``version`` (a
    whole number). ``given`` is what the settings say of its pictures.

    Raises ModelLoadError where an option is unknown or wrong, or ``size`` differs from the size
    that is given.
    """
    _, _, written = model.partition(":")
    options = dict(_option(model, part) for part in written.split(",")) if ":" in model else {}
    size = agreed_size(model, options.pop("size", None), given.input_size if given else None)
    size = size or (224, 224)
    preparation = given.preparation(size) if given else Preparation(size)
    return StandIn(preparation, **options)


def _option(model: str, part: str) -> tuple[str, Any]:
    key, _, value = (text.strip() for text in part.partition("="))
    if key not in _OPTIONS:
        known = ", ".join(_OPTIONS)
        raise ModelLoadError(f"{model}: unknown option {key!r}; known are {known}")
    allowed, is_allowed, convert = _OPTIONS[key]
    number = _number(value)
    if not is_allowed(number):
        raise ModelLoadError(f"{model}: {key}={value} is not allowed; it must be {allowed}")
    return key, convert(number)


def _number(value: str) -> float:
    try:
        return float(value)
    except ValueError:
        return math.nan


def _is_duration(number: float) -> bool:
    return 0 <= number < math.inf


_OPTIONS: dict[str, tuple[str, Callable[[float], bool], Callable[[float], object]]] = {
    "batch_ms": ("milliseconds, 0 or more", _is_duration, float),
    "image_ms": ("milliseconds, 0 or more", _is_duration, float),
    "size": ("whole pixels, 1 to 4096", lambda x: x in range(1, 4097), lambda x: (int(x), int(x))),
    "classes": ("1 to 1000000", lambda x: x in range(1, 10**6 + 1), int),
    "embedding": ("numbers, 0 to 1000000", lambda x: x in range(10**6 + 1), int),
    "poison": ("0 or 1", lambda x: x in (0, 1), bool),
    "version": (
        "a whole number, 0 or more",
        lambda x: 0 <= x < 10**9 and x == int(x),
        lambda x: str(int(x)),
    ),
}
"""Name of an option -> the values it may have, a check for them, and what `StandIn` gets."""


def _take_poison(images: "NDArray[np.uint8]") -> None:
    for first_pixel in images[:, 0, 0].tolist():
        if first_pixel == [255, 0, 255]:
            raise RuntimeError("poison")
        if first_pixel == [0, 255, 255]:
            os._exit(1)  # Not sys.exit(): like a killed process, this one must run no clean-up.
        if first_pixel == [255, 255, 0] and len(images) > 1:
            raise ModelOutOfMemory(f"poison: no memory for a batch of {len(images)}")
