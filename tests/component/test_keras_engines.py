"""Keras's other backends, lower precision and XLA: the same answers as TensorFlow in float32."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import imageserve
from imageserve.errors import ModelLoadError, ModelOutOfMemory
from imageserve.models import Engine, load_model
from imageserve.models.comparison import agreement, drawn_pictures
from imageserve.models.keras_model import KerasModel

keras = pytest.importorskip("keras")

SOURCE = Path(imageserve.__file__).parents[1]

ON_ANOTHER_BACKEND = """
import json, sys
from imageserve.models import Engine, load_model
from imageserve.models.comparison import drawn_pictures, scores_of
backend = sys.argv[1]
engine = Engine(backend=backend)
model = load_model("shapes", weights="", labels_file=None, engine=engine)
pictures = drawn_pictures(model.preparation.shape)
answers = {"scores": scores_of(model.scores, pictures).tolist()}
answers["labels"] = [row[0].label for row in model.predict(pictures[:2], 2)]
answers["imported"] = sorted({"tensorflow", "jax", "torch"} & set(sys.modules))
print(json.dumps(answers))
"""


def load(**options: Any) -> KerasModel:
    model = load_model("shapes", weights="", labels_file=None, engine=Engine(**options))
    assert isinstance(model, KerasModel)
    return model


@pytest.fixture(scope="module")
def expected() -> NDArray[np.float32]:
    """The probabilities of TensorFlow in float32 for the drawn pictures."""
    return load().scores(drawn_pictures((96, 96, 3)))


@pytest.mark.parametrize("backend", ["jax"])
def test_another_backend_gives_the_same_probabilities_without_tensorflow(
    backend: str, expected: NDArray[np.float32]
) -> None:
    found = json.loads(run(ON_ANOTHER_BACKEND, backend))

    assert found["imported"] == [backend]
    np.testing.assert_allclose(found["scores"], expected, rtol=0, atol=1e-4)
    labels = load().labels
    assert found["labels"] == [labels[i] for i in expected[:2].argmax(axis=1)]


@pytest.mark.parametrize(
    ("precision", "tolerance"), [("bfloat16", 0.05), ("float16", 0.005)], ids=str
)
def test_lower_precision_is_used_and_stays_near(
    precision: str, tolerance: float, expected: NDArray[np.float32]
) -> None:
    model = load(precision=precision)

    policies = {layer.dtype_policy.name for layer in model.network.layers[-1].layers}
    assert f"mixed_{precision}" in policies
    scores = model.scores(drawn_pictures((96, 96, 3)))
    assert 0 < agreement(scores, expected).largest_difference < tolerance
    assert agreement(scores, expected).same_best >= 62
    # The last layer computes in float32, or the probabilities would not add up.
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)


def test_xla_gives_the_same_probabilities(expected: NDArray[np.float32]) -> None:
    scores = load(xla=True).scores(drawn_pictures((96, 96, 3)))

    np.testing.assert_allclose(scores, expected, rtol=0, atol=1e-4)


def test_a_backend_that_this_process_does_not_run_is_refused() -> None:
    with pytest.raises(ModelLoadError, match="runs Keras on tensorflow already; start another"):
        load(backend="jax")


def test_a_backend_that_is_not_installed_is_named_with_what_to_do() -> None:
    printed = run(
        "import sys\n"
        "sys.modules['jax'] = None\n"
        "from imageserve.errors import ModelLoadError\n"
        "from imageserve.models import Engine, load_model\n"
        "try:\n"
        "    load_model('shapes', weights='', labels_file=None,\n"
        "               engine=Engine(backend='jax'))\n"
        "except ModelLoadError as error:\n"
        "    print(error)\n"
    )

    assert printed.startswith("Keras on jax cannot be used here")
    assert "install keras and jax, or set KERAS_BACKEND" in printed


def test_jax_out_of_memory_is_told_apart_by_its_text() -> None:
    from imageserve.models.model import if_memory

    images = np.zeros((2, 8, 8, 3), np.uint8)
    full, other = RuntimeError("RESOURCE_EXHAUSTED: Out of memory"), RuntimeError("bad shape")

    assert isinstance(if_memory(images, full, "RESOURCE_EXHAUSTED"), ModelOutOfMemory)
    assert if_memory(images, other, "RESOURCE_EXHAUSTED") is other


def run(code: str, *args: str) -> str:
    ended = subprocess.run(
        [sys.executable, "-c", code, *args],
        env={**os.environ, "PYTHONPATH": str(SOURCE)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stderr
    return ended.stdout
