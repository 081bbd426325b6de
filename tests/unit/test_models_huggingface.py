"""What a Hugging Face folder says of its model; tests/torch compares pixels with transformers."""

import json
from pathlib import Path
from typing import Any

import pytest

from imageserve.config.settings import Settings
from imageserve.errors import ModelLoadError
from imageserve.models.entries import model_entries
from imageserve.models.files import read_labels
from imageserve.models.folder import ModelFacts, read_facts, written_by
from imageserve.models.source import find_source
from imageserve.preparation import Preparation
from imageserve.worker.versions import fingerprint_of

CONFIG = {
    "architectures": ["ViTForImageClassification"],
    "model_type": "vit",
    "id2label": {"0": "cat", "1": "cup", "2": "rocket"},
}
VIT = {
    "image_processor_type": "ViTImageProcessor",
    "do_resize": True,
    "size": {"height": 224, "width": 224},
    "resample": 2,
    "do_rescale": True,
    "rescale_factor": 0.00392156862745098,
    "do_normalize": True,
    "image_mean": [0.5, 0.5, 0.5],
    "image_std": [0.5, 0.5, 0.5],
}
SQUARE = {"height": 224, "width": 224}


def written(folder: Path, config: Any = None, **processor: Any) -> Path:
    """Write a folder; fields of the processor that are None are left out."""
    told = {key: value for key, value in {**VIT, **processor}.items() if value is not None}
    (folder / "config.json").write_text(json.dumps(CONFIG if config is None else config))
    (folder / "preprocessor_config.json").write_text(json.dumps(told))
    (folder / "model.onnx").touch()
    return folder


def facts(folder: Path, config: Any = None, **processor: Any) -> ModelFacts:
    return read_facts(written(folder, config, **processor))


def test_a_folder_says_all_that_imageserve_yaml_would(tmp_path: Path) -> None:
    found = facts(tmp_path)

    assert (found.layout, found.activation, found.colour) == ("nchw", "softmax", "rgb")
    assert (found.input_size, found.resize, found.interpolation) == (
        (224, 224),
        "squash",
        "bilinear",
    )
    source = find_source(str(tmp_path), None)
    assert source.scaling.factor == pytest.approx((1 / 127.5,) * 3)
    assert source.scaling.offset == pytest.approx((-1.0,) * 3)
    assert read_labels(source.labels) == ("cat", "cup", "rocket")
    assert (source.runtime, written_by(tmp_path)) == ("onnx", "transformers")


def test_imageserve_yaml_and_labels_beside_it_override(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "imageserve.yaml").write_text("interpolation: lanczos\nactivation: sigmoid\n")
    (tmp_path / "labels.txt").write_text("a\nb\nc\n")

    source = find_source(str(tmp_path), None)

    assert (source.facts.interpolation, source.facts.activation) == ("lanczos", "sigmoid")
    assert (source.facts.input_size, source.labels.name) == ((224, 224), "labels.txt")


def test_the_model_may_lie_in_a_folder_onnx(tmp_path: Path) -> None:
    written(tmp_path)
    (tmp_path / "onnx").mkdir()
    (tmp_path / "model.onnx").rename(tmp_path / "onnx" / "model.onnx")

    assert find_source(str(tmp_path), None).path == tmp_path / "onnx" / "model.onnx"

    (tmp_path / "model.onnx").touch()
    with pytest.raises(ModelLoadError, match=r"holds model.onnx and onnx/model.onnx: keep one"):
        find_source(str(tmp_path), None)


def test_a_folder_without_an_export_says_how_to_make_one(tmp_path: Path) -> None:
    (written(tmp_path) / "model.onnx").rename(tmp_path / "model.safetensors")

    with pytest.raises(ModelLoadError, match=r"'optimum-cli export onnx --model .*serve DIR"):
        find_source(str(tmp_path), None)


def test_a_web_process_that_can_read_the_folder_knows_the_preparation(tmp_path: Path) -> None:
    clip = {"image_processor_type": "CLIPImageProcessor", "resample": 3, "crop_size": 224}
    written(tmp_path, **clip, size={"shortest_edge": 256})

    (entry,) = model_entries(Settings.from_env({"MODEL": f"{tmp_path}/"})).values()

    expected = Preparation((224, 224), "crop", 256, "bicubic", crop_rounding="down")
    assert entry.preparation == expected


def test_all_its_files_count_for_changes(tmp_path: Path) -> None:
    written(tmp_path)
    before = fingerprint_of([tmp_path])

    (tmp_path / "preprocessor_config.json").write_text("{}")

    assert fingerprint_of([tmp_path]) != before
    assert {Path(file[0]).name for file in before} == {
        "config.json",
        "model.onnx",
        "preprocessor_config.json",
    }


@pytest.mark.parametrize(
    ("processor", "size", "resize", "resize_to"),
    [
        ({"size": 224}, (224, 224), "squash", None),
        ({"size": [192, 256]}, (192, 256), "squash", None),
        ({"image_processor_type": "ViTImageProcessorFast"}, (224, 224), "squash", None),
        (
            {"image_processor_type": "CLIPImageProcessor", "size": {"shortest_edge": 256}},
            (224, 224),
            "crop",
            256,
        ),
        ({"image_processor_type": "CLIPFeatureExtractor", "size": 224}, (224, 224), "crop", 224),
        (
            {"image_processor_type": "DeiTImageProcessor", "size": {"height": 256, "width": 256}},
            (224, 224),
            "squash",
            256,
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": 224, "crop_pct": 0.875},
            (224, 224),
            "crop",
            256,
        ),
        (
            {"image_processor_type": "ConvNextImageProcessor", "size": 384},
            (384, 384),
            "squash",
            None,
        ),
        ({"image_processor_type": "LevitImageProcessor", "size": 224}, (224, 224), "crop", 256),
        (
            {"image_processor_type": "PoolFormerImageProcessor", "size": 224},
            (224, 224),
            "crop",
            248,
        ),
    ],
    ids=str,
)
def test_each_processor_cuts_in_its_own_way(
    tmp_path: Path, processor: Any, size: tuple[int, int], resize: str, resize_to: int | None
) -> None:
    if "ViT" not in processor.get("image_processor_type", "ViT"):
        processor["crop_size"] = SQUARE
    found = facts(tmp_path, **processor)

    assert (found.input_size, found.resize, found.resize_to) == (size, resize, resize_to)
    assert found.crop_rounding == ("down" if resize_to else None)


@pytest.mark.parametrize(
    ("processor", "factor", "offset"),
    [
        ({"do_normalize": False}, 1 / 255, 0.0),
        ({"do_rescale": False, "do_normalize": False}, 1.0, 0.0),
        ({"do_rescale": False, "image_mean": 100, "image_std": 50}, 1 / 50, -2.0),
        # It takes 1 away, and divides by the deviation twice.
        (
            {
                "image_processor_type": "EfficientNetImageProcessor",
                "rescale_factor": 1 / 127.5,
                "rescale_offset": True,
                "image_mean": [0.0] * 3,
            },
            4 / 127.5,
            -4.0,
        ),
        (
            {
                "image_processor_type": "EfficientNetImageProcessor",
                "include_top": False,
                "do_normalize": False,
            },
            1 / 255,
            0.0,
        ),
    ],
    ids=str,
)
def test_arithmetic(tmp_path: Path, processor: Any, factor: float, offset: float) -> None:
    written(tmp_path, **processor)

    scaling = find_source(str(tmp_path), None).scaling

    assert scaling.factor == pytest.approx((factor,) * len(scaling.factor))
    assert scaling.offset == pytest.approx((offset,) * len(scaling.offset))


def test_the_fast_processor_of_convnext_cuts_as_torchvision_does(tmp_path: Path) -> None:
    found = facts(tmp_path, image_processor_type="ConvNextImageProcessorFast", size=224)

    assert (found.resize, found.resize_to, found.crop_rounding) == ("crop", 256, "even")


def test_blue_comes_first_where_the_order_is_turned(tmp_path: Path) -> None:
    mobilevit = {"image_processor_type": "MobileViTImageProcessor", "size": 288, "crop_size": 256}
    dropped = {"image_mean": None, "image_std": None, "do_normalize": None}

    found = facts(tmp_path, **mobilevit, **dropped)

    assert (found.colour, found.resize_to, found.input_size) == ("bgr", 288, (256, 256))
    assert facts(tmp_path, **mobilevit, **dropped, do_flip_channel_order=False).colour == "rgb"


def test_answers_and_colours_are_those_of_the_config(tmp_path: Path) -> None:
    several = {**CONFIG, "problem_type": "multi_label_classification", "num_channels": 1}

    found = facts(tmp_path, several, image_mean=[0.5], image_std=[0.5])

    assert (found.activation, found.colour) == ("sigmoid", "grey")


def test_without_a_processor_the_labels_and_the_answers_are_known(tmp_path: Path) -> None:
    (written(tmp_path) / "preprocessor_config.json").unlink()

    found = read_facts(tmp_path)

    assert (found.layout, found.activation, found.input_size) == ("nchw", "softmax", None)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        ({"do_resize": False}, r"does not resize pictures .*remove its preprocessor_config.json"),
        ({"image_processor_type": "PerceiverImageProcessor"}, "Perceiver.* is not known here"),
        ({"image_processor_type": None}, "the image processor None, which is not known"),
        (
            {"image_processor_type": "CLIPImageProcessor", "size": 256, "do_center_crop": False},
            "resizes the shorter side only",
        ),
        (
            {"image_processor_type": "CLIPImageProcessor", "size": 200, "crop_size": 224},
            "resizes pictures to 200 and lays them on 224x224",
        ),
        (
            {"image_processor_type": "DeiTImageProcessor", "size": [256, 300], "crop_size": 224},
            "cuts the middle out of pictures that are not square",
        ),
        ({"size": {"longest_edge": 500}}, "of the size .*longest_edge"),
        ({"size": None}, "write it anew with save_pretrained"),
        ({"image_std": None}, "write it anew with save_pretrained"),
        ({"image_std": [0, 0, 0]}, "std"),
        ({"resample": 17}, "write it anew with save_pretrained"),
    ],
    ids=str,
)
def test_what_cannot_be_done_is_refused(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ModelLoadError, match=problem):
        facts(tmp_path, **change)


@pytest.mark.parametrize(
    ("change", "problem"),
    [
        (
            {"architectures": ["SegformerForSemanticSegmentation"]},
            "holds a SegformerForSemanticSegmentation: only image classifiers",
        ),
        ({"problem_type": "regression"}, "which measures something"),
        ({"num_channels": 12}, "a model of 12 colours"),
    ],
    ids=str,
)
def test_what_is_no_classifier_is_refused(
    tmp_path: Path, change: dict[str, Any], problem: str
) -> None:
    with pytest.raises(ModelLoadError, match=problem):
        facts(tmp_path, {**CONFIG, **change})


def test_a_config_of_something_else_does_not_count(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text('{"batch_size": 8}')
    (tmp_path / "model.onnx").touch()

    assert read_facts(tmp_path) == ModelFacts()
    with pytest.raises(ModelLoadError, match="has no labels"):
        find_source(str(tmp_path), None)


def test_a_file_that_is_cut_short_is_named(tmp_path: Path) -> None:
    (written(tmp_path) / "preprocessor_config.json").write_text('{"do_resize"')

    with pytest.raises(ModelLoadError, match=r"preprocessor_config.json is no JSON, or cut short"):
        read_facts(tmp_path)


@pytest.mark.parametrize("labels", [{"1": "a", "2": "b"}, {"0": "a", "1": ""}, ["a", 1]], ids=str)
def test_labels_that_do_not_number_the_classes_are_refused(tmp_path: Path, labels: Any) -> None:
    written(tmp_path, {**CONFIG, "id2label": labels})

    with pytest.raises(ModelLoadError, match="labels"):
        read_labels(find_source(str(tmp_path), None).labels)


# -- timm -----------------------------------------------------------------------------------------


def timm(folder: Path, **told: Any) -> ModelFacts:
    usual = {"input_size": [3, 224, 224], "mean": [0.5] * 3, "std": [0.25] * 3, "crop_pct": 0.9}
    config = {
        "architecture": "resnet18",
        "label_names": ["n1", "n2"],
        "label_descriptions": {"n1": "cat"},
        "pretrained_cfg": {**usual, **told},
    }
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "model.onnx").touch()
    return read_facts(folder)


def test_a_folder_of_timm_needs_its_config_only(tmp_path: Path) -> None:
    found = timm(tmp_path)

    assert (found.input_size, found.resize, found.resize_to) == ((224, 224), "crop", 248)
    assert (found.interpolation, found.layout, found.activation) == ("bicubic", "nchw", "softmax")
    source = find_source(str(tmp_path), None)
    assert source.scaling.factor == pytest.approx((4 / 255,) * 3)
    assert source.scaling.offset == pytest.approx((-2.0,) * 3)
    assert read_labels(source.labels) == ("cat", "n2")
    assert written_by(tmp_path) == "timm"


def test_the_ways_in_which_timm_cuts(tmp_path: Path) -> None:
    squashed = timm(tmp_path, crop_mode="squash", crop_pct=0.95)
    assert (squashed.resize, squashed.resize_to) == ("squash", 235)
    whole = timm(tmp_path, crop_mode="squash", crop_pct=1, input_size=[1, 64, 96])
    assert (whole.resize, whole.resize_to, whole.colour) == ("squash", None, "grey")

    with pytest.raises(ModelLoadError, match="crop_mode border"):
        timm(tmp_path, crop_mode="border")
    with pytest.raises(ModelLoadError, match="not square"):
        timm(tmp_path, input_size=[3, 64, 96])
