"""What can be chosen, and the defaults that several parts of the program share: each once."""

from typing import Final

IMAGE_FORMATS: Final = ("jpeg", "png", "webp", "gif", "bmp")
"""Formats of pictures that can be accepted."""

INTERPOLATIONS: Final = ("nearest", "bilinear", "bicubic", "hamming", "box", "lanczos")
"""Ways to resize a picture: those of ``keras.utils.load_img`` that Pillow has."""
DEFAULT_INTERPOLATION: Final = "bilinear"
INTERPOLATIONS_WITHOUT_ANTIALIAS: Final = ("nearest", "bilinear")

RESIZES: Final = ("squash", "crop", "pad")
"""How a picture gets the sides that a model takes; see `Preparation.resize`."""
CROP_ROUNDINGS: Final = ("even", "down")
"""Where the middle begins if an odd number of pixels is cut away: see `Preparation`."""
COLOURS: Final = ("rgb", "bgr", "grey", "rgba")
"""The colours that a model takes."""
LAYOUTS: Final = ("nhwc", "nchw")
"""The order of the sides of a model's input: batch, height, width and colours."""
ACTIVATIONS: Final = ("softmax", "sigmoid", "none")
"""What is done to the numbers that a model answers with."""

DEFAULT_MODEL: Final = "shapes"
"""The bundled model."""
DEFAULT_WEIGHTS: Final = "imagenet"

RUNTIMES: Final = ("keras", "onnx")
BACKENDS: Final = ("tensorflow", "jax", "torch")
"""What Keras can run on."""
DEFAULT_BACKEND: Final = "tensorflow"
PRECISIONS: Final = ("float32", "bfloat16", "float16")
DEFAULT_PRECISION: Final = "float32"

BATCH_SIZES: Final = (1, 1024)
"""Least and most pictures in one call of a model."""
DEFAULT_BATCH_SIZE: Final = 32

MAX_IMAGE_BYTES: Final = 10 * 2**20
MAX_IMAGE_PIXELS: Final = 50_000_000
MAX_IMAGE_SIDE: Final = 65_535
"""The longest side that a JPEG or a GIF can have."""
DECODE_MEMORY_BYTES: Final = 2**30

LOG_LEVELS: Final = ("debug", "info", "warning", "error", "critical")
LOG_FORMATS: Final = ("auto", "json", "text")
