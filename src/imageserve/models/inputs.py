"""What a model takes: its one input as the file declares it, and what is said beside it. Pure.

Each message says what to change.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from imageserve.errors import ModelLoadError
from imageserve.models.catalog import Scaling
from imageserve.models.files import agreed_size
from imageserve.models.folder import ModelFacts
from imageserve.models.foreign import foreign
from imageserve.preparation import COLOURS, COLOURS_BY_NUMBER, Preparation

NHWC, NCHW = "nhwc", "nchw"
INPUT_TYPES = ("float32", "float16", "uint8", "int32", "bfloat16")
AXES = {NHWC: (3, 1, 2), NCHW: (1, 2, 3)}
"""Layout -> the places of colours, height and width in a shape."""


@dataclass(frozen=True, slots=True)
class Input:
    """What a model's input takes, and so what is done to the bytes that cross the queue."""

    preparation: Preparation
    """What they are."""
    layout: str
    """One of `choices.LAYOUTS`."""
    type: str
    """One of `INPUT_TYPES`."""
    scaling: Scaling
    """With one number for each colour."""
    batch: int | None = None
    """The only number of pictures in one call; None for any."""

    @property
    def takes_bytes(self) -> bool:
        """Whether pictures can be given as they are, at most as float32."""
        is_plain = self.layout == NHWC and not self.is_scaled and not self.scaling.is_bgr
        return is_plain and self.type in ("uint8", "float32")

    @property
    def is_scaled(self) -> bool:
        """Whether the values of pixels change."""
        return bool({*self.scaling.factor} - {1.0} or {*self.scaling.offset} - {0.0})

    @property
    def shape(self) -> tuple[int, int, int]:
        """The shape of one picture as the model takes it."""
        height, width, colours = self.preparation.shape
        return (colours, height, width) if self.layout == NCHW else (height, width, colours)


def understood(
    name: str, inputs: Sequence[Any] | None, facts: ModelFacts, scaling: Scaling
) -> Input:
    """Return what a model takes, by its declared inputs and what is said of it.

    Args:
        name: the model, for the message.
        inputs: each with a ``name``, a ``shape``, whose open sides are None or text, and a
            ``dtype``.
        facts: what they leave open, or must agree with.
        scaling: what is done to the pixels.

    Raises ModelLoadError unless there is one input, of pictures, to which all of this can be done.
    """
    declared = only(name, "input", inputs, "save a model with one input")
    shape = shape_of(declared)
    layout = _layout(name, shape, facts.layout)
    colour = _colour(name, shape[AXES[layout][0]], facts.colour)
    size = _size(name, shape, layout, facts.input_size)
    taken = Input(
        replace(facts, colour=colour).preparation(size),
        layout,
        declared.dtype,
        _scaling_for(name, scaling, COLOURS[colour]),
        shape[0],
    )
    _check_type(name, taken)
    return taken


def scaling_doubt(taken: Input, facts: ModelFacts, *, scales: bool) -> str | None:
    """Say why pixels are probably not scaled as in training, and what to write; None if they are.

    ``scales`` is whether the model's file begins with arithmetic on its pixels.
    """
    if "float" not in taken.type:
        return None
    if facts.scaling is None and not scales:
        return (
            "gets pixels of 0 to 255, and does not begin with a scaling of them: set the scaling "
            "it was trained with in imageserve.yaml, or scaling: none if it was trained with these"
        )
    if taken.is_scaled and scales:
        return (
            "begins with a scaling of its pixels, and gets them scaled already: remove scaling "
            "from imageserve.yaml, unless it was trained with both"
        )
    return None


def only(name: str, what: str, tensors: Sequence[Any] | None, remedy: str) -> Any:
    """Return the only input or output. Raises ModelLoadError that says the remedy for several."""
    if not tensors or len(tensors) != 1:
        names = foreign(", ".join(str(tensor.name) for tensor in tensors or ()))
        raise ModelLoadError(f"{name} declares {len(tensors or ())} {what}s ({names}): {remedy}")
    return tensors[0]


def shape_of(tensor: Any) -> tuple[int | None, ...]:
    """Return a declared shape, with None for the sides that are open."""
    # ONNX has names for them.
    return tuple(n if isinstance(n, int) else None for n in tensor.shape or ())


def declared_layout(shape: Sequence[int | None]) -> str:
    """Return the layout that a shape of four sides has: colours first only where no other fits."""
    return NCHW if shape[1] in COLOURS_BY_NUMBER and shape[3] not in COLOURS_BY_NUMBER else NHWC


def _layout(name: str, shape: tuple[int | None, ...], said: str | None) -> str:
    if len(shape) != 4:
        raise ModelLoadError(
            f"{name} takes input of shape {foreign(shape)}: it must be (None, height, width, "
            "colours) or (None, colours, height, width), with 1, 3 or 4 colours"
        )
    if said is None and set(shape[1:]) == {None}:
        raise ModelLoadError(
            f"{name} leaves all sides of its input open: say in imageserve.yaml whether the "
            "colours come last or first, with layout: nhwc or layout: nchw"
        )
    layout = said or declared_layout(shape)
    colours = shape[AXES[layout][0]]
    if colours is None or colours in COLOURS_BY_NUMBER:
        return layout
    other = NCHW if layout == NHWC else NHWC
    if shape[AXES[other][0]] in COLOURS_BY_NUMBER:
        raise ModelLoadError(
            f"{name} takes input of shape {foreign(shape)}, which is not the layout {layout}: set "
            f"layout: {other}, or leave it out"
        )
    raise ModelLoadError(
        f"{name} takes input of shape {foreign(shape)}: it must be (None, height, width, colours) "
        "or (None, colours, height, width), with 1, 3 or 4 colours"
    )


def _colour(name: str, number: int | None, said: str | None) -> str:
    """Return the key of `COLOURS`, or ``bgr``, that the model takes."""
    if number is None:
        return "rgb" if said in (None, "bgr") else said
    own = COLOURS_BY_NUMBER[number]
    if said is not None and said != own and (said, own) != ("bgr", "rgb"):
        both = " or bgr" if own == "rgb" else ""
        raise ModelLoadError(
            f"{name} takes pictures of {number} colour{'s'[: number - 1]} a pixel and its colour "
            f"is set to {said}: set colour: {own}{both}, or leave it out"
        )
    return own


def _size(
    name: str, shape: tuple[int | None, ...], layout: str, said: tuple[int, int] | None
) -> tuple[int, int]:
    """Return the (height, width) of the model's input, or what is said where it is open."""
    _, *sides = AXES[layout]
    open_size = said or (None, None)
    height, width = (shape[side] or wanted for side, wanted in zip(sides, open_size, strict=True))
    if not height or not width:
        raise ModelLoadError(
            f"{name} takes pictures of any size: set the input size "
            "(INPUT_SIZE, or input_size in the folder's imageserve.yaml)"
        )
    agreed_size(name, (height, width), said)
    return height, width


def _scaling_for(name: str, scaling: Scaling, colours: int) -> Scaling:
    """Return the scaling with one number for each of this many colours."""
    if len(scaling.factor) == colours and (colours == 3 or not scaling.is_bgr):
        return scaling
    each = {*zip(scaling.factor, scaling.offset, strict=True)}
    if len(each) > 1 or (scaling.is_bgr and colours != 3):
        raise ModelLoadError(
            f"{name} takes {colours} colour{'s'[: colours - 1]} a pixel and its scaling is for "
            f"{len(scaling.factor)}: give mean and std one number for each colour, or one for all"
        )
    factor, offset = each.pop()
    return Scaling((factor,) * colours, (offset,) * colours, scaling.is_bgr)


def _check_type(name: str, taken: Input) -> None:
    if taken.type not in INPUT_TYPES:
        raise ModelLoadError(
            f"{name} takes input of type {foreign(taken.type)}: it must be one of "
            f"{', '.join(INPUT_TYPES)}"
        )
    if "int" in taken.type and taken.is_scaled:
        raise ModelLoadError(
            f"{name} takes whole numbers ({taken.type}) and its scaling makes fractions: set the "
            "scaling to none, or give the model a float32 input"
        )
