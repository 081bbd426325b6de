"""What is said of a model that cannot be served: one thing to do, which helps when it is done.

Each file is written by the library that people write it with.
"""

import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.component.test_model_descriptions import KERAS_2, functional
from tests.onnx_files import LABELS, save, write_labels, write_onnx

from imageserve.errors import ModelLoadError
from imageserve.models import load_model
from imageserve.models.keras_file import read_keras, remedy_for
from imageserve.models.model import ScoringModel

keras = pytest.importorskip("keras")
layers = keras.layers

pytestmark = [
    # Keras converts its variables in a way that NumPy 2 warns about, in saving.
    pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning"),
    pytest.mark.filterwarnings("ignore:.*file format is considered legacy:UserWarning"),
    pytest.mark.filterwarnings("ignore:(?s).*softmax over axis:UserWarning"),
    pytest.mark.filterwarnings("ignore:.*not yet been built:UserWarning"),
]

Write = Callable[[Path], object]

MOST_FOREIGN = 400


def load(path: Path, labels: list[str] | None = None) -> ScoringModel:
    labels_file = write_labels(path.parent / "labels.txt", labels)
    model = load_model(str(path), weights="", labels_file=labels_file)
    assert isinstance(model, ScoringModel)
    return model


def said_of(path: Path, labels: list[str] | None = None) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(path, labels)
    said = str(caught.value)
    assert len(said) < MOST_FOREIGN + 300
    assert "\n" not in said
    return said


def pictures(n: int = 16) -> Any:
    return np.random.default_rng(n).integers(0, 256, (n, 8, 8, 3), dtype=np.uint8)


def ending(*last: Any, shape: tuple[int, ...] = (8, 8, 3)) -> Any:
    keras.utils.set_random_seed(2)
    return keras.Sequential([keras.Input(shape), layers.GlobalAveragePooling2D(), *last])


# -- heads ----------------------------------------------------------------------------------------


def in_keras(*last: Callable[[], Any]) -> Write:
    return lambda path: ending(*(layer() for layer in last)).save(path.with_suffix(".keras"))


def in_onnx(**options: Any) -> Write:
    return lambda path: write_onnx(path.with_suffix(".onnx"), **options)


def saved_model(activation: str, classes: int) -> Write:
    def write(path: Path) -> None:
        network = ending(layers.Rescaling(1 / 255), layers.Dense(classes, activation))
        network.export(path, format="tf_saved_model", verbose=False)

    return write


def folder_with(folder: Path, write: Write, labels: int, *facts: str) -> Path:
    """Make a model folder, with these lines in its imageserve.yaml."""
    folder.mkdir()
    write(folder / "model")
    if (folder / "model").is_dir():
        (folder / "model").rename(folder / "saved_model")
    write_labels(folder / "labels.txt", [f"label {n}" for n in range(labels)])
    (folder / "imageserve.yaml").write_text("".join(f"{line}\n" for line in facts))
    return folder


def served(folder: Path) -> ScoringModel:
    model = load_model(str(folder), weights="", labels_file=None)
    assert isinstance(model, ScoringModel)
    return model


def refusal_of(folder: Path) -> str:
    with pytest.raises(ModelLoadError) as caught:
        served(folder)
    said = str(caught.value)
    assert len(said) < MOST_FOREIGN + 300
    return said


def yes(x: Any) -> Any:
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def one_of(x: Any) -> Any:
    powers = np.exp(np.asarray(x, np.float64))
    return powers / powers.sum(axis=1, keepdims=True)


def no_and_yes(p: Any) -> Any:
    return np.concatenate([1 - p, p], axis=1)


def logits_of(path: Path, pixels: Any) -> Any:
    """What the files of `in_keras` and `in_onnx` compute before their heads."""
    if path.suffix == ".keras":
        dense = next(
            each for each in keras.saving.load_model(path).layers if isinstance(each, layers.Dense)
        )
        return pixels.mean(axis=(1, 2)) @ np.asarray(dense.kernel) + np.asarray(dense.bias)
    return pixels.mean(axis=(1, 2)) @ numpy_helper.to_array(onnx.load(path).graph.initializer[0])


ONLY_ONE, SEVERAL = False, True


@pytest.mark.parametrize(
    ("write", "labels", "facts", "expected", "multi_label"),
    [
        pytest.param(
            in_keras(lambda: layers.Dense(3)),
            3,
            ["activation: softmax"],
            one_of,
            ONLY_ONE,
            id="logits in Keras",
        ),
        pytest.param(
            in_onnx(softmax=False),
            3,
            ["activation: softmax"],
            one_of,
            ONLY_ONE,
            id="logits in ONNX",
        ),
        pytest.param(
            in_onnx(head="LogSoftmax"),
            3,
            ["activation: softmax"],
            one_of,
            ONLY_ONE,
            id="logarithms of probabilities",
        ),
        pytest.param(
            in_keras(lambda: layers.Dense(3, "sigmoid")),
            3,
            [],
            yes,
            SEVERAL,
            id="sigmoids in Keras",
        ),
        pytest.param(
            in_keras(lambda: layers.Dense(3), lambda: layers.Activation("sigmoid")),
            3,
            [],
            yes,
            SEVERAL,
            id="sigmoids apart",
        ),
        pytest.param(in_onnx(head="Sigmoid"), 3, [], yes, SEVERAL, id="sigmoids in ONNX"),
        pytest.param(
            in_onnx(head="Sigmoid"), 3, ["activation: none"], yes, SEVERAL, id="none said of them"
        ),
        pytest.param(
            in_keras(lambda: layers.Dense(3)),
            3,
            ["activation: sigmoid"],
            yes,
            SEVERAL,
            id="logits of sigmoids in Keras",
        ),
        pytest.param(
            in_onnx(softmax=False),
            3,
            ["activation: sigmoid"],
            yes,
            SEVERAL,
            id="logits of sigmoids in ONNX",
        ),
        pytest.param(
            in_keras(lambda: layers.Dense(1, "sigmoid")),
            2,
            [],
            lambda x: no_and_yes(yes(x)),
            ONLY_ONE,
            id="yes or no in Keras",
        ),
        pytest.param(
            in_onnx(head="Sigmoid", classes=1),
            2,
            [],
            lambda x: no_and_yes(yes(x)),
            ONLY_ONE,
            id="yes or no in ONNX",
        ),
        pytest.param(
            in_onnx(softmax=False, classes=1),
            2,
            ["activation: sigmoid"],
            lambda x: no_and_yes(yes(x)),
            ONLY_ONE,
            id="the logit of yes or no",
        ),
        pytest.param(
            in_keras(lambda: layers.Dense(1, "sigmoid")), 1, [], yes, SEVERAL, id="one label alone"
        ),
        pytest.param(in_onnx(), 3, ["activation: none"], one_of, ONLY_ONE, id="none and softmax"),
        pytest.param(
            in_onnx(softmax=False, apart=True),
            3,
            ["activation: softmax"],
            one_of,
            ONLY_ONE,
            id="sides of length 1 behind the classes",
        ),
    ],
)
def test_each_head_is_served_with_the_probabilities_that_it_means(
    tmp_path: Path,
    write: Write,
    labels: int,
    facts: list[str],
    expected: Callable[[Any], Any],
    multi_label: bool,
) -> None:
    folder = folder_with(tmp_path / "mine", write, labels, *facts)
    (path,) = folder.glob("model.*")

    model = served(folder)

    answers = model.scores(pictures())
    assert answers.dtype == np.float32
    assert model.multi_label is multi_label
    np.testing.assert_allclose(answers, expected(logits_of(path, pictures())), atol=2e-5)


@pytest.mark.parametrize(
    ("activation", "classes", "fact", "labels"),
    [
        ("linear", 3, "activation: softmax", 3),
        ("linear", 3, "activation: sigmoid", 3),
        ("sigmoid", 3, "activation: none", 3),
        ("sigmoid", 1, "activation: none", 2),
        ("softmax", 3, "", 3),
    ],
)
def test_a_saved_model_of_each_head_is_served(
    tmp_path: Path, activation: str, classes: int, fact: str, labels: int
) -> None:
    folder = folder_with(tmp_path / "mine", saved_model(activation, classes), labels, fact)

    model = served(folder)

    run = keras.layers.TFSMLayer(str(folder / "saved_model"), call_endpoint="serving_default")
    raw = np.asarray(next(iter(run(pictures().astype(np.float32)).values())))
    turn = {"activation: softmax": one_of, "activation: sigmoid": yes}.get(fact, np.asarray)
    expected = no_and_yes(raw) if classes == 1 else turn(raw)
    np.testing.assert_allclose(model.scores(pictures()), expected, atol=1e-5)
    assert model.multi_label is (classes == 3 and "softmax" not in activation + fact)


def test_logits_far_from_zero_make_no_endless_numbers(tmp_path: Path) -> None:
    for activation in ("softmax", "sigmoid"):
        write = in_onnx(softmax=False, weight=60.0)
        folder = folder_with(tmp_path / activation, write, 3, f"activation: {activation}")
        answers = served(folder).scores(pictures())
        assert np.isfinite(answers).all()
        assert (answers.min(), answers.max()) == (0, 1)


LINES = (
    "add 'activation: softmax' to imageserve.yaml in its folder (or to its entry in MODELS_FILE) "
    "if one label holds for a picture, or 'activation: sigmoid' if several may"
)


@pytest.mark.parametrize(
    ("write", "labels", "facts", "said"),
    [
        pytest.param(in_keras(lambda: layers.Dense(3)), 3, [], LINES, id="logits in Keras"),
        pytest.param(in_onnx(softmax=False), 3, [], LINES, id="logits in ONNX"),
        pytest.param(saved_model("linear", 3), 3, [], LINES, id="logits in a SavedModel"),
        pytest.param(
            in_onnx(head="LogSoftmax"), 3, [], "with logits, numbers from -", id="logarithms"
        ),
        pytest.param(
            in_keras(lambda: layers.Dense(1)),
            2,
            [],
            "add 'activation: sigmoid' to imageserve.yaml in its folder (or to its entry in "
            "MODELS_FILE) if a sigmoid of it is the probability of the second of two labels; a "
            "measure has no labels and is not served",
            id="a measure",
        ),
        pytest.param(
            saved_model("sigmoid", 1),
            2,
            [],
            "add 'activation: none' to imageserve.yaml in its folder (or to its entry in "
            "MODELS_FILE) if it is the probability of the second of two labels",
            id="yes or no in a SavedModel",
        ),
        pytest.param(
            saved_model("sigmoid", 3),
            3,
            [],
            "add 'activation: none' to imageserve.yaml in its folder (or to its entry in "
            "MODELS_FILE) if each is the probability of its label, as after a sigmoid",
            id="sigmoids in a SavedModel",
        ),
        pytest.param(
            in_onnx(),
            3,
            ["activation: softmax"],
            "ends in a softmax, so its numbers are probabilities already: remove the line "
            "'activation: softmax'",
            id="softmax twice",
        ),
        pytest.param(
            in_keras(lambda: layers.Dense(3, "sigmoid")),
            3,
            ["activation: sigmoid"],
            "ends in a sigmoid, so its numbers are probabilities already: remove the line "
            "'activation: sigmoid'",
            id="sigmoid twice",
        ),
        pytest.param(
            saved_model("sigmoid", 3),
            3,
            ["activation: sigmoid"],
            "answers with numbers from 0 to 1, so its numbers are probabilities already",
            id="sigmoid twice in a SavedModel",
        ),
        pytest.param(
            in_onnx(softmax=False),
            3,
            ["activation: none"],
            "and 'activation: none' says that they are probabilities: write softmax there if",
            id="none of logits",
        ),
        pytest.param(
            in_keras(lambda: layers.Dense(1, "sigmoid")),
            3,
            [],
            "answers with one number a picture, and its labels file has 3 labels: name two, the "
            "one that a number near 0 means first",
            id="yes or no with three labels",
        ),
        pytest.param(
            in_keras(lambda: layers.Dense(1)),
            2,
            ["activation: softmax"],
            "has one class, so all pictures would get the same answer",
            id="softmax of one number",
        ),
    ],
)
def test_a_head_that_cannot_be_served_is_named_with_the_line_to_write(
    tmp_path: Path, write: Write, labels: int, facts: list[str], said: str
) -> None:
    assert said in refusal_of(folder_with(tmp_path / "mine", write, labels, *facts))


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(in_keras(lambda: layers.Dense(1, "softmax")), id="Keras"),
        pytest.param(in_onnx(classes=1), id="ONNX"),
        pytest.param(saved_model("softmax", 1), id="SavedModel"),
    ],
)
def test_one_class_is_no_classifier(tmp_path: Path, write: Write) -> None:
    write(tmp_path / "mine")
    (path,) = tmp_path.iterdir()

    assert "has one class, so all pictures would get the same answer" in said_of(path, ["cat"])


def test_a_softmax_over_another_side_is_named(tmp_path: Path) -> None:
    ending(layers.Dense(3), layers.Softmax(axis=0)).save(tmp_path / "mine.keras")

    assert "has a softmax that does not run over the classes" in said_of(tmp_path / "mine.keras")


# -- 16 bits --------------------------------------------------------------------------------------


@pytest.fixture
def policy() -> Iterator[Callable[[str], None]]:
    yield keras.config.set_dtype_policy
    keras.config.set_dtype_policy("float32")


@pytest.mark.parametrize("name", ["mixed_bfloat16", "bfloat16", "mixed_float16"])
@pytest.mark.parametrize("apart", [False, True], ids=["in the layer", "apart"])
def test_a_softmax_in_16_bits_is_computed_in_float32(
    tmp_path: Path, policy: Callable[[str], None], name: str, apart: bool
) -> None:
    policy(name)
    last = [layers.Dense(300), layers.Activation("softmax")]
    ending(*(last if apart else [layers.Dense(300, "softmax")])).save(tmp_path / "mine.keras")

    model = load(tmp_path / "mine.keras", [f"c{n}" for n in range(300)])

    totals = model.scores(pictures()).astype(np.float64).sum(axis=1)
    np.testing.assert_allclose(totals, 1, atol=1e-5)


def test_where_the_layer_cannot_be_told_so_the_advice_is_to_say_it_in_the_file(
    tmp_path: Path, policy: Callable[[str], None]
) -> None:
    policy("mixed_bfloat16")
    pixels = keras.Input((8, 8, 3))
    logits = layers.Dense(300)(layers.GlobalAveragePooling2D()(pixels))
    keras.Model(pixels, keras.ops.softmax(logits)).save(tmp_path / "mine.keras")

    said = said_of(tmp_path / "mine.keras", [f"c{n}" for n in range(300)])

    assert "probabilities that add up to 0.99" in said
    assert "let its last layer compute in float32 (in Keras with dtype='float32')" in said


def test_onnx_runtime_hands_out_float16_and_no_bfloat16(tmp_path: Path) -> None:
    half = load(write_onnx(tmp_path / "half.onnx", answer=TensorProto.FLOAT16))
    said = said_of(write_onnx(tmp_path / "brain.onnx", answer=TensorProto.BFLOAT16))

    assert half.scores(pictures()).dtype == np.float32
    assert "answers in bfloat16, which ONNX Runtime does not hand out: end the graph with" in said


# -- outputs --------------------------------------------------------------------------------------


@pytest.mark.parametrize("form", [dict, list])
def test_one_output_in_a_dictionary_or_a_list_is_served(tmp_path: Path, form: type) -> None:
    network = functional((8, 8, 3))
    answer = {"probs": network.outputs[0]} if form is dict else [network.outputs[0]]
    keras.Model(network.inputs, answer).save(tmp_path / "mine.keras")

    model = load(tmp_path / "mine.keras")

    expected = network.predict_on_batch(pictures().astype(np.float32))
    np.testing.assert_allclose(model.scores(pictures()), expected, atol=1e-5)


def test_of_two_outputs_of_keras_the_advice_keeps_one(tmp_path: Path) -> None:
    network = functional((8, 8, 3))
    two = {"probs": network.outputs[0], "features": network.layers[1].output}
    keras.Model(network.inputs, two).save(tmp_path / "mine.keras")

    said = said_of(tmp_path / "mine.keras")

    assert "declares 2 outputs" in said
    assert "save keras.Model(model.inputs, [the output with the probabilities])" in said


def of_scikit_learn(path: Path) -> Path:
    """Write what skl2onnx makes of a logistic regression: a label and probabilities."""
    nodes = [
        helper.make_node("Constant", [], ["shape"], value_ints=[-1, 192]),
        helper.make_node("Cast", ["pixels"], ["numbers"], to=TensorProto.FLOAT),
        helper.make_node("Reshape", ["numbers", "shape"], ["X"]),
        helper.make_node(
            "LinearClassifier",
            ["X"],
            ["label", "scores"],
            domain="ai.onnx.ml",
            coefficients=np.random.default_rng(1).normal(0, 1e-4, 576).tolist(),
            intercepts=[0.0, 0.1, 0.2],
            classlabels_ints=[0, 1, 2],
            multi_class=1,
            post_transform="SOFTMAX",
        ),
        helper.make_node(
            "Normalizer", ["scores"], ["probabilities"], domain="ai.onnx.ml", norm="L1"
        ),
    ]
    graph = helper.make_graph(
        nodes,
        "classifier",
        [helper.make_tensor_value_info("pixels", TensorProto.UINT8, ["n", 8, 8, 3])],
        [
            helper.make_tensor_value_info("label", TensorProto.INT64, ["n"]),
            helper.make_tensor_value_info("probabilities", TensorProto.FLOAT, ["n", 3]),
        ],
    )
    imports = [helper.make_opsetid("", 17), helper.make_opsetid("ai.onnx.ml", 1)]
    onnx.save(helper.make_model(graph, opset_imports=imports, ir_version=8), path)
    return path


def test_a_classifier_of_scikit_learn_is_served_once_the_advice_is_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = of_scikit_learn(tmp_path / "mine.onnx")

    said = said_of(path)

    command = "onnx.utils.extract_model('mine.onnx', 'mine.onnx', ['pixels'], ['probabilities'])"
    assert said.endswith(command)
    monkeypatch.chdir(tmp_path)
    onnx.utils.extract_model("mine.onnx", "mine.onnx", ["pixels"], ["probabilities"])
    assert load(path).scores(pictures()).shape == (16, 3)


def test_probabilities_in_a_dictionary_for_each_picture_are_named(tmp_path: Path) -> None:
    path = of_scikit_learn(tmp_path / "mine.onnx")
    model = onnx.load(path)
    model.graph.node.append(
        helper.make_node(
            "ZipMap", ["probabilities"], ["maps"], domain="ai.onnx.ml", classlabels_int64s=[0, 1, 2]
        )
    )
    numbers = helper.make_tensor_type_proto(TensorProto.FLOAT, None)
    maps = helper.make_sequence_type_proto(helper.make_map_type_proto(TensorProto.INT64, numbers))
    model.graph.output[1].CopyFrom(helper.make_value_info("maps", maps))
    onnx.save(model, path)

    said = said_of(path)

    remedy = "convert the classifier anew with options={'zipmap': False}"
    assert said.endswith(remedy)
    model = onnx.load(path)
    del model.graph.output[0]
    onnx.save(model, path)
    assert said_of(path).endswith(remedy)


def test_a_label_instead_of_probabilities_is_named(tmp_path: Path) -> None:
    said = said_of(write_onnx(tmp_path / "mine.onnx", answer=TensorProto.INT64))

    assert "answers with tensor(int64), not with a probability for each class: export it" in said


def test_a_file_that_leaves_the_number_of_classes_open_is_served(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "mine.onnx")
    model = onnx.load(path)
    # A shape that ONNX Runtime cannot infer: the sides come from another input of the graph.
    model.graph.node.append(helper.make_node("Shape", ["probabilities"], ["sides"]))
    model.graph.node.append(helper.make_node("Sign", ["sides"], ["signs"]))
    model.graph.node.append(helper.make_node("Mul", ["sides", "signs"], ["same"]))
    model.graph.node.append(helper.make_node("Reshape", ["probabilities", "same"], ["answers"]))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("answers", TensorProto.FLOAT, None))
    onnx.save(model, path)

    assert load(path).classes == 3
    assert "has 3 classes and its labels file 2 labels" in said_of(path, LABELS[:2])


# -- layers ---------------------------------------------------------------------------------------


def test_a_network_that_was_never_built_is_named(tmp_path: Path) -> None:
    network = keras.Sequential([layers.GlobalAveragePooling2D(), layers.Dense(3, "softmax")])
    network.save(tmp_path / "mine.keras")

    said = said_of(tmp_path / "mine.keras")

    assert "was saved before its layers had weights: put keras.Input((HEIGHT, WIDTH, 3))" in said


# -- writers --------------------------------------------------------------------------------------


@keras.saving.register_keras_serializable("mine")
class Gem(layers.Layer):  # type: ignore[name-defined,misc]
    def call(self, inputs: Any) -> Any:
        return inputs


def twist(inputs: Any) -> Any:
    return inputs


keras.saving.register_keras_serializable("mine")(twist)


def test_layers_that_keras_does_not_have_are_named_and_served_as_the_advice_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = ending(Gem(), layers.Dense(3, twist), layers.Softmax())
    network.save(tmp_path / "mine.keras")
    known = keras.saving.get_custom_objects()
    with monkeypatch.context() as elsewhere:
        for name in [*known]:
            elsewhere.delitem(known, name)
        said = said_of(tmp_path / "mine.keras")

    assert "it needs code that is not part of Keras, of Gem, twist; use Keras's own" in said
    network.export(tmp_path / "saved_model", format="tf_saved_model", verbose=False)
    assert load(tmp_path / "saved_model").classes == 3


def test_a_file_of_keras_2_is_named(tmp_path: Path) -> None:
    path = tmp_path / "mine.keras"
    path.write_bytes(KERAS_2.read_bytes())

    said = said_of(path)

    assert "it was written by Keras 2.21.0; load it there (package tf_keras)" in said
    assert said.endswith("write it anew with model.export('saved_model')")


def test_an_hdf5_file_is_served_once_it_is_written_anew_as_the_advice_says(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    ending(layers.Dense(3, "softmax")).save(tmp_path / "mine.h5")
    (tmp_path / "renamed.keras").write_bytes((tmp_path / "mine.h5").read_bytes())

    said = said_of(tmp_path / "mine.h5")

    advice = "keras.saving.load_model('mine.h5', compile=False).save('mine.keras')"
    assert said.endswith(f"is in HDF5, the format of Keras 2: write it anew with {advice}")
    assert "is in HDF5" in said_of(tmp_path / "renamed.keras")
    monkeypatch.chdir(tmp_path)
    eval(advice, {"keras": keras})
    assert load(tmp_path / "mine.keras").classes == 3


def test_a_file_of_a_newer_keras_is_named(tmp_path: Path) -> None:
    functional().save(tmp_path / "mine.keras")
    found = read_keras(tmp_path / "mine.keras")

    assert found is not None
    said = remedy_for(found, "3.4.1", "no such layer")
    assert said.startswith(
        f" (no such layer): it was written by the newer Keras {keras.__version__}; save it with"
    )


@pytest.mark.parametrize(
    ("options", "said"),
    [
        pytest.param({"ir_version": 99}, "IR version 99 and opset 17", id="IR"),
        pytest.param({"opset": 99}, "IR version 9 and opset 99", id="opset"),
    ],
)
def test_an_onnx_file_that_is_too_new_is_named_with_what_is_read(
    tmp_path: Path, options: dict[str, Any], said: str
) -> None:
    path = tmp_path / "mine.onnx"
    write_onnx(path, **options)

    running = f"ONNX Runtime {onnxruntime.__version__} cannot load {path}: it has {said}, newer"
    assert running in said_of(path)
    assert "export it with opset 17 and IR version 8" in said_of(path)
    assert load(write_onnx(path, opset=17, ir_version=8)).classes == 3


def test_operations_of_others_in_an_onnx_file_are_named(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "mine.onnx")
    model = onnx.load(path)
    model.graph.node[0].domain = "com.acme"
    model.opset_import.append(helper.make_opsetid("com.acme", 1))
    onnx.save(model, path)

    said = said_of(path)

    assert "it uses operations that ONNX Runtime does not have, com.acme.Cast; export" in said


def test_a_graph_without_an_input_is_named(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "mine.onnx")
    model = onnx.load(path)
    pictures = numpy_helper.from_array(np.zeros((1, 8, 8, 3), np.uint8), "images")
    model.graph.initializer.append(pictures)
    del model.graph.input[:]
    onnx.save(model, path)

    assert "declares 0 inputs" in said_of(path)


# -- weights beside an ONNX file ------------------------------------------------------------------


def test_weights_in_a_file_beside_are_served_and_their_change_is_another_version(
    tmp_path: Path,
) -> None:
    path = write_onnx(tmp_path / "mine.onnx", beside="mine.onnx.data")
    whole = load(write_onnx(tmp_path / "whole.onnx"))
    model = load(path)
    np.testing.assert_allclose(model.scores(pictures()), whole.scores(pictures()), atol=1e-6)

    weights = np.frombuffer((tmp_path / "mine.onnx.data").read_bytes(), np.float32)
    (tmp_path / "mine.onnx.data").write_bytes((weights * 2).tobytes())

    changed = load(path)
    assert changed.version != model.version
    assert np.abs(changed.scores(pictures()) - model.scores(pictures())).max() > 1e-3


def test_weights_that_are_missing_or_cut_short_beside_are_named(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "mine.onnx", beside="mine.onnx.data")
    beside = tmp_path / "mine.onnx.data"
    beside.write_bytes(beside.read_bytes()[:-1])
    short = said_of(path)
    beside.unlink()

    assert "mine.onnx.data is cut short: mine.onnx needs 36 bytes of it, and there are 35" in short
    assert said_of(path).endswith(
        "has weights in mine.onnx.data, which is not beside it: copy that file there too"
    )


def test_weights_behind_a_link_out_of_the_folder_are_served_once_they_are_copied(
    tmp_path: Path,
) -> None:
    store, here = tmp_path / "store", tmp_path / "here"
    store.mkdir()
    here.mkdir()
    write_onnx(store / "mine.onnx", beside="mine.onnx.data")
    for name in ("mine.onnx", "mine.onnx.data"):
        (here / name).symlink_to(store / name)

    said = said_of(here / "mine.onnx")

    assert said.endswith(
        "mine.onnx.data beside it is a link out of its folder; copy the file itself (cp -L)"
    )
    for name in ("mine.onnx", "mine.onnx.data"):
        (here / name).unlink()
        (here / name).write_bytes((store / name).read_bytes())
    assert load(here / "mine.onnx").classes == 3


def test_weights_in_another_folder_are_named(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()

    said = said_of(write_onnx(here / "mine.onnx", beside="../mine.data"))

    assert said.endswith(
        "its weights are outside its folder, in ../mine.data; export it anew, with them beside it"
    )


def test_a_version_that_an_export_kept_does_not_hide_a_change_beside_the_file(
    tmp_path: Path,
) -> None:
    path = write_onnx(tmp_path / "mine.onnx", beside="mine.onnx.data")
    model = onnx.load(path, load_external_data=False)
    helper.set_model_props(model, {"imageserve.version": "spring"})
    path.write_bytes(model.SerializeToString())
    before = load(path).version

    (tmp_path / "mine.onnx.data").write_bytes(bytes(36))

    assert load(path).version != before


# -- foreign text ---------------------------------------------------------------------------------


def test_names_in_a_file_do_not_make_a_message_long(tmp_path: Path) -> None:
    side = "n" * 5000
    long = "o" * 5000
    graph = helper.make_graph(
        [
            helper.make_node("Cast", ["images"], [each], to=TensorProto.FLOAT)
            for each in (long, "b")
        ],
        "long",
        [helper.make_tensor_value_info("images", TensorProto.UINT8, [side, 8, 8, 3])],
        [helper.make_tensor_value_info(each, TensorProto.FLOAT, [side, 3]) for each in (long, "b")],
    )

    assert "declares 2 outputs (ooo" in said_of(save(tmp_path / "mine.onnx", graph))


def test_an_error_of_keras_that_holds_the_whole_network_is_cut(tmp_path: Path) -> None:
    network = keras.Sequential(
        [keras.Input((8, 8, 3)), *(layers.Dense(3) for _ in range(60)), layers.Flatten()]
    )
    network.save(tmp_path / "mine.keras")
    with zipfile.ZipFile(tmp_path / "mine.keras") as archive:
        parts = {name: archive.read(name) for name in archive.namelist()}
    parts["config.json"] = parts["config.json"].replace(b'"Flatten"', b'"Flattened"')
    with zipfile.ZipFile(tmp_path / "mine.keras", "w") as archive:
        for name, content in parts.items():
            archive.writestr(name, content)

    assert "save it anew with model.save(), with layers that Keras itself has" in said_of(
        tmp_path / "mine.keras"
    )
