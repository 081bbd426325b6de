"""The life of the gRPC process: serve, tell how it is, drain, stop."""

import asyncio
import logging
import os
import time
from typing import NoReturn

from imageserve import metrics
from imageserve.config.settings import Settings
from imageserve.grpc_server.calls import Calls
from imageserve.grpc_server.inference import Inference
from imageserve.grpc_server.line import ThreadLine
from imageserve.grpc_server.messages import methods
from imageserve.grpc_server.server import Server
from imageserve.probes import ProbeServer, state_answer
from imageserve.stop_signals import STOP_SIGNALS, end_process
from imageserve.tracing import open_tracer
from imageserve.web.assembly import assemble
from imageserve.web.classify import WebConfig
from imageserve.web.lifecycle import Lifecycle

log = logging.getLogger(__name__)

BEAT_S = 0.5
HUNG_S = 60.0
"""An event loop that gives no sign of life for so long hangs."""


class GrpcProcess:
    """The server with its probes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lifecycle = Lifecycle(server_pid=os.getpid())
        self._line = ThreadLine()
        self._tracer = open_tracer(settings, "grpc")
        self._beat_at = time.monotonic()

    def run(self) -> NoReturn:
        """Serve until SIGTERM or SIGINT, and end this process."""
        asyncio.run(self._run())
        self._tracer.close()
        log.info("stopped")
        end_process()

    async def _run(self) -> None:
        stop = asyncio.Event()
        for number in STOP_SIGNALS:
            asyncio.get_running_loop().add_signal_handler(number, stop.set)
        methods()  # What is missing is told before anybody is served.
        settings = self._settings
        parts = assemble(settings, self._lifecycle, self._line, 1, self._tracer)
        config = WebConfig.from_settings(settings)
        calls = Calls(config, self._line, self._tracer)
        inference = Inference(parts, config.upload, self._is_ready)
        server = Server(settings, calls, inference.handlers(calls))
        self._serve_probes()
        await server.start()
        log.info("serving gRPC", extra={"fields": {"port": settings.grpc_port}})
        await self._live(server, stop)
        await self._drain(server, stop)
        longest_s = settings.request_timeout_s + settings.upload_timeout_s
        await server.stop(longest_s)

    async def _live(self, server: Server, stop: asyncio.Event) -> None:
        while not stop.is_set():
            self._beat_at = time.monotonic()
            await server.tell(serving=self._lifecycle.ready)
            self._line.report()
            try:
                await asyncio.wait_for(stop.wait(), BEAT_S)
            except TimeoutError:
                continue

    async def _drain(self, server: Server, stop: asyncio.Event) -> None:
        """Tell health checks and load balancers first; a second signal ends the wait for them."""
        self._lifecycle.stopping = True
        await server.tell(serving=False)
        stop.clear()
        log.info("draining", extra={"fields": {"seconds": self._settings.drain_s}})
        try:
            await asyncio.wait_for(stop.wait(), self._settings.drain_s)
        except TimeoutError:
            return

    def _serve_probes(self) -> None:
        if self._settings.metrics_port:
            ProbeServer(
                self._settings.metrics_port,
                {
                    "/healthz": lambda: state_answer(self._is_alive(), b"ok\n", b"it hangs\n"),
                    "/readyz": lambda: state_answer(self._is_ready(), b"ready\n", b"not ready\n"),
                    "/metrics": lambda: (200, metrics.CONTENT_TYPE, metrics.exposition()),
                },
            ).start()

    def _is_alive(self) -> bool:
        return self._lifecycle.stopping or time.monotonic() - self._beat_at <= HUNG_S

    def _is_ready(self) -> bool:
        return self._lifecycle.ready and not self._lifecycle.stopping
