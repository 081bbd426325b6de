"""Samples which Python function a web process is in, by processor time, from within.

It comes into the server by a folder of its PYTHONPATH in which Python looks when it starts.
"""

import atexit
import os
import signal
from collections import Counter
from pathlib import Path
from typing import Any

VARIABLE = "BENCH_SAMPLES"
"""The folder in which each process writes its samples."""
EVERY_S = 0.001
AFTER_S = 2.0
"""Processor time that a process needs to start."""

HOOK = """
import sys
sys.path.append({root!r})
import bench.sampler
bench.sampler.start()
"""
"""A file sitecustomize.py."""

_samples: Counter[tuple[str, str]] = Counter()


def start() -> None:
    """Sample the forks of this process. A timer in itself would end the program it becomes."""
    os.register_at_fork(after_in_child=_begin)


def _begin() -> None:
    _samples.clear()
    signal.signal(signal.SIGPROF, _sample)
    signal.setitimer(signal.ITIMER_PROF, AFTER_S, EVERY_S)
    atexit.register(_write)


def _sample(signal_number: int, frame: Any) -> None:
    code = frame.f_code
    path = "/".join(Path(code.co_filename).parts[-3:])
    _samples[path, code.co_qualname] += 1


def _write() -> None:
    signal.setitimer(signal.ITIMER_PROF, 0)
    lines = (f"{n}\t{path}:{name}\n" for (path, name), n in _samples.items())
    Path(os.environ[VARIABLE], f"{os.getpid()}.samples").write_text("".join(lines))
