"""Reads a Hugging Face folder as if it had an ``imageserve.yaml``. Pure.

``config.json`` names the labels and the kind of answers, ``preprocessor_config.json`` the image
processor, as ``save_pretrained`` and Optimum write them. The ``config.json`` of a timm model holds
all of it. What a processor does is taken from transformers; its tests compare both.
"""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

from imageserve.errors import ModelLoadError
from imageserve.preparation import COLOURS_BY_NUMBER

CONFIG_FILE = "config.json"
PROCESSOR_FILE = "preprocessor_config.json"

TRANSFORMERS, TIMM = "transformers", "timm"
"""The libraries that write a ``config.json``."""

Facts = dict[str, Any]
"""Keys and values as ``imageserve.yaml`` has them."""

_RESAMPLE = ("nearest", "lanczos", "bilinear", "bicubic", "box", "hamming")
"""Pillow's numbers for them."""
_IMAGENET_MEAN, _IMAGENET_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)
_CONVNEXT_SQUASHES = 384
"""The least side at which ConvNext's processor does not crop."""


class _Processor(NamedTuple):
    """What an image processor does where its file does not say it."""

    is_shortest: bool
    """Whether a size of one number is that of the shorter side; otherwise it is that of both."""
    crops: bool
    resample: int
    is_bgr: bool = False


PROCESSORS = {
    "Beit": _Processor(False, True, 3),
    "Bit": _Processor(True, True, 3),
    "CLIP": _Processor(True, True, 3),
    "ConvNext": _Processor(True, False, 2),
    "DeiT": _Processor(False, True, 3),
    "EfficientFormer": _Processor(False, True, 3),
    "EfficientNet": _Processor(False, False, 0),
    "Levit": _Processor(True, True, 3),
    "MobileNetV1": _Processor(True, True, 2),
    "MobileNetV2": _Processor(True, True, 2),
    "MobileViT": _Processor(True, True, 2, is_bgr=True),
    "PoolFormer": _Processor(True, True, 3),
    "Pvt": _Processor(False, False, 2),
    "Segformer": _Processor(False, False, 2),
    "Siglip": _Processor(False, False, 3),
    "ViT": _Processor(False, False, 2),
}
"""By the name of the class, without ``ImageProcessor`` or ``FeatureExtractor`` and ``Fast``."""


class _CannotDo(Exception):
    """What a folder asks for and imageserve does not do, as the end of a sentence."""


def origin(config: object) -> str | None:
    """Return which library wrote this ``config.json``; None where it was none of these two."""
    if not isinstance(config, dict):
        return None
    if isinstance(config.get("pretrained_cfg"), dict):
        return TIMM
    return TRANSFORMERS if "architectures" in config or "model_type" in config else None


def labels_of(config: Mapping[str, Any]) -> tuple[str, ...] | None:
    """Return the labels in the order of the classes; None where there are none.

    Raises ValueError where they are not numbered from 0 without a gap.
    """
    names = config.get("id2label") or config.get("label_names")
    if not names:
        return None
    if isinstance(names, dict):
        if sorted(names, key=str) != sorted(map(str, range(len(names)))):
            raise ValueError(
                f"its {len(names)} labels are not numbered from 0 to {len(names) - 1}: name in "
                "id2label what each number that the model gives means"
            )
        names = [names[str(i)] for i in range(len(names))]
    if not isinstance(names, list) or not all(isinstance(each, str) and each for each in names):
        raise ValueError("it holds labels that are no texts, or empty: name each class")
    described = config.get("label_descriptions")
    if isinstance(described, dict):
        names = [described.get(each, each) for each in names]
    return tuple(map(str, names))


def described(folder: str, config: Mapping[str, Any], processor: object) -> Facts:
    """Return what the folder's files say of its model.

    Args:
        folder: its path, for messages.
        config: the content of a ``config.json`` that has an `origin`.
        processor: that of ``preprocessor_config.json``; None where it is missing.

    Raises ModelLoadError where the model is no classifier of pictures, or its pictures are prepared
    in a way that imageserve has not.
    """
    try:
        if origin(config) == TIMM:
            return _timm(config["pretrained_cfg"])
        facts: Facts = {"layout": "nchw", "colour": _colour(config.get("num_channels", 3))}
        facts |= _answers(config)
        return facts if processor is None else facts | _prepared(config, _object(processor))
    except _CannotDo as error:
        raise ModelLoadError(f"the model folder {folder} {error}") from error
    except (TypeError, ValueError, LookupError, ArithmeticError) as error:
        raise ModelLoadError(
            f"the model folder {folder} has a {PROCESSOR_FILE} or {CONFIG_FILE} that holds "
            "something else than transformers and timm write: write it anew with save_pretrained()"
        ) from error


def _answers(config: Mapping[str, Any]) -> Facts:
    architectures = config.get("architectures") or []
    if architectures and not any("ForImageClassification" in str(each) for each in architectures):
        raise _CannotDo(
            f"holds a {architectures[0]}: only image classifiers can be served, whose class is "
            "named ...ForImageClassification"
        )
    problem = config.get("problem_type")
    if problem == "regression":
        raise _CannotDo(
            "holds a model for regression, which measures something: only classifiers can be served"
        )
    is_multi_label = problem == "multi_label_classification"
    return {"activation": "sigmoid" if is_multi_label else "softmax"}


def _colour(channels: object) -> str:
    if channels not in COLOURS_BY_NUMBER:
        raise _CannotDo(f"has a model of {channels} colours: only 1, 3 and 4 can be served")
    return COLOURS_BY_NUMBER[channels]


# -- transformers ---------------------------------------------------------------------------------


def _prepared(config: Mapping[str, Any], told: Mapping[str, Any]) -> Facts:
    written = str(told.get("image_processor_type") or told.get("feature_extractor_type"))
    kind = written.removesuffix("Fast")
    kind = kind.removesuffix("ImageProcessor").removesuffix("FeatureExtractor")
    if kind not in PROCESSORS:
        raise _by_hand(f"has the image processor {written:.60}, which is not known here")
    row = PROCESSORS[kind]
    facts = _geometry(kind, row, told)
    if "resize_to" in facts:
        # The fast one of ConvNext is the only one that cuts as torchvision does.
        facts["crop_rounding"] = "even" if written == "ConvNextImageProcessorFast" else "down"
    resample = told.get("resample")
    facts["interpolation"] = _RESAMPLE[row.resample if resample is None else resample]
    if told.get("do_flip_channel_order", row.is_bgr):
        facts["colour"] = _flipped(config)
    if scaling := _scaling(kind, told):
        facts["scaling"] = scaling
    return facts


def _flipped(config: Mapping[str, Any]) -> str:
    if config.get("num_channels", 3) != 3:
        raise _by_hand("turns the order of colours that are not three")
    return "bgr"


def _by_hand(problem: str) -> _CannotDo:
    return _CannotDo(
        f"{problem}: remove its {PROCESSOR_FILE}, and describe the preparation in imageserve.yaml "
        "(input_size, resize, interpolation, scaling)"
    )


def _geometry(kind: str, row: _Processor, told: Mapping[str, Any]) -> Facts:
    if not told.get("do_resize", True):
        raise _by_hand("does not resize pictures (do_resize), which all models need here")
    size = _sides(told.get("size"), is_shortest=row.is_shortest)
    does_crop = bool(told.get("do_center_crop", row.crops))
    cut = _sides(told.get("crop_size"), is_shortest=False) if does_crop else None
    if kind == "ConvNext":
        edge = _whole(size, "shortest_edge")
        size, cut = _convnext(edge, told.get("crop_pct"))
    elif kind == "Levit" and "shortest_edge" in size:
        size = {"shortest_edge": int(256 / 224 * size["shortest_edge"])}
    elif kind == "PoolFormer" and (share := told.get("crop_pct", 0.9)) is not None:
        size = {"shortest_edge": int(min(size.values()) / share)}
    return _cut_out(size, cut)


def _convnext(edge: int, share: float | None) -> tuple[dict[str, int], dict[str, int] | None]:
    square = {"height": edge, "width": edge}
    if edge >= _CONVNEXT_SQUASHES:
        return square, None
    return {"shortest_edge": int(edge / (share or 224 / 256))}, square


def _cut_out(size: Mapping[str, int], cut: Mapping[str, int] | None) -> Facts:
    """Say how pictures get their sides that are resized to ``size``, then cut to ``cut``."""
    if cut is None:
        if "shortest_edge" in size:
            raise _by_hand("resizes the shorter side only, so that pictures differ in shape")
        return {"input_size": [size["height"], size["width"]], "resize": "squash"}
    down, across = cut["height"], cut["width"]
    if cut == size:
        return {"input_size": [down, across], "resize": "squash"}
    sides = set(size.values())
    side = min(sides)
    if len(sides) > 1:
        raise _by_hand("cuts the middle out of pictures that are not square")
    if side < max(down, across):
        raise _by_hand(f"resizes pictures to {side} and lays them on {down}x{across}")
    return {
        "input_size": [down, across],
        "resize": "crop" if "shortest_edge" in size else "squash",
        "resize_to": side,
    }


def _sides(size: object, *, is_shortest: bool) -> dict[str, int]:
    """Return a size as newer versions write it, by the names of its sides."""
    if isinstance(size, int):
        size = {"shortest_edge": size} if is_shortest else {"height": size, "width": size}
    elif isinstance(size, list) and len(size) == 2:
        size = {"height": size[0], "width": size[1]}
    if size is None:
        raise ValueError
    if not isinstance(size, dict) or set(size) not in ({"height", "width"}, {"shortest_edge"}):
        raise _by_hand(f"has pictures of the size {size!s:.80}, which is not known here")
    return {side: _whole(size, side) for side in size}


def _whole(numbers: Mapping[str, object], key: str) -> int:
    value = numbers.get(key)
    if type(value) is not int or not 1 <= value <= 2**16:
        raise ValueError
    return value


def _scaling(kind: str, told: Mapping[str, Any]) -> Facts | None:
    """Return the arithmetic, as (pixels / divide - mean) / std."""
    is_rescaled = told.get("do_rescale", True)
    divide = 1 / told.get("rescale_factor", 1 / 255) if is_rescaled else 1.0
    is_normalized = told.get("do_normalize", "image_mean" in told)
    mean = _numbers(told["image_mean"]) if is_normalized else [0.0]
    std = _numbers(told["image_std"]) if is_normalized else [1.0]
    if kind == "EfficientNet":
        if is_rescaled and told.get("rescale_offset", False):
            mean = [each + 1 for each in mean]
        if told.get("include_top", True):  # It divides once more.
            std = [
                each * again for each, again in zip(std, _numbers(told["image_std"]), strict=True)
            ]
    if (divide, *mean, *std) == (1.0, *[0.0] * len(mean), *[1.0] * len(std)):
        return None
    return {"divide": divide, "mean": mean, "std": std}


def _numbers(value: Any) -> list[float]:
    given = value if isinstance(value, list) else [value]
    return [float(each) for each in given]


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError
    return value


# -- timm -----------------------------------------------------------------------------------------


def _timm(told: Mapping[str, Any]) -> Facts:
    """Read timm's description of a model, as ``timm.data.resolve_data_config`` does."""
    colours, down, across = told.get("input_size") or (3, 224, 224)
    return {
        "layout": "nchw",
        "colour": _colour(colours),
        "activation": "softmax",
        "input_size": [down, across],
        "interpolation": told.get("interpolation") or "bicubic",
        "scaling": {
            "divide": 255.0,
            "mean": _numbers(told.get("mean") or list(_IMAGENET_MEAN)),
            "std": _numbers(told.get("std") or list(_IMAGENET_STD)),
        },
        **_timm_geometry(told, down, across),
    }


def _timm_geometry(told: Mapping[str, Any], down: int, across: int) -> Facts:
    mode, share = told.get("crop_mode") or "center", told.get("crop_pct") or 0.875
    if mode not in ("center", "squash"):
        raise _CannotDo(f"has crop_mode {mode}: only center and squash can be served")
    if mode == "squash" and share == 1:
        return {"resize": "squash"}
    if down != across:
        raise _CannotDo("cuts the middle out of pictures for an input that is not square")
    return {
        "resize": "crop" if mode == "center" else "squash",
        "resize_to": math.floor(down / share),
    }
