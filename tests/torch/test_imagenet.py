"""The folder of ``tools/make_imagenet.py`` answers as PyTorch does, with torchvision's pixels."""

from pathlib import Path
from typing import Any

import make_imagenet
import pytest
from efficientnet_lite_pytorch import EfficientNet
from PIL import Image
from tests.imagenet import CROPPED_ANSWERS, PHOTOGRAPHS, SQUEEZED_ANSWERS, squeeze
from torchvision import transforms

import torch
from imageserve.decoding import DecodingPolicy, decode
from imageserve.models import load_model
from imageserve.models.comparison import as_pictures
from imageserve.models.model import ScoringModel

BICUBIC = transforms.InterpolationMode("bicubic")
WAYS: dict[str, tuple[list[Any], dict[str, dict[str, float]]]] = {
    "crop": (
        [transforms.Resize(256, BICUBIC), transforms.CenterCrop(224)],
        CROPPED_ANSWERS,
    ),
    "squash": ([transforms.Resize((224, 224), BICUBIC)], SQUEEZED_ANSWERS),
}


@pytest.fixture(scope="module")
def network() -> Any:
    path = str(make_imagenet.weights_file())
    return EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()


@pytest.mark.parametrize("way", list(WAYS))
@pytest.mark.parametrize("photograph", ["chelsea.jpg", "coffee.jpg"])
def test_a_photograph_gets_the_same_answer(
    network: Any, way: str, photograph: str, tmp_path: Path
) -> None:
    steps, recorded = WAYS[way]
    image = Image.open(PHOTOGRAPHS / photograph)
    # On pixels from 0 to 1: (x * 255 - 127) / 128.
    scaled = [transforms.ToTensor(), transforms.Normalize((127 / 255,) * 3, (128 / 255,) * 3)]
    with torch.no_grad():
        logits = network(transforms.Compose([*steps, *scaled])(image)[None])
    expected = logits.softmax(1).numpy()
    with make_imagenet.weights_file().open("rb") as file:
        make_imagenet.write_folder(make_imagenet.read_weights(file), tmp_path / "imagenet")
    if way == "squash":
        squeeze(tmp_path / "imagenet")

    model = load_model(str(tmp_path / "imagenet"), weights="", labels_file=None)

    assert isinstance(model, ScoringModel)
    pixels = decode((PHOTOGRAPHS / photograph).read_bytes(), model.preparation, DecodingPolicy())
    scores = model.scores(as_pictures([pixels], model.preparation.shape))
    assert scores == pytest.approx(expected, abs=1e-4)
    best = {model.labels[i]: float(expected[0, i]) for i in (-expected[0]).argsort()[:3]}
    assert best == pytest.approx(recorded[photograph], abs=6e-5)
