"""Every classifier of keras.applications: what is fixed about each, without Keras. Pure.

A test compares the table with the Keras that is installed, so that a new network shows up there.
"""

from collections.abc import Mapping
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Network:
    """One function of keras.applications and the ImageNet weights that Keras has for it."""

    constructor: str
    """Its name in ``keras.applications``."""
    size: int
    """Height and width of the pictures it was trained on, in pixels."""
    scaling: str
    """What must be done to pixels 0..255, by its name in `SCALINGS`; ``none``: nothing."""
    parameters: int
    """With 1000 classes; four bytes each."""
    cached: str
    """How Keras calls the file of its weights, in the folder ``models`` under KERAS_HOME."""


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
