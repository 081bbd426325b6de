"""The whole service as real processes: redis-server, ``imageserve web``, ``imageserve worker``.

A stack writes below its own directory, listens on free ports of loopback, and ends the processes
it started and no others.
"""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, cast

from tests.redis_server import RedisServer, eventually, free_port
from tests.system.client import Client, at_once

from imageserve.config.settings import variables
from imageserve.queue.keys import Keys

START_S = 60.0
"""How long a process may take to start on a busy machine; TensorFlow takes its time."""

SOURCE = Path(__file__).parents[2] / "src"
STAND_IN = "stand-in:batch_ms=5,image_ms=0,size=64"

stacks: list["Stack"] = []
"""Running programs: their logs are shown when a test fails."""


def clean_environment() -> dict[str, str]:
    """This process's environment, without any setting of the service."""
    names = set(variables())
    kept = {name: value for name, value in os.environ.items() if name not in names}
    return {**kept, "PYTHONPATH": str(SOURCE), "TF_CPP_MIN_LOG_LEVEL": "2"}


@dataclass
class Place:
    """Where a stack's programs run, where that is not plainly this machine."""

    host: str = "127.0.0.1"
    """The web server's, seen from here."""
    command: tuple[str, ...] = ()
    """What starts the programs: their own command comes behind it."""
    redis: Callable[..., RedisServer] = RedisServer
    """Makes the Redis of an executable, a directory and options."""

    def env(self, name: str) -> Mapping[str, str]:
        """Return more variables for the program of this name."""
        del name
        return {}


class Program:
    """One ``imageserve`` command in a session of its own, with its log in a file."""

    def __init__(
        self,
        name: str,
        arguments: list[str],
        env: Mapping[str, str],
        log: Path,
        command: tuple[str, ...] = (),
    ) -> None:
        self.name = name
        self.log = log
        self.metrics_port = int(env.get("METRICS_PORT", "0"))
        with log.open("ab") as sink:
            self._process = subprocess.Popen(
                [*command, sys.executable, "-m", "imageserve", *arguments],
                env={**clean_environment(), **env},
                stdin=subprocess.DEVNULL,
                stdout=sink,
                stderr=sink,
                start_new_session=True,
            )

    @property
    def pid(self) -> int:
        return self._process.pid

    @property
    def alive(self) -> bool:
        return self._process.poll() is None

    def send(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def pause(self) -> None:
        """Freeze it; when this returns, none of its threads runs any more."""
        self.send(signal.SIGSTOP)
        eventually(lambda: is_frozen(self.pid), f"{self.name} is frozen")

    def resume(self) -> None:
        self.send(signal.SIGCONT)

    def kill(self) -> None:
        self.send(signal.SIGKILL)
        self._process.wait()

    def wait(self, timeout_s: float = START_S) -> int:
        """Wait for its end; return the exit status."""
        return self._process.wait(timeout_s)

    def end(self) -> None:
        """End it with all its children, whatever state they are in."""
        with suppress(ProcessLookupError):
            os.killpg(self.pid, signal.SIGKILL)
        self._process.wait()

    def children(self) -> list[int]:
        text = Path(f"/proc/{self.pid}/task/{self.pid}/children").read_text()
        return [int(pid) for pid in text.split()]

    def output(self) -> str:
        return self.log.read_text(errors="replace")

    def lines(self, message: str = "") -> list[dict[str, Any]]:
        """Return its log lines that contain ``message``, oldest first."""
        found = []
        for text in self.output().splitlines():
            with suppress(ValueError):
                line = json.loads(text)
                if isinstance(line, dict) and message in line.get("message", ""):
                    found.append(line)
        return found

    def batches(self) -> list[dict[str, Any]]:
        """Return the log lines of a worker's batches."""
        return [line for line in self.lines("batch") if line["message"] == "batch"]

    def done_ids(self) -> list[str]:
        return [job_id for line in self.batches() for job_id in line["ids"]]


def is_frozen(pid: int) -> bool:
    """Whether every thread of a process is stopped: a signal takes a moment to reach them."""
    try:
        states = [path.read_text() for path in Path(f"/proc/{pid}/task").glob("*/stat")]
    except OSError:
        return False  # A thread has just ended.
    return all(state.rpartition(")")[2].split()[0] == "T" for state in states)


def resident_bytes(pid: int) -> int:
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE")


class Stack:
    """A Redis, a web server and any number of workers."""

    def __init__(
        self,
        directory: Path,
        redis_program: str,
        env: Mapping[str, str],
        redis_args: tuple[str, ...],
        place: Place | None = None,
    ) -> None:
        self.directory = directory
        self.place = place = place or Place()
        self.redis = place.redis(redis_program, directory / "redis", *redis_args)
        self.port = free_port()
        self.http = Client(self.port, place.host)
        self.keys = Keys("image_queue")
        self.db = self.redis.client()
        self.programs: list[Program] = []
        self.workers: list[Program] = []
        self._web: Program | None = None
        self.env = {
            "REDIS_URL": self.redis.url,
            "WEB_HOST": "127.0.0.1",
            "WEB_PORT": str(self.port),
            "RUN_DIR": str(directory / "run"),
            "MODEL": STAND_IN,
            "BATCH_SIZE": "4",
            "METRICS_PORT": "0",
            "LOG_FORMAT": "json",
            "LOG_LEVEL": "info",
            # Most tests of an outage are of what comes after the wait.
            "OUTAGE_PATIENCE_S": "1",
            **env,
        }

    @property
    def web(self) -> Program:
        assert self._web is not None
        return self._web

    # -- starting and ending ------------------------------------------------------------------

    def run(self, name: str, *arguments: str, **env: str) -> Program:
        """Start any command with the settings of this stack."""
        log = self.directory / f"{name}.log"
        merged = {**self.env, **self.place.env(name), **env}
        program = Program(name, list(arguments), merged, log, self.place.command)
        self.programs.append(program)
        return program

    def start_web(self, *, wait: bool = True) -> None:
        self._web = self.run("web", "web")
        if wait:
            self.wait_ready()

    def wait_ready(self) -> None:
        def ready() -> bool:
            assert self.web.alive, self.web.output()
            return self.http.status_of("/readyz") == 200

        def all_listen() -> bool:
            assert self.web.alive, self.web.output()
            return self.listeners() >= processes

        def all_ready() -> bool:
            return {
                reply.status for reply in at_once([partial(self.http.get, "/readyz")] * 16)
            } == {200}

        eventually(ready, "the web server is ready", START_S)
        # Each process listens for results by itself, and has its own first contact with Redis.
        processes = int(self.env.get("WEB_PROCESSES", "2"))
        eventually(all_listen, "all web processes listen", START_S)
        eventually(all_ready, "all web processes are ready", START_S)

    def listeners(self) -> int:
        """Return how many web processes listen for results."""
        channels = cast(list[bytes], self.db.pubsub_channels("*:reply:*"))
        return len({channel.rpartition(b":")[2] for channel in channels})

    def start_worker(self, *, wait: bool = True, **env: str) -> Program:
        worker = self.run(f"worker-{len(self.workers) + 1}", "worker", **env)
        self.workers.append(worker)
        if wait:
            self.wait_working()
        return worker

    def wait_working(self) -> None:
        """Wait until every worker has loaded its model and connected to Redis."""

        def working() -> bool:
            for worker in self.workers:
                assert worker.alive or worker.lines("ready"), worker.output()
            return all(worker.lines("ready") for worker in self.workers if worker.alive)

        eventually(working, "the workers are ready", START_S)
        alive = sum(worker.alive for worker in self.workers)
        eventually(lambda: self.db.zcard(self.keys.workers) >= alive, "heartbeats", START_S)

    def end(self) -> None:
        for program in self.programs:
            program.end()
        self.redis.stop()

    def logs(self) -> Iterator[tuple[str, str]]:
        for program in self.programs:
            yield f"{program.name} ({self.directory.name})", program.output()[-6000:]

    # -- what is in Redis ---------------------------------------------------------------------

    def waiting(self) -> int:
        """Return how many jobs are waiting."""
        return int(self.db.llen(self.keys.queue)) + int(self.db.llen(self.keys.hold))

    def leased(self) -> int:
        return int(self.db.zcard(self.keys.leases))

    def worker_infos(self) -> list[bytes]:
        """Return what each worker's last heartbeat says, JSON."""
        return cast(list[bytes], self.db.hvals(self.keys.workers_info))

    def stats(self) -> dict[str, int]:
        pairs = cast(dict[bytes, bytes], self.db.hgetall(self.keys.stats))
        return {name.decode(): int(value) for name, value in pairs.items()}

    def count(self, counter: str) -> int:
        return self.stats().get(counter, 0)

    def names(self, kind: str) -> set[bytes]:
        """Return the keys of one kind: ``id`` nonces, ``p`` pixels, ``r`` results."""
        return set(self.db.scan_iter(f"{{image_queue}}:{kind}:*", count=1000))

    def keys_without_expiry(self) -> list[bytes]:
        """Return the keys without an expiry, except those that may stay."""
        may_stay = (self.keys.queue, self.keys.stats, self.keys.preparation)
        allowed = {name.encode() for name in may_stay}
        return [
            key
            for key in self.db.scan_iter(count=1000)
            if self.db.ttl(key) == -1 and key not in allowed
        ]

    def idle(self) -> bool:
        return not (self.waiting() or self.leased() or self.db.exists(self.keys.retry))

    def wait_for(self, condition: Callable[[], object], what: str, timeout_s: float = 20.0) -> None:
        eventually(condition, what, timeout_s)


@contextmanager
def running(
    directory: Path,
    redis_program: str,
    *,
    workers: int = 1,
    redis_args: tuple[str, ...] = (),
    place: Place | None = None,
    **env: str,
) -> Iterator[Stack]:
    """Start a whole stack, wait until it serves, and end it whatever happens."""
    directory.mkdir(parents=True, exist_ok=True)
    stack = Stack(directory, redis_program, env, redis_args, place)
    stacks.append(stack)
    try:
        stack.redis.start()
        stack.start_web(wait=False)
        for _ in range(workers):
            stack.start_worker(wait=False)
        stack.wait_ready()
        stack.wait_working()
        yield stack
    finally:
        stacks.remove(stack)
        stack.end()
