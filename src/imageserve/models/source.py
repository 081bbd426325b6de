"""Decides before loading which file is loaded, by which runtime, with which labels."""

import hashlib
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import astuple, dataclass, replace
from pathlib import Path

from imageserve.errors import ModelLoadError
from imageserve.models.catalog import (
    KNOWN,
    Scaling,
    is_model_file,
    is_model_path,
    short_name,
    unknown_model,
)
from imageserve.models.files import file_errors, only_file
from imageserve.models.folder import (
    LABELS_FILES,
    NO_FACTS,
    ModelFacts,
    huggingface_labels,
    read_facts,
    written_by,
)
from imageserve.models.huggingface import TRANSFORMERS
from imageserve.models.inputs import AXES, declared_layout
from imageserve.models.keras_file import hdf5_remedy
from imageserve.models.runtimes import (
    KERAS,
    RUNTIMES,
    SOURCE_RUNTIME,
    Runtime,
    file_endings,
    folder_files,
    runtime_of_file,
)
from imageserve.preparation import COLOURS_BY_NUMBER

_OLD_ENDINGS = (".h5", ".hdf5")
_MOST_OF_WEIGHTS = 55
"""So that the whole version has 64 characters at most."""


@dataclass(frozen=True, slots=True)
class Source:
    """What a runtime needs to know to load one model."""

    name: str
    runtime: str
    """A key of `RUNTIMES`."""
    path: Path | None
    """The model's file or folder; None for a network of keras.applications."""
    labels: Path
    facts: ModelFacts = NO_FACTS
    """What is said of the model beside its file; its ``input_size`` is what it must have."""
    is_known: bool = False
    """Whether it is a model of imageserve with its own labels: then nothing beside it counts for
    its version."""
    weights: str = "imagenet"
    """For a network ``imagenet``, ``random`` or the path of a weights file; others ignore it."""

    @property
    def scaling(self) -> Scaling:
        """What is done to the pixels before the network; its order of colours included."""
        return self.facts.arithmetic


def find_source(
    model: str, labels_file: str | None, runtime: str | None = None, given: ModelFacts = NO_FACTS
) -> Source:
    """Decide what to load for a model's name or path; ``given`` overrides what is beside its file.

    Raises ModelLoadError where nothing fits.
    """
    labels = Path(labels_file) if labels_file else None
    wanted = RUNTIMES[runtime] if runtime else None
    if model in KNOWN:
        return _known(model, labels, given, wanted)
    if not is_model_path(model):
        raise unknown_model(model)
    with file_errors(model):
        is_folder = Path(model).is_dir()
    if is_model_file(model) and not is_folder:
        return _file(Path(model), labels, given, wanted)
    return _folder(Path(model), labels, given, wanted)


def model_version(source: Source, weights: str, labels: Sequence[str]) -> str:
    """Return the version of all that is loaded; ``weights`` is that of the weights alone.

    The one of ``imageserve.yaml``, or the weights' with the beginning of a checksum of the labels
    and facts behind it. A model of imageserve with its own labels has nothing else.
    """
    facts = source.facts
    if facts.version or source.is_known:
        return facts.version or weights
    # What earlier releases knew comes first and alone, so that their versions stay the same.
    most = [list(labels), facts.input_size, facts.interpolation, facts.scaling or "none"]
    others = list(astuple(replace(facts, input_size=None, interpolation=None, scaling=None)))
    has_others = any(each is not None for each in others)
    beside = json.dumps([*most, *(others if has_others else [])], default=astuple)
    sha256 = hashlib.sha256(beside.encode()).hexdigest()
    return f"{weights[:_MOST_OF_WEIGHTS]}-{sha256[:8]}"


def declared_facts(model: str, runtime: str | None) -> ModelFacts:
    """Return what a model's file or folder declares of its pictures, without loading it.

    That is their size and, where there are not three, their colours; nothing where these are open
    or cannot be read: then loading the model says why.
    """
    with suppress(ModelLoadError, OSError):
        path = Path(model)
        own = runtime_of_file(path)
        if own is None or path.is_dir():
            models = _models_in(path)
            own = RUNTIMES[runtime if runtime in models else next(iter(models))]
            path = models[own.name]
        return _facts_in(own.read_input(path))
    return NO_FACTS


def _facts_in(shape: tuple[int | None, ...]) -> ModelFacts:
    if len(shape) != 4:
        return NO_FACTS
    colours, height, width = (shape[axis] for axis in AXES[declared_layout(shape)])
    colour = COLOURS_BY_NUMBER.get(colours or 3)
    return ModelFacts(
        input_size=(height, width) if height and width and min(height, width) > 0 else None,
        colour=None if colour == "rgb" else colour,
    )


def _known(model: str, labels: Path | None, given: ModelFacts, wanted: Runtime | None) -> Source:
    known = KNOWN[model]
    if wanted and wanted != KERAS:
        raise _wrong_runtime(wanted, KERAS, model)
    # A network that takes any size is served at the size it was trained on.
    facts = given.over(ModelFacts(input_size=known.input_size, scaling=known.scaling))
    is_known = labels in (None, known.labels_file)
    return Source(
        model, KERAS.name, known.model_file, labels or known.labels_file, facts, is_known=is_known
    )


def _file(path: Path, labels: Path | None, given: ModelFacts, wanted: Runtime | None) -> Source:
    own = runtime_of_file(path)
    assert own is not None
    if labels is None:
        raise _no_labels(path)
    if wanted and wanted != own:
        raise _wrong_runtime(wanted, own, str(path))
    return Source(path.stem, own.name, path, labels, given)


def _folder(path: Path, labels: Path | None, given: ModelFacts, wanted: Runtime | None) -> Source:
    with file_errors(f"the model folder {path}"):
        models = _models_in(path)
        facts = read_facts(path)
        own_labels = only_file(path, *LABELS_FILES) or huggingface_labels(path)
    first = RUNTIMES[next(iter(models))]
    chosen = wanted or first
    if chosen.name not in models:
        raise _wrong_runtime(chosen, first, str(path), export_to=str(path))
    labels = labels or own_labels
    if labels is None:
        raise _no_labels(path)
    name = short_name(str(path.resolve()))
    return Source(name, chosen.name, models[chosen.name], labels, given.over(facts))


def _models_in(folder: Path) -> dict[str, Path]:
    """Return the models in a folder by runtime, at least one, in the order of `RUNTIMES`."""
    if folder.is_file():
        if folder.suffix in _OLD_ENDINGS:
            raise ModelLoadError(hdf5_remedy(folder))
        raise ModelLoadError(
            f"{folder} is no model folder: a model in one file ends in {file_endings()}"
        )
    if not folder.is_dir():
        raise ModelLoadError(f"the model folder {folder} does not exist: correct its path")
    found = {name: runtime.find_in(folder) for name, runtime in RUNTIMES.items()}
    models = {name: path for name, path in found.items() if path}
    if not models:
        old = [path for path in sorted(folder.iterdir()) if path.suffix in _OLD_ENDINGS]
        if old:
            raise ModelLoadError(hdf5_remedy(old[0]))
        if written_by(folder) == TRANSFORMERS:
            raise ModelLoadError(
                f"{folder} is a folder of Hugging Face without an ONNX file: export it with "
                f"'optimum-cli export onnx --model {folder} --task image-classification DIR', and "
                "serve DIR"
            )
        raise ModelLoadError(f"{folder} holds no model: put {folder_files()} into it")
    return models


def _no_labels(path: Path) -> ModelLoadError:
    with file_errors(path):
        if not path.exists():
            return ModelLoadError(f"{path} does not exist: correct its path")
    return ModelLoadError(
        f"{path} has no labels: name a labels file, one label a line in class order "
        f"(MODEL_LABELS), or put {LABELS_FILES[0]} into the model's folder"
    )


def _wrong_runtime(
    wanted: Runtime, own: Runtime, model: str, export_to: str = "DIR"
) -> ModelLoadError:
    if own == SOURCE_RUNTIME and wanted.write:
        return ModelLoadError(
            f"MODEL_RUNTIME={wanted.name} needs {model} exported: run 'imageserve models export "
            f"{model} --runtime {wanted.name} --to {export_to}', then set MODEL={export_to}"
        )
    return ModelLoadError(
        f"MODEL_RUNTIME={wanted.name} cannot run {model}, which is for {own.title}: leave "
        "MODEL_RUNTIME out"
    )
