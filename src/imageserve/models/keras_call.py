"""One compiled call of a Keras network, on each of Keras's backends.

The only door to TensorFlow, JAX and PyTorch for serving. Each function imports its own library, so
that a worker on one backend needs none of the others.
"""

import logging
from typing import Any

import numpy as np
from numpy.typing import NDArray

from imageserve.errors import ModelOutOfMemory
from imageserve.models.classifier_checks import Scores, first_line
from imageserve.models.engine import Engine
from imageserve.models.processors import usable_processors

_logger = logging.getLogger(__name__)


def prepare_backend(engine: Engine) -> None:
    """Set up the backend's devices and threads, as far as nobody has used it in this process."""
    threads = engine.threads or usable_processors()
    if engine.backend == "tensorflow":
        _prepare_tensorflow(threads)
    elif engine.backend == "torch":
        _prepare_torch(threads)


def compiled_call(network: Any, input_size: tuple[int, int], engine: Engine) -> Scores:
    """Compile a network of uint8 pictures for every batch size.

    Args:
        network: maps pictures (n, height, width, 3), uint8, to scores (n, classes).
        input_size: height and width.
        engine: its ``backend`` is the one that Keras runs on.

    The call raises ModelOutOfMemory where the device has too little memory for a batch.
    """
    if engine.backend == "jax":
        return _on_jax(network)
    if engine.backend == "torch":
        return _on_torch(network)
    return _on_tensorflow(network, input_size, engine.xla)


def _prepare_tensorflow(threads: int) -> None:
    import tensorflow as tf

    try:
        # Of itself TensorFlow starts a thread for each processor of the machine, however few of
        # them the container may use.
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError:
        # Whoever used TensorFlow first in this process has settled it; serving still works.
        _logger.debug("TensorFlow runs already: it keeps its number of threads")
    for gpu in tf.config.list_physical_devices("GPU"):
        # By default TensorFlow takes the whole GPU, and a second worker on it cannot start.
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except (RuntimeError, ValueError) as error:
            _logger.warning("cannot share %s with other workers: %s", gpu.name, error)


def _prepare_torch(threads: int) -> None:
    import torch

    torch.set_num_threads(threads)


def _on_tensorflow(network: Any, input_size: tuple[int, int], xla: bool) -> Scores:
    import tensorflow as tf

    # Any batch size without a trace anew for each. XLA only if told to: it compiles each new batch
    # size for seconds, and may make a network slower on a CPU.
    call = tf.function(
        lambda images: network(images, training=False),
        input_signature=[tf.TensorSpec((None, *input_size, 3), tf.uint8)],
        autograph=False,
        jit_compile=xla or None,
    )

    def scores(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            return np.asarray(call(images).numpy(), np.float32)
        except tf.errors.ResourceExhaustedError as error:
            raise _out_of_memory(images, error) from error

    return scores


def _on_jax(network: Any) -> Scores:
    import jax

    # As arguments, not as constants of the graph: they are then held once, whatever the number of
    # batch sizes that are compiled.
    weights = jax.device_put(
        (
            [variable.value for variable in network.trainable_variables],
            [variable.value for variable in network.non_trainable_variables],
        )
    )
    call = jax.jit(
        lambda weights, images: network.stateless_call(*weights, images, training=False)[0]
    )

    def scores(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            return np.asarray(call(weights, images), np.float32)
        except jax.errors.JaxRuntimeError as error:
            raise _if_memory(images, error, "RESOURCE_EXHAUSTED") from error

    return scores


def _on_torch(network: Any) -> Scores:
    import torch

    device = next((v.value.device for v in network.variables), torch.device("cpu"))

    def scores(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        try:
            with torch.inference_mode():
                answers = network(torch.tensor(images, device=device), training=False)
                return np.asarray(answers.float().cpu().numpy(), np.float32)
        except RuntimeError as error:
            # torch.OutOfMemoryError is one, and what the CPU's allocator raises.
            raise _if_memory(images, error, "out of memory", "can't allocate memory") from error

    return scores


def _if_memory(images: NDArray[np.uint8], error: Exception, *signs: str) -> Exception:
    """Return what to raise for an error that only its text tells apart."""
    return _out_of_memory(images, error) if any(s in str(error) for s in signs) else error


def _out_of_memory(images: NDArray[np.uint8], error: Exception) -> ModelOutOfMemory:
    return ModelOutOfMemory(
        f"too little device memory for a batch of {len(images)}: {first_line(error)}"
    )
