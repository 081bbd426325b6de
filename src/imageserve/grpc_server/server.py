"""The server: one port, the service of the protocol, and the health service of gRPC."""

import asyncio
import logging
import time
from collections.abc import Mapping

import grpc
from grpc_health.v1.health import aio as health
from grpc_health.v1.health_pb2 import HealthCheckResponse
from grpc_health.v1.health_pb2_grpc import add_HealthServicer_to_server

from imageserve.config.settings import Settings
from imageserve.errors import SettingsError
from imageserve.grpc_server.calls import Calls
from imageserve.grpc_server.messages import SERVICE

log = logging.getLogger(__name__)

CONNECTION_AGE_S = 300.0
"""A connection is ended after about this long at most, between its calls, and its client makes
another: so new pods get their share, for a Service chooses a pod for each connection, not for each
call."""

AGE_PER_DRAIN = 0.5
"""The same, as a share of DRAIN_S: so all connections have gone elsewhere when a drain ends. The
library cancels what comes over a connection just when it ends a server."""

KEEPALIVE_S = 60
"""A client that is silent for this long is asked whether it is still there."""

STREAMS_PER_SLOT = 4
"""Calls that a connection may have at once, for each slot: those beyond the slots are told so."""

QUIET_S = 1.0
"""At the end no call has been in hand for so long: then the last answers have left, and all clients
know that they must go elsewhere."""

_POLL_S = 0.05


class Server:
    """Serves the methods of the protocol on one port. To be made on a running event loop."""

    def __init__(
        self, settings: Settings, calls: Calls, methods: Mapping[str, grpc.RpcMethodHandler]
    ) -> None:
        """Bind the port. Raises SettingsError where that cannot be done."""
        self._calls = calls
        self._health = health.HealthServicer()
        self._server = grpc.aio.server(options=options(settings))
        service = grpc.method_handlers_generic_handler(SERVICE, methods)
        self._server.add_generic_rpc_handlers((service,))
        add_HealthServicer_to_server(self._health, self._server)
        host = f"[{settings.web_host}]" if ":" in settings.web_host else settings.web_host
        try:
            self._server.add_insecure_port(f"{host}:{settings.grpc_port}")
        except RuntimeError as error:
            message = f"GRPC_PORT: port {settings.grpc_port} of {host} cannot be used: {error}"
            raise SettingsError(message) from error

    async def start(self) -> None:
        await self._server.start()

    async def tell(self, *, serving: bool) -> None:
        """Tell health checks whether this server should get calls."""
        states = HealthCheckResponse.ServingStatus
        state = states.SERVING if serving else states.NOT_SERVING
        for name in ("", SERVICE):
            await self._health.set(name, state)

    async def stop(self, longest_s: float) -> None:
        """Take no more connections, answer the calls in hand within ``longest_s``, and end.

        Those who watch the health service are not waited for.
        """
        ended = asyncio.create_task(self._server.stop(longest_s))
        quiet_since = time.monotonic()
        while not ended.done() and time.monotonic() < quiet_since + QUIET_S:
            await asyncio.sleep(_POLL_S)
            if self._calls.in_hand:
                quiet_since = time.monotonic()
        await self._server.stop(None)
        await ended


def options(settings: Settings) -> list[tuple[str, int]]:
    """Return the settings of the library."""
    longest_s = settings.request_timeout_s + settings.upload_timeout_s
    age_s = min(CONNECTION_AGE_S, AGE_PER_DRAIN * settings.drain_s) or CONNECTION_AGE_S
    return [
        ("grpc.so_reuseport", 0),  # A port that is taken is an error.
        ("grpc.max_receive_message_length", settings.max_body_bytes),
        ("grpc.max_send_message_length", -1),
        ("grpc.max_concurrent_streams", STREAMS_PER_SLOT * settings.web_slots),
        # None but what is not compressed: a small message might become a large one.
        ("grpc.compression_enabled_algorithms_bitset", 1),
        ("grpc.max_connection_age_ms", round(1000 * age_s)),
        ("grpc.max_connection_age_grace_ms", round(1000 * longest_s)),
        ("grpc.keepalive_time_ms", 1000 * KEEPALIVE_S),
        ("grpc.http2.min_recv_ping_interval_without_data_ms", 10_000),
    ]
