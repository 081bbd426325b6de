"""FAST_RESIZE and the bundled model: of 2,000 pictures nearly all keep their first label.

Half of them are drawn like those that the model was trained on, half are cut out of photographs,
which it knows nothing of: its labels of those hang by a thread.
"""

from collections.abc import Iterator
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
from draw_shapes import LABELS, draw, random_size
from PIL import Image

from imageserve.decoding import DecodingPolicy, decode
from imageserve.decoding.resizing import IS_FAST
from imageserve.models import load_model
from imageserve.models.model import Model
from imageserve.preparation import Preparation

PHOTOGRAPHS = Path(__file__).parents[1] / "photographs"
DRAWN, CUTS_OF_A_DRAWN_ONE, CUTS_OF_A_PHOTOGRAPH = 100, 10, 500
LEAST_SAME = 0.995

EXACT, FAST = DecodingPolicy(), DecodingPolicy(fast_resize=True)


def cut(image: Image.Image, drawn: np.random.Generator) -> bytes:
    """Return most of a picture, perhaps mirrored, as a JPEG of some quality."""
    width, height = (round(side * drawn.uniform(0.5, 1.0)) for side in image.size)
    left, top = (
        int(drawn.integers(0, whole - part + 1))
        for whole, part in zip(image.size, (width, height), strict=True)
    )
    part = image.crop((left, top, left + width, top + height))
    if drawn.random() < 0.5:
        part = part.transpose(Image.Transpose.FLIP_LEFT_RIGHT)
    file = BytesIO()
    part.save(file, "JPEG", quality=int(drawn.integers(40, 96)))
    return file.getvalue()


def pictures() -> Iterator[bytes]:
    for seed in range(DRAWN):
        drawn = np.random.default_rng(4_000_000 + seed)
        image = draw(LABELS[seed % len(LABELS)], drawn, random_size(drawn))
        yield from (cut(image, drawn) for _ in range(CUTS_OF_A_DRAWN_ONE))
    for path in sorted(PHOTOGRAPHS.glob("*.jpg")):
        drawn = np.random.default_rng(0)
        with Image.open(path) as image:
            yield from (cut(image, drawn) for _ in range(CUTS_OF_A_PHOTOGRAPH))


def labels(model: Model, raw: list[bytes]) -> list[str]:
    images = np.frombuffer(b"".join(raw), np.uint8).reshape(-1, *model.preparation.size, 3)
    found: list[str] = []
    for start in range(0, len(images), 250):
        found += (each[0].label for each in model.predict(images[start : start + 250], 1))
    return found


@pytest.mark.skipif(not IS_FAST, reason="there is no cykooz-resizer for this machine")
@pytest.mark.timeout(300)
def test_two_thousand_pictures_keep_their_first_label() -> None:
    model = load_model("shapes", weights="imagenet", labels_file=None)
    preparation = Preparation(model.preparation.size)
    exact, fast = [], []
    for data in pictures():
        exact.append(decode(data, preparation, EXACT))
        fast.append(decode(data, preparation, FAST))

    same = sum(a == b for a, b in zip(labels(model, exact), labels(model, fast), strict=True))
    differ = sum(a != b for a, b in zip(exact, fast, strict=True))
    assert len(exact) >= 2_000
    assert differ > 1_000, "nothing was tried"
    assert same >= LEAST_SAME * len(exact)
