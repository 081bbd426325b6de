"""The runtime ONNX Runtime: an exported classifier as a Model. The only door to ONNX Runtime.

It needs neither Keras nor TensorFlow. A file that takes pictures as they are is loaded as it lies;
in front of another one, scaling and layout are put into the graph, in memory.

On a CPU there are two sessions. A large batch is split among threads that do not wait for each
other, each with a few pictures; a small one is computed by all threads together.
"""

import json
import logging
import math
import re
import threading
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from imageserve.errors import ModelLoadError
from imageserve.models.answers import check_output, in_one_row, in_probabilities
from imageserve.models.catalog import SCALINGS
from imageserve.models.files import check_file, content_version, is_version, read_labels
from imageserve.models.foreign import first_line, foreign
from imageserve.models.heads import OTHER, Head
from imageserve.models.inputs import Input, scaling_doubt, understood
from imageserve.models.model import (
    Pictures,
    Probabilities,
    ScoringModel,
    if_memory,
    in_pieces,
)
from imageserve.models.onnx_file import (
    USUAL_IR,
    USUAL_OPSET,
    OnnxFile,
    check_beside,
    read_onnx,
    weights_elsewhere,
)
from imageserve.models.runtimes import KERAS, ONNX, Engine, usable_processors
from imageserve.models.source import Source, model_version

PIECE, LARGEST_PIECE = 2, 4
"""How many pictures one thread computes at once: usually, and at most.

A larger piece does not fit into the thread's caches between two layers, and leaves other threads
waiting for the last one; see decision 17.
"""

MOST_THREADS_APART = 16
"""With more threads a batch of 32 has less than two pictures for each, so a second session would
only take memory."""

_TOO_NEW = re.compile(r"Unsupported model IR version|only \*guarantees\* support")
_NO_MAPS = "convert the classifier anew with options={'zipmap': False}"
_SCORE_TYPES = ("tensor(float)", "tensor(float16)", "tensor(double)")
_INPUT_TYPES: Mapping[str, type] = {"tensor(uint8)": np.uint8, "tensor(float)": np.float32}
_FOLDER_OF_WEIGHTS = "session.model_external_initializers_file_folder_path"
_OPENVINO = "OpenVINOExecutionProvider"
_PLAIN_CPU = "CPUExecutionProvider"
_FASTEST_FIRST = ("CUDAExecutionProvider", _OPENVINO, _PLAIN_CPU)
_ON_CPU = (_OPENVINO, _PLAIN_CPU)
_MEMORY_SIGNS = (
    "Failed to allocate",
    "Unable to allocate",
    "bad allocation",
    "bad_alloc",
    "out of memory",
    "can't start new thread",
)
_START_S = 30.0

_logger = logging.getLogger(__name__)


def precisions() -> Sequence[str]:
    """Return the precisions that this machine can compute in."""
    return ONNX.precisions if _fastest() == _OPENVINO else ("float32",)


def load(source: Source, engine: Engine) -> ScoringModel:
    """Load an ``.onnx`` classifier; see ``RuntimeModule.load``.

    It gets pictures in the type, layout and scaling that its file and facts say, and answers with
    numbers of shape (n, classes).
    """
    assert source.path is not None
    labels = read_labels(source.labels)
    check_file("the model file", source.path)
    file = read_onnx(source.path)
    if file is None:
        raise ModelLoadError(
            f"ONNX Runtime cannot load {source.path}, which is no ONNX file or cut short: copy it "
            "anew, or export it anew with 'imageserve models export'"
        )
    check_beside(source.path, file)
    taken = _taken(source, file)
    session = OnnxSession(source.path, taken, engine, source.facts.embedding)
    head = Head(source.name, _kind(file, session.outputs), source.facts.activation)
    _check_output_type(source.name, session.outputs)
    check_output(head, session.outputs, labels, _one_output(source.path, file, session))
    weights = _weights_version(source.path, file)
    model = ScoringModel(
        source.name,
        model_version(source, weights, labels),
        ONNX.name,
        taken.preparation,
        labels,
        session.scores,
        takes=taken,
        activation=source.facts.activation,
        embedding=source.facts.embedding,
        weights_version=source.facts.version or weights,
    )
    return in_probabilities(model, head.kind, _embedding_length(source, session))


def _kind(file: OnnxFile, outputs: Sequence[Any]) -> str:
    """Return what makes the output that is not the embedding."""
    kinds = dict(zip(file.outputs, file.heads, strict=True))
    return str(kinds.get(outputs[0].name, OTHER)) if outputs else OTHER


def _embedding_length(source: Source, session: "OnnxSession") -> int:
    """Return how many numbers the embedding has; 0 where there is none."""
    sides = session.embedding_sides()
    if sum(side != 1 for side in sides) > 1:
        raise ModelLoadError(
            f"{source.name} has no vector in the tensor {foreign(source.facts.embedding, 80)} but "
            f"{foreign(sides)} numbers a picture: set embedding in imageserve.yaml to one behind "
            "the pooling"
        )
    return math.prod(sides) if sides else 0


def _taken(source: Source, file: OnnxFile) -> Input:
    """Return what the file takes; what imageserve wrote contains scaling and layout already."""
    facts, scaling = source.facts, source.scaling
    if file.version and [each.dtype for each in file.inputs] == ["uint8"]:
        colour = None if facts.colour == "bgr" else facts.colour
        facts, scaling = replace(facts, layout=None, colour=colour), SCALINGS["none"]
    taken = understood(source.name, file.inputs, facts, scaling)
    if doubt := scaling_doubt(taken, facts, scales=file.scales):
        _logger.warning("%s %s", source.name, doubt)
    if file.widest_pool > max(taken.preparation.size):
        raise ModelLoadError(
            f"{source.name} averages over {file.widest_pool} pixels, more than there are, and "
            f"ONNX Runtime divides by that many in opset {file.opset}: export it with opset 19 or "
            "newer, where it does not"
        )
    return taken


def _weights_version(path: Path, file: OnnxFile) -> str:
    """Return the version that an export kept in the file, or that of its content.

    Of a file with weights beside it all is read: what is beside may have changed since the export.
    """
    if file.external:
        return content_version(path, *(part.path for part in file.external))
    return file.version if is_version(file.version) else content_version(path)


def _one_output(path: Path, file: OnnxFile, session: "OnnxSession") -> str:
    """Say how to leave the output with the probabilities."""
    if any(each.type.startswith("seq") for each in session.outputs):
        return _NO_MAPS
    scores = [
        each for each in session.outputs if each.type in _SCORE_TYPES and len(each.shape) == 2
    ]
    likely = [each for each in scores if "prob" in each.name.lower()] or scores
    if not likely:
        return "export it with one output, the probabilities"
    inputs = foreign([each.name for each in file.inputs], 60)
    return (
        "keep the one with the probabilities, with onnx.utils.extract_model"
        f"('{path.name}', '{path.name}', {inputs}, ['{foreign(likely[0].name, 60)}'])"
    )


def _check_output_type(name: str, outputs: Sequence[Any]) -> None:
    if len(outputs) != 1:
        return  # What is wrong with that is said later.
    type_ = outputs[0].type
    if type_ == "tensor(bfloat16)":
        raise ModelLoadError(
            f"{name} answers in bfloat16, which ONNX Runtime does not hand out: end the graph with "
            "a Cast to float32, and export it anew"
        )
    if type_ not in _SCORE_TYPES:
        remedy = (
            _NO_MAPS
            if type_.startswith("seq")
            else "export it with the probabilities as its output"
        )
        raise ModelLoadError(
            f"{name} answers with {foreign(type_)}, not with a probability for each class: {remedy}"
        )


class OnnxSession:
    """A loaded file on the fastest device that is installed. Used by one thread."""

    def __init__(
        self, path: Path, taken: Input, engine: Engine, embedding: str | None = None
    ) -> None:
        """Load a file, with what its input needs in front; on a CPU the engine's threads compute.

        ``embedding`` is a tensor or node of the graph, which becomes an output if it is none.

        Raises ModelLoadError where ONNX Runtime cannot load it, or lacks this precision here.
        """
        if engine.precision not in precisions():
            raise ModelLoadError(
                f"PRECISION={engine.precision}: ONNX Runtime computes with {_fastest()} here, "
                "which has only float32: install onnxruntime-openvino instead, leave PRECISION "
                f"out, or set MODEL_RUNTIME={KERAS.name}"
            )
        self._threads = threads = engine.computing_threads
        # Both sessions read the same bytes, which are freed then.
        whole, inner = _composed(path, taken, embedding)
        load = partial(_load_session, path, whole, threads, engine.precision)
        self._together = _on_fastest(path, partial(load, streams=1), engine.precision)
        # Without a device for the fastest provider, ONNX Runtime takes another one.
        provider = self._together.get_providers()[0]
        load = partial(load, provider=provider)
        _logger.info("ONNX Runtime computes with %s", provider)
        self.inputs = self._together.get_inputs()
        outputs = self._together.get_outputs()
        self.outputs = [each for each in outputs if each.name != inner]
        """Without the embedding."""
        self._names = [each.name for each in self.outputs[:1]] + ([inner] if inner else [])
        self._batch = taken.batch
        self._apart = None
        if provider in _ON_CPU and threads <= MOST_THREADS_APART:
            self._apart = load(streams=threads) if threads > 1 else self._together
            self._pool = _started_pool(threads)

    def scores(self, images: Pictures) -> Probabilities:
        """Return the first output for a batch; see ``ScoringModel.scores``."""
        given: NDArray[Any] = images.astype(_INPUT_TYPES[self.inputs[0].type], copy=False)
        try:
            return np.asarray(self._run(given), np.float32)
        except Exception as error:  # ONNX Runtime's errors have no base class of their own
            raise if_memory(images, error, *_MEMORY_SIGNS) from error

    def _run(self, images: NDArray[Any]) -> NDArray[Any]:
        # With fewer pictures, threads that get one picture less than others idle too long.
        apart = self._apart if len(images) >= 2 * self._threads else None
        if self._batch:
            pieces = in_pieces(images, self._batch)
        elif apart:
            size = piece_size(len(images), self._threads)
            pieces = [images[i : i + size] for i in range(0, len(images), size)]
        else:
            pieces = [images]
        answer = partial(self._answers, apart or self._together)
        answers = [*(self._pool.map if apart else map)(answer, pieces)]
        return (np.concatenate(answers) if len(answers) > 1 else answers[0])[: len(images)]

    def _answers(self, session: Any, images: NDArray[Any]) -> NDArray[Any]:
        first, *more = session.run(self._names, {self.inputs[0].name: images})
        return in_one_row(first, *more) if more else np.asarray(first)

    def embedding_sides(self) -> tuple[int, ...]:
        """Return the sides of the embedding of one picture; () where there is none."""
        *_, name = self._names
        if len(self._names) < 2:
            return ()
        sides = [side if isinstance(side, int) else 1 for side in self.inputs[0].shape]
        black: NDArray[Any] = np.zeros(sides, _INPUT_TYPES[self.inputs[0].type])
        (found,) = self._together.run([name], {self.inputs[0].name: black})
        return tuple(found.shape[1:])


def plain_call(
    path: Path, output: str | None = None, batch: int | None = None
) -> Callable[[NDArray[Any]], NDArray[Any]]:
    """Return a call of a file as it lies, by ONNX Runtime's own kernels: what it takes to scores.

    ``output`` names one of several, ``batch`` is the only number of rows that it takes. Raises
    ModelLoadError where ONNX Runtime cannot load it.
    """
    session = _load_session(
        path, None, usable_processors(), "float32", streams=1, provider=_PLAIN_CPU
    )
    taken = session.get_inputs()[0].name

    def call(rows: NDArray[Any]) -> NDArray[Any]:
        pieces = in_pieces(rows, batch or len(rows))
        answers = [session.run([output] if output else None, {taken: each})[0] for each in pieces]
        return np.concatenate(answers)[: len(rows)]

    return call


def _composed(path: Path, taken: Input, embedding: str | None) -> tuple[bytes | None, str | None]:
    """Return the file with what is added to it, None where nothing is, and the inner tensor."""
    if taken.takes_bytes and embedding is None:
        return None, None
    try:
        from imageserve.models.onnx_graph import composed
    except ImportError as error:
        raise ModelLoadError(
            f"{path} needs scaling, another layout or an embedding in its graph, and the package "
            f"that puts them there is missing ({first_line(error)}): pip install onnx"
        ) from error
    return composed(path, taken, embedding)


def piece_size(n: int, threads: int) -> int:
    """Return the size of the pieces of a batch with which the last thread ends soonest."""

    def computed(size: int) -> int:
        return math.ceil(math.ceil(n / size) / threads) * size

    return min(range(1, LARGEST_PIECE + 1), key=lambda size: (computed(size), abs(size - PIECE)))


def _on_fastest(path: Path, load: Callable[..., Any], precision: str) -> Any:
    """Load a session where it is fastest; with ONNX Runtime's own kernels where OpenVINO cannot."""
    try:
        return load()
    except ModelLoadError as error:
        if _fastest() != _OPENVINO or precision != "float32":
            raise
        session = load(provider=_PLAIN_CPU)
        why = foreign(str(error.__cause__).strip().rpartition("\n")[2])
        _logger.warning(
            "OpenVINO cannot compute %s (%s), so ONNX Runtime's own kernels do, which take longer",
            path,
            why,
        )
        return session


def _started_pool(threads: int) -> ThreadPoolExecutor:
    """Return a pool with all threads started: later there may be no memory for them."""
    pool = ThreadPoolExecutor(threads, thread_name_prefix=ONNX.name)
    list(pool.map(threading.Barrier(threads).wait, [_START_S] * threads))
    return pool


def _load_session(
    path: Path,
    whole: bytes | None,
    threads: int,
    precision: str,
    *,
    streams: int,
    provider: str | None = None,
) -> Any:
    """Load a file for ``streams`` calls at once, which share the threads.

    ``whole`` is what to load instead of its content; weights beside it are found all the same. The
    fastest ``provider`` computes unless one is named.
    """
    provider = provider or _fastest()
    own = _openvino_options(threads, streams, precision) if provider == _OPENVINO else {}
    providers = [(provider, own)]
    if provider != _PLAIN_CPU:
        providers.append((_PLAIN_CPU, {}))
    options = _session_options(threads // streams, has_arena=provider != _OPENVINO)
    if whole is not None:
        options.add_session_config_entry(_FOLDER_OF_WEIGHTS, str(path.parent))
    try:
        return onnxruntime.InferenceSession(whole or str(path), options, providers=providers)
    except Exception as error:  # ONNX Runtime's errors have no base class of their own
        raise ModelLoadError(
            f"ONNX Runtime {onnxruntime.__version__} cannot load {path}{_remedy_for(path, error)}"
        ) from error


def _remedy_for(path: Path, error: Exception) -> str:
    """Say why ONNX Runtime cannot load a file, and what to do."""
    file = read_onnx(path)
    elsewhere = file and weights_elsewhere(path, file)
    if elsewhere:
        return f": {elsewhere}"
    if file and _TOO_NEW.search(str(error)):
        return (
            f": it has IR version {file.ir_version} and opset {file.opset}, newer than that reads; "
            f"export it with opset {USUAL_OPSET} and IR version {USUAL_IR}, or update onnxruntime"
        )
    if file and file.custom:
        names = foreign(", ".join(file.custom))
        return (
            f": it uses operations that ONNX Runtime does not have, {names}; export it with "
            "ONNX's own"
        )
    return f" ({first_line(error)}): copy it anew, or export it anew"


def _session_options(threads: int, *, has_arena: bool) -> Any:
    options = onnxruntime.SessionOptions()
    # By default ONNX Runtime starts a thread for each processor of the machine, even where the
    # container may use only a few of them. With one thread, the caller computes.
    options.intra_op_num_threads = threads
    # Between two calls threads must not spin: spinning uses up a container's CPU limit, and takes
    # the processors from the web server and Redis.
    options.add_session_config_entry("session.force_spinning_stop", "1")
    # OpenVINO has memory of its own: there the arena is useless, and ends the process when an
    # allocation fails.
    options.enable_cpu_mem_arena = has_arena
    options.log_severity_level = 4  # Errors are raised too, and then said in our words.
    return options


def _openvino_options(threads: int, streams: int, precision: str) -> dict[str, str]:
    # By default OpenVINO computes in bfloat16 where the processor can, and takes all processors of
    # the machine. It pins its threads to the first ones, and so would the next worker there.
    config = {
        "INFERENCE_PRECISION_HINT": {"float32": "f32", "bfloat16": "bf16"}[precision],
        "ENABLE_CPU_PINNING": "NO",
        "INFERENCE_NUM_THREADS": str(threads),
        "NUM_STREAMS": str(streams),
    }
    return {"device_type": "CPU", "load_config": json.dumps({"CPU": config})}


def _fastest() -> str:
    available = onnxruntime.get_available_providers()
    return next(name for name in _FASTEST_FIRST if name in available)
