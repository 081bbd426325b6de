"""Pictures with the label that the stand-in model must give them."""

from dataclasses import dataclass

from PIL import Image
from tests.pictures import SAVE_OPTIONS, encoded, photo

from imageserve.decoding import DecodingPolicy, decode
from imageserve.models.stand_in import stand_in_label
from imageserve.preparation import Preparation

SIZE = 64

RAISES = (255, 0, 255)
KILLS = (0, 255, 255)


@dataclass(frozen=True)
class Sample:
    """An encoded picture, and the label that a stand-in of ``SIZE`` gives to exactly this one."""

    data: bytes
    label: str


AS_SERVED = DecodingPolicy(fast_jpeg=True, fast_resize=True)
"""How the service decodes by default."""
EXACT = DecodingPolicy()
"""How 0.1.0 decodes, and how this version does with FAST_JPEG and FAST_RESIZE off."""


def label_of(data: bytes, size: int = SIZE, policy: DecodingPolicy = AS_SERVED) -> str:
    return stand_in_label(decode(data, Preparation((size, size)), policy))


def sample(seed: int, fmt: str = "JPEG", policy: DecodingPolicy = AS_SERVED) -> Sample:
    data = encoded(photo(80, 60, seed), fmt, **SAVE_OPTIONS[fmt])
    return Sample(data, label_of(data, policy=policy))


def samples(count: int, first: int = 0, policy: DecodingPolicy = AS_SERVED) -> list[Sample]:
    """Return pictures that all differ, in their labels too."""
    made = [sample(seed, policy=policy) for seed in range(first, first + count)]
    assert len({each.label for each in made}) == count
    return made


def poison(colour: tuple[int, int, int]) -> bytes:
    """A picture of one colour, of the stand-in's own size, so that no pixel changes on the way."""
    return encoded(Image.new("RGB", (SIZE, SIZE), colour), "PNG")
