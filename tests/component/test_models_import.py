"""``imageserve models import``: what is written answers as the original, or nothing is written."""

import json
import re
import shlex
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
import yaml
from numpy.typing import NDArray
from onnx import TensorProto
from PIL import Image
from tests.onnx_files import LABELS, kernel_of, softmax_of_means, write_labels, write_onnx

from imageserve.cli.models import main
from imageserve.errors import ImageserveError
from imageserve.models import load_model, onnx_graph
from imageserve.models.model import ScoringModel

DOCUMENTS = Path(__file__).parents[2] / "docs"
NCHW = ("n", 3, 32, 32)
NHWC = ("n", 32, 32, 3)
FLOAT, HALF = TensorProto.FLOAT, TensorProto.FLOAT16


@pytest.fixture(autouse=True)
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    write_labels(tmp_path / "labels.txt")


def imported(*arguments: str, folder: str = "new") -> ScoringModel:
    assert main(["import", *arguments, "--to", folder], {}) == 0
    model = load_model(f"./{folder}/", weights="", labels_file=None)
    assert isinstance(model, ScoringModel)
    return model


def refused(*arguments: str, folder: str = "new") -> str:
    with pytest.raises(ImageserveError) as caught:
        main(["import", *arguments, "--to", folder], {})
    assert not Path(folder).exists() or not list(Path(folder).glob("imageserve.yaml"))
    return str(caught.value)


def facts_of(folder: str = "new") -> Any:
    return yaml.safe_load(Path(folder, "imageserve.yaml").read_text())


def pictures(n: int, colours: int = 3) -> NDArray[np.uint8]:
    return np.random.default_rng(n).integers(0, 256, (n, 32, 32, colours), dtype=np.uint8)


def as_torch(images: Any) -> Any:
    return (images / 255 - np.array([0.485, 0.456, 0.406])) / np.array([0.229, 0.224, 0.225])


def test_logits_of_torch_become_a_folder_that_answers_as_its_evaluation(tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.onnx", type_=FLOAT, shape=NCHW, softmax=False, weight=2)

    model = imported("net.onnx", "--like", "torchvision")

    expected = softmax_of_means(as_torch(pictures(5)), 2)
    np.testing.assert_allclose(model.scores(pictures(5)), expected, rtol=0, atol=2e-5)
    assert facts_of() == {
        "input_size": [32, 32],
        "interpolation": "bilinear",
        "resize": "crop",
        "resize_to": 36,
    }
    assert model.labels == tuple(LABELS)
    assert model.takes is not None
    assert model.takes.takes_bytes, "nothing is left to be put in front when it is loaded"


@pytest.mark.parametrize(
    ("like", "options", "geometry"),
    [
        ("torchvision", ["--resize-to", "40"], ("crop", 40, "bilinear")),
        ("timm", [], ("crop", 36, "bicubic")),
        ("timm", ["--crop-pct", "0.95"], ("crop", 33, "bicubic")),
        ("timm", ["--interpolation", "lanczos"], ("crop", 36, "lanczos")),
        ("timm", ["--resize", "squash"], ("squash", None, "bicubic")),
        ("keras", ["--activation", "softmax"], ("squash", None, "bilinear")),
    ],
)
def test_options_change_single_parts_of_what_a_library_does(
    tmp_path: Path, like: str, options: list[str], geometry: tuple[Any, ...]
) -> None:
    write_onnx(tmp_path / "net.onnx", type_=FLOAT, shape=NCHW, softmax=False, weight=0.02)

    prepared = imported("net.onnx", "--like", like, *options).preparation

    assert (prepared.resize, prepared.resize_to, prepared.interpolation) == geometry


TIMM = {
    "architecture": "small",
    "pretrained_cfg": {
        "input_size": [3, 32, 32],
        "interpolation": "bilinear",
        "crop_pct": 1.0,
        "crop_mode": "center",
        "mean": [0.5, 0.5, 0.5],
        "std": [0.25, 0.25, 0.25],
    },
}


@pytest.mark.parametrize(
    ("arguments", "beside", "said"),
    [
        pytest.param(
            [], "", "resize crop, interpolation bicubic, scaling torch, crop to 0.875", id="all"
        ),
        pytest.param(
            ["--scaling=-1..1", "--crop-pct", "0.9"],
            "",
            "resize crop, interpolation bicubic",
            id="some",
        ),
        pytest.param(
            ["--interpolation", "bicubic"], "resize: crop\nscaling: 0..1\n", None, id="nothing"
        ),
    ],
)
def test_what_only_the_library_says_is_told(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    beside: str,
    said: str | None,
) -> None:
    write_onnx(tmp_path / "net.onnx", type_=FLOAT, shape=NCHW, softmax=False)
    (tmp_path / "imageserve.yaml").write_text(beside)

    imported("net.onnx", "--like", "timm", *arguments)

    last = capsys.readouterr().out.splitlines()[-1]
    beginning = "taken from --like timm, because nothing else says it: "
    assert last == f"{beginning}{said}" if said else beginning not in last


def test_the_number_of_a_label_is_no_answer(tmp_path: Path) -> None:
    write_onnx(
        tmp_path / "net.onnx", type_=FLOAT, shape=NCHW, softmax=False, answer=TensorProto.INT64
    )

    said = refused("net.onnx", "--like", "torchvision", "--activation", "softmax")

    assert "answers with int64, not with a number for each class" in said


def test_the_config_of_timm_beside_the_file_says_the_preparation(tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.onnx", type_=FLOAT, shape=NCHW, softmax=False, weight=2)
    (tmp_path / "config.json").write_text(json.dumps(TIMM))

    model = imported("net.onnx", "--like", "timm")

    expected = softmax_of_means((pictures(4) / 255 - 0.5) / 0.25, 2)
    np.testing.assert_allclose(model.scores(pictures(4)), expected, rtol=0, atol=2e-5)
    assert (model.preparation.resize_to, model.preparation.interpolation) == (32, "bilinear")
    cut = imported("net.onnx", "--like", "timm", "--crop-pct", "0.8", folder="cut").preparation
    assert (cut.resize_to, cut.interpolation) == (40, "bilinear")


@pytest.mark.parametrize(
    "file",
    [
        pytest.param({"shape": NHWC}, id="NHWC"),
        pytest.param({"shape": (1, 3, 32, 32)}, id="fixed batch"),
        pytest.param({"shape": NCHW, "beside": "net.onnx.data"}, id="external data"),
        pytest.param({"shape": NCHW, "type_": HALF, "answer": HALF}, id="float16"),
        pytest.param({"shape": NCHW, "opset": 11}, id="opset 11"),
        pytest.param({"shape": NCHW, "weights_are_inputs": True, "ir_version": 3}, id="old IR"),
    ],
)
def test_files_of_every_kind_are_written_whole(tmp_path: Path, file: dict[str, Any]) -> None:
    options = {"type_": FLOAT, "softmax": False, "weight": 2, **file}
    write_onnx(tmp_path / "net.onnx", **options)

    model = imported("net.onnx", "--like", "torchvision")

    tolerance = 1e-2 if file.get("type_") == HALF else 2e-5
    expected = softmax_of_means(as_torch(pictures(5)), 2)
    np.testing.assert_allclose(model.scores(pictures(5)), expected, rtol=0, atol=tolerance)
    assert sorted(each.name for each in Path("new").iterdir()) == [
        "imageserve.yaml",
        "labels.txt",
        "model.onnx",
    ]


def test_several_labels_may_hold_with_a_sigmoid_behind_the_logits(tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.onnx", type_=FLOAT, shape=NCHW, softmax=False, weight=2)

    model = imported("net.onnx", "--like", "torchvision", "--activation", "sigmoid")

    logits = as_torch(pictures(3)).mean(axis=(1, 2)) @ kernel_of(weight=2)
    np.testing.assert_allclose(model.scores(pictures(3)), 1 / (1 + np.exp(-logits)), atol=2e-5)
    assert model.multi_label


def test_grey_pictures_and_probabilities_stay_what_they_are(tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.onnx", type_=FLOAT, shape=("n", 1, 32, 32), weight=3)

    model = imported("net.onnx", "--like", "keras", "--scaling", "0..1")

    expected = softmax_of_means(pictures(3, 1) / 255, 3)
    np.testing.assert_allclose(model.scores(pictures(3, 1)), expected, atol=1e-5)
    assert model.preparation.colour == "grey"


def test_of_several_outputs_the_named_one_is_kept(tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.onnx", type_=FLOAT, shape=NCHW, twice=True, weight=2)

    model = imported("net.onnx", "--like", "torchvision", "--output", "logits")

    expected = softmax_of_means(as_torch(pictures(3)), 2)
    np.testing.assert_allclose(model.scores(pictures(3)), expected, atol=2e-5)
    for more in ([], ["--output", "features"]):
        said = refused("net.onnx", "--like", "torchvision", *more, folder="other")
        assert "has the outputs probabilities, logits: name the one with the answers" in said


def test_the_version_follows_from_the_original_and_what_is_added(tmp_path: Path) -> None:
    write_onnx(tmp_path / "net.onnx", type_=FLOAT, shape=NCHW, softmax=False, weight=0.1)
    like = ("--like", "torchvision")

    first, again, unscaled, otherwise = (
        imported("net.onnx", *like, *more, folder=f"n{i}").version
        for i, more in enumerate(
            [(), (), ("--scaling", "none"), ("--activation", "sigmoid")], start=1
        )
    )

    assert first == again
    assert len({first, unscaled, otherwise}) == 3


def test_real_pictures_are_compared_too(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    write_onnx(tmp_path / "net.onnx", type_=FLOAT, shape=NCHW, softmax=False)
    (tmp_path / "photos").mkdir()
    Image.new("RGB", (50, 40), (200, 30, 90)).save(tmp_path / "photos" / "one.png")
    (tmp_path / "photos" / "notes.txt").write_text("no picture")

    imported("net.onnx", "--like", "timm", "--pictures", "photos")

    assert "of 65 pictures 65 have the same first label" in capsys.readouterr().out
    assert "labels.txt holds no pictures" in refused(
        "net.onnx", "--like", "timm", "--pictures", "labels.txt", folder="other"
    )


def test_weights_that_do_not_fit_into_one_file_are_beside_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_onnx(tmp_path / "net.onnx", type_=FLOAT, shape=NCHW, softmax=False, weight=2)
    model = onnx.load(path)
    # ONNX moves tensors from 1 KB on.
    padding = onnx.numpy_helper.from_array(np.zeros(1000, np.float32), "padding")
    model.graph.initializer.append(padding)
    onnx.save(model, path)
    monkeypatch.setattr(onnx_graph, "MOST_INSIDE", 1000)

    imported("net.onnx", "--like", "torchvision")

    assert Path("new", "model.onnx.data").stat().st_size == 4000


def test_a_file_that_answers_otherwise_is_not_put_in_place(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_onnx(tmp_path / "net.onnx", type_=FLOAT, shape=NCHW, softmax=False, weight=2)
    monkeypatch.setattr(onnx_graph, "_constant", lambda numbers, is_first: np.ones(1, "f4"))

    said = refused("net.onnx", "--like", "torchvision")

    assert "differs from that of the original by" in said
    assert list(Path("new").iterdir()) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        pytest.param(["net.onnx", "--like", "keras"], "say with --activation softmax", id="logits"),
        pytest.param(
            ["done.onnx", "--like", "keras", "--activation", "softmax"],
            "answers with probabilities already: leave --activation out, or",
            id="probabilities",
        ),
        pytest.param(
            ["net.onnx", "--like", "timm", "--labels", "imagenet"],
            "has 3 classes and its labels file 1000 labels",
            id="labels",
        ),
        pytest.param(["none.onnx", "--like", "timm"], "none.onnx does not exist", id="no file"),
        pytest.param(["labels.onnx", "--like", "timm"], "is no ONNX file", id="no ONNX"),
        pytest.param(["net.keras", "--like", "keras"], "must be an .onnx file, or", id="Keras"),
        pytest.param(
            ["net.onnx", "--like", "timm", "--input-size", "64"], "set the input size to", id="size"
        ),
        pytest.param(
            ["net.onnx", "--like", "timm", "--crop-pct", "87"], "from 0.1 to 1", id="crop-pct"
        ),
        pytest.param(
            ["net.onnx", "--like", "timm", "--resize", "fit"], "--resize: must be", id="option"
        ),
        pytest.param(["torch:nn", "--like", "torchvision"], "pip install torch, or", id="torch"),
    ],
)
def test_what_cannot_be_imported_is_refused_with_what_to_do(
    tmp_path: Path, arguments: list[str], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "torch", None)
    write_onnx(tmp_path / "net.onnx", type_=FLOAT, shape=NCHW, softmax=False)
    write_onnx(tmp_path / "done.onnx", type_=FLOAT, shape=NCHW)
    (tmp_path / "labels.onnx").write_text("circle")

    assert said in refused(*arguments)


def test_neither_the_original_nor_an_imported_file_is_imported_over_itself(tmp_path: Path) -> None:
    write_onnx(tmp_path / "model.onnx", type_=FLOAT, shape=NCHW, softmax=False)
    like = ("--like", "torchvision")

    assert "name another folder with --to" in refused("model.onnx", *like, folder=".")
    Path("others").mkdir()
    Path("others", "config.json").write_text("{}")
    assert "others holds config.json, which would count" in refused(
        "model.onnx", *like, folder="others"
    )
    imported("model.onnx", *like)
    assert "serve its folder as it is" in refused("new/model.onnx", *like, folder="other")
    assert imported("model.onnx", *like).classes == 3, "the folder is written anew"


def test_labels_must_be_named_where_none_are_beside(tmp_path: Path) -> None:
    (tmp_path / "apart").mkdir()
    write_onnx(tmp_path / "apart" / "net.onnx", type_=FLOAT, shape=NCHW, softmax=False)

    assert "--labels: must be given" in refused("apart/net.onnx", "--like", "timm")
    model = imported("apart/net.onnx", "--like", "timm", "--labels", "labels.txt")
    assert model.labels == tuple(LABELS)


def test_the_commands_of_the_document_do_what_it_says(tmp_path: Path) -> None:
    text = "".join((DOCUMENTS / name).read_text() for name in ("models.md", "model-folders.md"))
    commands = re.findall(r"^imageserve (models import \S+\.onnx --[^#\n]+)", text, re.M)
    # The first is at the top of models.md.
    assert len(commands) == 4
    (tmp_path / "timm").mkdir()
    (tmp_path / "timm" / "config.json").write_text(json.dumps({**TIMM, "label_names": LABELS}))
    for name in ("net", "resnet18", "timm/model"):
        write_onnx(tmp_path / f"{name}.onnx", type_=FLOAT, shape=NCHW, softmax=False)
    write_onnx(tmp_path / "flowers.onnx", type_=FLOAT, shape=NHWC)
    write_labels(tmp_path / "flowers.txt")

    for command in commands:
        _, *arguments = shlex.split(command)
        assert main(arguments, {}) == 0

    found = {name: facts_of(name) for name in ("resnet18", "small", "flowers")}
    assert found["resnet18"]["resize_to"] == 36
    assert found["small"]["resize_to"] == 32
    assert found["flowers"] == {"input_size": [32, 32], "interpolation": "bilinear"}
