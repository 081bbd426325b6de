"""Whole systems to measure: this one and the first version, each with a Redis of its own."""

import http.client
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import redis

from bench.closed_loop import multipart_request
from bench.processes import START_S, Bed, Process, free_port, python, redis_server, wait_until

QUEUE = "image_queue"
WEB_PROCESSES = 2


@dataclass
class Redis:
    """A redis-server of ours."""

    port: int
    process: Process

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    def client(self) -> "redis.Redis":
        return redis.Redis(port=self.port)


@dataclass
class Stack:
    """A web server, its workers and its Redis."""

    name: str
    web_port: int
    redis: Redis
    processes: dict[str, Process] = field(default_factory=dict)
    starters: Mapping[str, Callable[[], Process]] = field(default_factory=dict)
    """How to start a part again that was killed."""

    def cpu_s(self) -> dict[str, float]:
        """CPU time of every role so far, all processes of a role together."""
        return {role: process.cpu_s() for role, process in self.processes.items()}


def start_redis(bed: Bed, name: str, *, aof: bool = False) -> Redis:
    """Start a Redis that keeps nothing; with ``aof`` it logs, flushed every second."""
    directory = bed.directory / name
    directory.mkdir()
    port = free_port()
    options = {
        "--bind": "127.0.0.1",
        "--port": str(port),
        "--dir": str(directory),
        "--save": "",
        "--appendonly": "yes" if aof else "no",
        "--appendfsync": "everysec",
    }
    process = bed.start(
        name, [redis_server(), *(each for pair in options.items() for each in pair)]
    )
    server = Redis(port, process)

    def answers() -> bool:
        try:
            return bool(server.client().ping())
        except redis.ConnectionError:
            return False

    wait_until(answers, f"{name} answers", process)
    return server


def start_worker(
    bed: Bed, name: str, server: Redis, model: str, settings: Mapping[str, str] | None = None
) -> Process:
    """Start one worker; it is ready some time later, see `wait_for_workers`."""
    own = {"REDIS_URL": server.url, "MODEL": model, "METRICS_PORT": "0", "MODEL_WEIGHTS": "random"}
    return bed.start(name, python("-m", "imageserve", "worker"), {**own, **(settings or {})})


def wait_for_workers(
    server: Redis, queue: str, *workers: Process, timeout_s: float = START_S
) -> None:
    client = server.client()
    wait_until(
        lambda: client.zcard(f"{{{queue}}}:workers") == len(workers),
        f"{len(workers)} workers on {queue}",
        *workers,
        timeout_s=timeout_s,
    )


def start_web(
    bed: Bed,
    name: str,
    server: Redis,
    model: str,
    port: int,
    settings: Mapping[str, str] | None = None,
) -> Process:
    """Start the web server with its two processes, and wait until it is ready."""
    own = {
        "REDIS_URL": server.url,
        "MODEL": model,
        "WEB_HOST": "127.0.0.1",
        "WEB_PORT": str(port),
        "WEB_PROCESSES": str(WEB_PROCESSES),
        "RUN_DIR": str(bed.directory / f"{name}-run"),
    }
    process = bed.start(name, python("-m", "imageserve", "web"), {**own, **(settings or {})})
    # Each process answers for itself, and a new connection may go to either.
    wait_until(lambda: all(_is_ready(port) for _ in range(8)), f"{name} is ready", process)
    return process


def start_imageserve(
    bed: Bed,
    name: str = "imageserve",
    *,
    aof: bool = False,
    settings: Mapping[str, str] | None = None,
) -> Stack:
    """Start this system: two web processes, one worker, the stand-in, default settings."""
    server = start_redis(bed, f"{name}-redis", aof=aof)

    def start() -> Process:
        return start_worker(bed, f"{name}-worker", server, "stand-in", settings)

    worker = start()
    port = free_port()
    web = start_web(bed, f"{name}-web", server, "stand-in", port, settings)
    wait_for_workers(server, QUEUE, worker)
    processes = {"web": web, "worker": worker, "Redis": server.process}
    return Stack(name, port, server, processes, {"worker": start})


def start_first_version(bed: Bed, picture: bytes) -> Stack:
    """Start the first version: its web server with a thread for every client, its model server."""
    server = start_redis(bed, "first-redis")
    port = free_port()
    settings = {"FIRST_VERSION_REDIS_PORT": str(server.port)}
    gunicorn = ["--worker-class", "gthread", "--workers", "2", "--threads", "32"]
    web = bed.start(
        "first-web",
        python(
            "-m",
            "gunicorn",
            *gunicorn,
            f"--bind=127.0.0.1:{port}",
            "bench.first_version.run_web_server:app",
        ),
        settings,
    )

    def start_model_server() -> Process:
        command = python("-m", "bench.first_version.run_model_server")
        return bed.start("first-worker", command, settings)

    worker = start_model_server()
    request = multipart_request(picture)
    wait_until(lambda: answers(port, request), "the first version answers", web, worker)
    return Stack(
        "first version",
        port,
        server,
        {"web": web, "worker": worker, "Redis": server.process},
        {"worker": start_model_server},
    )


def check_answer(stack: Stack, picture: bytes) -> None:
    """Post the picture once.

    Raises SystemExit where five labels do not come back.
    """
    if not answers(stack.web_port, multipart_request(picture)):
        raise SystemExit(f"bench: {stack.name} does not classify the picture")


def _is_ready(port: int) -> bool:
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    try:
        connection.request("GET", "/readyz")
        return connection.getresponse().status == 200
    except OSError:
        return False
    finally:
        connection.close()


def answers(port: int, request: bytes) -> bool:
    """Send one request of the load client; return whether five labels come back."""
    head, _, body = request.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    path = first.split()[1]
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
    try:
        headers = dict(line.split(": ", 1) for line in lines)
        connection.request("POST", path, body, headers)
        answer = json.loads(connection.getresponse().read())
        if "outputs" in answer:  # A tensor of the v2 protocol, whose only element is the answer.
            answer = json.loads(answer["outputs"][0]["data"][0])
        elif "success" not in answer:  # The v1 protocol answers a list.
            answer = answer["predictions"][0]
        return answer.get("success") is True and len(answer["predictions"]) == 5
    except (OSError, ValueError, LookupError, http.client.HTTPException):
        return False  # Not there yet.
    finally:
        connection.close()


def write_picture(bed: Bed, picture: bytes) -> Path:
    path = bed.directory / "photo.jpg"
    path.write_bytes(picture)
    return path
