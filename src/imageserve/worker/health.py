"""The worker's HTTP port, for probes: ``/startupz``, ``/healthz``, ``/readyz``, ``/metrics``."""

import logging
import socket
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

from imageserve import metrics
from imageserve.errors import SettingsError

log = logging.getLogger(__name__)


class HealthServer:
    """Serves the addresses from a thread; ``warm``, ``healthy`` and ``ready`` are asked each time.

    ``warm`` is whether the model is loaded: a startup probe that waited for Redis, too, would have
    a model loaded again and again during an outage.
    """

    def __init__(
        self,
        port: int,
        *,
        warm: Callable[[], bool],
        healthy: Callable[[], bool],
        ready: Callable[[], bool],
    ) -> None:
        """Bind the port (0: any free one).

        Raises SettingsError where it is taken.
        """
        self.answers: dict[str, Callable[[], tuple[int, str, bytes]]] = {
            "/startupz": lambda: _state(warm(), b"warm\n", b"loading the model\n"),
            "/healthz": lambda: _state(healthy(), b"ok\n", b"the model hangs\n"),
            "/readyz": lambda: _state(ready(), b"ready\n", b"not ready\n"),
            "/metrics": lambda: (200, metrics.CONTENT_TYPE, metrics.exposition()),
        }
        try:
            self._server = _Server(("::" if _Server.dual_stack else "", port), _Handler)
        except OSError as error:
            raise SettingsError(f"METRICS_PORT: port {port} cannot be used: {error}") from error
        self._server.answers = self.answers

    @property
    def port(self) -> int:
        return int(self._server.server_address[1])

    def start(self) -> None:
        threading.Thread(target=self._server.serve_forever, name="health", daemon=True).start()


def _state(good: bool, yes: bytes, no: bytes) -> tuple[int, str, bytes]:
    return (200, "text/plain", yes) if good else (503, "text/plain", no)


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    dual_stack = socket.has_dualstack_ipv6()
    address_family = socket.AF_INET6 if dual_stack else socket.AF_INET
    answers: dict[str, Callable[[], tuple[int, str, bytes]]]

    def server_bind(self) -> None:
        if self.dual_stack:
            self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        super().server_bind()


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    timeout = 5  # seconds: a client that says nothing must not keep a thread

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
