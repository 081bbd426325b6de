"""A third runtime, as small as one can be. Tests add its row to the table and nothing else.

A ``.tally`` file is JSON: the size of the pictures and one row of weights for each colour. What
`write` makes of another model answers with that model.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from imageserve.models.answers import in_probabilities
from imageserve.models.files import content_version, read_labels
from imageserve.models.heads import OTHER
from imageserve.models.model import Pictures, Probabilities, ScoringModel
from imageserve.models.runtimes import Engine, Runtime, RuntimeModule
from imageserve.models.source import Source
from imageserve.preparation import Preparation

WRITTEN: dict[str, ScoringModel] = {}


def load(source: Source, engine: Engine) -> ScoringModel:
    assert engine.precision in precisions()
    assert source.path is not None
    content = json.loads(source.path.read_text())
    height, width = content["size"]
    labels, version = (
        read_labels(source.labels),
        source.facts.version or content_version(source.path),
    )
    scores = partial(_scores, content)
    model = ScoringModel(
        source.name, version, "tally", Preparation((height, width)), labels, scores
    )
    return in_probabilities(model, OTHER)


def _scores(content: dict[str, Any], images: Pictures) -> Probabilities:
    """Weigh the mean colour of each picture."""
    if "written" in content:
        return WRITTEN[content["written"]].scores(images)
    sums = np.exp(images.mean(axis=(1, 2)) / 255 @ np.asarray(content["weights"]))
    return np.asarray(sums / sums.sum(axis=1, keepdims=True), np.float32)


def precisions() -> Sequence[str]:
    return ("float32",)


def write(model: ScoringModel, path: Path) -> None:
    WRITTEN[model.name] = model
    path.write_text(json.dumps({"size": model.preparation.size, "written": model.name}))


def _import(engine: Engine) -> RuntimeModule:
    from tests import tally_runtime

    return tally_runtime


ROW = Runtime(
    name="tally",
    title="Tally",
    file_ending=".tally",
    folder_files=("model.tally",),
    precisions=("float32",),
    load_module=_import,
    install="pip install tally",
    read_input=lambda path: (None, *json.loads(path.read_text())["size"], 3),
    write=write,
)
