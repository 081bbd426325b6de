"""The table of runtimes: everything that can run a model. See `RUNTIMES` for how to add one.

Importing this imports no runtime, so the web server may ask the table as well.
"""

import math
import os
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

from imageserve.config.choices import DEFAULT_BACKEND, DEFAULT_PRECISION, PRECISIONS
from imageserve.errors import ModelLoadError
from imageserve.models.files import only_file
from imageserve.models.foreign import first_line
from imageserve.models.keras_file import read_keras, saved_model_input
from imageserve.models.onnx_file import read_onnx

if TYPE_CHECKING:
    from imageserve.models.model import ScoringModel
    from imageserve.models.source import Source


@dataclass(frozen=True, slots=True)
class Engine:
    """How a process runs its models, from the settings."""

    runtime: str | None = None
    """A key of `RUNTIMES`; None takes the first that can run the model."""
    backend: str = DEFAULT_BACKEND
    """What Keras runs on, one of `BACKENDS`. It cannot change once Keras has been imported."""
    precision: str = DEFAULT_PRECISION
    """What most layers compute in, one of `PRECISIONS`. Weights and answers stay float32."""
    xla: bool = False
    """Whether TensorFlow compiles with XLA. JAX always does."""
    threads: int | None = None
    """Limit of computing threads; None: one for each processor this process may use."""

    @property
    def computing_threads(self) -> int:
        return self.threads or usable_processors()


class RuntimeModule(Protocol):
    """What the file of a runtime defines."""

    def load(self, source: "Source", engine: Engine) -> "ScoringModel":
        """Load a model and check that it can serve.

        Raises:
            ModelLoadError: the files, the labels or the settings do not fit.
        """

    def precisions(self) -> Sequence[str]:
        """Return the precisions that this machine can compute in."""


@dataclass(frozen=True, slots=True)
class Runtime:
    """One way to run models."""

    name: str
    """Its name in MODEL_RUNTIME."""
    title: str
    """Its name in messages."""
    file_ending: str
    """How the file of a model in one file ends."""
    folder_files: tuple[str, ...]
    """The names its model may have in a model folder; `models export` writes the first."""
    precisions: tuple[str, ...]
    """The values of PRECISION that it may have; the machine may lack some of them."""
    load_module: Callable[[Engine], RuntimeModule]
    """Imports the file of the runtime, and with it the library."""
    install: str
    """What to do where the library is missing; ``{backend}`` is the setting."""
    read_input: Callable[[Path], tuple[int | None, ...]] = lambda path: ()
    """Returns the shape that a model declares, without loading it; () where it does not. Raises
    OSError."""
    folder_marker: str | None = None
    """A folder that holds a file of this name is itself the model."""
    has_backends: bool = False
    """Whether KERAS_BACKEND says what it runs on."""
    has_xla: bool = False
    write: Callable[["ScoringModel", Path], None] | None = None
    """Writes a model of `SOURCE_RUNTIME` for this one, for `models export` and `models bench`."""

    def module(self, engine: Engine) -> RuntimeModule:
        """Import the runtime. Raises ModelLoadError where it is not installed."""
        try:
            return self.load_module(engine)
        except ImportError as error:
            raise ModelLoadError(
                f"{self._full_title(engine)} cannot be used here ({first_line(error)}): "
                f"{self.install.format(backend=engine.backend)}"
            ) from error

    def check(self, engine: Engine) -> None:
        """Raise ModelLoadError where the settings ask for something that only others have."""
        if engine.precision not in self.precisions:
            able = [each for each in RUNTIMES.values() if engine.precision in each.precisions]
            raise _only_for(f"PRECISION={engine.precision}", able)
        if engine.xla and not self.has_xla:
            raise _only_for("XLA", [each for each in RUNTIMES.values() if each.has_xla])

    def find_in(self, folder: Path) -> Path | None:
        """Return the model of this runtime in a model folder, None where there is none.

        Raises ModelLoadError where there are several.
        """
        if self.folder_marker and (folder / self.folder_marker).exists():
            return folder
        return only_file(folder, *self.folder_files)

    def describe(self, engine: Engine) -> str:
        """Say in a sentence what computes, and how."""
        xla = ", XLA" if engine.xla else ""
        return f"{self._full_title(engine)}, {engine.precision}{xla}"

    def column(self, engine: Engine) -> str:
        """Return the name of its column in the table of `models bench`."""
        backend = [engine.backend] if self.has_backends else []
        return " ".join([self.name, *backend, engine.precision])

    def _full_title(self, engine: Engine) -> str:
        return f"{self.title} on {engine.backend}" if self.has_backends else self.title


def _keras_input(path: Path) -> tuple[int | None, ...]:
    if path.is_dir():
        return saved_model_input(path)
    found = read_keras(path)
    return found.input if found else ()


def _onnx_input(path: Path) -> tuple[int | None, ...]:
    found = read_onnx(path)
    return found.inputs[0].shape if found and found.inputs else ()


def _import_keras(engine: Engine) -> RuntimeModule:
    os.environ["KERAS_BACKEND"] = engine.backend  # Keras reads it once, when it is imported.
    from imageserve.models import keras_model

    return keras_model


def _import_onnx(engine: Engine) -> RuntimeModule:
    del engine
    from imageserve.models import onnx_model

    return onnx_model


def _write_onnx(model: "ScoringModel", path: Path) -> None:
    from imageserve.models import export

    export.write_onnx(model, path)


KERAS = Runtime(
    name="keras",
    title="Keras",
    file_ending=".keras",
    folder_files=("model.keras", "saved_model/"),
    folder_marker="saved_model.pb",
    precisions=PRECISIONS,
    has_backends=True,
    has_xla=True,
    load_module=_import_keras,
    read_input=_keras_input,
    install="install keras and {backend}, or set KERAS_BACKEND or MODEL_RUNTIME to what is "
    "installed; pip install 'imageserve[worker]' brings keras and tensorflow",
)

ONNX = Runtime(
    name="onnx",
    title="ONNX Runtime",
    file_ending=".onnx",
    folder_files=("model.onnx", "onnx/model.onnx"),
    precisions=("float32", "bfloat16"),
    load_module=_import_onnx,
    read_input=_onnx_input,
    install="use the image imageserve/model-onnx or pip install 'imageserve[onnx]', or set "
    "MODEL_RUNTIME=keras where there is a Keras model too",
    write=_write_onnx,
)

RUNTIMES: dict[str, Runtime] = {row.name: row for row in (KERAS, ONNX)}
"""By name. A model folder that holds models for several is run by the first of them.

To add a runtime, write a file such as ``onnx_model.py``, which defines what `RuntimeModule` says,
and add a row here and its name to `choices.RUNTIMES`. Everything else asks the table.
"""

SOURCE_RUNTIME = KERAS
"""Models are exported from this one, and others are compared with its answers in float32."""


def runtime_of_file(path: str | Path) -> Runtime | None:
    """Return the runtime of a model in one file, None where the name has another ending."""
    return next((each for each in RUNTIMES.values() if str(path).endswith(each.file_ending)), None)


def file_endings() -> str:
    """Return the endings of models in one file, for messages."""
    return _or(each.file_ending for each in RUNTIMES.values())


def folder_files() -> str:
    """Return the names of models in a model folder, for messages."""
    return _or(name for each in RUNTIMES.values() for name in each.folder_files)


def writable() -> list[str]:
    """Return the names of the runtimes that a model can be exported for."""
    return [name for name, each in RUNTIMES.items() if each.write]


def usable_processors(cgroup: Path = Path("/sys/fs/cgroup")) -> int:
    """Return how many processors affinity and the container's CPU limit leave, at least 1.

    A limit of 1.5 gives 2: one thread would leave a third of the limit unused.
    """
    return max(1, math.ceil(granted_processors(cgroup)))


def granted_processors(cgroup: Path = Path("/sys/fs/cgroup")) -> float:
    """Return how much processor time a second affinity and the container's CPU limit leave."""
    granted = len(os.sched_getaffinity(0))
    quota, _, period = _read(cgroup / "cpu.max").partition(" ")
    if not period:  # cgroup v1
        quota, period = (
            _read(cgroup / "cpu" / f"cpu.cfs_{each}_us") for each in ("quota", "period")
        )
    if not (quota.isdigit() and period.isdigit()):  # Without a limit v1 says -1, and v2 says max.
        return granted
    return min(granted, int(quota) / int(period))


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except OSError:
        return ""


def _only_for(setting: str, rows: Sequence[Runtime]) -> ModelLoadError:
    return ModelLoadError(
        f"{setting} is for {_or(row.title for row in rows)}: leave it out, or set "
        f"{_or(f'MODEL_RUNTIME={row.name}' for row in rows)}"
    )


def _or(words: Iterable[str]) -> str:
    """Join words as in "a, b or c"."""
    *most, last = words
    return f"{', '.join(most)} or {last}" if most else last
