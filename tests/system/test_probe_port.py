"""Probes on a port of their own tell what those on the main port do; no load reaches them."""

import os
import signal
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from tests.redis_server import free_port
from tests.system.client import Client
from tests.system.conftest import MakeStack
from tests.system.stack import Stack, is_frozen, stacks
from tests.system.test_starting import run


@pytest.fixture
def unstarted(tmp_path: Path, redis_program: str) -> Iterator[Stack]:
    stack = Stack(tmp_path, redis_program, {"WEB_PROBE_PORT": str(free_port())}, ())
    stacks.append(stack)
    yield stack
    stacks.remove(stack)
    stack.end()


def probes_of(stack: Stack) -> Client:
    return Client(int(stack.env["WEB_PROBE_PORT"]))


def told(stack: Stack) -> str:
    return str(probes_of(stack).get("/readyz").json["status"])


def test_it_tells_when_the_server_waits_is_ready_and_drains(unstarted: Stack) -> None:
    stack = unstarted
    probes = probes_of(stack)
    stack.start_web(wait=False)
    stack.wait_for(lambda: probes.status_of("/healthz") == 200, "a web process lives", 60)
    assert (probes.status_of("/readyz"), told(stack)) == (503, "waiting for Redis")
    assert stack.http.get("/readyz").json == probes.get("/readyz").json

    stack.redis.start()
    stack.wait_for(lambda: probes.status_of("/readyz") == 200, "it is ready")
    assert probes.status_of("/predict") == 404

    assert stack.run("drain", "drain", "--wait", "0").wait() == 0
    assert (probes.status_of("/readyz"), told(stack)) == (503, "draining")
    assert probes.status_of("/healthz") == 200


def test_no_state_of_the_web_processes_delays_it_and_none_of_them_holds_its_port(
    make_stack: MakeStack,
) -> None:
    stack = make_stack(WEB_PROBE_PORT=str(free_port()), workers=0)
    probes = probes_of(stack)
    stack.wait_for(lambda: probes.status_of("/readyz") == 200, "it is ready")
    children = stack.web.children()
    for pid in children:  # They can answer nothing now, as under any load.
        os.kill(pid, signal.SIGSTOP)
    stack.wait_for(lambda: all(map(is_frozen, children)), "they are frozen")
    began = time.monotonic()
    assert [probes.status_of(path) for path in ["/healthz", "/readyz"] * 5] == [200] * 10
    assert time.monotonic() - began < 5
    for pid in children:
        os.kill(pid, signal.SIGCONT)

    os.kill(children[0], signal.SIGKILL)
    stack.wait_for(lambda: probes.status_of("/readyz") == 200, "the other one serves")
    stack.wait_for(lambda: len(set(stack.web.children()) - {children[0]}) == 2, "a new one")

    stack.web.send(signal.SIGKILL)
    stack.web.wait()
    assert probes.status_of("/healthz") == 0, "the web processes have not inherited the port"


def test_a_port_that_is_taken_stops_the_server_and_is_named() -> None:
    with socket.create_server(("", 0)) as taken:
        ended = run(
            "web",
            WEB_PROBE_PORT=str(taken.getsockname()[1]),
            WEB_PORT=str(free_port()),
            REDIS_URL=f"redis://127.0.0.1:{free_port()}",
        )
    assert ended.returncode == 1
    assert "WEB_PROBE_PORT" in ended.stderr.splitlines()[-1]
    assert "Traceback" not in ended.stderr
