"""What has been understood of a model, in words, and where it is from: for ``models check``."""

from collections.abc import Iterator, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

from imageserve.config.settings import Settings
from imageserve.models.entries import worker_entry
from imageserve.models.folder import ModelFacts, facts_by_file
from imageserve.models.foreign import foreign
from imageserve.models.inputs import NCHW, Input
from imageserve.models.model import ScoringModel
from imageserve.models.source import find_source
from imageserve.preparation import Preparation, encode_preparation

SETTINGS, IN_IMAGESERVE, MODEL_FILE, DEFAULT = (
    *("the settings", "imageserve itself", "the model's file", "by default"),
)
_DECLARED = ("input_size", "layout", "colour")
_ALWAYS = (*_DECLARED, "resize", "interpolation", "scaling", "activation")
_COLOUR_NAMES = {1: ("grey",), 3: ("red", "green", "blue"), 4: ("red", "green", "blue", "alpha")}


def understood(model: ScoringModel, settings: Settings) -> Iterator[tuple[str, str, Any]]:
    """Yield the lines of a report: what each is about, its text, and its value for JSON."""
    preparation = model.preparation
    yield "prepared", prepared(preparation), encode_preparation(preparation)
    if model.takes:
        yield "input", given(model.takes), _input_value(model.takes)
    yield (
        "gives",
        gives(model),
        {
            "activation": model.activation,
            "multi_label": model.multi_label,
            "embedding": model.embedding,
        },
    )
    told = origins(settings)
    by_origin: dict[str, list[str]] = {}
    for fact, origin in told.items():
        by_origin.setdefault(origin, []).append(fact)
    text = "; ".join(f"{origin}: {', '.join(facts)}" for origin, facts in by_origin.items())
    yield "from", text, told


def prepared(preparation: Preparation) -> str:
    """Say in words what is done to a picture's sides and colours."""
    height, width = preparation.size
    resize_to = preparation.resize_to
    ways = {
        ("squash", False): f"both sides resized to {height}x{width}, whatever their ratio",
        ("squash", True): f"both sides resized to {resize_to}, then the middle cut out",
        ("crop", True): f"the shorter side resized to {resize_to}, then the middle cut out",
        ("crop", False): "the largest part of this shape cut out of the middle, then resized",
        ("pad", False): f"resized to fit in as a whole, with bars of {preparation.pad} beside it",
    }
    how = preparation.interpolation + ("" if preparation.antialias else ", without antialiasing")
    rounded = {"even": "", "down": ", an odd pixel cut off right and below"}
    colours = {"rgb": "", "grey": "; turned grey", "rgba": "; transparency kept"}
    return (
        f"{ways[preparation.resize, resize_to is not None]} ({how})"
        f"{rounded[preparation.crop_rounding]}{colours[preparation.colour]}"
    )


def given(taken: Input) -> str:
    """Say in words what becomes of the bytes in the graph."""
    shape = ", ".join(map(str, (taken.batch or "n", *taken.shape)))
    order = "colours first" if taken.layout == NCHW else "colours last"
    names = _COLOUR_NAMES[len(taken.scaling.factor)]
    if taken.scaling.is_bgr:
        names, order = names[::-1], f"{order}, blue before red"
    ranges = [
        f"{offset:.4g}..{255 * factor + offset:.4g}"
        for factor, offset in zip(taken.scaling.factor, taken.scaling.offset, strict=True)
    ]
    if not taken.is_scaled:
        values = "pixels from 0 to 255 as they are"
    elif len({*ranges}) == 1:
        values = f"pixels from 0 to 255 become {ranges[0]}"
    else:
        each = (f"{name} {values}" for name, values in zip(names, ranges, strict=True))
        values = f"pixels from 0 to 255 become {', '.join(each)}"
    pieces = f"; larger batches are run {taken.batch} by {taken.batch}" if taken.batch else ""
    return f"{taken.type} ({shape}), {order}; {values}{pieces}"


def _input_value(taken: Input) -> dict[str, Any]:
    return {
        "type": taken.type,
        "shape": [taken.batch, *taken.shape],
        "layout": taken.layout,
        "bgr": taken.scaling.is_bgr,
        "factor": taken.scaling.factor,
        "offset": taken.scaling.offset,
    }


def gives(model: ScoringModel) -> str:
    """Say in words what becomes of the numbers that the file ends in."""
    if model.activation in (None, "none"):
        numbers = "probabilities, as the file has them"
    else:
        numbers = f"numbers that a {model.activation} turns into probabilities"
    holds = "several labels may hold for a picture" if model.multi_label else "one label holds"
    embedding = f"; embedding: {foreign(model.embedding, 80)}" if model.embedding else ""
    return f"{numbers}; {holds}{embedding}"


def origins(settings: Settings) -> Mapping[str, str]:
    """Return where each fact comes from that counts for the model."""
    entry = worker_entry(settings)
    network = Path(entry.network)
    beneath = facts_by_file(network) if network.is_dir() else {}
    source = find_source(entry.network, entry.labels, settings.model_runtime)
    layers = {SETTINGS: entry.given, **beneath, IN_IMAGESERVE: source.facts}
    return {
        fact.name: origin
        for fact in fields(ModelFacts)
        if (origin := _origin(fact.name, layers)) != DEFAULT or fact.name in _ALWAYS
    }


def _origin(fact: str, layers: Mapping[str, ModelFacts]) -> str:
    for name, facts in layers.items():
        if getattr(facts, fact) is not None:
            return name
    return MODEL_FILE if fact in _DECLARED else DEFAULT
