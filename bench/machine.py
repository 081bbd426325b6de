"""What the numbers were measured on."""

import os
import platform
import re
import subprocess
import time
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

from bench.processes import redis_server


def describe() -> str:
    """Return one line: processor, memory, and the versions that matter."""
    cores = len(os.sched_getaffinity(0))
    ram_gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    parts = [
        f"{cores} cores of {processor()}",
        f"{ram_gib:.0f} GiB RAM",
        f"{platform.system()} {platform.release().partition('-')[0]}",
        f"Python {platform.python_version()}",
        f"Redis {_redis_version()}",
        *(f"{name} {_version(package)}" for name, package in _PACKAGES.items()),
    ]
    return ", ".join(parts)


def processor() -> str:
    """Return the processor's name, family, model and vector units: speeds depend on them."""
    return described_processor(Path("/proc/cpuinfo").read_text()) or platform.machine()


def described_processor(cpuinfo: str) -> str:
    """Read what /proc/cpuinfo says of the first core; empty where it names no model."""

    def told(key: str) -> str:
        match = re.search(rf"^{key}\s*: (.+)$", cpuinfo, re.MULTILINE)
        return match[1].strip() if match else ""

    name = told("model name")
    flags = set(told("flags").split())
    units = [unit for unit, flag in _VECTOR_UNITS.items() if flag in flags]
    family = f"family {told('cpu family')}, model {told('model')}"
    return name and f"{name} ({family}, {' '.join(units) or 'no vector units known'})"


class Neighbours:
    """The share of the machine that other processes used while we measured."""

    def __init__(self) -> None:
        self._began = time.monotonic()
        self._busy_s = _busy_s()
        self._own_s = _own_s()

    def share(self) -> float:
        """Return their share of all cores since the beginning.

        Our own part is known only after all our processes have ended.
        """
        others_s = (_busy_s() - self._busy_s) - (_own_s() - self._own_s)
        seconds = (time.monotonic() - self._began) * (os.cpu_count() or 1)
        return max(0.0, others_s / seconds)


def _busy_s() -> float:
    """Return what all cores did so far; time that the host gave to other machines counts too."""
    user, nice, system, _idle, _iowait, irq, softirq, steal = map(
        int, Path("/proc/stat").read_text().split()[1:9]
    )
    return (user + nice + system + irq + softirq + steal) / os.sysconf("SC_CLK_TCK")


def _own_s() -> float:
    return sum(os.times()[:4])


_VECTOR_UNITS = {
    "AVX": "avx",
    "AVX2": "avx2",
    "FMA": "fma",
    "AVX-512": "avx512f",
    "AVX-512-VNNI": "avx512_vnni",
    "AMX": "amx_tile",
}
"""Unit -> its flag in /proc/cpuinfo."""

_PACKAGES = {
    "TensorFlow": "tensorflow_cpu",
    "Keras": "keras",
    "Pillow": "pillow",
    "gunicorn": "gunicorn",
    "gevent": "gevent",
}


def _redis_version() -> str:
    said = subprocess.run(
        [redis_server(), "--version"], capture_output=True, text=True, check=True
    ).stdout
    match = re.search(r"v=(\S+)", said)
    return match[1] if match else "of an unknown version"


def _version(package: str) -> str:
    try:
        return version(package)
    except PackageNotFoundError:
        return version(package.removesuffix("_cpu"))
