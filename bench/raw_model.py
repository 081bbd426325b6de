"""A Keras network called in a loop on ready batches: the most a worker could reach.

Run as a process of its own: ``python -m bench.raw_model NETWORK BATCH_SIZE``. It shares nothing
with the package but Keras. For every number of batches that it reads from standard input it answers
with one line of JSON: the seconds that each way of calling took.
"""

import json
import sys
import time
from collections.abc import Callable
from typing import Any

import keras
import numpy as np
import tensorflow as tf

NETWORKS: dict[str, tuple[Any, Any]] = {
    "mobilenet_v2": (
        keras.applications.MobileNetV2,
        keras.applications.mobilenet_v2.preprocess_input,
    ),
    "resnet50": (keras.applications.ResNet50, keras.applications.resnet50.preprocess_input),
}
_READY_BATCHES = 4


def main(arguments: list[str]) -> None:
    network, batch_size = arguments[0], int(arguments[1])
    noise = np.random.default_rng(0)
    batches = [
        noise.integers(0, 256, (batch_size, 224, 224, 3), dtype=np.uint8)
        for _ in range(_READY_BATCHES)
    ]
    calls = ways_to_call(network, batch_size)
    for call in calls.values():
        call(batches[0])
        call(batches[1])
    print("ready", flush=True)
    for line in sys.stdin:
        count = int(line)
        seconds = {name: timed(call, batches, count) for name, call in calls.items()}
        print(json.dumps(seconds), flush=True)


def ways_to_call(network: str, batch_size: int) -> dict[str, Callable[[Any], object]]:
    build, scale = NETWORKS[network]
    pixels = keras.Input((224, 224, 3), dtype="uint8")
    model = keras.Model(pixels, build(weights=None)(scale(keras.ops.cast(pixels, "float32"))))
    function = tf.function(
        lambda images: model(images, training=False),
        input_signature=[tf.TensorSpec((batch_size, 224, 224, 3), tf.uint8)],
        autograph=False,
    )
    return {
        "predict_on_batch": model.predict_on_batch,
        "tf.function": lambda images: function(images).numpy(),
    }


def timed(call: Callable[[Any], object], batches: list[Any], count: int) -> float:
    began = time.perf_counter()
    for i in range(count):
        call(batches[i % len(batches)])
    return time.perf_counter() - began


if __name__ == "__main__":
    main(sys.argv[1:])
