"""A small file system for Redis, which can be filled and emptied."""

import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import TemporaryDirectory

from tests.system.stack import Place

SIZE = "192m"
"""Enough for what Redis appends in one scenario; it takes memory only while it is filled."""


@dataclass
class SmallDisk(Place):
    """The place of a Redis whose directory is a file system of its own."""

    mount: Path = field(default_factory=Path)

    def fill(self) -> None:
        with self._ballast.open("wb") as file:
            end = 0
            for piece in (2**20, 2**12):  # Redis writes meanwhile, so nobody knows what is free.
                with suppress(OSError):
                    while True:
                        os.posix_fallocate(file.fileno(), end, piece)
                        end += piece

    def empty(self) -> None:
        self._ballast.unlink()

    @property
    def _ballast(self) -> Path:
        return self.mount / "ballast"


def missing_right() -> str:
    with TemporaryDirectory() as folder:
        if subprocess.run(_mount(folder), capture_output=True, check=False).returncode:
            return "CAP_SYS_ADMIN (root has it): it mounts a small file system"
        _unmount(folder)
    return ""


@contextmanager
def small_disk(directory: Path) -> Iterator[SmallDisk]:
    """Mount it where the stack's Redis will write."""
    mount = directory / "redis"
    mount.mkdir(parents=True)
    subprocess.run(_mount(str(mount)), check=True)
    try:
        yield SmallDisk(mount=mount)
    finally:
        _unmount(str(mount))


def _mount(folder: str) -> list[str]:
    return ["mount", "-t", "tmpfs", "-o", f"size={SIZE},mode=700", "chaos", folder]


def _unmount(folder: str) -> None:
    subprocess.run(["umount", folder], check=True)
