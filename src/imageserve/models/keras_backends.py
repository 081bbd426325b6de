"""Keras's backends: threads and devices, and one compiled call of a network on each of them.

The only door to TensorFlow, JAX and PyTorch for serving. Each function imports its own library, so
that a worker on one backend needs none of the others.
"""

import logging
from typing import Any

import numpy as np

from imageserve.models.foreign import foreign
from imageserve.models.model import Pictures, Probabilities, Scores, if_memory, out_of_memory
from imageserve.models.runtimes import Engine

_logger = logging.getLogger(__name__)


def prepare_backend(engine: Engine) -> None:
    """Set up the backend's devices and threads, unless this process has already used it."""
    if engine.backend == "tensorflow":
        _prepare_tensorflow(engine.computing_threads)
    elif engine.backend == "torch":
        import torch

        torch.set_num_threads(engine.computing_threads)


def compiled_call(network: Any, shape: tuple[int | None, ...], engine: Engine) -> Scores:
    """Compile a network for every batch size.

    Args:
        network: maps pictures (n, height, width, colours), uint8, to scores (n, classes).
        shape: of the pictures; n is None unless the network takes one number of them only.
        engine: its ``backend`` is the one that Keras runs on.

    The call raises ModelOutOfMemory where the device has too little memory for a batch.
    """
    if engine.backend == "jax":
        return _on_jax(network)
    if engine.backend == "torch":
        return _on_torch(network)
    return _on_tensorflow(network, shape, engine.xla)


def _prepare_tensorflow(threads: int) -> None:
    import tensorflow as tf

    try:
        # By default TensorFlow starts a thread for each processor of the machine, even where the
        # container may use only a few of them.
        tf.config.threading.set_intra_op_parallelism_threads(threads)
    except RuntimeError:
        # It was fixed when TensorFlow was first used in this process; serving still works.
        _logger.debug("TensorFlow already runs: it keeps its number of threads")
    for gpu in tf.config.list_physical_devices("GPU"):
        # By default TensorFlow takes the whole GPU, and a second worker on it cannot start.
        try:
            tf.config.experimental.set_memory_growth(gpu, True)
        except (RuntimeError, ValueError) as error:
            _logger.warning("cannot share %s with other workers: %s", gpu.name, foreign(error))


def _on_tensorflow(network: Any, shape: tuple[int | None, ...], xla: bool) -> Scores:
    import tensorflow as tf

    # One trace serves every batch size. XLA is off by default: it compiles each new batch size for
    # seconds, and can make a network slower on a CPU.
    call = tf.function(
        lambda images: network(images, training=False),
        input_signature=[tf.TensorSpec(shape, tf.uint8)],
        autograph=False,
        jit_compile=xla or None,
    )

    def scores(images: Pictures) -> Probabilities:
        try:
            return np.asarray(call(images).numpy(), np.float32)
        except tf.errors.ResourceExhaustedError as error:
            raise out_of_memory(images, error) from error

    return scores


def _on_jax(network: Any) -> Scores:
    import jax

    # The weights are arguments, not constants of the graph: they are then held once, however many
    # batch sizes are compiled.
    weights = jax.device_put(
        (
            [variable.value for variable in network.trainable_variables],
            [variable.value for variable in network.non_trainable_variables],
        )
    )
    call = jax.jit(
        lambda weights, images: network.stateless_call(*weights, images, training=False)[0]
    )

    def scores(images: Pictures) -> Probabilities:
        try:
            return np.asarray(call(weights, images), np.float32)
        except jax.errors.JaxRuntimeError as error:
            raise if_memory(images, error, "RESOURCE_EXHAUSTED") from error

    return scores


def _on_torch(network: Any) -> Scores:
    import torch

    device = next((v.value.device for v in network.variables), torch.device("cpu"))

    def scores(images: Pictures) -> Probabilities:
        try:
            with torch.inference_mode():
                answers = network(torch.tensor(images, device=device), training=False)
                return np.asarray(answers.float().cpu().numpy(), np.float32)
        except RuntimeError as error:
            # Both torch.OutOfMemoryError and the error of the CPU's allocator are RuntimeErrors.
            raise if_memory(images, error, "out of memory", "can't allocate memory") from error

    return scores
