"""How gunicorn is configured, and what it does in its master process."""

import gc
import os
import resource
import socket
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from gunicorn.http.parser import RequestParser
from gunicorn.workers import ggevent
from gunicorn.workers.ggevent import GeventWorker

from imageserve import metrics
from imageserve.config.settings import Settings
from imageserve.web import server, wsgi
from imageserve.web.lifecycle import DrainFlag, Lifecycle
from imageserve.web.server import (
    Listener,
    Logger,
    WebServer,
    Worker,
    allowed_connections,
)


class Arbiter:
    """gunicorn's master, as far as the hooks use it."""

    def __init__(self) -> None:
        self.START_CTX: dict[str, list[str]] = {}


class Child:
    pid = 4321


@pytest.mark.parametrize(
    ("host", "bind"), [("0.0.0.0", "0.0.0.0:8123"), ("::1", "[::1]:8123"), ("name", "name:8123")]
)
def test_it_listens_where_the_settings_say(host: str, bind: str) -> None:
    assert WebServer(Settings(web_host=host, web_port=8123)).cfg.bind == [bind]


def test_it_is_configured_by_the_settings() -> None:
    settings = Settings(
        web_processes=3, web_slots=1000, request_timeout_s=20, upload_timeout_s=9.5, keepalive_s=7
    )

    found = WebServer(settings).cfg

    assert (found.workers, found.worker_connections, found.keepalive) == (3, 4000, 7)
    assert found.graceful_timeout == 34
    assert (found.worker_class, found.logger_class) == (Worker, Logger)
    assert found.accesslog is None
    assert found.control_socket_disable


def test_a_process_accepts_more_connections_in_a_turn_while_they_come_late_to_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    waited_s: list[float] = []
    monkeypatch.setattr(server, "age_s", lambda sock: waited_s.pop(0))
    accepted: list[int] = []
    with socket.create_server(("127.0.0.1", 0)) as bound, ExitStack() as clients:
        bound.setblocking(False)
        listener = Listener(bound, handle=lambda client, address: None, spawn=None)
        listener.init_socket()
        listener.max_accept = 1  # As gunicorn does where there are several processes.
        for each_s in (1.0, 1.0, 1.0, 0.0, 0.0, 0.0, 0.0):
            count = listener.max_accept
            for _ in range(count):
                clients.enter_context(socket.create_connection(bound.getsockname()))
            waited_s += [each_s] * count
            listener._do_read()
            accepted.append(count - len(waited_s))
        assert accepted == [1, 2, 3, 4, 3, 2, 1]

        clients.enter_context(socket.create_connection(bound.getsockname()))
        waited_s.append(1.0)
        for _ in range(5):
            listener._do_read()
        assert listener.max_accept == 1, "wakes without a connection say nothing"


class StartResponse:
    """gunicorn's side of an answer."""

    def __init__(self) -> None:
        self.headers: dict[str, str] = {}
        self.status = ""
        self.closes = False

    def force_close(self) -> None:
        self.closes = True

    def start(self, status: str, headers: list[tuple[str, str]]) -> None:
        self.status, self.headers = status, dict(headers)


@pytest.mark.parametrize("draining", [False, True])
def test_a_preflight_has_an_id_and_closes_its_connection_where_the_server_drains(
    monkeypatch: pytest.MonkeyPatch, draining: bool
) -> None:
    monkeypatch.setattr(Lifecycle, "draining", draining)
    monkeypatch.setattr(wsgi, "create_application", lambda *parts: None)
    edge = WebServer(Settings(cors_origins=frozenset({"https://app.test"}))).load()
    asked = {
        "REQUEST_METHOD": "OPTIONS",
        "HTTP_ORIGIN": "https://app.test",
        "HTTP_ACCESS_CONTROL_REQUEST_METHOD": "POST",
        "HTTP_X_REQUEST_ID": "mine",
    }
    answer = StartResponse()

    assert edge(asked, answer.start) == []

    assert (answer.status, answer.closes) == ("204 No Content", draining)
    assert answer.headers["X-Request-Id"] == "mine"


def test_the_collector_does_not_look_through_what_was_loaded(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(wsgi, "create_application", lambda *_: object())

    try:
        WebServer(Settings()).load()
        assert gc.get_freeze_count() > 10_000
    finally:
        gc.unfreeze()


def test_a_process_that_ends_sends_its_last_spans(monkeypatch: pytest.MonkeyPatch) -> None:
    def ended(_: GeventWorker) -> None:
        raise SystemExit

    monkeypatch.setattr(GeventWorker, "run", ended)
    # What it changes is for its own process.
    monkeypatch.setattr(ggevent, "StreamServer", ggevent.StreamServer)
    monkeypatch.setattr(RequestParser, "mesg_class", RequestParser.mesg_class)
    closed: list[str] = []
    worker: Any = Worker.__new__(Worker)
    worker.app = SimpleNamespace(tracer=SimpleNamespace(close=lambda: closed.append("tracer")))
    worker.cfg = WebServer(Settings()).cfg

    with pytest.raises(SystemExit):
        worker.run()

    assert closed == ["tracer"]


def test_gunicorns_own_variables_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WEB_CONCURRENCY", "9")
    monkeypatch.setenv("PORT", "9999")

    found = WebServer(Settings(web_host="::", web_port=8123, web_processes=2)).cfg

    assert (found.workers, found.bind) == (2, ["[::]:8123"])


def test_the_master_creates_the_drain_flag_and_forgets_gauges_of_processes_without_requests(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    forgotten: list[int] = []
    monkeypatch.setattr(metrics, "process_died", forgotten.append)
    server = WebServer(Settings(run_dir=str(tmp_path / "run")))

    server.cfg.on_starting(Arbiter())
    server.cfg.child_exit(Arbiter(), Child())

    assert not DrainFlag(tmp_path / "run").is_set
    assert forgotten == [os.getpid(), Child.pid]


ANY = resource.RLIM_INFINITY


@pytest.mark.parametrize(
    ("limits", "allowed", "raised"),
    [
        pytest.param((1024, 4160), 2048, (4160, 4160), id="enough, once it is raised"),
        pytest.param((1024, ANY), 2048, (4160, ANY), id="as much as is asked for"),
        pytest.param((1024, 1024), 480, (1024, 1024), id="half of what there is"),
        pytest.param((100_000, 100_000), 2048, None, id="enough"),
        pytest.param((ANY, ANY), 2048, None, id="no limit"),
        pytest.param((50, 50), 1, (50, 50), id="hardly any"),
    ],
)
def test_connections_are_limited_by_the_files_that_the_system_allows(
    monkeypatch: pytest.MonkeyPatch,
    limits: tuple[int, int],
    allowed: int,
    raised: tuple[int, int] | None,
) -> None:
    set_to: list[tuple[int, int]] = []
    monkeypatch.setattr(resource, "getrlimit", lambda kind: limits)
    monkeypatch.setattr(resource, "setrlimit", lambda kind, pair: set_to.append(pair))

    assert allowed_connections(2048) == allowed
    assert set_to == ([raised] if raised else [])


def test_the_master_loads_neither_flask_nor_the_client_of_redis() -> None:
    code = "import sys, imageserve.web.server; print(sorted({'flask', 'redis'} & set(sys.modules)))"
    assert subprocess.check_output([sys.executable, "-c", code], text=True) == "[]\n"
