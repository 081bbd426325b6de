"""Wall clocks that jump: one for the web server, one for all workers, one for Redis."""

import shutil
import struct
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from tests.redis_server import RedisServer
from tests.system.stack import Place

SOURCE = Path(__file__).with_name("clock.c")
OWNERS = ("web", "worker", "redis")


@dataclass
class Clocks(Place):
    """The place of programs whose wall clocks can be moved."""

    folder: Path = field(default_factory=Path)

    def env(self, name: str) -> Mapping[str, str]:
        owner = name.partition("-")[0]
        library = str(self.folder / "clock.so")
        return {"LD_PRELOAD": library, "CLOCK_FILE": str(self.file(owner))}

    def file(self, owner: str) -> Path:
        return self.folder / f"clock-of-{owner}"

    def move(self, owner: str, seconds: int) -> None:
        """Set how far this clock is ahead of the true one."""
        # In place: the programs have this very file in their memory.
        with self.file(owner).open("r+b") as file:
            file.write(struct.pack("q", seconds))


def missing_right() -> str:
    return "" if shutil.which("gcc") else "the program gcc"


@contextmanager
def clocks(directory: Path) -> Iterator[Clocks]:
    directory.mkdir(parents=True, exist_ok=True)
    library = str(directory / "clock.so")
    command = ["gcc", "-shared", "-fPIC", "-O1", "-Wall", "-o", library, str(SOURCE), "-ldl"]
    subprocess.run(command, check=True)
    place = Clocks(folder=directory)
    for owner in OWNERS:
        place.file(owner).write_bytes(struct.pack("q", 0))
    place.redis = partial(RedisServer, env=place.env("redis"))
    yield place
