"""The pixels of each image processor of transformers equal those that imageserve prepares."""

import json
from typing import Any

import numpy as np
import pytest
import transformers
from numpy.typing import NDArray
from tests.models_of_others.teaching import NAMES, PICTURES, opened

from imageserve.config.reader import fields_of
from imageserve.decoding import DecodingPolicy, decode
from imageserve.models.folder import FACTS, ModelFacts
from imageserve.models.huggingface import PROCESSORS, described
from imageserve.models.source import Source

OPTIONS: dict[str, dict[str, Any]] = {
    # With their defaults the first does not crop, and the second lays pictures on black.
    "ConvNext": {"size": {"shortest_edge": 224}},
    "MobileViT": {"size": {"shortest_edge": 288}},
    # Of its default, nearest, the fast one picks other pixels: 0.3 % of them.
    "EfficientNet": {"resample": 3, "rescale_offset": True},
}


def levels_apart(processor: Any, name: str) -> NDArray[np.float32]:
    """Return how far the two are apart, where 1 is the least difference of two bytes."""
    expected = np.asarray(processor(opened(PICTURES / name), return_tensors="pt").pixel_values[0])
    told = described("folder", {"model_type": "any"}, json.loads(processor.to_json_string()))
    facts = ModelFacts(**fields_of(FACTS)(told))
    assert facts.input_size
    preparation = facts.preparation(facts.input_size)
    data = decode((PICTURES / name).read_bytes(), preparation, DecodingPolicy())
    pixels = np.frombuffer(data, np.uint8).reshape(preparation.shape)
    scaling = Source("name", "onnx", None, PICTURES, facts).scaling
    ordered = pixels[..., ::-1] if scaling.is_bgr else pixels
    factor, offset = np.array(scaling.factor, np.float32), np.array(scaling.offset, np.float32)
    found = ordered * factor + offset
    return np.abs(found - expected.transpose(1, 2, 0)) / factor  # type: ignore[no-any-return]


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", PROCESSORS)
def test_pixels_are_equal(kind: str, name: str) -> None:
    processor = getattr(transformers, f"{kind}ImageProcessor")(**OPTIONS.get(kind, {}))

    assert levels_apart(processor, name).max() < 0.01


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("kind", sorted(PROCESSORS.keys() - {"EfficientFormer"}))
def test_the_fast_ones_differ_by_one_level(kind: str, name: str) -> None:
    """They resize tensors, not images of Pillow, and in the other direction first."""
    processor = getattr(transformers, f"{kind}ImageProcessorFast")(**OPTIONS.get(kind, {}))

    apart = levels_apart(processor, name)

    assert (apart > 0.5).mean() < 0.15
    assert (apart > 1.5).mean() < 0.001
    assert apart.max() < 12
