"""The embedding: an inner layer or tensor of a model, named in its facts, beside its answers."""

from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper
from tests.onnx_files import kernel_of, write_labels, write_onnx

from imageserve.cli import models as command
from imageserve.errors import ModelLoadError
from imageserve.models import load_model
from imageserve.models.model import ScoringModel
from imageserve.predictions import EMBEDDING, SCORES, Asked

keras = pytest.importorskip("keras")
layers = keras.layers

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

CLASSES = ["a", "b", "c"]


def pictures(n: int = 5) -> Any:
    return np.random.default_rng(n).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def folder_of(folder: Path, *facts: str, labels: list[str] | None = None) -> Path:
    folder.mkdir()
    write_labels(folder / "labels.txt", labels or CLASSES)
    (folder / "imageserve.yaml").write_text("\n".join(facts))
    return folder


def served(folder: Path) -> ScoringModel:
    model = load_model(f"{folder}/", weights="", labels_file=None)
    assert isinstance(model, ScoringModel)
    return model


def refusal_of(folder: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        served(folder)
    return str(caught.value)


def vectors(model: ScoringModel, n: int = 5) -> tuple[Any, Any]:
    """Return scores and embedding, having checked that the labels are those of the scores."""
    answers, found = model.predict_more(pictures(n), [Asked(1, want=EMBEDDING)] * n)
    assert answers == model.predict(pictures(n), 1)
    np.testing.assert_allclose(found[SCORES], model.scores(pictures(n)), atol=1e-6)
    return found[SCORES], found[EMBEDDING]


def network(units: int = 3, activation: str | None = "softmax") -> Any:
    keras.utils.set_random_seed(5)
    return keras.Sequential(
        [
            keras.Input((8, 8, 3)),
            layers.Conv2D(4, 3, name="map"),
            layers.GlobalAveragePooling2D(name="avg_pool", keepdims=True),
            layers.Flatten(),
            layers.Dense(units, activation, name="last"),
        ]
    )


@pytest.mark.parametrize(
    ("units", "activation", "facts"),
    [
        (3, "softmax", []),
        (3, None, ["activation: softmax"]),
        (1, "sigmoid", []),
    ],
)
def test_a_layer_of_keras_is_given_beside_the_answers_of_each_head(
    tmp_path: Path, units: int, activation: str | None, facts: list[str]
) -> None:
    folder = folder_of(
        tmp_path / "mine", "embedding: avg_pool", *facts, labels=CLASSES[: units + (units == 1)]
    )
    whole = network(units, activation)
    whole.save(folder / "model.keras")

    model = served(folder)
    scores, embedding = vectors(model)

    inner = keras.Model(whole.inputs[0], whole.get_layer("avg_pool").output)
    expected = np.asarray(inner(pictures().astype(np.float32))).reshape(5, 4)
    np.testing.assert_allclose(embedding, expected, rtol=1e-5)
    assert embedding.dtype == np.float32
    np.testing.assert_allclose(scores.sum(axis=1), 1, atol=1e-5)
    assert model.outputs.vectors == (SCORES, EMBEDDING)


def test_a_model_that_names_no_layer_gives_scores_only(tmp_path: Path) -> None:
    model = served_onnx(tmp_path / "mine")

    answers, found = model.predict_more(pictures(), [Asked(2, want=EMBEDDING)] * len(pictures()))

    assert model.outputs.vectors == (SCORES,)
    assert [*found] == [SCORES]
    assert answers == model.predict(pictures(), 2)


def served_onnx(folder: Path, *facts: str, **options: Any) -> ScoringModel:
    write_onnx(folder_of(folder, *facts) / "model.onnx", **options)
    return served(folder)


@pytest.mark.parametrize(
    ("options", "facts"),
    [
        pytest.param({}, [], id="as it is"),
        pytest.param({"apart": True}, [], id="sides behind the classes"),
        pytest.param(
            {"shape": ("n", 3, 8, 8), "type_": TensorProto.FLOAT}, [], id="with a layout in front"
        ),
        pytest.param({"shape": (2, 8, 8, 3)}, [], id="a fixed batch"),
        pytest.param({"softmax": False}, ["activation: softmax"], id="logits"),
    ],
)
def test_a_tensor_of_onnx_is_given_beside_the_answers(
    tmp_path: Path, options: dict[str, Any], facts: list[str]
) -> None:
    model = served_onnx(tmp_path / "mine", "embedding: means", *facts, **options)

    scores, embedding = vectors(model)

    means = pictures().mean(axis=(1, 2))
    np.testing.assert_allclose(embedding, means, rtol=1e-5)
    raised = np.exp(means @ kernel_of())
    np.testing.assert_allclose(scores, raised / raised.sum(axis=1, keepdims=True), atol=1e-5)


def test_a_node_may_be_named_and_an_output_that_is_there_already(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mine", "embedding: pooling")
    graph = onnx.load(write_onnx(folder / "model.onnx"))
    (node,) = (each for each in graph.graph.node if each.op_type == "ReduceMean")
    node.name = "pooling"
    onnx.save(graph, folder / "model.onnx")
    _, expected = vectors(served(folder))
    # As a first output, too: it does not count as the answers.
    answers = graph.graph.output.pop()
    graph.graph.output.extend(
        [helper.make_tensor_value_info("mean", TensorProto.FLOAT, ["n", 3]), answers]
    )
    onnx.save(graph, folder / "model.onnx")
    (folder / "imageserve.yaml").write_text("embedding: mean")

    _, embedding = vectors(served(folder))

    np.testing.assert_allclose(embedding, expected)
    np.testing.assert_allclose(embedding, pictures().mean(axis=(1, 2)), rtol=1e-5)


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("none", "has no layer none: set embedding in imageserve.yaml to one that gives one"),
        ("map", "has no vector in the layer map: set embedding in imageserve.yaml to one that"),
    ],
)
def test_another_layer_of_keras_is_refused_with_those_that_there_are(
    tmp_path: Path, name: str, said: str
) -> None:
    folder = folder_of(tmp_path / "mine", f"embedding: {name}")
    network().save(folder / "model.keras")

    refusal = refusal_of(folder)

    assert said in refusal
    assert "such as last, flatten" in refusal
    assert "avg_pool" in refusal


def test_another_tensor_of_onnx_is_refused_with_those_that_there_are(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mine", "embedding: none")
    write_onnx(folder / "model.onnx")

    assert "has no tensor or node none: set embedding in imageserve.yaml" in refusal_of(folder)
    (folder / "imageserve.yaml").write_text("embedding: numbers")
    assert "has no vector in the tensor numbers but (8, 8, 3) numbers" in refusal_of(folder)


def test_a_saved_model_has_no_layers_to_name(tmp_path: Path) -> None:
    folder = folder_of(tmp_path / "mine", "embedding: avg_pool")
    network().export(folder / "saved_model", format="tf_saved_model", verbose=False)

    assert "is a SavedModel, whose inner layers cannot be reached" in refusal_of(folder)


def test_an_export_gives_the_embedding_under_the_same_name(tmp_path: Path) -> None:
    source = folder_of(tmp_path / "source", "embedding: avg_pool")
    network().save(source / "model.keras")

    assert command.main(["export", str(source), "--to", str(tmp_path / "new")], {}) == 0

    was, now = served(source), served(tmp_path / "new")
    assert (was.runtime, now.runtime) == ("keras", "onnx")
    for one, other in zip(vectors(was), vectors(now), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-5)
