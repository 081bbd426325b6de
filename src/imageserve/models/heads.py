"""What the numbers are that a model answers with, and how they become probabilities. Pure.

The last operation of the file says it, the numbers themselves where that one is not known, and
``activation`` where somebody has written it.
"""

from dataclasses import dataclass

SOFTMAX = "softmax"
SIGMOID = "sigmoid"
LOGITS = "logits"
"""The numbers before a softmax, or their logarithms after it."""
OTHER = ""
"""Not known: the numbers themselves have to tell."""

SUM_TOLERANCE = 1e-3

_WHERE = "to imageserve.yaml in its folder (or to its entry in MODELS_FILE)"
_LINES = (
    f"add 'activation: softmax' {_WHERE} if one label holds for a picture, or 'activation: "
    "sigmoid' if several may"
)
_NO_LINE = "remove the line 'activation: {}' from imageserve.yaml (or from MODELS_FILE)"


@dataclass(frozen=True, slots=True)
class Numbers:
    """What a model has answered to some pictures."""

    classes: int
    """Numbers of each picture."""
    lowest: float
    highest: float
    total: float
    """The sum of a row: the one that is farthest from 1."""

    @property
    def within(self) -> bool:
        """Whether all are from 0 to 1."""
        return self.lowest >= 0 and self.highest <= 1 + SUM_TOLERANCE

    @property
    def add_up(self) -> bool:
        """Whether they are probabilities of labels of which one holds."""
        return self.within and abs(self.total - 1) <= SUM_TOLERANCE


@dataclass(frozen=True, slots=True)
class Head:
    """The end of a model, as its file and its facts describe it."""

    model: str
    """The model's name, for messages."""
    kind: str
    """What makes the numbers: one of those above."""
    activation: str | None
    """One of `choices.ACTIVATIONS`; None where nobody has written it."""

    def classes_problem(self, classes: int, labels: int) -> str | None:
        """Say why a model with so many numbers cannot have so many labels; None where it may."""
        if classes == 1 and SOFTMAX in (self.activation, self.kind):
            return self._one_class()
        if classes == 1 and labels > 2:
            return (
                f"{self.model} answers with one number a picture, and its labels file has {labels} "
                "labels: name two, the one that a number near 0 means first"
            )
        if classes in (1, labels):
            return None
        return (
            f"{self.model} has {classes} classes and its labels file {labels} labels: "
            "name a labels file with one label for each class, in class order"
        )

    def _one_class(self) -> str:
        return (
            f"{self.model} has one class, so all pictures would get the same answer: train it with "
            "two classes or more, one output for each"
        )

    def problem(self, numbers: Numbers) -> str | None:
        """Say why these numbers cannot be served as probabilities, and what to write."""
        if self.activation in (SOFTMAX, SIGMOID):
            return self._written(self.activation, numbers)
        if self.kind == SIGMOID:
            return None
        if numbers.add_up:
            is_softmax = numbers.classes == 1 and self.activation is None
            return self._one_class() if is_softmax else None
        if numbers.within and abs(numbers.total - 1) < 0.05 and numbers.classes > 1:
            return (
                f"{self.model} answers with probabilities that add up to {numbers.total:.3g}: let "
                "its last layer compute in float32 (in Keras with dtype='float32'), and write the "
                "file anew"
            )
        if self.kind == SOFTMAX:
            return (
                f"{self.model} has a softmax that does not run over the classes: let it run over "
                "the last axis, and write the file anew"
            )
        return self._no_probabilities(numbers)

    def _written(self, activation: str, numbers: Numbers) -> str | None:
        """Say why a model needs no softmax or sigmoid any more: it would be done twice."""
        has_one = self.kind in (SOFTMAX, SIGMOID)
        if not has_one and not (self.kind == OTHER and numbers.within and numbers.classes > 1):
            return None
        ends = f"ends in a {self.kind}" if has_one else "answers with numbers from 0 to 1"
        return (
            f"{self.model} {ends}, so its numbers are probabilities already: "
            f"{_NO_LINE.format(activation)}"
        )

    def _no_probabilities(self, numbers: Numbers) -> str | None:
        if self.activation == "none":
            return None if numbers.within else self._not_as_said(numbers)
        if numbers.classes == 1:
            is_probability = numbers.within and self.kind == OTHER
            activation, of_it = ("none", "it") if is_probability else ("sigmoid", "a sigmoid of it")
            return (
                f"{self.model} answers with one number a picture: add 'activation: {activation}' "
                f"{_WHERE} if {of_it} is the probability of the second of two labels; a measure "
                "has no labels and is not served"
            )
        if numbers.within and self.kind == OTHER:
            return (
                f"{self.model} answers with numbers from 0 to 1 that do not add up to 1: add "
                f"'activation: none' {_WHERE} if each is the probability of its label, as after a "
                "sigmoid"
            )
        return (
            f"{self.model} does not answer with probabilities but with logits, numbers from "
            f"{numbers.lowest:.3g} to {numbers.highest:.3g}: {_LINES}"
        )

    def _not_as_said(self, numbers: Numbers) -> str:
        return (
            f"{self.model} answers with numbers from {numbers.lowest:.3g} to {numbers.highest:.3g} "
            "and 'activation: none' says that they are probabilities: write softmax there if one "
            "label holds for a picture, or sigmoid if several may"
        )

    def is_multi_label(self, numbers: Numbers) -> bool:
        """Whether several labels may hold for one picture: the answers do not add up to 1.

        ``numbers`` have no `problem`.
        """
        if self.activation in (SOFTMAX, SIGMOID):
            return self.activation == SIGMOID
        return self.kind == SIGMOID or not numbers.add_up
