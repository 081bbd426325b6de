"""A third runtime, as small as one can be. Tests add its row to the table and nothing else.

A ``.tally`` file is JSON: the size of the pictures and one row of weights for each colour. What
`write` makes of another model answers with that model.
"""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from imageserve.models.files import content_version, read_labels
from imageserve.models.model import Pictures, Probabilities, ScoringModel, best, check_probabilities
from imageserve.models.runtimes import Engine, Runtime, RuntimeModule
from imageserve.models.source import Source
from imageserve.predictions import Prediction

WRITTEN: dict[str, ScoringModel] = {}


class TallyModel:
    """Weighs the mean colour of each picture."""

    runtime = "tally"

    def __init__(self, source: Source) -> None:
        assert source.path is not None
        self._content = json.loads(source.path.read_text())
        height, width = self._content["size"]
        self.name = source.name
        self.version = source.version or content_version(source.path)
        self.input_size = (height, width)
        self.labels = read_labels(source.labels)
        self.classes = len(self.labels)

    def predict(self, images: Pictures, top: int) -> list[tuple[Prediction, ...]]:
        return best(self.scores(images), self.labels, top)

    def scores(self, images: Pictures) -> Probabilities:
        if "written" in self._content:
            return WRITTEN[self._content["written"]].scores(images)
        sums = np.exp(images.mean(axis=(1, 2)) / 255 @ np.asarray(self._content["weights"]))
        return np.asarray(sums / sums.sum(axis=1, keepdims=True), np.float32)


def load(source: Source, engine: Engine) -> TallyModel:
    assert engine.precision in precisions()
    model = TallyModel(source)
    check_probabilities(model.name, model.scores, model.input_size, model.classes)
    return model


def precisions() -> Sequence[str]:
    return ("float32",)


def write(model: ScoringModel, path: Path) -> None:
    WRITTEN[model.name] = model
    path.write_text(json.dumps({"size": model.input_size, "written": model.name}))


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
    write=write,
)
