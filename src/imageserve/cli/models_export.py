"""``imageserve models export``: a Keras model as a folder that ONNX Runtime serves."""

import argparse
import os
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import cast

from imageserve.cli.models_options import (
    interpolation_of,
    load,
    network_of,
    settings_of,
)
from imageserve.errors import ModelLoadError
from imageserve.models import Engine, load_model
from imageserve.models.agreement import Agreement, agreement, drawn_pictures, scores_of
from imageserve.models.base import ScoringModel
from imageserve.models.folder import FACTS_FILE, KERAS_FILE, ONNX_FILE, SAVED_MODEL
from imageserve.models.reading import reading

TOLERANCE = 1e-4
"""How far a probability of the exported model may be from Keras's."""

_LABELS = "labels.txt"


def run(options: argparse.Namespace, environ: Mapping[str, str]) -> int:
    settings = settings_of(options, environ, MODEL_RUNTIME="keras", KERAS_BACKEND="tensorflow")
    folder: Path = options.to
    with reading(folder):
        beside_source = _is_beside_source(folder, network_of(settings))
    model = load(settings, precision="float32", xla=False)
    found = export(model, folder, interpolation_of(settings), only_onnx=beside_source)
    print(
        f"{folder / ONNX_FILE}: {(folder / ONNX_FILE).stat().st_size / 2**20:.1f} MiB, "
        f"{model.name} version {model.version}, probabilities of {found.pictures} pictures within "
        f"{found.largest_difference:.1g} of Keras"
    )
    return 0


def export(
    model: ScoringModel, folder: Path, interpolation: str, *, only_onnx: bool = False
) -> Agreement:
    """Write a Keras model as a model folder for ONNX Runtime, and say how far the two agree.

    ``only_onnx`` leaves the folder's labels and facts as they are: they are the model's own.

    Raises:
        ModelLoadError: it cannot be written, or does not answer as Keras does.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=folder, prefix=".export-") as temporary:
            made = Path(temporary, folder.resolve().name)
            _write(model, made, interpolation)
            found = _verified(model, made)
            # The facts come last: they say that the rest is complete.
            for name in [ONNX_FILE] if only_onnx else [ONNX_FILE, _LABELS, FACTS_FILE]:
                os.replace(made / name, folder / name)
    except OSError as error:
        raise ModelLoadError(f"{folder} cannot be used: {error}") from error
    return found


def _is_beside_source(folder: Path, network: str) -> bool:
    """Return whether the folder is the model's own; raise ModelLoadError where it is another's."""
    beside_source = _is_source(folder, network)
    if not beside_source and any((folder / name).exists() for name in (KERAS_FILE, SAVED_MODEL)):
        raise ModelLoadError(f"{folder} holds another model: name an empty or a new folder")
    return beside_source


def _is_source(folder: Path, network: str) -> bool:
    return folder.is_dir() and Path(network).is_dir() and folder.samefile(network)


def _write(model: ScoringModel, folder: Path, interpolation: str) -> None:
    folder.mkdir()
    _write_onnx(model, folder / ONNX_FILE)
    (folder / _LABELS).write_text("".join(f"{label}\n" for label in model.labels))
    height, width = model.input_size
    (folder / FACTS_FILE).write_text(
        f"input_size: [{height}, {width}]\n"
        f"interpolation: {interpolation}\n"
        f'version: "{model.version}"\n'
    )


def _write_onnx(model: ScoringModel, path: Path) -> None:
    try:
        from imageserve.models.onnx_export import write_onnx
    except ImportError as error:
        raise ModelLoadError(
            f"nothing can be exported here ({error}): pip install tensorflow tf2onnx onnx"
        ) from error
    write_onnx(model, path)


def _verified(model: ScoringModel, folder: Path) -> Agreement:
    """Load what was written as a worker will, and compare it with its source.

    Raises ModelLoadError where it is not the same.
    """
    written = load_written(folder)
    if written.labels != model.labels:
        raise ModelLoadError("a label is empty, or has a line break or spaces at its ends: mend it")
    pictures = drawn_pictures(model.input_size)
    expected = scores_of(model.scores, pictures)
    found = agreement(scores_of(written.scores, pictures), expected)
    if not found.largest_difference <= TOLERANCE:
        raise ModelLoadError(
            f"the exported {model.name} is wrong: a probability differs from Keras's by "
            f"{found.largest_difference:.2g}, more than {TOLERANCE:g}; serve it with "
            "MODEL_RUNTIME=keras"
        )
    return found


def load_written(folder: Path, precision: str = "float32") -> ScoringModel:
    """Load an exported folder in ONNX Runtime."""
    engine = Engine(runtime="onnx", precision=precision)
    model = load_model(f"{folder}/", weights="", labels_file=None, input_size=None, engine=engine)
    return cast(ScoringModel, model)
