"""What is read of model files without the libraries that wrote them."""

import errno
import random
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from tests.onnx_files import save, write_labels, write_onnx

from imageserve.models import load_model, onnx_file
from imageserve.models.entries import ModelEntry
from imageserve.models.folder import NO_FACTS
from imageserve.models.heads import LOGITS, OTHER, SIGMOID, SOFTMAX
from imageserve.models.keras_file import read_keras, saved_model_input
from imageserve.models.onnx_file import External, OnnxFile, read_onnx
from imageserve.models.source import declared_facts
from imageserve.preparation import Preparation
from imageserve.worker.versions import MOST_FILES, Versions, fingerprint_of

keras = pytest.importorskip("keras")

# Keras converts its variables in a way that NumPy 2 warns about, in saving; serving does not.
pytestmark = pytest.mark.filterwarnings(
    "ignore:__array__ implementation doesn't accept a copy keyword:DeprecationWarning"
)

KERAS_2 = Path(__file__).parents[1] / "keras_2.keras"
"""Written by tf_keras 2.21: Model(Input((8, 8, 3)), GlobalAveragePooling2D, Dense(3, softmax))."""


def functional(shape: tuple[int | None, ...] = (8, 12, 3)) -> Any:
    pixels = keras.Input(shape)
    pooled = keras.layers.GlobalAveragePooling2D()(pixels)
    return keras.Model(pixels, keras.layers.Dense(3, "softmax")(pooled))


def sequential() -> Any:
    return keras.Sequential([keras.Input((8, 12, 3)), *functional().layers[1:]])


def built_later() -> Any:
    network = keras.Sequential(functional().layers[1:])
    network.build((None, 8, 12, 3))
    return network


def inside_another() -> Any:
    pixels = keras.Input((8, 12, 3))
    return keras.Model(pixels, functional()(pixels))


@pytest.mark.parametrize("build", [functional, sequential, built_later, inside_another])
def test_the_size_that_a_keras_file_declares_is_the_one_it_is_loaded_with(
    tmp_path: Path, build: Any
) -> None:
    path = tmp_path / "forms.keras"
    build().save(path)

    loaded = load_model(str(path), weights="", labels_file=write_labels(tmp_path / "l.txt"))

    assert declared_facts(str(path), None).input_size == loaded.preparation.size == (8, 12)


def test_the_size_of_a_saved_model_is_read_from_its_signature(tmp_path: Path) -> None:
    functional().export(tmp_path / "saved_model", format="tf_saved_model", verbose=False)
    functional((None, None, 3)).export(tmp_path / "open", format="tf_saved_model", verbose=False)

    assert declared_facts(f"{tmp_path}/", None).input_size == (8, 12)
    assert saved_model_input(tmp_path / "open") == (None, None, None, 3)


@pytest.mark.parametrize(
    ("shape", "size", "colour"),
    [
        pytest.param(("n", 8, 12, 3), (8, 12), None, id="fixed"),
        pytest.param(("n", 3, 8, 12), (8, 12), None, id="colours first"),
        pytest.param(("n", 1, 8, 12), (8, 12), "grey", id="one colour"),
        pytest.param((1, 8, 12, 4), (8, 12), "rgba", id="four colours"),
        pytest.param(("n", "h", "w", 3), None, None, id="open"),
        pytest.param(("n", 8, 3), None, None, id="no picture"),
    ],
)
def test_the_size_and_colours_of_an_onnx_file(
    tmp_path: Path,
    shape: tuple[int | str, ...],
    size: tuple[int, int] | None,
    colour: str | None,
) -> None:
    path = write_onnx(tmp_path / "forms.onnx", shape=shape)
    found = declared_facts(str(path), None)
    assert (found.input_size, found.colour) == (size, colour)


def test_a_folder_with_two_models_is_asked_about_the_one_that_is_run(tmp_path: Path) -> None:
    functional().save(tmp_path / "model.keras")
    write_onnx(tmp_path / "model.onnx")

    assert declared_facts(f"{tmp_path}/", None).input_size == (8, 12)
    assert declared_facts(f"{tmp_path}/", "onnx").input_size == (8, 8)


def test_a_file_of_keras_2_tells_its_writer_and_its_size() -> None:
    found = read_keras(KERAS_2)

    assert found is not None
    assert (found.version, found.input, found.custom) == ("2.21.0", (None, 8, 8, 3), ())


@pytest.mark.parametrize(
    ("operation", "head"),
    [
        ("Softmax", SOFTMAX),
        ("Sigmoid", SIGMOID),
        ("LogSoftmax", LOGITS),
        ("Identity", LOGITS),
        ("Exp", OTHER),
    ],
)
def test_the_head_of_an_onnx_file_is_the_last_operation_that_makes_numbers(
    tmp_path: Path, operation: str, head: str
) -> None:
    found = read_onnx(write_onnx(tmp_path / "forms.onnx", head=operation, opset=16))

    assert found is not None
    assert (found.head, found.opset, found.ir_version) == (head, 16, 9)
    assert found.outputs == ("probabilities",)


def in_a_branch(path: Path) -> Path:
    """Write one with weights in other files: of the graph, a node, a branch and a sparse tensor."""

    def outside(name: str) -> TensorProto:
        tensor = numpy_helper.from_array(np.zeros(3, np.float32), name)
        onnx.external_data_helper.set_external_data(tensor, f"{name}.data", 8, 12)
        tensor.ClearField("raw_data")
        return tensor

    value = helper.make_tensor_value_info("b", TensorProto.FLOAT, [3])
    constant = helper.make_node("Constant", [], ["b"], value=outside("branch"))
    branch = helper.make_graph([constant], "branch", [], [value])
    nodes = [
        helper.make_node("Constant", [], ["c"], value=outside("node")),
        helper.make_node("If", ["x"], ["y"], then_branch=branch, else_branch=branch),
    ]
    condition = helper.make_tensor_value_info("x", TensorProto.BOOL, [])
    graph = helper.make_graph(
        nodes,
        "weights",
        [condition],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, [3])],
        [outside("graph")],
        sparse_initializer=[
            helper.make_sparse_tensor(outside("sparse"), numpy_helper.from_array(np.arange(3)), [9])
        ],
    )
    return save(path, graph)


def test_weights_in_other_files_are_found_wherever_the_graph_has_them(tmp_path: Path) -> None:
    found = read_onnx(in_a_branch(tmp_path / "odd.onnx"))

    assert found is not None
    assert {part.path.name for part in found.external} == {
        "graph.data",
        "sparse.data",
        "node.data",
        "branch.data",
    }
    assert External(tmp_path / "graph.data", 20) in found.external


def test_a_change_of_weights_beside_an_onnx_file_is_noticed(tmp_path: Path) -> None:
    here = tmp_path / "here"
    here.mkdir()
    file = write_onnx(here / "forms.onnx", beside="../forms.data")
    versions = Versions(ModelEntry("forms", "q", Preparation((8, 8)), network=str(file)), None)
    before = versions.find(None)

    (tmp_path / "forms.data").write_bytes(bytes(36))
    changed = versions.find(None)
    write_onnx(file, beside="other.data")
    named_anew = versions.find(None)

    assert len({each.fingerprint for each in (before, changed, named_anew)}) == 3
    assert [Path(state[0]).name for state in named_anew.fingerprint] == ["forms.onnx", "other.data"]


def test_an_onnx_file_that_could_not_be_read_once_is_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_onnx(tmp_path / "forms.onnx", beside="forms.data")

    def unreadable(path: Path) -> OnnxFile | None:
        raise OSError(errno.EIO, "I/O error")

    with monkeypatch.context() as broken:
        broken.setattr(onnx_file, "read_onnx", unreadable)
        (found,) = fingerprint_of([tmp_path / "forms.onnx"])

    assert Path(found[0]).name == "forms.onnx"
    files = [Path(state[0]).name for state in fingerprint_of([tmp_path / "forms.onnx"])]
    assert files == ["forms.onnx", "forms.data"]


def test_onnx_files_of_the_same_state_are_not_read_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(onnx_file, "read_onnx", read.append)
    for number in range(MOST_FILES):
        (tmp_path / f"{number}.onnx").touch()

    assert fingerprint_of([tmp_path]) == fingerprint_of([tmp_path])
    assert len(read) == MOST_FILES


def damaged(whole: bytes, seed: int) -> bytes:
    chance = random.Random(seed)
    content = bytearray(whole)
    for _ in range(chance.randint(1, 40)):
        content[chance.randrange(len(content))] = chance.randrange(256)
    return bytes(content[: chance.randint(0, len(content))])


@pytest.mark.parametrize("ending", [".keras", ".onnx"])
def test_no_damage_of_a_file_makes_reading_it_fail(tmp_path: Path, ending: str) -> None:
    path = tmp_path / f"forms{ending}"
    if ending == ".onnx":
        write_onnx(path, beside="forms.data")
    else:
        functional().save(path)
    whole = path.read_bytes()
    for seed in range(300):
        path.write_bytes(damaged(whole, seed))
        declared_facts(str(path), None)
        read_keras(path)
        read_onnx(path)
    assert declared_facts(str(tmp_path / "nothing.onnx"), None) == NO_FACTS
