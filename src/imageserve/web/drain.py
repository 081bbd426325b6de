"""The drain flag: tells every web process on this machine that its end is near.

One byte of a file that all of them map into memory: looking at it costs nothing, and ``imageserve
drain`` needs neither a port nor a process id.
"""

import mmap
from pathlib import Path

FILE_NAME = "draining"


class DrainFlag:
    """One byte, shared by every process that opens the same directory."""

    def __init__(self, run_dir: Path) -> None:
        path = run_dir / FILE_NAME
        with path.open("r+b") as file:
            self._byte = mmap.mmap(file.fileno(), 1)

    @property
    def is_set(self) -> bool:
        return self._byte[0] != 0

    def set(self) -> None:
        self._byte[0] = 1


def create_flag_file(run_dir: Path) -> None:
    """Make the file anew, not set. By the parent, before the processes that look at it start."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / FILE_NAME).write_bytes(b"\0")
