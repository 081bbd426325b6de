"""Which file is loaded, by which engine, with which labels: all that is decided before loading."""

from dataclasses import dataclass
from pathlib import Path

from imageserve.errors import ModelLoadError
from imageserve.models.catalog import KNOWN, is_model_file, is_model_path, short_name, unknown_model
from imageserve.models.folder import FolderFacts, read_folder
from imageserve.models.networks import Network
from imageserve.models.reading import reading


@dataclass(frozen=True, slots=True)
class Source:
    """What an engine needs to know to load one model."""

    name: str
    runtime: str
    """``keras`` or ``onnx``."""
    path: Path | None
    """The file, or the folder of a SavedModel; None for a network of keras.applications."""
    labels: Path
    network: Network | None = None
    input_size: tuple[int, int] | None = None
    """Height and width that the model must have; None accepts what it has."""
    scaling: str = "none"
    version: str | None = None
    """None: what its content says."""


def find_source(
    model: str, labels_file: str | None, input_size: tuple[int, int] | None, runtime: str | None
) -> Source:
    """Decide what to load for a model's name or path.

    Raises:
        ModelLoadError: nothing fits; the message says what to change.
    """
    own = Path(labels_file) if labels_file else None
    if model in KNOWN:
        return _known(model, own, input_size, runtime)
    if not is_model_path(model):
        raise unknown_model(model)
    with reading(model):
        is_folder = Path(model).is_dir()
    if is_model_file(model) and not is_folder:
        return _file(Path(model), own, input_size, runtime)
    return _folder(Path(model), own, input_size, runtime)


def _known(
    model: str, labels: Path | None, input_size: tuple[int, int] | None, runtime: str | None
) -> Source:
    facts = KNOWN[model]
    if runtime == "onnx":
        raise _not_exported(model, "DIR")
    return Source(
        model, "keras", facts.model_file, labels or facts.labels_file, facts.network, input_size
    )


def _file(
    path: Path, labels: Path | None, input_size: tuple[int, int] | None, runtime: str | None
) -> Source:
    if labels is None:
        raise _no_labels(path)
    own_runtime = "onnx" if path.suffix == ".onnx" else "keras"
    if runtime == "onnx" != own_runtime:
        raise _not_exported(str(path), "DIR")
    if runtime == "keras" != own_runtime:
        raise _not_for_keras(path)
    return Source(path.stem, own_runtime, path, labels, input_size=input_size)


def _folder(
    path: Path, labels: Path | None, input_size: tuple[int, int] | None, runtime: str | None
) -> Source:
    found = read_folder(path)
    chosen = runtime or ("keras" if found.keras else "onnx")
    file = found.onnx if chosen == "onnx" else found.keras
    if file is None:
        raise _not_exported(str(path), str(path)) if chosen == "onnx" else _not_for_keras(path)
    labels = labels or found.labels
    if labels is None:
        raise _no_labels(path)
    return Source(
        name=short_name(str(path.resolve())),
        runtime=chosen,
        path=file,
        labels=labels,
        input_size=_agreed_size(path, found.facts, input_size),
        scaling=found.facts.scaling,
        version=found.facts.version,
    )


def _agreed_size(
    path: Path, facts: FolderFacts, wanted: tuple[int, int] | None
) -> tuple[int, int] | None:
    own = facts.input_size
    if own and wanted and own != wanted:
        raise ModelLoadError(
            f"{path} is for pictures of {own[0]}x{own[1]} (height x width) and the settings demand "
            f"{wanted[0]}x{wanted[1]}: set the input size to {own[0]}x{own[1]}, or leave it out"
        )
    return own or wanted


def _no_labels(path: Path) -> ModelLoadError:
    return ModelLoadError(
        f"{path} has no labels: name a labels file, one label a line in class order "
        "(MODEL_LABELS), or put labels.txt into the model's folder"
    )


def _not_exported(model: str, folder: str) -> ModelLoadError:
    return ModelLoadError(
        f"MODEL_RUNTIME=onnx needs {model} as ONNX: run 'imageserve models export {model} "
        f"--to {folder}', then set MODEL={folder}"
    )


def _not_for_keras(path: Path) -> ModelLoadError:
    return ModelLoadError(
        f"MODEL_RUNTIME=keras cannot run {path}, which is ONNX: leave MODEL_RUNTIME out"
    )
