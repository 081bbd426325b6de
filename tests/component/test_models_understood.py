"""What ``models check`` says that it has understood of a model, and where it is from."""

import json
from pathlib import Path
from typing import Any

import pytest
from tests.onnx_files import write_labels, write_onnx

from imageserve.cli import models as command
from imageserve.cli.models_understood import given, prepared
from imageserve.models.catalog import SCALINGS, Scaling
from imageserve.models.inputs import Input
from imageserve.preparation import Preparation

SIZE = (224, 200)


def understood(
    capsys: pytest.CaptureFixture[str], folder: Path, facts: str, **environ: str
) -> dict[str, Any]:
    folder.mkdir(exist_ok=True)
    write_onnx(folder / "model.onnx", softmax=False)
    write_labels(folder / "labels.txt")
    (folder / "imageserve.yaml").write_text(facts)
    environ = {"MODEL": f"{folder}/", "BATCH_SIZE": "1", **environ}
    assert command.main(["check", "--json"], environ) == 0
    told: dict[str, Any] = json.loads(capsys.readouterr().out)
    return told


def test_each_fact_is_traced_to_where_it_is_from(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    facts = "activation: softmax\nresize: crop\nresize_to: 9\ninterpolation: box\n"

    told = understood(capsys, tmp_path / "forms", facts, INTERPOLATION="lanczos")

    assert told["prepared"] == {
        "size": [8, 8],
        "resize": "crop",
        "resize_to": 9,
        "interpolation": "lanczos",
    }
    assert told["from"] == {
        "input_size": "the model's file",
        "interpolation": "the settings",
        "scaling": "by default",
        "resize": "imageserve.yaml",
        "resize_to": "imageserve.yaml",
        "colour": "the model's file",
        "layout": "the model's file",
        "activation": "imageserve.yaml",
    }
    assert told["gives"] == {"activation": "softmax", "multi_label": False, "embedding": None}
    assert told["input"]["shape"] == [None, 8, 8, 3]


def test_facts_of_hugging_face_are_traced_to_their_files(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "forms"
    folder.mkdir()
    (folder / "config.json").write_text(
        '{"model_type": "vit", "architectures": ["ViTForImageClassification"]}'
    )
    processor = {
        "image_processor_type": "ViTImageProcessor",
        "size": {"height": 8, "width": 8},
        "resample": 3,
        "do_resize": True,
        "do_rescale": True,
        "do_normalize": False,
        "rescale_factor": 1 / 255,
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(processor))

    told = understood(capsys, folder, "activation: sigmoid\nlayout: nhwc\nscaling: none")

    assert told["from"]["interpolation"] == "config.json and preprocessor_config.json"
    assert told["from"]["activation"] == "imageserve.yaml"
    assert told["gives"]["multi_label"]


@pytest.mark.parametrize(
    ("preparation", "words"),
    [
        (Preparation(SIZE), "both sides resized to 224x200, whatever their ratio (bilinear)"),
        (
            Preparation(SIZE, resize="crop", resize_to=256, interpolation="bicubic"),
            "the shorter side resized to 256, then the middle cut out (bicubic)",
        ),
        (
            Preparation(SIZE, resize_to=256, crop_rounding="down"),
            "both sides resized to 256, then the middle cut out (bilinear), an odd pixel cut off "
            "right and below",
        ),
        (
            Preparation(SIZE, resize="crop", antialias=False, colour="grey"),
            "the largest part of this shape cut out of the middle, then resized (bilinear, without "
            "antialiasing); turned grey",
        ),
        (
            Preparation(SIZE, resize="pad", pad=7, colour="rgba"),
            "resized to fit in as a whole, with bars of 7 beside it (bilinear); transparency kept",
        ),
    ],
)
def test_a_preparation_is_said_in_words(preparation: Preparation, words: str) -> None:
    assert prepared(preparation) == words


@pytest.mark.parametrize(
    ("taken", "words"),
    [
        (
            Input(Preparation(SIZE), "nhwc", "uint8", SCALINGS["none"]),
            "uint8 (n, 224, 200, 3), colours last; pixels from 0 to 255 as they are",
        ),
        (
            Input(Preparation(SIZE), "nchw", "float32", SCALINGS["torch"], batch=1),
            "float32 (1, 3, 224, 200), colours first; pixels from 0 to 255 become red "
            "-2.118..2.249, green -2.036..2.429, blue -1.804..2.64; larger batches are run 1 by 1",
        ),
        (
            Input(Preparation(SIZE), "nhwc", "float32", SCALINGS["caffe"]),
            "float32 (n, 224, 200, 3), colours last, blue before red; pixels from 0 to 255 become "
            "blue -103.9..151.1, green -116.8..138.2, red -123.7..131.3",
        ),
        (
            Input(Preparation(SIZE, colour="grey"), "nchw", "float16", Scaling((1 / 255,), (0.0,))),
            "float16 (n, 1, 224, 200), colours first; pixels from 0 to 255 become 0..1",
        ),
    ],
)
def test_what_becomes_of_the_bytes_is_said_in_words(taken: Input, words: str) -> None:
    assert given(taken) == words
