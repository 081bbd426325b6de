"""The web server: gunicorn's master process, and its gevent workers.

What it adds to gunicorn's own gevent worker:

- connections have limits, and whole answers (``web.connection``);
- connections are accepted while pictures are decoded;
- pictures that would be late are refused early (``web.edge``);
- idle connections are closed early when there are many connections, and at a shutdown;
- errors outside the application have the same JSON shape as all others (``web.edge``).
"""

import errno
import gc
import logging
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from functools import partial
from typing import Any

import gevent
from gevent.server import StreamServer
from gunicorn.app.base import BaseApplication
from gunicorn.glogging import Logger as GunicornLogger
from gunicorn.http.parser import RequestParser
from gunicorn.workers import ggevent
from gunicorn.workers.ggevent import GeventWorker

from imageserve import metrics
from imageserve.config.settings import Settings
from imageserve.errors import Busy, WouldTimeOut
from imageserve.trace_context import log_ids, read_context
from imageserve.tracing import NO_TRACER, open_tracer
from imageserve.web.calls import begin, record_request
from imageserve.web.connection import Connection, HeadWait, Waits
from imageserve.web.edge import (
    LINE_BYTES,
    MOST_HEADERS,
    Cors,
    age_s,
    as_request_error,
    at_the_edge,
    check_host,
    is_picture,
    raw_response,
    refuse,
    request_id,
)
from imageserve.web.greenlets import install_error_log, install_poll
from imageserve.web.lifecycle import DrainFlag, Lifecycle, create_drain_flag, run_dir
from imageserve.web.line import DecodeLine
from imageserve.web.probe_port import Beacon, ProbePort, Seen, WebProbes
from imageserve.web.short_way import CLOSE, Head, PlainConfig, as_bytes, environ_of
from imageserve.web.upload import has_unread_body

log = logging.getLogger(__name__)

OTHER_FILES = 64
"""Descriptors of a process that are no connections: its log, its metrics, its libraries."""

CROWDED = 0.75
"""Where more than this share of all connections is open, each new one ends the one that has been
idle for longest, or else the one whose head has been on its way for longest."""

LATE_ACCEPT_S = 0.02
ACCEPTED_AT_ONCE = 64
"""While connections wait for longer than this, one more is accepted in each turn of the event loop
than in the one before, up to this many. A burst must not go to the process that comes first."""

SEND_EXTRA_S = 1.0
"""A client must read its answer within UPLOAD_TIMEOUT_S and this."""


class WebServer(BaseApplication):  # type: ignore[misc]
    """gunicorn, configured by our settings instead of its own files and arguments."""

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cors = Cors(settings.cors_origins)
        self.lifecycle = Lifecycle()
        self.line = DecodeLine()
        """Each web process has a copy of both, from its fork on."""
        self.tracer = NO_TRACER
        """That of a web process, once it has loaded the application."""
        self._probe_port: ProbePort | None = None
        super().__init__()

    def load_config(self) -> None:
        for name, value in {**_options(self.settings), **self._hooks()}.items():
            if name in self.cfg.settings:  # Not every gunicorn has a control socket.
                self.cfg.set(name, value)

    def _hooks(self) -> dict[str, Any]:
        return {
            "on_starting": self._on_starting,
            "post_fork": self._post_fork,
            "child_exit": self._on_child_exit,
        }

    def load(self) -> Callable[..., Any]:
        """Build the application. gunicorn calls this in each web process, after the fork."""
        # Imported here: the master must not load Flask and the Redis client.
        from imageserve.web.wsgi import create_application

        self.tracer = open_tracer(self.settings, "web")
        application = create_application(self.settings, self.lifecycle, self.line, self.tracer)
        self.application = application
        # What is loaded stays. To look through it for garbage, again and again, takes 30 ms each
        # time, in which no client is served.
        gc.freeze()
        return at_the_edge(application, self.cors, self.lifecycle)

    def _on_starting(self, arbiter: Any) -> None:
        # What USR2 starts beside this master. gunicorn guesses at it, and cannot guess "-m".
        arbiter.START_CTX["args"] = sys.orig_argv
        create_drain_flag(run_dir(self.settings))
        # The master serves no request: its gauges, all zero, must not count.
        metrics.process_died(os.getpid())
        if self.settings.web_probe_port:
            drain_flag = DrainFlag(run_dir(self.settings))
            probes = WebProbes(partial(_seen, arbiter), lambda: drain_flag.is_set)
            self._probe_port = ProbePort(self.settings.web_probe_port, probes)
            self._probe_port.open()

    def _post_fork(self, arbiter: Any, worker: Any) -> None:
        if self._probe_port is not None:
            self._probe_port.close()

    def _on_child_exit(self, arbiter: Any, worker: Any) -> None:
        metrics.process_died(worker.pid)


def _seen(arbiter: Any) -> Iterator[Seen]:
    """Yield what gunicorn's master knows of each web process."""
    for worker in list(arbiter.WORKERS.values()):
        with suppress(OSError, ValueError):  # It has just ended.
            beat_at = worker.tmp.last_update()
            # Before its first sign of life this is the time of day, which is far larger.
            if beat_at <= time.monotonic():
                yield Seen(beat_at, worker.beacon)


def _options(settings: Settings) -> dict[str, Any]:
    """Return gunicorn's configuration."""
    host = f"[{settings.web_host}]" if ":" in settings.web_host else settings.web_host
    return {
        "bind": f"{host}:{settings.web_port}",
        "workers": settings.web_processes,
        "worker_class": Worker,
        "logger_class": Logger,
        # More than slots: probes, uploads and refusals need connections too.
        "worker_connections": allowed_connections(max(2048, 4 * settings.web_slots)),
        "backlog": 2048,
        "keepalive": settings.keepalive_s,
        # A process whose event loop hangs for this long is killed and replaced.
        "timeout": 60,
        # After SIGTERM, requests in progress are answered within this time.
        "graceful_timeout": round(settings.request_timeout_s + settings.upload_timeout_s + 5),
        "worker_tmp_dir": "/dev/shm" if os.access("/dev/shm", os.W_OK) else None,  # noqa: S108
        "control_socket_disable": True,
        "accesslog": None,
        "limit_request_line": LINE_BYTES,
        "limit_request_field_size": LINE_BYTES,
        "limit_request_fields": MOST_HEADERS,
    }


def allowed_connections(wanted: int) -> int:
    """Return how many connections a process may have, at most ``wanted``.

    Each takes a file descriptor, and its request takes another one, to Redis. This process and its
    children may open more files from now on, if the system allows it.
    """
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    needed = 2 * wanted + OTHER_FILES
    if soft == resource.RLIM_INFINITY or soft >= needed:
        return wanted
    if hard != resource.RLIM_INFINITY:
        needed = min(needed, hard)
    resource.setrlimit(resource.RLIMIT_NOFILE, (needed, hard))
    allowed = max(1, (needed - OTHER_FILES) // 2)
    if allowed < wanted:
        log.warning(
            "the system allows %d open files (ulimit -n): a web process serves %d connections at "
            "once, not %d",
            needed,
            allowed,
            wanted,
        )
    return allowed


class Logger(GunicornLogger):  # type: ignore[misc]
    """Hands gunicorn's log lines to the root logger: one format, one stream."""

    def setup(self, cfg: Any) -> None:
        self.error_log.handlers.clear()
        self.error_log.propagate = True


class Worker(GeventWorker):  # type: ignore[misc]
    """One web process."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        settings = self.app.settings
        self._upload_timeout_s = settings.upload_timeout_s
        # Chunks of a sensible size add a few percent to a body.
        self._most_body_bytes = settings.max_body_bytes * 5 // 4 + 2**20
        self._waits = Waits()
        self._connections = 0
        self.beacon = Beacon()

    def patch(self) -> None:
        super().patch()
        install_poll()
        install_error_log()

    def run(self) -> None:
        module: Any = ggevent
        module.StreamServer = Listener
        RequestParser.mesg_class = Head
        self.cfg: Any = PlainConfig(self.cfg)
        try:
            super().run()
        finally:
            self.app.tracer.close()

    def handle_exit(self, sig: int, frame: Any) -> None:
        self.app.lifecycle.stopping = True
        self.beacon.tell(self.app.lifecycle)
        super().handle_exit(sig, frame)

    def notify(self) -> None:
        super().notify()
        self.beacon.tell(self.app.lifecycle)
        self.app.line.report()
        if not self.alive:
            self._waits.end_kept()

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        connection = Connection(client, self._waits, self._most_body_bytes)
        greenlet: Any = gevent.getcurrent()
        greenlet.connection = connection
        self._connections += 1
        if self._is_crowded:
            self._waits.make_room()
        try:
            super().handle(listener, connection, addr)
        finally:
            self._connections -= 1
            connection.end()

    @property
    def _is_crowded(self) -> bool:
        return bool(self._connections > CROWDED * self.worker_connections)

    def timeout_ctx(self) -> HeadWait:
        """Return the context in which gunicorn waits for the headers of a request."""
        greenlet: Any = gevent.getcurrent()
        return HeadWait(
            self._waits, greenlet.connection, self._upload_timeout_s, self.cfg.keepalive
        )

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        check_host(req)
        req.version = min(req.version, (1, 1))  # gunicorn would answer in a version it is not of.
        sock.begin_body(req)
        # A client that does not read its answers must not hold its connection for ever.
        sock.settimeout(self._upload_timeout_s + SEND_EXTRA_S)
        try:
            if busy := self._busy(req, sock):
                self._refuse(req, sock, busy)
                return True
            if is_picture(req):
                self._classify(req, sock)
            else:
                super().handle_request(listener_name, req, sock, addr)
            sock.send_held()
            return True
        except TimeoutError as error:
            raise BrokenPipeError(errno.EPIPE, "the client does not read its answer") from error
        except StopIteration as answered:  # The connection is to be closed.
            sock.send_held()
            if has_unread_body(req) and not self._is_crowded:
                answered.__traceback__ = None  # It and the request keep the head in memory.
                req.headers = []
                sock.linger()
            raise
        finally:
            sock.settimeout(None)

    def _classify(self, req: Any, sock: Any) -> None:
        """Answer a picture. Raises StopIteration where the connection is to be closed."""
        self.nr += 1
        try:
            reply = self.app.application.classify(environ_of(req, sock))
            keep = self.alive and self.cfg.keepalive and CLOSE not in reply.headers
            close = not keep or req.should_close()
            sock.sendall(as_bytes(reply, req.version, self._cors_headers(req), close=close))
        except (gevent.GreenletExit, SystemExit):
            return  # As gunicorn has it: this process is about to end.
        if close:
            raise StopIteration

    def _refuse(self, req: Any, sock: Any, error: Busy | WouldTimeOut) -> None:
        """Answer a picture by its head alone. Raises StopIteration as `_classify` does."""
        tracer = self.app.tracer
        call = begin(environ_of(req, sock), req.path, tracer)
        call.error_code = error.code
        more, draining = self._cors_headers(req), self.app.lifecycle.draining
        try:
            refuse(req, sock, error, call.ids, draining=draining, more=more)
        finally:
            record_request(tracer, call, int(error.status))

    def _busy(self, req: Any, sock: Any) -> Busy | WouldTimeOut | None:
        """Return why a picture is refused by its head: it would be late."""
        # As in `load`.
        from imageserve.web.parameters import asked_by_head

        line = self.app.line
        if line.is_short or not (self.alive and is_picture(req)):
            return None
        came_s = age_s(sock)
        longest_s = self.app.settings.request_timeout_s
        arrived = time.monotonic() - came_s
        try:
            asked = asked_by_head(dict(req.headers), req.path, req.query, longest_s, arrived)
            line.check(asked, came_s)
        except (Busy, WouldTimeOut) as error:
            return error
        return None

    def _cors_headers(self, req: Any) -> dict[str, str]:
        headers = getattr(req, "headers", ())
        # Joined as gunicorn does it: two origins are none.
        origin = ",".join(value for name, value in headers if name == "ORIGIN")
        cors: Cors = self.app.cors
        return cors.headers(origin)

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        """Answer a request that did not reach the application."""
        headers = dict(getattr(req, "headers", ()))
        its_id = request_id(headers.get("X-REQUEST-ID"))
        ids = log_ids(its_id, read_context(headers.get("TRACEPARENT")))
        error = as_request_error(exc, ids)
        exc.__traceback__ = None  # It keeps what was received of the head in memory.
        client.end()
        try:
            client.drop_held()
            path = getattr(req, "path", None) or ""
            client.sendall(raw_response(error, its_id, path=path, more=self._cors_headers(req)))
        except OSError:
            log.debug("the client did not wait for its error: %s", exc, extra={"fields": ids})
            return
        if not self._is_crowded:
            client.linger()


class Listener(StreamServer):
    """Accepts connections: one in a turn of the loop, more while they come late to their turn.

    The processes of a server share their connections best where each takes one at a time, as
    gunicorn has it. But in a process that decodes, connections would wait for a picture each,
    unseen in the kernel.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.max_accept = 1
        self._waited_s = 0.0
        super().__init__(*args, **kwargs)

    def do_read(self) -> Any:
        accepted = super().do_read()
        if accepted:
            self._waited_s = age_s(accepted[0])
        return accepted

    def _do_read(self) -> None:
        self._waited_s = 0.0  # Another process may have taken them all.
        super()._do_read()  # type: ignore[misc]  # Its types leave it out.
        if self._waited_s > LATE_ACCEPT_S:
            self.max_accept = min(self.max_accept + 1, ACCEPTED_AT_ONCE)
        else:
            self.max_accept = max(self.max_accept - 1, 1)
