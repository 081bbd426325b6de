"""The HTTP port for probes and metrics."""

import errno
import http.client
import logging
import socket
import socketserver
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from itertools import pairwise

import pytest
from tests.redis_server import eventually

from imageserve import metrics, probes
from imageserve.errors import SettingsError
from imageserve.probes import MOST_CONNECTIONS, Answer, ProbeServer, state_answer


class State:
    warm = True
    healthy = True
    ready = True
    reason = "not ready"


Get = Callable[[str], tuple[int, str]]


@pytest.fixture(scope="module")
def shared_state() -> State:
    return State()


@pytest.fixture
def state(shared_state: State) -> State:
    shared_state.warm = shared_state.healthy = shared_state.ready = True
    shared_state.reason = "not ready"
    return shared_state


@pytest.fixture(scope="module")
def server(shared_state: State) -> Iterator[ProbeServer]:
    server = ProbeServer(
        0,
        {
            "/startupz": lambda: state_answer(shared_state.warm, b"warm\n", b"loading\n"),
            "/healthz": lambda: state_answer(shared_state.healthy, b"ok\n", b"it hangs\n"),
            "/readyz": lambda: state_answer(
                shared_state.ready, b"ready\n", f"{shared_state.reason}\n".encode()
            ),
            "/metrics": lambda: (200, metrics.CONTENT_TYPE, metrics.exposition()),
        },
    )
    server.start()
    yield server
    server._server.shutdown()
    server._server.server_close()


@pytest.fixture
def get(server: ProbeServer) -> Get:
    def ask(path: str) -> tuple[int, str]:
        connection = http.client.HTTPConnection("127.0.0.1", server.port, timeout=10)
        try:
            connection.request("GET", path)
            response = connection.getresponse()
            return response.status, response.read().decode()
        finally:
            connection.close()

    return ask


def test_each_request_checks_the_current_state(state: State, get: Get) -> None:
    assert (get("/healthz"), get("/readyz")) == ((200, "ok\n"), (200, "ready\n"))

    state.warm = False
    assert get("/startupz") == (503, "loading\n")

    state.healthy = False
    assert (get("/healthz"), get("/readyz")) == ((503, "it hangs\n"), (200, "ready\n"))

    state.healthy, state.ready = True, False
    assert (get("/healthz"), get("/readyz")) == ((200, "ok\n"), (503, "not ready\n"))


def test_the_reason_why_it_is_not_ready_is_shown(get: Get, state: State) -> None:
    state.ready, state.reason = False, "the model file /m/a.keras does not exist"

    assert get("/readyz") == (503, "the model file /m/a.keras does not exist\n")


def test_the_metrics_are_prometheus_text(get: Get) -> None:
    status, text = get("/metrics")

    assert status == 200
    assert "# TYPE imageserve_batches_total counter" in text


def test_a_query_does_not_matter(get: Get) -> None:
    assert get("/healthz?verbose=1")[0] == 200


@pytest.mark.parametrize("path", ["/", "/health", "/healthz/"])
def test_other_paths_are_not_found(get: Get, path: str) -> None:
    assert get(path) == (404, "not found\n")


def test_probes_are_logged_at_debug_only(get: Get, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)

    get("/healthz")

    assert [record.levelno for record in caplog.records] == [logging.DEBUG]


def test_a_client_that_has_given_up_leaves_no_traceback(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    """As after a freeze: the kubelet's probes have timed out before they are answered."""
    caplog.set_level(logging.DEBUG)
    gone = threading.Event()

    def late() -> Answer:
        assert gone.wait(10)
        return 200, "text/plain", bytes(10_000_000)

    with serving({"/late": late}) as port:
        client = socket.create_connection(("127.0.0.1", port))
        client.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        client.sendall(b"GET /late HTTP/1.1\r\nHost: a\r\n\r\n")
        client.close()
        gone.set()
        eventually(lambda: "has gone" in caplog.text, "the answer failed")

    assert capfd.readouterr() == ("", "")
    assert {record.levelno for record in caplog.records} == {logging.DEBUG}


def test_a_bug_in_an_answer_is_a_log_line(
    caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str]
) -> None:
    def broken() -> Answer:
        raise KeyError("x")

    with serving({"/broken": broken}) as port:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=10)
        connection.request("GET", "/broken")
        with pytest.raises(http.client.RemoteDisconnected):
            connection.getresponse()

    (record,) = [each for each in caplog.records if each.levelno == logging.CRITICAL]
    assert record.exc_info is not None
    assert capfd.readouterr() == ("", "")


@contextmanager
def serving(answers: dict[str, Callable[[], Answer]]) -> Iterator[int]:
    server = ProbeServer(0, answers)
    server.start()
    try:
        yield server.port
    finally:
        server._server.shutdown()
        server._server.server_close()


def test_a_port_that_is_taken_is_a_wrong_setting(server: ProbeServer) -> None:
    with pytest.raises(SettingsError, match=f"METRICS_PORT: port {server.port} cannot be used"):
        ProbeServer(server.port, {})


HOLDING = """
import os, socket, time
from imageserve.probes import ProbeServer

def sockets():
    files = [f"/proc/self/fd/{name}" for name in os.listdir("/proc/self/fd")]
    return sum(os.readlink(f).startswith("socket:") for f in files if os.path.islink(f))

server = ProbeServer(0, {})
server.start()
clients = [socket.create_connection(("127.0.0.1", server.port)) for _ in range(20)]
while sockets() < 41 or len(server._server.connections) < 20:
    time.sleep(0.01)
if os.fork() == 0:
    server.close()
    print(sockets() - len(clients), flush=True)
    os._exit(0)
os.wait()
print(sockets() - len(clients))
"""


@pytest.mark.skipif(sys.platform != "linux", reason="reads /proc")
def test_a_process_that_is_forked_keeps_no_connection_of_the_port() -> None:
    found = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", HOLDING], capture_output=True, timeout=30, check=True
    )
    assert found.stdout.split() == [b"0", b"21"], found.stderr


def is_closed(client: socket.socket) -> bool:
    client.setblocking(False)
    try:
        return client.recv(1) == b""
    except BlockingIOError:
        return False
    except ConnectionError:
        return True


def test_idle_connections_keep_no_probe_from_its_answer(
    server: ProbeServer, get: Get, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The oldest of them are closed."""
    monkeypatch.setattr(probes, "CONNECTION_S", 1000.0)
    with ExitStack() as clients:
        idle = [
            clients.enter_context(socket.create_connection(("127.0.0.1", server.port)))
            for _ in range(MOST_CONNECTIONS + 40)
        ]
        assert get("/healthz") == (200, "ok\n")
        eventually(lambda: all(map(is_closed, idle[:40])), "the oldest are closed")
        eventually(lambda: len(server._server.connections) <= MOST_CONNECTIONS, "few are left")


def test_a_client_that_drips_is_cut_off(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probes, "CONNECTION_S", 1.0)
    with serving({}) as port, socket.create_connection(("127.0.0.1", port)) as client:

        def is_cut_off() -> bool:
            with suppress(ConnectionError):
                client.send(b"G")
            return is_closed(client)

        eventually(is_cut_off, "it is closed")


def test_without_a_free_descriptor_the_loop_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    refused: list[float] = []

    def no_descriptor(server: object) -> None:
        refused.append(time.monotonic())
        raise OSError(errno.EMFILE, "too many open files")

    with serving({"/a": lambda: (200, "text/plain", b"a")}) as port:
        with monkeypatch.context() as patch:
            patch.setattr(socketserver.TCPServer, "get_request", no_descriptor)
            client = socket.create_connection(("127.0.0.1", port))
            eventually(lambda: len(refused) >= 3, "it has tried some times")
        assert min(b - a for a, b in pairwise(refused)) >= 0.05
        with client:
            client.sendall(b"GET /a HTTP/1.0\r\n\r\n")
            assert client.recv(100).startswith(b"HTTP/1.0 200")
