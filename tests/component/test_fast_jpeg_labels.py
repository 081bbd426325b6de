"""FAST_JPEG and the bundled model: the sample pictures, made large, keep their labels."""

import csv
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imageserve.decoding import DecodingPolicy, decode
from imageserve.models import load_model
from imageserve.preparation import Preparation

SAMPLES = Path(__file__).parents[2] / "loadtest" / "images"
LEAST_SAME = 0.99


def large_jpeg(path: Path) -> bytes:
    with Image.open(path) as sample:
        image = sample.convert("RGB")
    file = BytesIO()
    image.resize((3 * image.width, 3 * image.height), Image.Resampling.BICUBIC).save(file, "JPEG")
    return file.getvalue()


@pytest.mark.timeout(300)
def test_the_sample_pictures_keep_their_labels() -> None:
    with (SAMPLES / "labels.csv").open() as file:
        pictures = [large_jpeg(SAMPLES / row[0]) for row in csv.reader(file) if "." in row[0]]
    model = load_model("shapes", weights="imagenet", labels_file=None)

    def labels(policy: DecodingPolicy) -> list[str]:
        raw = [decode(data, Preparation(model.preparation.size), policy) for data in pictures]
        images = np.frombuffer(b"".join(raw), np.uint8).reshape(-1, *model.preparation.size, 3)
        return [found[0].label for found in model.predict(images, 1)]

    exact, fast = labels(DecodingPolicy()), labels(DecodingPolicy(fast_jpeg=True))
    same = sum(a == b for a, b in zip(exact, fast, strict=True))
    assert len(pictures) >= 20
    assert same >= LEAST_SAME * len(pictures)
