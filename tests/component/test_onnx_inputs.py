"""ONNX classifiers of every kind of input: what is put in front of the graph, what is refused."""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from tests.onnx_files import softmax_of_means, write_labels, write_onnx
from tests.warned import warnings_in

from imageserve.errors import ModelLoadError
from imageserve.models import Engine, load_model
from imageserve.models.model import ScoringModel
from imageserve.models.onnx_model import precisions

SIZE = (8, 12)
"""Not square, so that height and width cannot be mixed up."""
NCHW = ("n", 3, *SIZE)
NHWC = ("n", *SIZE, 3)
MEAN, STD = [0.485, 0.456, 0.406], [0.229, 0.224, 0.225]


def pictures(n: int, colours: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, *SIZE, colours), dtype=np.uint8)


def load(folder: Path, **facts: Any) -> ScoringModel:
    engine = Engine(threads=facts.pop("threads", 1), precision=facts.pop("precision", "float32"))
    write_labels(folder / "labels.txt")
    (folder / "imageserve.yaml").write_text(json.dumps(facts))
    model = load_model(f"{folder}/", weights="", labels_file=None, engine=engine)
    assert isinstance(model, ScoringModel)
    return model


def refused(folder: Path, **facts: Any) -> str:
    with pytest.raises(ModelLoadError) as caught:
        load(folder, **facts)
    return str(caught.value)


def put_in_front(path: Path, kind: str, *constants: Any, **attributes: Any) -> None:
    """Let a file begin with another operation."""
    model = onnx.load(path)
    names = [f"before.{i}" for i in range(len(constants))]
    for name, value in zip(names, constants, strict=True):
        model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    model.graph.node[0].input[0] = f"of {kind}"
    others = ["mean of all", "variance of all"] if "training_mode" in attributes else []
    node = helper.make_node(kind, ["images", *names], [f"of {kind}", *others], **attributes)
    model.graph.node.insert(0, node)
    onnx.save(model, path)


def wide_pool(path: Path, opset: int) -> Path:
    """Write a classifier whose average reaches over the edges of its picture."""
    write_onnx(path, type_=TensorProto.FLOAT, shape=NCHW, weight=0.02, opset=17)
    put_in_front(path, "AveragePool", kernel_shape=[32, 32], strides=[32, 32], ceil_mode=1)
    model = onnx.load(path)
    model.opset_import[0].version = opset
    reduced = next(node for node in model.graph.node if node.op_type == "ReduceMean")
    del reduced.attribute[:]  # From opset 18 on its axes are an input.
    reduced.attribute.append(helper.make_attribute("keepdims", 0))
    reduced.input.append("axes")
    model.graph.initializer.append(numpy_helper.from_array(np.array([2, 3]), "axes"))
    onnx.save(model, path)
    return path


def as_torch(images: Any) -> Any:
    return (images / 255 - np.array(MEAN)) / np.array(STD)


def as_caffe(images: Any) -> Any:
    return images[..., ::-1] - np.array([103.939, 116.779, 123.68])


@pytest.mark.parametrize("shape", [NCHW, NHWC, ("n", 3, "h", "w")], ids=["nchw", "nhwc", "open"])
@pytest.mark.parametrize(
    ("facts", "numbers", "weight"),
    [
        pytest.param({}, lambda images: images, 0.02, id="plain"),
        pytest.param({"scaling": "0..1"}, lambda images: images / 255, 5, id="0..1"),
        pytest.param({"scaling": "torch"}, as_torch, 2, id="torch"),
        pytest.param(
            {"scaling": {"divide": 255, "mean": MEAN, "std": STD}}, as_torch, 2, id="mean and std"
        ),
        pytest.param({"colour": "bgr"}, lambda images: images[..., ::-1], 0.02, id="bgr"),
        pytest.param({"scaling": "caffe"}, as_caffe, 0.02, id="caffe"),
        pytest.param(
            {"colour": "bgr", "scaling": {"mean": [103.939, 116.779, 123.68]}},
            as_caffe,
            0.02,
            id="bgr, scaled in its order",
        ),
    ],
)
def test_layout_scaling_and_order_of_colours_are_put_in_front(
    tmp_path: Path,
    facts: dict[str, Any],
    numbers: Any,
    weight: float,
    shape: tuple[int | str, ...],
) -> None:
    write_onnx(tmp_path / "model.onnx", type_=TensorProto.FLOAT, shape=shape, weight=weight)
    images = pictures(5)
    open_size: dict[str, Any] = {"input_size": SIZE} if "h" in shape else {}

    model = load(tmp_path, **facts, **open_size)

    assert model.preparation.shape == (*SIZE, 3)
    expected = softmax_of_means(numbers(images.astype(np.float64)), weight)
    assert expected.max() < 0.99, "a certain answer would hide a wrong scaling"
    np.testing.assert_allclose(model.scores(images), expected, rtol=0, atol=2e-5)


@pytest.mark.parametrize("shape", [NCHW, NHWC], ids=["nchw", "nhwc"])
@pytest.mark.parametrize(
    ("type_", "answer", "scaling", "tolerance"),
    [
        pytest.param(TensorProto.UINT8, TensorProto.FLOAT, None, 1e-5, id="uint8"),
        pytest.param(TensorProto.INT32, TensorProto.FLOAT, None, 1e-5, id="int32"),
        pytest.param(TensorProto.FLOAT16, TensorProto.FLOAT16, None, 1e-2, id="float16"),
        pytest.param(TensorProto.FLOAT16, TensorProto.FLOAT16, "torch", 1e-2, id="float16, scaled"),
    ],
)
def test_the_graph_gets_the_type_that_it_declares(
    tmp_path: Path,
    shape: tuple[int | str, ...],
    type_: int,
    answer: int,
    scaling: str | None,
    tolerance: float,
) -> None:
    write_onnx(tmp_path / "model.onnx", type_=type_, answer=answer, shape=shape)
    images = pictures(4)

    scores = load(tmp_path, scaling=scaling or "none").scores(images)

    numbers = as_torch(images) if scaling else images
    np.testing.assert_allclose(scores, softmax_of_means(numbers), rtol=0, atol=tolerance)
    assert scores.dtype == np.float32


@pytest.mark.parametrize(("colours", "colour"), [(1, "grey"), (4, "rgba")])
@pytest.mark.parametrize("first", [False, True], ids=["nhwc", "nchw"])
def test_one_and_four_colours_are_served(
    tmp_path: Path, colours: int, colour: str, first: bool
) -> None:
    shape = ("n", colours, *SIZE) if first else ("n", *SIZE, colours)
    write_onnx(tmp_path / "model.onnx", type_=TensorProto.FLOAT, shape=shape, weight=3)

    model = load(tmp_path, scaling="0..1")

    assert (model.preparation.colour, model.preparation.shape) == (colour, (*SIZE, colours))
    images = pictures(3, colours)
    np.testing.assert_allclose(model.scores(images), softmax_of_means(images / 255, 3), atol=1e-5)


@pytest.mark.skipif("bfloat16" not in precisions(), reason="ONNX Runtime without OpenVINO")
def test_bfloat16_stays_near_behind_what_is_put_in_front(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx", type_=TensorProto.FLOAT, shape=NCHW, weight=2)

    scores = load(tmp_path, scaling="torch", precision="bfloat16").scores(pictures(4))

    np.testing.assert_allclose(scores, softmax_of_means(as_torch(pictures(4)), 2), atol=0.05)


@pytest.mark.parametrize("shape", [NCHW, NHWC], ids=["nchw", "nhwc"])
def test_pixels_that_nothing_scales_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, shape: tuple[int | str, ...]
) -> None:
    write_onnx(tmp_path / "model.onnx", type_=TensorProto.FLOAT, shape=shape)

    load(tmp_path, scaling="none")
    assert warnings_in(caplog) == []
    load(tmp_path)

    assert "does not begin with a scaling of them: set the scaling it was trained" in caplog.text


@pytest.mark.parametrize("moved", [False, True], ids=["at once", "behind a Transpose"])
def test_pixels_that_are_scaled_twice_are_a_warning(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, moved: bool
) -> None:
    path = write_onnx(tmp_path / "model.onnx", type_=TensorProto.FLOAT, shape=NCHW)
    put_in_front(path, "Div", np.float32(255))
    if moved:
        put_in_front(path, "Transpose", perm=[0, 1, 2, 3])

    load(tmp_path)
    assert warnings_in(caplog) == []
    load(tmp_path, scaling="0..1")

    assert "gets them scaled already: remove scaling from imageserve.yaml" in caplog.text


def test_the_command_that_keeps_one_output_names_the_input_of_the_file(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx", type_=TensorProto.FLOAT, shape=NCHW, twice=True)

    said = refused(tmp_path, scaling="torch")

    assert said.endswith("('model.onnx', 'model.onnx', ['images'], ['probabilities'])")


def test_the_number_of_a_label_is_no_probability(tmp_path: Path) -> None:
    write_onnx(
        tmp_path / "model.onnx", shape=NHWC, classes=1, softmax=False, answer=TensorProto.INT64
    )

    assert "answers with tensor(int64)" in refused(tmp_path)


def test_a_graph_whose_answers_depend_on_the_other_pictures_is_refused(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx", type_=TensorProto.FLOAT, shape=NCHW, weight=0.02)
    ones, zeros = np.ones(3, np.float32), np.zeros(3, np.float32)
    put_in_front(path, "BatchNormalization", ones, zeros, zeros, ones, training_mode=1)

    assert "in PyTorch after model.eval()" in refused(tmp_path, scaling="none")


@pytest.mark.skipif(precisions() == ("float32",), reason="OpenVINO cannot compute here")
def test_what_openvino_cannot_compute_onnx_runtime_does_itself(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = wide_pool(tmp_path / "model.onnx", opset=19)

    images = pictures(8)
    scores = load(tmp_path, scaling="none", threads=2).scores(images)

    np.testing.assert_allclose(scores, softmax_of_means(images, 0.02), atol=1e-5)
    assert f"OpenVINO cannot compute {path} (Kernel after dilation has size" in caplog.text


def test_an_average_that_onnx_runtime_divides_wrongly_is_refused(tmp_path: Path) -> None:
    wide_pool(tmp_path / "model.onnx", opset=18)

    assert "averages over 32 pixels, more than there are" in refused(tmp_path, scaling="none")


@pytest.mark.parametrize("batch", [1, 4])
@pytest.mark.parametrize("threads", [1, 2])
@pytest.mark.parametrize("shape", [(3, *SIZE), (*SIZE, 3)], ids=["nchw", "nhwc"])
def test_a_fixed_batch_is_run_piece_by_piece(
    tmp_path: Path, batch: int, threads: int, shape: tuple[int, ...]
) -> None:
    write_onnx(tmp_path / "model.onnx", type_=TensorProto.FLOAT, shape=(batch, *shape), weight=0.02)

    model = load(tmp_path, threads=threads)

    assert model.takes is not None
    assert model.takes.batch == batch
    for n in (1, 3, 4, 9):
        expected = softmax_of_means(pictures(n), 0.02)
        np.testing.assert_allclose(model.scores(pictures(n)), expected, rtol=0, atol=1e-5)


def test_weights_that_are_inputs_as_well_are_no_second_input(tmp_path: Path) -> None:
    write_onnx(
        tmp_path / "model.onnx",
        type_=TensorProto.FLOAT,
        shape=NCHW,
        weights_are_inputs=True,
        ir_version=3,
        weight=0.02,
    )

    expected = softmax_of_means(pictures(3), 0.02)
    np.testing.assert_allclose(load(tmp_path).scores(pictures(3)), expected, atol=1e-5)


@pytest.mark.parametrize("provider", onnxruntime.get_available_providers())
def test_weights_beside_the_file_are_found_from_the_graph_in_memory(
    tmp_path: Path, provider: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [provider])
    monkeypatch.chdir("/")
    options = {"type_": TensorProto.FLOAT, "shape": NCHW, "weight": 2, "beside": "model.onnx.data"}
    write_onnx(tmp_path / "model.onnx", **options)  # type: ignore[arg-type]
    before = load(tmp_path, scaling="torch")

    expected = softmax_of_means(as_torch(pictures(3)), 2)
    np.testing.assert_allclose(before.scores(pictures(3)), expected, atol=2e-5)
    weights = np.frombuffer((tmp_path / "model.onnx.data").read_bytes(), np.float32)
    (tmp_path / "model.onnx.data").write_bytes((weights / 2).tobytes())
    assert load(tmp_path, scaling="torch").version != before.version


def test_what_imageserve_wrote_has_its_arithmetic_inside(tmp_path: Path) -> None:
    path = write_onnx(tmp_path / "model.onnx", shape=NHWC, weight=0.02)
    model = onnx.load(path)
    helper.set_model_props(model, {"imageserve.version": "0123456789ab"})
    onnx.save(model, path)

    scores = load(tmp_path, scaling="torch", colour="bgr", layout="nchw").scores(pictures(3))

    np.testing.assert_allclose(scores, softmax_of_means(pictures(3), 0.02), atol=1e-5)


def test_without_the_package_onnx_it_is_said_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "imageserve.models.onnx_graph", raising=False)
    monkeypatch.setitem(sys.modules, "onnx", None)
    write_onnx(tmp_path / "model.onnx", shape=NCHW)

    assert refused(tmp_path).endswith("pip install onnx")


@pytest.mark.parametrize(
    ("file", "facts", "said"),
    [
        pytest.param(
            {"shape": NCHW}, {"layout": "nhwc"}, "set layout: nchw, or leave it out", id="layout"
        ),
        pytest.param(
            {"shape": NHWC}, {"layout": "nchw"}, "set layout: nhwc, or leave it out", id="layout 2"
        ),
        pytest.param(
            {"shape": ("n", "a", "b", "c", 3)}, {}, "must be (None, height, width, colours)", id="5"
        ),
        pytest.param(
            {"shape": ("n", 8, 8, 2)}, {}, "with 1, 3 or 4 colours", id="number of colours"
        ),
        pytest.param(
            {"shape": NHWC},
            {"colour": "grey"},
            "set colour: rgb or bgr, or leave it out",
            id="grey",
        ),
        pytest.param(
            {"shape": ("n", *SIZE, 1)},
            {"colour": "rgb"},
            "takes pictures of 1 colour a pixel and its colour is set to rgb: set colour: grey",
            id="rgb",
        ),
        pytest.param(
            {"shape": ("n", *SIZE, 1), "type_": TensorProto.FLOAT},
            {"scaling": "torch"},
            "its scaling is for 3: give mean and std one number",
            id="three numbers for one colour",
        ),
        pytest.param(
            {"shape": NHWC}, {"scaling": "0..1"}, "set the scaling to none, or give", id="fractions"
        ),
        pytest.param({"shape": NCHW}, {"input_size": 8}, "set the input size to 8x12", id="size"),
        pytest.param(
            {"shape": NCHW, "opset": 6, "ir_version": 3},
            {},
            "has opset 6, too old to put scaling and layout in front: export it anew",
            id="opset",
        ),
    ],
)
def test_facts_that_contradict_the_file_are_refused_with_what_to_do(
    tmp_path: Path, file: dict[str, Any], facts: dict[str, Any], said: str
) -> None:
    write_onnx(tmp_path / "model.onnx", **file)

    assert said in refused(tmp_path, **facts)
