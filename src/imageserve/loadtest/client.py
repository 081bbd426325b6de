"""An HTTP client for one target: connections are kept and used again, nothing is ever retried."""

import asyncio
import contextlib
import select
import selectors
import socket
import ssl
from collections.abc import Sequence
from itertools import count
from typing import Any

from imageserve.loadtest.connection import Connection
from imageserve.loadtest.message import Address, NoAnswer, Response, TargetError

IDLE_S = 15.0
"""A connection that was idle for longer is not used again: the server, or what stands in front of
it, may be about to close it, and the reset would be nobody's fault."""


class Client:
    """Sends requests to one target."""

    def __init__(
        self,
        address: Address,
        *,
        connect_timeout_s: float = 5.0,
        timeout_s: float = 60.0,
        tls: ssl.SSLContext | None = None,
    ) -> None:
        self._address = address
        self._connect_timeout_s = connect_timeout_s
        self._timeout_s = timeout_s
        self._tls = tls
        self._hosts: Sequence[str] = ()
        self._turn = count()
        self._idle: list[tuple[float, Connection]] = []
        self.connections = 0
        """How many connections were made."""
        self.strays = 0
        """How many answers came that no request was waiting for."""

    async def resolve(self) -> None:
        """Look the host's addresses up, once: a look-up per connection would be measured too.

        Raises:
            TargetError: there is no such host.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                self._address.host, self._address.port, type=socket.SOCK_STREAM
            )
        except OSError as error:
            raise TargetError(f"{self._address.host} cannot be resolved: {error}") from error
        self._hosts = list(dict.fromkeys(str(each[4][0]) for each in found))

    async def ask(self, message: bytes) -> Response:
        """Send a request and return its answer.

        Raises:
            NoAnswer: there was none; the kind says why.
        """
        connection = self._idle_connection() or await self._connect()
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await connection.ask(message)
        except TimeoutError:
            raise NoAnswer("timeout", f"no whole answer within {self._timeout_s:g} s") from None
        finally:
            self._keep_or_close(connection)
        return response

    def close(self) -> None:
        """Close all connections that are not in use."""
        while self._idle:
            self._idle.pop()[1].close()

    def _keep_or_close(self, connection: Connection) -> None:
        if connection.reusable:
            self._idle.append((asyncio.get_running_loop().time(), connection))
        else:
            connection.close()

    def _idle_connection(self) -> Connection | None:
        """Take the connection that was used last: those behind it grow old and are dropped."""
        now_s = asyncio.get_running_loop().time()
        while self._idle:
            since_s, connection = self._idle.pop()
            if now_s - since_s < IDLE_S and connection.reusable:
                return connection
            connection.close()
        return None

    async def _connect(self) -> Connection:
        try:
            async with asyncio.timeout(self._connect_timeout_s):
                connection = await self._connect_to_any()
        except TimeoutError:
            waited = f"no connection within {self._connect_timeout_s:g} s"
            raise NoAnswer("connect", waited) from None
        except OSError as error:
            raise NoAnswer("connect", f"no connection: {error}") from error
        self.connections += 1
        return connection

    async def _connect_to_any(self) -> Connection:
        """Try the host's addresses in turn: behind a name may stand several servers, or none."""
        hosts = self._hosts or [self._address.host]
        first = next(self._turn)
        for i in range(len(hosts) - 1):
            with contextlib.suppress(OSError):
                return await self._connect_to(hosts[(first + i) % len(hosts)])
        return await self._connect_to(hosts[(first - 1) % len(hosts)])

    async def _connect_to(self, host: str) -> Connection:
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self._stray),
            host,
            self._address.port,
            ssl=self._tls,
            server_hostname=self._address.host if self._tls else None,
        )
        return connection

    def _stray(self) -> None:
        self.strays += 1


class PreciseSelector(selectors.DefaultSelector):
    """Wakes up on time: epoll counts in whole milliseconds, which is late by half of one."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, Any]]:
        """Wait as the base class does; a time-out of any length is kept to microseconds."""
        if timeout is not None and timeout > 0:
            select.select([self], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def precise_loop() -> asyncio.AbstractEventLoop:
    """Make an event loop that sends when it is time to."""
    return asyncio.SelectorEventLoop(PreciseSelector())
