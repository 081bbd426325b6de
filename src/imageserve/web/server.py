"""The web server: gunicorn's master process, and its gevent workers.

What it adds to gunicorn's own gevent worker:

- headers that arrive too slowly are answered 408;
- an answer that is sent before the whole upload was read does reach the client;
- the headers and the body of an answer are sent at once;
- connections are accepted while pictures are decoded;
- idle connections are closed early when there are many connections, and at a shutdown;
- errors outside the application have the same JSON shape as all others.
"""

import errno
import json
import logging
import os
import sys
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from http import HTTPStatus
from socket import SHUT_WR
from typing import Any

import gevent
from gevent.server import StreamServer
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.http.errors import ParseException
from gunicorn.workers import ggevent
from gunicorn.workers.ggevent import GeventWorker

from imageserve import metrics
from imageserve.config.settings import Settings
from imageserve.errors import BadRequest, RequestError, UploadTooSlow
from imageserve.web.greenlets import install_poll, silent_timeout
from imageserve.web.lifecycle import Lifecycle, create_drain_flag, run_dir
from imageserve.web.line import DecodeLine

log = logging.getLogger(__name__)

LINGER_S = 2.0
LINGER_BYTES = 64 * 2**20
"""After an early answer the rest of the upload is read and thrown away within these limits. Closing
the connection at once would make the client's kernel discard the answer too."""

CROWDED = 0.5
"""When more than this share of all connections is open, an idle one is closed after a second."""

ACCEPTED_AT_ONCE = 16
"""Connections that a process which is decoding accepts in one turn of its event loop."""

SEND_EXTRA_S = 1.0
"""A client must read its answer within UPLOAD_TIMEOUT_S and this."""


class WebServer(BaseApplication):  # type: ignore[misc]
    """gunicorn, configured by our settings instead of its own files and arguments."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.lifecycle = Lifecycle()
        self.line = DecodeLine()
        """Each web process has a copy of both, from its fork on."""
        super().__init__()

    def load_config(self) -> None:
        for name, value in {**_options(self.settings), **self._hooks()}.items():
            if name in self.cfg.settings:  # Not every gunicorn has a control socket.
                self.cfg.set(name, value)

    def _hooks(self) -> dict[str, Any]:
        return {"on_starting": self._on_starting, "child_exit": self._on_child_exit}

    def load(self) -> Callable[..., Any]:
        """Build the application. gunicorn calls this in each web process, after the fork."""
        # Imported here: the master must not load Flask and the Redis client.
        from imageserve.web.wsgi import create_application

        return _heeding_close(create_application(self.settings, self.lifecycle, self.line))

    def _on_starting(self, arbiter: Any) -> None:
        # What USR2 starts beside this master. gunicorn guesses at it, and cannot guess "-m".
        arbiter.START_CTX["args"] = sys.orig_argv
        create_drain_flag(run_dir(self.settings))
        # The master serves no request: its gauges, all zero, must not count.
        metrics.process_died(os.getpid())

    def _on_child_exit(self, arbiter: Any, worker: Any) -> None:
        metrics.process_died(worker.pid)


def _options(settings: Settings) -> dict[str, Any]:
    """Return gunicorn's configuration."""
    host = f"[{settings.web_host}]" if ":" in settings.web_host else settings.web_host
    return {
        "bind": f"{host}:{settings.web_port}",
        "workers": settings.web_processes,
        "worker_class": Worker,
        "logger_class": Logger,
        # More than slots: probes, uploads and refusals need connections too.
        "worker_connections": max(2048, 4 * settings.web_slots),
        "backlog": 2048,
        "keepalive": settings.keepalive_s,
        # A process whose event loop hangs for this long is killed and replaced.
        "timeout": 60,
        # After SIGTERM, requests in progress are answered within this time.
        "graceful_timeout": round(settings.request_timeout_s + settings.upload_timeout_s + 5),
        "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,  # noqa: S108
        "control_socket_disable": True,
        "accesslog": None,
    }


class Logger(GunicornLogger):  # type: ignore[misc]
    """Hands gunicorn's log lines to the root logger: one format, one stream."""

    def setup(self, cfg: Any) -> None:
        self.error_log.handlers.clear()
        self.error_log.propagate = True


class Worker(GeventWorker):  # type: ignore[misc]
    """One web process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._upload_timeout_s = self.app.settings.upload_timeout_s
        self._idle: dict[Any, Any] = {}
        """The greenlets of connections between two requests, each with its timeout."""
        self._connections = 0

    def patch(self) -> None:
        super().patch()
        install_poll()

    def run(self) -> None:
        module: Any = ggevent
        module.StreamServer = partial(Listener, self.app.line)
        super().run()

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.app.lifecycle.stopping = True
        super().handle_exit(sig, frame)

    def notify(self) -> None:
        super().notify()
        if not self.alive:
            for connection, timeout in list(self._idle.items()):
                gevent.get_hub().loop.run_callback(self._end_idle, connection, timeout)

    def _end_idle(self, connection: Any, timeout: Any) -> None:
        # A request may have arrived since this callback was scheduled; it must not be cut off.
        if self._idle.get(connection) is timeout:
            connection.throw(timeout)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        connection: Any = gevent.getcurrent()
        connection.had_request = False
        self._connections += 1
        try:
            super().handle(listener, client, addr)
        finally:
            self._connections -= 1

    def timeout_ctx(self) -> Any:
        """Return the context in which gunicorn waits for the headers of a request."""
        connection: Any = gevent.getcurrent()
        if not connection.had_request:
            connection.had_request = True
            seconds = self._upload_timeout_s
            slow = UploadTooSlow(f"the headers did not arrive within {seconds:g} seconds")
            return gevent.Timeout(seconds, slow)
        crowded = self._connections > CROWDED * self.worker_connections
        return self._kept_alive(connection, 1.0 if crowded else self.cfg.keepalive)

    @contextmanager
    def _kept_alive(self, connection: Any, seconds: float) -> Iterator[None]:
        """Wait for the next request of a connection; end silently where none comes."""
        with silent_timeout(seconds) as timeout:
            self._idle[connection] = timeout
            try:
                yield
            finally:
                del self._idle[connection]

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        # A client that does not read its answers must not hold its connection for ever.
        sock.settimeout(self._upload_timeout_s + SEND_EXTRA_S)
        try:
            return self._answer(listener_name, req, sock, addr)
        except TimeoutError as error:
            raise BrokenPipeError(errno.EPIPE, "the client does not read its answer") from error
        except StopIteration:
            if _has_unread_body(req):
                _linger(sock)
            raise
        finally:
            sock.settimeout(None)

    def _answer(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        whole = WholeAnswers(sock)
        try:
            result = super().handle_request(listener_name, req, whole, addr)
        except StopIteration:  # It is answered, and the connection is to be closed.
            whole.send_held()
            raise
        whole.send_held()
        return result

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a request that did not reach the application."""
        try:
            client.sendall(_raw_response(_as_request_error(exc)))
            client.shutdown(SHUT_WR)
        except OSError:
            log.debug("the client did not wait for its error: %s", exc)


class Listener(StreamServer):
    """Accepts connections: one in a turn of the loop, several where turns are long.

    The processes of a server share their connections best where each takes one at a time, as
    gunicorn has it. While pictures are decoded that would let connections wait for one picture
    each, unseen in the kernel.
    """

    def __init__(self, line: DecodeLine, *args: Any, **kwargs: Any) -> None:
        self._line = line
        super().__init__(*args, **kwargs)

    @property
    def max_accept(self) -> int:
        return ACCEPTED_AT_ONCE if self._line.busy else 1

    @max_accept.setter
    def max_accept(self, count: int) -> None:
        """Ignore the constant that gunicorn sets."""


class WholeAnswers:
    """A connection that keeps the headers of an answer until its body comes, then sends both.

    gunicorn sends them one by one: twice the system calls and packets, and clients wake up twice.
    """

    def __init__(self, sock: Any) -> None:
        self._connection = sock
        self._held = b""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._connection, name)

    def sendall(self, data: bytes) -> None:
        if not self._held and data.endswith(b"\r\n\r\n"):
            self._held = data
        else:
            data, self._held = self._held + data, b""
            self._connection.sendall(data)

    def send_held(self) -> None:
        """Send the headers of an answer that has no body."""
        if self._held:
            data, self._held = self._held, b""
            self._connection.sendall(data)


def _heeding_close(application: Callable[..., Any]) -> Callable[..., Any]:
    """Make gunicorn heed ``Connection: close``, which it drops from an application's headers."""

    def wrapped(environ: Mapping[str, Any], start_response: Any) -> Any:
        def start(status: str, headers: list[tuple[str, str]], exc_info: Any = None) -> Any:
            if ("Connection", "close") in headers:
                start_response.__self__.force_close()
            return start_response(status, headers, exc_info)

        return application(environ, start)

    return wrapped


def _has_unread_body(req: Any) -> bool:
    reader = getattr(getattr(req, "body", None), "reader", None)
    return bool(getattr(reader, "length", 1))


def _linger(sock: Any) -> None:
    """Let the client read its answer before the connection is closed."""
    seen = 0
    with silent_timeout(LINGER_S):
        try:
            sock.shutdown(SHUT_WR)
            while seen < LINGER_BYTES and (data := sock.recv(65_536)):
                seen += len(data)
        except OSError:
            log.debug("the client closed first")


def _as_request_error(exc: BaseException) -> RequestError:
    if isinstance(exc, RequestError):
        return exc
    if isinstance(exc, ParseException):
        return BadRequest(f"this is not an HTTP request that can be served: {exc}")
    log.error("error below the application", exc_info=exc)
    return RequestError("the server has failed")


def _raw_response(error: RequestError) -> bytes:
    request_id = uuid.uuid4().hex
    body = json.dumps(
        {
            "success": False,
            "error": {"code": error.code, "message": error.message},
            "request_id": request_id,
        }
    )
    status = HTTPStatus(error.status)
    return (
        f"HTTP/1.1 {status.value} {status.phrase}\r\nConnection: close\r\n"
        f"Content-Type: application/json\r\nX-Request-Id: {request_id}\r\n"
        f"Content-Length: {len(body) + 1}\r\n\r\n{body}\n"
    ).encode()
