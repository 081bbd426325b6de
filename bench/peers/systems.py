"""The systems that are compared, and how each is started, killed and brought back."""

import os
import signal
from collections.abc import Callable, Collection, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from bench.closed_loop import Form, picture_request
from bench.peers import triton
from bench.peers.environments import installed
from bench.processes import ROOT, Bed, Process, free_port, wait_until
from bench.stacks import Stack, answers, start_first_version, start_imageserve

OURS, FIRST = "imageserve", "first version"

WINDOWS_MS: Mapping[str, tuple[int, ...]] = {
    "triton": (0, 2, 10),  # max_queue_delay_microseconds; 0 is the default
    "mosec": (2, 10, 30),  # max_wait_time; 10 is the default
    "litserve": (0, 10, 30),  # batch_timeout; 0 is the default
    "bentoml": (100, 1_000, 60_000),  # max_latency_ms, a target; 60 s is the default
    "ray": (2, 10, 30),  # batch_wait_timeout_s; 10 is the default
    "kserve": (0,),  # It does not batch.
}

SHOWN = {
    "triton": "Triton",
    "mosec": "mosec",
    "litserve": "LitServe",
    "bentoml": "BentoML",
    "ray": "Ray Serve",
    "kserve": "KServe",
}

_FORMS = {
    "triton": Form.V2,
    "mosec": Form.PLAIN,
    "litserve": Form.MULTIPART,
    "bentoml": Form.MULTIPART,
    "ray": Form.PLAIN,
    "kserve": Form.V1,
}


@dataclass
class System:
    """A system that answers."""

    name: str
    web_port: int
    processes: dict[str, Process]
    form: Form = Form.MULTIPART
    model_pid: Callable[[], int] = field(default=lambda: 0)
    """Find the process that runs the model."""
    starters: Mapping[str, Callable[[], Process]] = field(default_factory=dict)
    """How to restart each part that is killed and does not restart by itself."""
    polls: bool = False
    """Whether it uses CPU time while idle: LitServe takes most of a core."""

    def cpu_s(self) -> dict[str, float]:
        """CPU time of every role so far, all processes of a role together."""
        return {role: process.cpu_s() for role, process in self.processes.items()}

    def kill_model(self) -> None:
        os.kill(self.model_pid(), signal.SIGKILL)

    def freeze(self) -> None:
        """Stop it where it would disturb the system that is measured."""
        self._signal(signal.SIGSTOP)

    def thaw(self) -> None:
        self._signal(signal.SIGCONT)

    @contextmanager
    def thawed(self) -> Iterator[None]:
        self.thaw()
        try:
            yield
        finally:
            self.freeze()

    def _signal(self, number: signal.Signals) -> None:
        for process in self.processes.values() if self.polls else ():
            for pid in process.pids():
                with suppress(ProcessLookupError):
                    os.kill(pid, number)

    def revive(self) -> None:
        """Start what has ended, as Kubernetes would."""
        for role, start in self.starters.items():
            if self.processes[role].popen.poll() is not None:
                self.processes[role] = start()


@contextmanager
def in_turns(systems: Collection[System]) -> Iterator[None]:
    """Freeze all that would disturb the others; each is thawed for its own measurements."""
    try:
        for system in systems:
            system.freeze()
        yield
    finally:
        for system in systems:  # A frozen process does not receive SIGTERM.
            system.thaw()


def start_ours(bed: Bed, settings: Mapping[str, str] | None = None) -> System:
    """Start this system, two web processes and one worker, as it is shipped but for ``settings``.

    Raises SystemExit where it does not start.
    """
    return _with_worker(OURS, start_imageserve(bed, f"{OURS}-{free_port()}", settings=settings))


def start_first(bed: Bed, picture: bytes) -> System:
    """Start the first version.

    Raises SystemExit where it does not start.
    """
    return _with_worker(FIRST, start_first_version(bed, picture))


def _with_worker(name: str, stack: Stack) -> System:
    system = System(name, stack.web_port, dict(stack.processes), starters=stack.starters)
    system.model_pid = lambda: system.processes["worker"].popen.pid
    return system


def start_peer(
    bed: Bed,
    peer: str,
    window_ms: int,
    decode: str,
    picture: bytes,
    more: Mapping[str, str] | None = None,
) -> System:
    """Start a peer; ``decode`` is ``own``, as its users write it, or ``identical`` to ours.

    ``more`` are further settings of the servers, see ``servers/shared.py``.

    Raises SystemExit where it does not start, NotInstalled where it is not there.
    """
    port = free_port()
    name = f"{peer}-{window_ms}-{decode}-{port}"
    pid_file = bed.directory / f"{name}.pid"
    settings = {**_settings(bed, port, window_ms, decode, pid_file), **(more or {})}
    programs = installed(peer)
    if peer == "triton":
        settings |= triton.settings(programs, ROOT)
        triton.write_repository(bed.directory / name, settings)
        command = triton.command(programs, bed.directory / name, port)
    else:
        command = _command(peer, programs, port)

    def start() -> Process:
        return bed.start(name, command, settings)

    # KServe's parent kills a process of its own that does not answer within 5 s.
    is_frozen = peer != "kserve"
    system = System(SHOWN[peer], port, {"all": start()}, _FORMS[peer], polls=is_frozen)
    system.model_pid = lambda: int(pid_file.read_text())
    system.starters = {"all": start}
    _wait_for_answer(system, picture, system.processes["all"])
    return system


def _settings(
    bed: Bed, port: int, window_ms: int, decode: str, pid_file: Path
) -> Mapping[str, str]:
    return {
        "PYTHONPATH": str(ROOT),
        "PEER_PORT": str(port),
        "PEER_SECOND_PORT": str(free_port()),
        "PEER_THIRD_PORT": str(free_port()),
        "PEER_WINDOW_MS": str(window_ms),
        "PEER_DECODE": decode,
        "PEER_PID_FILE": str(pid_file),
        "BENTOML_HOME": str(bed.directory / "bentoml"),
        "BENTOML_DO_NOT_TRACK": "True",
        "RAY_TMPDIR": str(bed.directory),
        "RAY_USAGE_STATS_ENABLED": "0",
    }


def _command(peer: str, programs: Path, port: int) -> list[str]:
    if peer == "bentoml":
        service = "bench.peers.servers.bentoml_service:Classify"
        options = ["--host", "127.0.0.1", "--port", str(port)]
        return [str(programs / "bentoml"), "serve", service, *options]
    return [str(programs / "python"), "-m", f"bench.peers.servers.{peer}_server"]


def _wait_for_answer(system: System, picture: bytes, process: Process) -> None:
    request = picture_request(system.form, picture)
    wait_until(lambda: answers(system.web_port, request), f"{system.name} answers", process)
