"""The only door to ONNX Runtime: a file as one call, on the fastest device that is installed.

On a CPU a batch is computed best by threads that do not wait for each other, each with a few
pictures of its own; a single picture by all of them together. So there are two sessions.
"""

import json
import logging
import math
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from imageserve.errors import ModelLoadError, ModelOutOfMemory
from imageserve.models.classifier_checks import first_line

PIECE, MOST = 2, 4
"""How many pictures one thread computes at once: as a rule, and at most. More do not fit into its
caches between two layers, and leave threads waiting for the last one; see decision 17."""

MOST_APART = 16
"""With more threads than that no batch of 32 has two pictures for each, and a second session would
take memory for nothing."""

_OPENVINO = "OpenVINOExecutionProvider"
_LAST = "CPUExecutionProvider"
_FASTEST_FIRST = ("CUDAExecutionProvider", _OPENVINO, _LAST)
_ON_CPU = (_OPENVINO, _LAST)
_MEMORY_SIGNS = (
    "Failed to allocate",
    "Unable to allocate",
    "bad allocation",
    "bad_alloc",
    "out of memory",
    "can't start new thread",
)
_ERROR_ONLY = 3
_START_S = 30.0

_logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Tensor:
    """What a session says of an input or output, with None for a side that is left open."""

    name: str
    type: str
    shape: tuple[int | None, ...]


class OnnxSession:
    """An ``.onnx`` file, loaded. Used by one thread."""

    def __init__(self, path: Path, threads: int, precision: str = "float32") -> None:
        """Load a file for so many threads, where a CPU computes.

        ``precision`` is float32 or bfloat16; the latter where the processor has it.

        Raises:
            ModelLoadError: ONNX Runtime cannot.
        """
        if precision not in precisions():
            raise ModelLoadError(
                f"PRECISION={precision}: ONNX Runtime computes with {_fastest()} here, which takes "
                "a file as it is: install onnxruntime-openvino instead, leave PRECISION out, or "
                "set MODEL_RUNTIME=keras"
            )
        load = partial(_load, path, threads, precision)
        self._together = load(streams=1)
        # What was asked for may have had no device to work on.
        provider = self._together.get_providers()[0]
        _logger.info("ONNX Runtime computes with %s", provider)
        self.inputs = _tensors(self._together.get_inputs())
        self.outputs = _tensors(self._together.get_outputs())
        self.properties = dict(self._together.get_modelmeta().custom_metadata_map)
        self._threads = threads
        self._apart = None
        if provider in _ON_CPU and threads <= MOST_APART:
            self._apart = load(streams=threads) if threads > 1 else self._together
            self._pool = _started(threads)

    def run(self, images: NDArray[Any]) -> NDArray[Any]:
        """Return the first output for a batch.

        Raises:
            ModelOutOfMemory: the device has too little memory for it.
        """
        try:
            if self._is_for_apart(images):
                return self._run_apart(images)
            return self._answers(self._together, images)
        except Exception as error:  # ONNX Runtime's errors have no common class of their own
            if not any(sign in str(error) for sign in _MEMORY_SIGNS):
                raise
            raise ModelOutOfMemory(
                f"too little device memory for a batch of {len(images)}: {first_line(error)}"
            ) from error

    def _is_for_apart(self, images: NDArray[Any]) -> bool:
        # Below, the threads that get one picture less than the others would idle for too long.
        return self._apart is not None and len(images) >= 2 * self._threads

    def _run_apart(self, images: NDArray[Any]) -> NDArray[Any]:
        size = piece_size(len(images), self._threads)
        pieces = [images[i : i + size] for i in range(0, len(images), size)]
        return np.concatenate(list(self._pool.map(partial(self._answers, self._apart), pieces)))

    def _answers(self, session: Any, images: NDArray[Any]) -> NDArray[Any]:
        return np.asarray(session.run(None, {self.inputs[0].name: images})[0])


def precisions() -> Sequence[str]:
    """Return in what a file can be computed here."""
    return ("float32", "bfloat16") if _fastest() == _OPENVINO else ("float32",)


def piece_size(n: int, threads: int) -> int:
    """Return into pieces of what size to divide a batch, so that the last thread ends soonest."""

    def computed(size: int) -> int:
        return math.ceil(math.ceil(n / size) / threads) * size

    return min(range(1, MOST + 1), key=lambda size: (computed(size), abs(size - PIECE)))


def _started(threads: int) -> ThreadPoolExecutor:
    """Return a pool whose threads run: later there may be no memory for them."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix="onnx")
    list(pool.map(threading.Barrier(threads).wait, [_START_S] * threads))
    return pool


def _load(path: Path, threads: int, precision: str, *, streams: int) -> Any:
    """Make a session that computes ``streams`` calls at once, with so many threads on the whole."""
    provider = _fastest()
    options = onnxruntime.SessionOptions()
    # Of itself ONNX Runtime starts a thread for each processor of the machine, however few of them
    # the container may use. With one thread, whoever calls computes.
    options.intra_op_num_threads = threads // streams
    # Between two calls no thread shall spin for work: it uses up a container's CPU limit, and takes
    # the processors that web server and Redis need beside it.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # With OpenVINO, which has memory of its own, the arena is of no use, and ends the process when
    # an allocation has failed.
    options.enable_cpu_mem_arena = provider != _OPENVINO
    options.log_severity_level = _ERROR_ONLY
    own = _openvino_options(threads, streams, precision) if provider == _OPENVINO else {}
    providers = [(provider, own)]
    if provider != _LAST:
        providers.append((_LAST, {}))
    try:
        return onnxruntime.InferenceSession(str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors have no common class of their own
        raise ModelLoadError(
            f"ONNX Runtime cannot load {path} ({first_line(error)}): copy it anew, or export it "
            "anew with 'imageserve models export'"
        ) from error


def _fastest() -> str:
    available = onnxruntime.get_available_providers()
    return next(name for name in _FASTEST_FIRST if name in available)


def _openvino_options(threads: int, streams: int, precision: str) -> dict[str, str]:
    # Of itself OpenVINO computes in bfloat16 where the processor can, ties its threads to the first
    # processors of the machine, as the next worker there would, and takes as many as there are.
    config = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "ENABLE_CPU_PINNING": "NO",
        "INFERENCE_NUM_THREADS": str(threads),
        "NUM_STREAMS": str(streams),
    }
    return {"device_type": "CPU", "load_config": json.dumps({"CPU": config})}


def _tensors(declared: Sequence[Any]) -> list[Tensor]:
    return [
        Tensor(one.name, one.type, tuple(n if isinstance(n, int) else None for n in one.shape))
        for one in declared
    ]
