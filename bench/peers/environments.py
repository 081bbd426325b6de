"""Installs the peers, pinned and hashed, each into a virtual environment of its own."""

import hashlib
import subprocess
import sys
from pathlib import Path

from bench.plan import say
from bench.processes import ROOT

PEERS = ("triton", "mosec", "litserve", "bentoml", "ray", "kserve")

_PACKAGES = {"triton": "nvidia-pytriton", "ray": "ray[serve]"}
"""The package that carries a peer, where its name differs."""

_INSTALL_S = 600.0


class NotInstalled(Exception):
    """A peer cannot be installed here; the message says why."""


def installed(peer: str) -> Path:
    """Return the ``bin`` of a peer's environment, made anew where its pins have changed.

    Raises NotInstalled.
    """
    pins = Path(__file__).with_name(f"{peer}.txt")
    place = ROOT / ".venv-peers" / peer
    stamp = place / "installed"
    expected = hashlib.sha256(pins.read_bytes()).hexdigest()
    if not stamp.exists() or stamp.read_text() != expected:
        say(f"installing {peer}")
        _install(place, pins)
        stamp.write_text(expected)
    return place / "bin"


def package(peer: str) -> str:
    """Return the package that carries a peer, and its version."""
    return f"{_PACKAGES.get(peer, peer)} {version(peer)}"


def version(peer: str) -> str:
    """Return the version that is pinned."""
    lines = Path(__file__).with_name(f"{peer}.txt").read_text().splitlines()
    pinned = f"{_PACKAGES.get(peer, peer)}=="
    return next(line.split()[0] for line in lines if line.startswith(pinned)).split("==")[1]


def _install(place: Path, pins: Path) -> None:
    _run([sys.executable, "-m", "venv", "--clear", str(place)])
    pip = [str(place / "bin" / "python"), "-m", "pip", "install", "--quiet"]
    _run([*pip, "--disable-pip-version-check", "--require-hashes", "-r", str(pins)])


def _run(command: list[str]) -> None:
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, timeout=_INSTALL_S
        )
    except subprocess.TimeoutExpired as error:
        raise NotInstalled(f"not done within {_INSTALL_S:g} s") from error
    if done.returncode:
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise NotInstalled(lines[-1] if lines else f"pip ended with {done.returncode}")
