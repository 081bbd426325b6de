"""How pixels 0..255 become the numbers that a network was trained on. Pure.

Scaling is part of the model: it is put in front of the network, on the device, so that pictures
cross the queue and the bus as one byte a colour.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from imageserve.errors import ModelLoadError

Channels = tuple[float, float, float]


@dataclass(frozen=True, slots=True)
class Scaling:
    """``pixels * factor + offset`` in float32, colour by colour in the order the network takes."""

    factor: Channels
    offset: Channels
    is_bgr: bool = False
    """Whether the network takes blue, green, red."""


# Means and standard deviations of ImageNet's colours, as in keras.applications.imagenet_utils.
_TORCH_MEAN = (0.485, 0.456, 0.406)
_TORCH_STD = (0.229, 0.224, 0.225)
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)


def _torch() -> Scaling:
    red, green, blue = _TORCH_STD
    factor = (1 / (255 * red), 1 / (255 * green), 1 / (255 * blue))
    mean_r, mean_g, mean_b = _TORCH_MEAN
    return Scaling(factor, (-mean_r / red, -mean_g / green, -mean_b / blue))


def _caffe() -> Scaling:
    blue, green, red = _CAFFE_MEAN_BGR
    return Scaling((1.0, 1.0, 1.0), (-blue, -green, -red), is_bgr=True)


def _even(factor: float, offset: float) -> Scaling:
    return Scaling((factor, factor, factor), (offset, offset, offset))


SCALINGS: Mapping[str, Scaling] = {
    "none": _even(1.0, 0.0),
    "0..1": _even(1 / 255, 0.0),
    "-1..1": _even(1 / 127.5, -1.0),
    "torch": _torch(),
    "caffe": _caffe(),
}
"""By name. ``-1..1``, ``torch`` and ``caffe`` are what Keras calls tf, torch and caffe."""


def scaling_of(name: str) -> Scaling:
    """Return the scaling of this name.

    Raises:
        ModelLoadError: there is none.
    """
    if name not in SCALINGS:
        raise ModelLoadError(f"unknown scaling {name!r}: it must be one of {', '.join(SCALINGS)}")
    return SCALINGS[name]
