"""PyTorch modules as model folders: the answers of the folder are those of the module."""

import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

import torch
from imageserve.cli.models import main
from imageserve.errors import ModelLoadError
from imageserve.models import load_model

SCRIPT = """
import torch
from torch import nn

LABELS = ["circle", "square", "cross", "star"]


def small():
    torch.manual_seed(3)
    return nn.Sequential(
        nn.Conv2d(3, 8, 3, stride=2), nn.BatchNorm2d(8), nn.ReLU(), nn.Dropout(0.5),
        nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(8, 4),
    )


def with_labels():
    return small().train(), LABELS


def of_torchvision():
    import torchvision

    torch.manual_seed(3)
    return torchvision.models.shufflenet_v2_x0_5(weights=None, num_classes=4), LABELS


class Two(nn.Module):
    def __init__(self):
        super().__init__()
        *self.first, self.last = small()
        self.layers = nn.Sequential(*self.first)

    def forward(self, images):
        features = self.layers(images)
        return self.last(features), features


def two_outputs():
    return Two(), LABELS


def number():
    return 4


def broken():
    raise RuntimeError("no weights here")
"""
MEAN = torch.tensor([0.485, 0.456, 0.406]).view(3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(3, 1, 1)


@pytest.fixture(autouse=True)
def mine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mine", raising=False)
    (tmp_path / "mine.py").write_text(SCRIPT)


def torchvision_is_here() -> bool:
    try:
        # Its own operations need its binary, which may not fit this torch; classifiers do not.
        library = torch.library.Library("torchvision", "DEF")
        for operation in ("nms", "qnms"):
            library.define(f"{operation}(Tensor dets, Tensor scores, float iou) -> Tensor")
        torchvision_is_here.library = library  # type: ignore[attr-defined]
    except RuntimeError:
        pass  # It fits: they are defined.
    try:
        import torchvision  # noqa: F401
    except ImportError:
        return False
    return True


@pytest.mark.parametrize("function", ["with_labels", "two_outputs", "of_torchvision"])
def test_a_module_is_served_as_torch_answers(function: str) -> None:
    if function == "of_torchvision" and not torchvision_is_here():
        pytest.skip("torchvision is not installed")
    size = "64"

    main(["import", f"mine:{function}", "--like", "torchvision", "--input-size", size], {})

    model: Any = load_model(f"./{function}/", weights="", labels_file=None)
    pictures = np.random.default_rng(1).integers(0, 256, (5, 64, 64, 3), dtype=np.uint8)
    numbers = (torch.from_numpy(pictures).permute(0, 3, 1, 2).float() / 255 - MEAN) / STD
    module = getattr(__import__("mine"), function)()[0].eval()
    with torch.inference_mode():
        answers = module(numbers)
    logits = answers[0] if isinstance(answers, tuple) else answers
    expected = torch.softmax(logits, 1).numpy()
    np.testing.assert_allclose(model.scores(pictures), expected, rtol=0, atol=1e-4)
    assert model.labels == ("circle", "square", "cross", "star")
    assert (model.preparation.resize, model.preparation.resize_to) == ("crop", 73)


def test_the_version_of_the_same_module_is_the_same() -> None:
    arguments = ["import", "mine:with_labels", "--like", "timm", "--input-size", "32", "--to"]
    for folder in ("one", "two"):
        main([*arguments, folder], {})

    one, two = (load_model(f"./{each}/", weights="", labels_file=None) for each in ("one", "two"))
    assert one.version == two.version


@pytest.mark.parametrize(
    ("reference", "said"),
    [
        ("mine:number", "returns int: return a torch.nn.Module, or it and its labels"),
        ("mine:broken", "cannot be called .RuntimeError: no weights here.: name a module"),
        ("mine:nothing", "cannot be called .AttributeError"),
        ("yours:small", "cannot be called .ModuleNotFoundError"),
    ],
)
def test_what_is_no_module_is_refused_with_what_to_do(reference: str, said: str) -> None:
    with pytest.raises(ModelLoadError, match=said):
        main(["import", reference, "--like", "torchvision"], {})
