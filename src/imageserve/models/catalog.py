"""The models known by name, and how pixels are scaled for them. Pure.

The web server imports this to know the input size, so it must not bring numpy or Keras along. A
test compares the table of networks with the installed Keras, so that a new network is noticed.
"""

import difflib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path, PurePath

from imageserve.errors import ModelLoadError
from imageserve.models.files import IMAGENET_LABELS
from imageserve.models.runtimes import file_endings, runtime_of_file
from imageserve.models.stand_in import is_stand_in, parse_stand_in

Channels = tuple[float, ...]

_SHAPES = Path(__file__).with_name("shapes")


@dataclass(frozen=True, slots=True)
class Scaling:
    """``pixels * factor + offset`` in float32, one number for each colour.

    Scaling is part of the model and runs on the device: pictures cross the queue and the bus as one
    byte a colour.
    """

    factor: Channels
    """In the order of colours that the network takes."""
    offset: Channels
    is_bgr: bool = False
    """Whether the network takes blue, green, red."""


# Means and standard deviations of ImageNet's colours, as in keras.applications.imagenet_utils.
_TORCH_MEAN_STD = ((0.485, 0.229), (0.456, 0.224), (0.406, 0.225))
_CAFFE_MEAN_BGR = (103.939, 116.779, 123.68)

SCALINGS: Mapping[str, Scaling] = {
    "none": Scaling((1.0,) * 3, (0.0,) * 3),
    "0..1": Scaling((1 / 255,) * 3, (0.0,) * 3),
    "-1..1": Scaling((1 / 127.5,) * 3, (-1.0,) * 3),
    "torch": Scaling(
        tuple(1 / (255 * std) for _, std in _TORCH_MEAN_STD),
        tuple(-mean / std for mean, std in _TORCH_MEAN_STD),
    ),
    "caffe": Scaling((1.0,) * 3, tuple(-mean for mean in _CAFFE_MEAN_BGR), is_bgr=True),
}
"""By name. Keras calls ``-1..1``, ``torch`` and ``caffe`` tf, torch and caffe."""


@dataclass(frozen=True, slots=True)
class Network:
    """A function of keras.applications and the ImageNet weights that Keras has for it."""

    constructor: str
    """Its name in ``keras.applications``."""
    size: int
    """Height and width of the pictures it was trained on, in pixels."""
    scaling: str
    """What pixels 0..255 need, by its name in `SCALINGS`."""
    parameters: int
    """With 1000 classes; four bytes each."""
    cached: str
    """How Keras names the file of its weights, in the folder ``models`` under KERAS_HOME."""


_TF = "_weights_tf_dim_ordering_tf_kernels"

NETWORKS: Mapping[str, Network] = {
    "convnext_tiny": Network("ConvNeXtTiny", 224, "none", 28_589_128, "convnext_tiny.h5"),
    "convnext_small": Network("ConvNeXtSmall", 224, "none", 50_223_688, "convnext_small.h5"),
    "convnext_base": Network("ConvNeXtBase", 224, "none", 88_591_464, "convnext_base.h5"),
    "convnext_large": Network("ConvNeXtLarge", 224, "none", 197_767_336, "convnext_large.h5"),
    "convnext_xlarge": Network("ConvNeXtXLarge", 224, "none", 350_196_968, "convnext_xlarge.h5"),
    "densenet121": Network("DenseNet121", 224, "torch", 8_062_504, f"densenet121{_TF}.h5"),
    "densenet169": Network("DenseNet169", 224, "torch", 14_307_880, f"densenet169{_TF}.h5"),
    "densenet201": Network("DenseNet201", 224, "torch", 20_242_984, f"densenet201{_TF}.h5"),
    "efficientnet_b0": Network("EfficientNetB0", 224, "none", 5_330_571, "efficientnetb0.h5"),
    "efficientnet_b1": Network("EfficientNetB1", 240, "none", 7_856_239, "efficientnetb1.h5"),
    "efficientnet_b2": Network("EfficientNetB2", 260, "none", 9_177_569, "efficientnetb2.h5"),
    "efficientnet_b3": Network("EfficientNetB3", 300, "none", 12_320_535, "efficientnetb3.h5"),
    "efficientnet_b4": Network("EfficientNetB4", 380, "none", 19_466_823, "efficientnetb4.h5"),
    "efficientnet_b5": Network("EfficientNetB5", 456, "none", 30_562_527, "efficientnetb5.h5"),
    "efficientnet_b6": Network("EfficientNetB6", 528, "none", 43_265_143, "efficientnetb6.h5"),
    "efficientnet_b7": Network("EfficientNetB7", 600, "none", 66_658_687, "efficientnetb7.h5"),
    "efficientnet_v2_b0": Network(
        "EfficientNetV2B0", 224, "none", 7_200_312, "efficientnetv2-b0.h5"
    ),
    "efficientnet_v2_b1": Network(
        "EfficientNetV2B1", 240, "none", 8_212_124, "efficientnetv2-b1.h5"
    ),
    "efficientnet_v2_b2": Network(
        "EfficientNetV2B2", 260, "none", 10_178_374, "efficientnetv2-b2.h5"
    ),
    "efficientnet_v2_b3": Network(
        "EfficientNetV2B3", 300, "none", 14_467_622, "efficientnetv2-b3.h5"
    ),
    "efficientnet_v2_s": Network("EfficientNetV2S", 384, "none", 21_612_360, "efficientnetv2-s.h5"),
    "efficientnet_v2_m": Network("EfficientNetV2M", 480, "none", 54_431_388, "efficientnetv2-m.h5"),
    "efficientnet_v2_l": Network(
        "EfficientNetV2L", 480, "none", 119_027_848, "efficientnetv2-l.h5"
    ),
    "inception_resnet_v2": Network(
        "InceptionResNetV2", 299, "-1..1", 55_873_736, f"inception_resnet_v2{_TF}.h5"
    ),
    "inception_v3": Network("InceptionV3", 299, "-1..1", 23_851_784, f"inception_v3{_TF}.h5"),
    "mobilenet": Network("MobileNet", 224, "-1..1", 4_253_864, "mobilenet_1_0_224_tf.h5"),
    "mobilenet_v2": Network(
        "MobileNetV2", 224, "-1..1", 3_538_984, f"mobilenet_v2{_TF}_1.0_224.h5"
    ),
    "mobilenet_v3_large": Network(
        "MobileNetV3Large", 224, "none", 5_507_432, "weights_mobilenet_v3_large_224_1.0_float.h5"
    ),
    "mobilenet_v3_small": Network(
        "MobileNetV3Small", 224, "none", 2_554_968, "weights_mobilenet_v3_small_224_1.0_float.h5"
    ),
    "nasnet_large": Network("NASNetLarge", 331, "-1..1", 88_949_818, "nasnet_large.h5"),
    "nasnet_mobile": Network("NASNetMobile", 224, "-1..1", 5_326_716, "nasnet_mobile.h5"),
    "resnet50": Network("ResNet50", 224, "caffe", 25_636_712, f"resnet50{_TF}.h5"),
    "resnet101": Network("ResNet101", 224, "caffe", 44_707_176, f"resnet101{_TF}.h5"),
    "resnet152": Network("ResNet152", 224, "caffe", 60_419_944, f"resnet152{_TF}.h5"),
    "resnet50_v2": Network("ResNet50V2", 224, "-1..1", 25_613_800, f"resnet50v2{_TF}.h5"),
    "resnet101_v2": Network("ResNet101V2", 224, "-1..1", 44_675_560, f"resnet101v2{_TF}.h5"),
    "resnet152_v2": Network("ResNet152V2", 224, "-1..1", 60_380_648, f"resnet152v2{_TF}.h5"),
    "vgg16": Network("VGG16", 224, "caffe", 138_357_544, f"vgg16{_TF}.h5"),
    "vgg19": Network("VGG19", 224, "caffe", 143_667_240, f"vgg19{_TF}.h5"),
    "xception": Network("Xception", 299, "-1..1", 22_910_480, f"xception{_TF}.h5"),
}


@dataclass(frozen=True, slots=True)
class KnownModel:
    """What is fixed about a model that is known by name."""

    input_size: tuple[int, int]
    """Height and width, in pixels."""
    parameters: int
    labels_file: Path
    """The labels, unless the settings name another file."""
    model_file: Path | None = None
    """The bundled classifier; None for a network of keras.applications."""
    scaling: str = "none"


KNOWN: Mapping[str, KnownModel] = {
    "shapes": KnownModel((96, 96), 53_142, _SHAPES / "labels.txt", _SHAPES / "shapes.keras"),
    **{
        name: KnownModel((row.size, row.size), row.parameters, IMAGENET_LABELS, None, row.scaling)
        for name, row in NETWORKS.items()
    },
}


def default_input_size(model: str) -> tuple[int, int] | None:
    """Return the (height, width) a model takes; None for a file or folder, which has to be read.

    Raises ModelLoadError where no model has this name, or a stand-in's options are wrong.
    """
    if is_stand_in(model):
        return parse_stand_in(model).preparation.size
    if model in KNOWN:
        return KNOWN[model].input_size
    if is_model_path(model):
        return None
    raise unknown_model(model)


def is_model_file(model: str) -> bool:
    """Whether this model name is the path of a model in one file."""
    return runtime_of_file(model) is not None


def is_model_path(model: str) -> bool:
    """Whether this model name is the path of a file or folder; that of a folder has a slash."""
    return is_model_file(model) or "/" in model


def short_name(model: str) -> str:
    """Return the name under which a model is served: a path without its folders and its ending."""
    if is_stand_in(model):
        return model.partition(":")[0]
    if is_model_file(model):
        return PurePath(model).stem
    return PurePath(model).name


def unknown_model(model: str) -> ModelLoadError:
    """Return the error for a name that no model has."""
    # Keras's own spelling, too: ResNet50V2 finds resnet50_v2.
    wanted = model.lower().replace("-", "_")
    near = difflib.get_close_matches(wanted, [*KNOWN, "stand-in"], n=3)
    hint = f"did you mean {' or '.join(near)}? " if near else ""
    return ModelLoadError(
        f"unknown model {model!r}: {hint}'imageserve models list' shows the known names; a file "
        f"ends in {file_endings()}, and a folder is written with a slash, such as ./flowers"
    )
