"""The bare model in a process of its own, asked in turns with a worker or before one."""

import json
import subprocess
from collections.abc import Mapping

from bench.processes import Bed, python
from bench.runtimes import Runtime


class RawFailed(SystemExit):
    """The bare model has ended."""


class Raw:
    """A network on one runtime, without anything of ours around it."""

    def __init__(
        self,
        bed: Bed,
        runtime: Runtime,
        model: str,
        *,
        precision: str = "float32",
        settings: Mapping[str, str] | None = None,
    ) -> None:
        """``model`` is a name or a path, see `models_of`."""
        self._log = f"raw-{runtime.name}-{precision}"
        self._directory = bed.directory
        self._process: subprocess.Popen[str] = bed.start_talking(
            self._log,
            python("-m", "bench.raw_model", model, runtime.name, precision),
            settings,
        )

    def wait_ready(self) -> None:
        if self._read() != "ready":
            raise self._failure()

    def seconds(self, batch_size: int, batches: int) -> dict[str, float]:
        """Return how long each way of calling took for ``batches`` batches.

        Raises RawFailed where the model fails, for example out of memory.
        """
        assert self._process.stdin is not None
        print(batch_size, batches, file=self._process.stdin, flush=True)
        answer = self._read()
        if not answer:
            raise self._failure()
        seconds: dict[str, float] = json.loads(answer)
        return seconds

    def stop(self) -> None:
        """End it: a device's memory is then free for the next."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def _failure(self) -> RawFailed:
        said = (self._directory / f"{self._log}.log").read_text(errors="replace")[-2000:]
        return RawFailed(f"bench: the bare model fails:\n{said}")
