"""An HTTP/1.1 client for one target. It keeps connections alive and never retries a request."""

import asyncio
import contextlib
import select
import selectors
import socket
import ssl
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import count
from typing import Any
from urllib.parse import urlsplit

import httptools

from imageserve.errors import ImageserveError

IDLE_S = 15.0
"""A connection that was idle for longer is not used again: the server or a proxy may be about to
close it, and the reset would count as an error that is nobody's fault."""

_FIRST_FINAL_STATUS = 200
"""Lower statuses (1xx) are followed by the real answer."""


class TargetError(ImageserveError):
    """The target cannot be reached or measured. The message says why."""


class NoAnswer(ImageserveError):
    """No complete answer came. ``kind`` is one of ``result.ERROR_KINDS``."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind


@dataclass(frozen=True, slots=True)
class Address:
    """Where the target listens."""

    scheme: str
    host: str
    port: int
    path: str = ""
    """The part of the URL before ``/predict``, without a slash at its end."""

    @classmethod
    def parse(cls, url: str) -> "Address":
        """Parse ``http://host:port/prefix``.

        Raises:
            TargetError: it is not such a URL.
        """
        parts = urlsplit(url)
        try:
            port = parts.port
        except ValueError as error:
            raise TargetError(f"{url!r}: {error}") from error
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise TargetError(f"{url!r} must be http://HOST[:PORT] or https://HOST[:PORT]")
        if parts.query or parts.fragment or parts.username or parts.password:
            raise TargetError(f"{url!r} must have neither user, query nor fragment")
        default = 443 if parts.scheme == "https" else 80
        return cls(parts.scheme, parts.hostname, port or default, parts.path.rstrip("/"))

    @property
    def url(self) -> str:
        return f"{self.scheme}://{self.authority}{self.path}"

    @property
    def authority(self) -> str:
        host = f"[{self.host}]" if ":" in self.host else self.host
        default = 443 if self.scheme == "https" else 80
        return host if self.port == default else f"{host}:{self.port}"


@dataclass(frozen=True, slots=True)
class Response:
    """A complete HTTP answer."""

    status: int
    headers: Mapping[str, str] = field(default_factory=dict)
    """Names are lower case."""
    body: bytes = b""


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
        """Number of connections that were opened."""
        self.unsolicited = 0
        """Number of answers that no request was waiting for."""

    async def resolve(self) -> None:
        """Look up the host's addresses once; a look-up per connection would be measured too.

        Raises:
            TargetError: the host does not exist.
        """
        loop = asyncio.get_running_loop()
        try:
            found = await loop.getaddrinfo(
                self._address.host, self._address.port, type=socket.SOCK_STREAM
            )
        except OSError as error:
            raise TargetError(f"{self._address.host} cannot be resolved: {error}") from error
        self._hosts = list(dict.fromkeys(str(each[4][0]) for each in found))

    async def send(self, message: bytes) -> Response:
        """Send a request and return its answer.

        Raises:
            NoAnswer: no complete answer came.
        """
        connection = self._idle_connection() or await self._connect()
        try:
            async with asyncio.timeout(self._timeout_s):
                response = await connection.send(message)
        except TimeoutError:
            raise NoAnswer("timeout", f"no complete answer within {self._timeout_s:g} s") from None
        finally:
            self._keep_or_close(connection)
        return response

    def close(self) -> None:
        """Close all idle connections."""
        while self._idle:
            self._idle.pop()[1].close()

    def _keep_or_close(self, connection: "Connection") -> None:
        if connection.reusable:
            self._idle.append((asyncio.get_running_loop().time(), connection))
        else:
            connection.close()

    def _idle_connection(self) -> "Connection | None":
        """Take the connection that was used last, so that unneeded ones grow old and close."""
        now_s = asyncio.get_running_loop().time()
        while self._idle:
            since_s, connection = self._idle.pop()
            if now_s - since_s < IDLE_S and connection.reusable:
                return connection
            connection.close()
        return None

    async def _connect(self) -> "Connection":
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

    async def _connect_to_any(self) -> "Connection":
        """Try the host's addresses in turn: a name may stand for several servers."""
        hosts = self._hosts or [self._address.host]
        first = next(self._turn)
        for i in range(len(hosts) - 1):
            with contextlib.suppress(OSError):
                return await self._connect_to(hosts[(first + i) % len(hosts)])
        return await self._connect_to(hosts[(first - 1) % len(hosts)])

    async def _connect_to(self, host: str) -> "Connection":
        _, connection = await asyncio.get_running_loop().create_connection(
            lambda: Connection(self._count_unsolicited),
            host,
            self._address.port,
            ssl=self._tls,
            server_hostname=self._address.host if self._tls else None,
        )
        return connection

    def _count_unsolicited(self) -> None:
        self.unsolicited += 1


class Connection(asyncio.Protocol):
    """One HTTP/1.1 connection. It sends one request at a time and waits for the complete answer."""

    def __init__(self, on_unsolicited: Callable[[], None]) -> None:
        self._on_unsolicited = on_unsolicited
        """Called when an answer comes that no request is waiting for."""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[Response] | None = None
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._received_bytes = 0
        self._complete = False
        self._keep = False

    # -- called by the client -------------------------------------------------------------------

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent: the last answer is complete, the server stays."""
        transport = self._transport
        return (
            self._keep
            and self._waiting is None
            and transport is not None
            and not transport.is_closing()
            # After an answer that came before the whole request was sent, the server would take
            # the rest of that request for the next one.
            and transport.get_write_buffer_size() == 0
        )

    async def send(self, message: bytes) -> Response:
        """Send a request and return its answer.

        Raises:
            NoAnswer: the connection ended too early, or the answer is not HTTP.
        """
        assert self._waiting is None
        self._begin_answer()
        if self._transport is None or self._transport.is_closing():
            raise NoAnswer("reset", "the connection was closed before the request")
        self._waiting = self._loop.create_future()
        self._transport.write(message)
        try:
            return await self._waiting
        finally:
            self._waiting = None

    def close(self) -> None:
        """Close the connection at once."""
        if self._transport is not None:
            self._transport.abort()

    # -- called by asyncio ----------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._waiting is None or self._waiting.done():
            self._unsolicited()
            return
        self._received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # After a complete answer with "Connection: close", more bytes are unsolicited.
            if self._complete:
                self._unsolicited()
            else:
                self._fail(NoAnswer("protocol", f"the answer is not HTTP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and self._ends_with_the_connection():
            self._finish()
            return
        reason = f" ({error})" if error else ""
        got = f"after {self._received_bytes} bytes of the answer"
        self._fail(NoAnswer("reset", f"the connection was closed {got}{reason}"))

    # -- called by httptools --------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._complete:
            self._unsolicited()
        self._headers = {}
        self._body = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self._status < _FIRST_FINAL_STATUS:
            self._status = 0
            return
        self._keep = self._parser.should_keep_alive()
        self._finish()

    # -- internal -------------------------------------------------------------------------------

    def _begin_answer(self) -> None:
        self._status = 0
        self._received_bytes = 0
        self._complete = False
        self._keep = False

    def _finish(self) -> None:
        if self._waiting is not None and not self._waiting.done() and not self._complete:
            self._complete = True
            self._waiting.set_result(Response(self._status, self._headers, b"".join(self._body)))

    def _fail(self, error: NoAnswer) -> None:
        self._keep = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
        self.close()

    def _unsolicited(self) -> None:
        self._keep = False
        self._on_unsolicited()
        self.close()

    def _ends_with_the_connection(self) -> bool:
        """Whether the answer has no length of its own, so that it ends when the server closes."""
        has_length = self._headers.keys() & {"content-length", "transfer-encoding"}
        return self._status >= _FIRST_FINAL_STATUS and not has_length


class _PreciseSelector(selectors.DefaultSelector):
    """Wakes up on time: epoll rounds time-outs to whole milliseconds, half a millisecond late."""

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, Any]]:
        """Wait like the base class, but with a time-out exact to microseconds."""
        if timeout is not None and timeout > 0:
            select.select([self], [], [], timeout)
            timeout = 0
        return super().select(timeout)


def precise_loop() -> asyncio.AbstractEventLoop:
    """Return an event loop whose timers fire on time."""
    return asyncio.SelectorEventLoop(_PreciseSelector())
