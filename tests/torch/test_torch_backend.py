"""Keras on PyTorch, run by itself: ``make test-torch`` (its wheel is large).

The environment has no TensorFlow, so the expected answers are computed here, from the layers.
"""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from imageserve.decoding import DecodingPolicy, decode
from imageserve.errors import ModelLoadError, ModelOutOfMemory
from imageserve.models import Engine, load_model
from imageserve.models.comparison import agreement, as_pictures, drawn_pictures, scores_of
from imageserve.models.keras_model import KerasModel
from imageserve.preparation import Preparation

# Keras converts its tensors in a way that NumPy 2 warns about, in predict_on_batch only.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

LABELS = Path(__file__).parents[2] / "loadtest" / "images" / "labels.csv"


def load(name: str = "shapes", **options: Any) -> KerasModel:
    model = load_model(
        name,
        weights="random",
        labels_file=None,
        engine=Engine(backend="torch", **options),
    )
    assert isinstance(model, KerasModel)
    return model


def test_the_bundled_model_is_right_without_tensorflow() -> None:
    model = load()
    known = dict(line.split(",")[:2] for line in LABELS.read_text().splitlines()[1:])
    images = [
        decode(
            LABELS.with_name(name).read_bytes(),
            Preparation((96, 96)),
            DecodingPolicy(),
        )
        for name in known
    ]

    answers = model.predict(as_pictures(images, (96, 96, 3)), 1)

    assert len(known) == 28
    assert sum(a[0].label == label for a, label in zip(answers, known.values(), strict=True)) >= 26
    assert "tensorflow" not in sys.modules


def test_a_compiled_call_answers_as_keras_does() -> None:
    model = load("mobilenet_v3_small")
    pictures = drawn_pictures(model.preparation.shape, 4)

    expected = model.network.predict_on_batch(pictures)

    np.testing.assert_allclose(model.scores(pictures), expected, rtol=0, atol=1e-5)


@pytest.mark.parametrize("precision", ["bfloat16", "float16"])
def test_lower_precision_stays_near(precision: str) -> None:
    pictures = drawn_pictures((96, 96, 3))
    expected = scores_of(load().scores, pictures)

    found = agreement(scores_of(load(precision=precision).scores, pictures), expected)

    assert 0 < found.largest_difference < 0.05
    assert found.same_best >= 62


def test_a_batch_too_large_for_the_memory_raises_out_of_memory() -> None:
    model = load()
    # A view, which takes no memory: only the first layer asks for too much.
    huge = np.broadcast_to(np.zeros((1, 96, 96, 3), np.uint8), (2**31, 96, 96, 3))

    with pytest.raises(ModelOutOfMemory, match="for a batch of 2147483648"):
        model.predict(huge, 1)


def test_what_torch_cannot_do_is_refused_with_a_remedy(tmp_path: Path) -> None:
    (tmp_path / "saved_model").mkdir()
    (tmp_path / "labels.txt").write_text("a\nb")

    with pytest.raises(ModelLoadError, match="the torch backend has none"):
        load(xla=True)
    with pytest.raises(ModelLoadError, match="set KERAS_BACKEND=tensorflow, or save the model as"):
        load(f"{tmp_path}/")
