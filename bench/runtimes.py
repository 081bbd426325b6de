"""The engines that a worker can run a network on, and how each is set up for a measurement."""

import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path

from bench.processes import ROOT, Bed, environment, python


@dataclass(frozen=True, slots=True)
class Runtime:
    """One engine."""

    name: str
    package: str
    """What must be installed."""
    ways: tuple[str, ...]
    """Ways to call the bare model: the documented one, and the fast one."""
    settings: Mapping[str, str] = field(default_factory=dict, hash=False)
    """Settings of a worker that runs on it."""

    @property
    def is_installed(self) -> bool:
        return find_spec(self.package) is not None

    @property
    def precisions(self) -> tuple[str, ...]:
        """The precisions that can be set; an .onnx file brings its own."""
        return ("float32",) if self.name == "onnx" else ("float32", "bfloat16", "float16")


RUNTIMES = (
    Runtime("tensorflow", "tensorflow", ("predict_on_batch", "tf.function")),
    Runtime("jax", "jax", ("predict_on_batch", "jax.jit"), {"KERAS_BACKEND": "jax"}),
    Runtime("torch", "torch", ("predict_on_batch", "inference_mode"), {"KERAS_BACKEND": "torch"}),
    Runtime("onnx", "onnxruntime", ("session.run", "2 per thread"), {"MODEL_RUNTIME": "onnx"}),
)


def installed() -> list[Runtime]:
    return [runtime for runtime in RUNTIMES if runtime.is_installed]


@dataclass(frozen=True, slots=True)
class Network:
    """One classifier that is measured."""

    name: str
    size: int
    """Height and width of its pictures."""
    file: Path | None = None
    """The bundled model; None for a network of keras.applications with random weights."""


NETWORKS = {
    "mobilenet_v2": Network("mobilenet_v2", 224),
    "resnet50": Network("resnet50", 224),
    "shapes": Network("shapes", 96, ROOT / "src/imageserve/models/shapes/shapes.keras"),
}


@dataclass(frozen=True, slots=True)
class Models:
    """One network, as it is named to a worker and to the bare model."""

    worker: str
    raw: str


def models_of(bed: Bed, runtime: Runtime, network: Network) -> Models:
    """Return the names of a network; for ONNX it is exported first.

    Raises SystemExit where that fails.
    """
    if runtime.name != "onnx":
        return Models(network.name, str(network.file or network.name))
    folder = bed.directory / "onnx" / network.name
    if not folder.exists():
        _export(network.name, folder)
    return Models(str(folder), str(folder / "model.onnx"))


def _export(network: str, folder: Path) -> None:
    done = subprocess.run(
        python("-m", "imageserve", "models", "export", network, "--to", str(folder)),
        env=environment({"MODEL_WEIGHTS": "random"}),
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"bench: {network} cannot be exported:\n{done.stderr[-2000:]}")
