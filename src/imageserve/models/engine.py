"""How a process runs its models: the settings of the engine, without any engine. Pure."""

from dataclasses import dataclass

from imageserve.config.choices import DEFAULT_BACKEND, DEFAULT_PRECISION
from imageserve.errors import ModelLoadError


@dataclass(frozen=True, slots=True)
class Engine:
    """What all models of one process have in common."""

    runtime: str | None = None
    """One of `RUNTIMES`; None takes what fits the model: ONNX Runtime for .onnx, else Keras."""
    backend: str = DEFAULT_BACKEND
    """What Keras runs on, one of `BACKENDS`. Keras settles on one when it is first imported."""
    precision: str = DEFAULT_PRECISION
    """In what most layers compute, one of `PRECISIONS`. Weights and answers stay float32."""
    xla: bool = False
    """Whether TensorFlow compiles with XLA. JAX always does."""
    threads: int | None = None
    """How many threads may compute; None for as many as this process has processors."""

    def check_keras(self) -> None:
        """Raise ModelLoadError where these settings do not fit Keras's backend."""
        if self.xla and self.backend == "torch":
            raise ModelLoadError("XLA: the torch backend has none; leave it out")

    def check_onnx(self) -> None:
        """Raise ModelLoadError where these settings do not fit ONNX Runtime."""
        if self.precision == "float16":
            raise ModelLoadError(
                "PRECISION=float16 is for Keras: leave it out, take bfloat16, or set "
                "MODEL_RUNTIME=keras"
            )
        if self.xla:
            raise ModelLoadError("XLA is for Keras: leave it out, or set MODEL_RUNTIME=keras")
