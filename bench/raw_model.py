"""A network called in a loop on ready batches: the most a worker could reach.

Run as a process of its own: ``python -m bench.raw_model MODEL RUNTIME PRECISION``, where MODEL is
the name of a network of keras.applications, or the path of a .keras or .onnx file. It shares
nothing with the package but Keras. For every line ``BATCH_SIZE COUNT`` that it reads it answers
with one line of JSON: the seconds that each way of calling took for COUNT batches. A batch size
is compiled when it is first asked for, outside of what is timed.
"""

import importlib
import json
import os
import sys
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial
from typing import Any

import numpy as np

_READY_BATCHES = 4
_SIZE = 224
"""Height and width of the networks that are known by name."""

_CUDA = "CUDAExecutionProvider"
_PIECE = 2
_THREADS = len(os.sched_getaffinity(0))

Call = Callable[[Any], object]
Ways = dict[str, Call]


def main(arguments: list[str]) -> None:
    name, runtime, precision = arguments
    model, size = _session(name) if runtime == "onnx" else _network(name, runtime, precision)
    ways = cache(partial(_WAYS[runtime], model))
    print("ready", flush=True)
    for line in sys.stdin:
        batch_size, count = map(int, line.split())
        batches = ready_batches(batch_size, size)
        calls = ways(batch_size)
        for call in calls.values():
            call(batches[0])
            call(batches[1])
        seconds = {name: timed(call, batches, count) for name, call in calls.items()}
        print(json.dumps(seconds), flush=True)


@cache
def ready_batches(batch_size: int, size: tuple[int, int]) -> list[Any]:
    noise = np.random.default_rng(0)
    shape = (batch_size, *size, 3)
    return [noise.integers(0, 256, shape, dtype=np.uint8) for _ in range(_READY_BATCHES)]


def _network(name: str, runtime: str, precision: str) -> tuple[Any, tuple[int, int]]:
    os.environ["KERAS_BACKEND"] = runtime
    keras: Any = importlib.import_module("keras")
    if precision != "float32":
        keras.config.set_dtype_policy(f"mixed_{precision}")
    if name.endswith(".keras"):
        network = keras.saving.load_model(name, compile=False)
        height, width = network.inputs[0].shape[1:3]
        return _on_pixels(keras, network, (height, width)), (height, width)
    build, scale = networks(keras)[name]
    network = build(weights=None)
    return _on_pixels(keras, lambda x: network(scale(x)), (_SIZE, _SIZE)), (_SIZE, _SIZE)


def _on_pixels(keras: Any, network: Any, size: tuple[int, int]) -> Any:
    pixels = keras.Input((*size, 3), dtype="uint8")
    return keras.Model(pixels, network(keras.ops.cast(pixels, "float32")))


def networks(keras: Any) -> dict[str, tuple[Any, Any]]:
    applications = keras.applications
    return {
        "mobilenet_v2": (
            applications.MobileNetV2,
            applications.mobilenet_v2.preprocess_input,
        ),
        "resnet50": (applications.ResNet50, applications.resnet50.preprocess_input),
    }


def _session(path: str) -> tuple[Any, tuple[int, int]]:
    sessions = [_onnx(path, streams=1)]
    if sessions[0].get_providers()[0] != _CUDA:
        sessions.append(_onnx(path, _THREADS))
    height, width = sessions[0].get_inputs()[0].shape[1:3]
    return sessions, (height, width)


def _onnx(path: str, streams: int) -> Any:
    """Load a file for this many calls at once."""
    onnxruntime: Any = importlib.import_module("onnxruntime")
    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3
    options.intra_op_num_threads = _THREADS // streams
    config = {"INFERENCE_PRECISION_HINT": "f32", "NUM_STREAMS": str(streams)}
    openvino = {"load_config": json.dumps({"CPU": config})}
    preferred: list[tuple[str, dict[str, str]]] = [
        (_CUDA, {}),
        ("OpenVINOExecutionProvider", openvino),
        ("CPUExecutionProvider", {}),
    ]
    have = onnxruntime.get_available_providers()
    providers = [each for each in preferred if each[0] in have]
    return onnxruntime.InferenceSession(path, options, providers=providers)


def _on_tensorflow(model: Any, batch_size: int) -> Ways:
    tf: Any = importlib.import_module("tensorflow")
    function = tf.function(
        lambda images: model(images, training=False),
        input_signature=[tf.TensorSpec((batch_size, *model.inputs[0].shape[1:]), tf.uint8)],
        autograph=False,
    )
    return {
        "predict_on_batch": model.predict_on_batch,
        "tf.function": lambda images: function(images).numpy(),
    }


def _on_jax(model: Any, batch_size: int) -> Ways:
    del batch_size  # Each shape is compiled on its first call.
    jax: Any = importlib.import_module("jax")
    # Copies: predict_on_batch donates the model's own buffers.
    weights = [
        [jax.numpy.array(variable.value, copy=True) for variable in each]
        for each in (model.trainable_variables, model.non_trainable_variables)
    ]
    call = jax.jit(lambda w, images: model.stateless_call(*w, images, training=False)[0])
    return {
        "predict_on_batch": model.predict_on_batch,
        "jax.jit": lambda images: np.asarray(call(weights, images)),
    }


def _on_torch(model: Any, batch_size: int) -> Ways:
    del batch_size
    torch: Any = importlib.import_module("torch")
    device = model.variables[0].value.device

    def call(images: Any) -> object:
        with torch.inference_mode():
            return model(torch.as_tensor(images, device=device), training=False).cpu().numpy()

    return {"predict_on_batch": model.predict_on_batch, "inference_mode": call}


def _on_onnx(sessions: Any, batch_size: int) -> Ways:
    del batch_size
    together, *apart = sessions
    (tensor,) = together.get_inputs()

    def run(session: Any, images: Any) -> None:
        session.run(None, {tensor.name: images})

    ways: Ways = {"session.run": partial(run, together)}
    if apart:
        pool = ThreadPoolExecutor(_THREADS)

        def by_threads(images: Any) -> None:
            pieces = [images[i : i + _PIECE] for i in range(0, len(images), _PIECE)]
            list(pool.map(partial(run, apart[0]), pieces))

        ways[f"{_PIECE} per thread"] = by_threads
    return ways


_WAYS: dict[str, Callable[[Any, int], Ways]] = {
    "tensorflow": _on_tensorflow,
    "jax": _on_jax,
    "torch": _on_torch,
    "onnx": _on_onnx,
}


def timed(call: Call, batches: list[Any], count: int) -> float:
    began = time.perf_counter()
    for i in range(count):
        call(batches[i % len(batches)])
    return time.perf_counter() - began


if __name__ == "__main__":
    main(sys.argv[1:])
