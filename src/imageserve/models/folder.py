"""A model as a folder: the classifier, its labels, and facts about it.

::

    flowers/
    ├── model.keras, model.onnx, ...      one for each runtime; see `RUNTIMES`
    ├── labels.txt   or  labels.json
    └── imageserve.yaml      optional: how pictures are prepared, what the answers are, the version

A folder of Hugging Face says most of it in ``config.json`` and ``preprocessor_config.json``;
``imageserve.yaml`` overrides them.

This module loads no model, so web processes read the facts as well.
"""

import json
import os
import tempfile
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from imageserve.config import choices
from imageserve.config.reader import (
    Parser,
    fields_of,
    image_size,
    number,
    one_of,
    optional,
    read_file,
    switch,
    text,
    whole,
)
from imageserve.errors import ModelLoadError, SettingsError
from imageserve.models.catalog import SCALINGS, Scaling
from imageserve.models.files import file_errors, is_version
from imageserve.models.huggingface import (
    CONFIG_FILE,
    PROCESSOR_FILE,
    described,
    origin,
)
from imageserve.preparation import Preparation, encode_preparation

FACTS_FILE = "imageserve.yaml"
LABELS_FILES = ("labels.txt", "labels.json")
"""The names that the labels may have; the first is written."""


@dataclass(frozen=True, slots=True)
class ModelFacts:
    """What is said of a model beside its file, in ``imageserve.yaml`` for one.

    None for what is left out.
    """

    input_size: tuple[int, int] | None = None
    """Height and width, in pixels."""
    interpolation: str | None = None
    """How pictures are resized."""
    scaling: str | Scaling | None = None
    """What is done to the pixels, or its name in `SCALINGS`; without it nothing."""
    version: str | None = None
    resize: str | None = None
    """See `Preparation`, and so for the next four."""
    resize_to: int | None = None
    antialias: bool | None = None
    pad: int | None = None
    crop_rounding: str | None = None
    colour: str | None = None
    """One of `choices.COLOURS`."""
    layout: str | None = None
    """One of `choices.LAYOUTS`; without it what the model's file declares."""
    activation: str | None = None
    """One of `choices.ACTIVATIONS`: what turns the model's numbers into probabilities."""
    embedding: str | None = None
    """The inner layer, or the tensor of an ONNX graph, that is given as the embedding."""

    def over(self, others: "ModelFacts") -> "ModelFacts":
        """Return these facts, and those of ``others`` where these leave something out."""
        given = {each.name: getattr(self, each.name) for each in fields(self)}
        return replace(
            others, **{name: value for name, value in given.items() if value is not None}
        )

    @property
    def arithmetic(self) -> Scaling:
        """What is done to the pixels before the network; its order of colours included."""
        scaling = self.scaling
        if not isinstance(scaling, Scaling):
            scaling = SCALINGS[scaling or "none"]
        return replace(scaling, is_bgr=True) if self.colour == "bgr" else scaling

    def preparation(self, size: tuple[int, int]) -> Preparation:
        """Return how pictures are prepared for a model of this height and width.

        Raises ModelLoadError where the facts do not fit together.
        """
        given = {
            "resize": self.resize,
            "resize_to": self.resize_to,
            "interpolation": self.interpolation,
            "antialias": self.antialias,
            "colour": "rgb" if self.colour == "bgr" else self.colour,
            "pad": self.pad,
            "crop_rounding": self.crop_rounding,
        }
        try:
            return Preparation(size, **{k: v for k, v in given.items() if v is not None})  # type: ignore[arg-type]
        except ValueError as error:
            raise ModelLoadError(f"the preparation cannot be used: {error}") from error


NO_FACTS = ModelFacts()
"""Those of a folder without ``imageserve.yaml``."""


def _version(value: Any) -> str:
    # A version such as 2.10 needs quotes: YAML reads the number 2.1.
    version = str(value) if type(value) in (int, str) else ""
    if not is_version(version):
        raise ValueError("must be 1 to 64 letters, digits, dots, dashes and underscores, in quotes")
    return version


def _per_colour(low: float, high: float) -> Parser[tuple[float, ...]]:
    """Return the parser of one number for all colours, or a list with one for each."""
    one = number(low, high)

    def parse(value: Any) -> tuple[float, ...]:
        given = value if isinstance(value, list) else [value]
        if len(given) not in (1, 3, 4):
            raise ValueError("must be one number, or a list with one for each colour")
        return tuple(one(each) for each in given)

    return parse


_arithmetic = fields_of(
    {
        "divide": number(1e-6, 1e6),
        "mean": _per_colour(-1e6, 1e6),
        "std": _per_colour(1e-6, 1e6),
    }
)


def _scaling(value: Any) -> str | Scaling:
    """Read a name, or ``divide``, ``mean`` and ``std``: (pixels / divide - mean) / std."""
    if not isinstance(value, dict):
        return one_of(*SCALINGS)(value)
    given = _arithmetic(value)
    means, stds = given.get("mean", (0.0,)), given.get("std", (1.0,))
    colours = max(len(means), len(stds))
    if {len(means), len(stds)} - {1, colours}:
        raise ValueError("mean and std must have equally many numbers")
    means, stds = (each * colours if len(each) == 1 else each for each in (means, stds))
    return Scaling(
        tuple(1 / (given.get("divide", 1.0) * std) for std in stds),
        tuple(0.0 - mean / std for mean, std in zip(means, stds, strict=True)),
    )


FACTS: Mapping[str, Parser[Any]] = {
    "input_size": image_size,
    "interpolation": one_of(*choices.INTERPOLATIONS),
    "scaling": _scaling,
    "resize": one_of(*choices.RESIZES),
    "resize_to": whole(8, 8192),
    "antialias": switch,
    "pad": whole(0, 255),
    "crop_rounding": one_of(*choices.CROP_ROUNDINGS),
    "colour": one_of(*choices.COLOURS),
    "layout": one_of(*choices.LAYOUTS),
    "activation": one_of(*choices.ACTIVATIONS),
    "embedding": text,
}
"""The keys of ``imageserve.yaml`` that MODELS_FILE has as well."""

_facts = optional(fields_of({**FACTS, "version": _version}))


def read_facts(folder: Path) -> ModelFacts:
    """Read the folder's ``imageserve.yaml``, which may be missing, and what it overrides.

    Raises ModelLoadError that says what they must hold.
    """
    own, beneath = facts_by_file(folder).values()
    return own.over(beneath)


def facts_by_file(folder: Path) -> dict[str, ModelFacts]:
    """Return what the folder's own file says, then what those of Hugging Face say, by their names.

    The first ones override the second ones.

    Raises ModelLoadError that says what they must hold.
    """
    path = folder / FACTS_FILE
    with file_errors(path):
        is_there = path.exists()
    try:
        own = ModelFacts(**(read_file(path, _facts) or {})) if is_there else NO_FACTS
        return {FACTS_FILE: own, _huggingface_files(folder): _huggingface_facts(folder)}
    except SettingsError as error:
        raise ModelLoadError(str(error)) from error


def written_by(folder: Path) -> str | None:
    """Return the library whose files describe the model of a folder: transformers or timm.

    None where it is no folder of Hugging Face. Raises ModelLoadError.
    """
    return origin(_json(folder / CONFIG_FILE))


def huggingface_labels(folder: Path) -> Path | None:
    """Return the file of a Hugging Face folder that names its labels. Raises ModelLoadError."""
    config = _json(folder / CONFIG_FILE)
    has_labels = origin(config) and (config.get("id2label") or config.get("label_names"))
    return folder / CONFIG_FILE if has_labels else None


def _huggingface_files(folder: Path) -> str:
    """Return the names of the files that `_huggingface_facts` are from."""
    is_alone = written_by(folder) == "timm" or not (folder / PROCESSOR_FILE).is_file()
    return CONFIG_FILE if is_alone else f"{CONFIG_FILE} and {PROCESSOR_FILE}"


def _huggingface_facts(folder: Path) -> ModelFacts:
    config = _json(folder / CONFIG_FILE)
    if origin(config) is None:
        return NO_FACTS
    told = described(str(folder), config, _json(folder / PROCESSOR_FILE))
    try:
        return ModelFacts(**fields_of(FACTS)(told))
    except SettingsError as error:
        raise SettingsError(f"{folder / PROCESSOR_FILE}: as {FACTS_FILE}, {error}") from error


def _json(path: Path) -> Any:
    """Return the content of a JSON file, None where there is none. Raises ModelLoadError."""
    with file_errors(path):
        content = path.read_bytes() if path.is_file() else b"null"
    try:
        return json.loads(content)
    except (ValueError, RecursionError) as error:
        raise ModelLoadError(f"{path} is no JSON, or cut short: copy it anew") from error


# -- writing --------------------------------------------------------------------------------------


@contextmanager
def new_files(folder: Path, *, without: Collection[str] = ()) -> Iterator[Path]:
    """Yield an empty folder of the same name. What it holds then is moved into ``folder``.

    Where the block fails, nothing is moved. ``folder`` is created if it is missing; files of these
    names in it are replaced, one by one. Those of ``without`` are not moved.

    Raises ModelLoadError where the folder cannot be used.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as temporary:
            made = Path(temporary, folder.resolve().name)
            made.mkdir()
            yield made
            names = {path.name for path in made.iterdir()} - {*without}
            # The facts come last: they say that the rest is complete.
            for name in sorted(names, key=lambda name: (name == FACTS_FILE, name)):
                os.replace(made / name, folder / name)
    except OSError as error:
        raise ModelLoadError(f"{folder} cannot be used: {error}") from error


def write_beside(
    folder: Path, labels: Sequence[str], preparation: Preparation, **others: str
) -> None:
    """Write what belongs to a model's file: its labels, and its facts. Raises OSError."""
    (folder / LABELS_FILES[0]).write_bytes("".join(f"{label}\n" for label in labels).encode())
    told = encode_preparation(preparation)
    told = {"input_size": told.pop("size"), "interpolation": preparation.interpolation, **told}
    # What JSON writes of one value, YAML reads as the same.
    lines = (f"{key}: {json.dumps(value)}\n" for key, value in (told | others).items())
    (folder / FACTS_FILE).write_text("".join(lines))
