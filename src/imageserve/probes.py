"""The HTTP port for the probes and metrics of a process that is no web server."""

import logging
import os
import socket
import sys
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

from imageserve.errors import SettingsError

log = logging.getLogger(__name__)

MOST_CONNECTIONS = 64
"""Connections at a time. With more, the oldest are closed: a probe has its answer by then."""
CONNECTION_S = 5.0
"""A connection that is open for longer is closed: a slow client must not keep a thread."""
_PAUSE_S = 0.1

Answer = tuple[int, str, bytes]
"""Status, content type, body."""


class ProbeServer:
    """Answers GET requests from a thread: ``answers`` has a function for each path."""

    def __init__(
        self,
        port: int,
        answers: Mapping[str, Callable[[], Answer]],
        *,
        setting: str = "METRICS_PORT",
    ) -> None:
        """Bind the port; 0 takes any free one.

        Raises SettingsError, naming ``setting``, where the port is taken.
        """
        try:
            self._server = _Server(("::" if _Server.dual_stack else "", port), _Handler)
        except OSError as error:
            raise SettingsError(f"{setting}: port {port} cannot be used: {error}") from error
        self._server.answers = answers

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()

    def close(self) -> None:
        """Close the port in a process that was forked from this one, where no thread serves it."""
        self._server.server_close()
        for connection in list(self._server.connections):
            # Its file object, of a thread that this process has not, would keep it from closing.
            file = connection.detach()
            if file >= 0:
                os.close(file)


def state_answer(good: bool, yes: bytes, no: bytes) -> Answer:
    """Return the answer to a probe: 200 with ``yes``, or 503 with ``no``."""
    return (200, "text/plain", yes) if good else (503, "text/plain", no)


def _hang_up(connection: socket.socket) -> None:
    """Let a thread that reads from a connection, or writes to it, find it closed."""
    with suppress(OSError):  # It has just ended.
        connection.shutdown(socket.SHUT_RDWR)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    request_queue_size = 2 * MOST_CONNECTIONS  # Of 5, others would fill the places of a probe.
    dual_stack = socket.has_dualstack_ipv6()
    address_family = socket.AF_INET6 if dual_stack else socket.AF_INET
    answers: Mapping[str, Callable[[], Answer]]

    def __init__(self, *arguments: Any) -> None:
        self.connections: dict[socket.socket, float] = {}
        """When each was accepted, by the clock `time.monotonic`; the oldest first."""
        super().__init__(*arguments)

    def server_bind(self) -> None:
        if self.dual_stack:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()

    def get_request(self) -> tuple[socket.socket, Any]:
        try:
            return super().get_request()
        except OSError:  # No descriptor is left: the loop would try again at once, and for ever.
            time.sleep(_PAUSE_S)
            raise

    def verify_request(self, request: Any, client_address: Any) -> bool:
        """Take a connection, and end the oldest where there are too many."""
        if len(self.connections) >= 2 * MOST_CONNECTIONS:  # Their threads have no time to end.
            return False
        self.connections[request] = time.monotonic()
        for oldest in list(self.connections)[:-MOST_CONNECTIONS]:
            _hang_up(oldest)
        return True

    def close_request(self, request: Any) -> None:
        self.connections.pop(request, None)
        super().close_request(request)

    def service_actions(self) -> None:
        """End what is open for too long. The loop calls this at least each half second."""
        until = time.monotonic() - CONNECTION_S
        for connection, accepted in list(self.connections.items()):
            if accepted < until:
                _hang_up(connection)

    def handle_error(self, request: object, client_address: object) -> None:
        """Log what ended a connection; the base class writes a traceback to standard error."""
        error = sys.exc_info()[1]
        if isinstance(error, OSError):
            # After a freeze of this process or of the network, clients have given up.
            log.debug("a client of the probes' port has gone: %s", error)
        else:
            log.critical("bug while a probe was answered", exc_info=error)


class _Handler(BaseHTTPRequestHandler):
    server: _Server

    def do_GET(self) -> None:
        answer = self.server.answers.get(self.path.partition("?")[0])
        status, kind, body = answer() if answer else (404, "text/plain", b"not found\n")
        self.send_response(status)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:
        log.debug(format, *args)
