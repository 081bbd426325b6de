"""One HTTP/1.1 connection, one request at a time. The only place that knows httptools."""

import asyncio
from collections.abc import Callable

import httptools

from imageserve.loadtest.message import NoAnswer, Response

_INFORMATIONAL = 200


class Connection(asyncio.Protocol):
    """Sends a request and waits for its whole answer; keeps the connection if the server does."""

    def __init__(self, on_stray: Callable[[], None]) -> None:
        self._on_stray = on_stray
        """Told when an answer comes that no request is waiting for."""
        self._loop = asyncio.get_running_loop()
        self._transport: asyncio.Transport | None = None
        self._parser = httptools.HttpResponseParser(self)
        self._waiting: asyncio.Future[Response] | None = None
        self._status = 0
        self._headers: dict[str, str] = {}
        self._body: list[bytes] = []
        self._received_bytes = 0
        self._whole = False
        self._keep = False

    # -- what the client calls ------------------------------------------------------------------

    @property
    def reusable(self) -> bool:
        """Whether another request may be sent: the last answer was whole and the server stays."""
        transport = self._transport
        return (
            self._keep
            and self._waiting is None
            and transport is not None
            and not transport.is_closing()
            # An answer that came before the whole request was sent: the rest would be taken for
            # the next request.
            and transport.get_write_buffer_size() == 0
        )

    async def ask(self, message: bytes) -> Response:
        """Send a request and return its answer.

        Raises:
            NoAnswer: the connection ended before the answer was whole, or it is not HTTP.
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
        """End the connection at once, whatever is under way."""
        if self._transport is not None:
            self._transport.abort()

    # -- what asyncio calls ---------------------------------------------------------------------

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        if self._waiting is None or self._waiting.done():
            self._stray()
            return
        self._received_bytes += len(data)
        try:
            self._parser.feed_data(data)
        except httptools.HttpParserError as error:
            # After a whole answer that ends the connection, more is no longer HTTP but a stray.
            if self._whole:
                self._stray()
            else:
                self._fail(NoAnswer("protocol", f"the answer is not HTTP: {error}"))

    def connection_lost(self, error: Exception | None) -> None:
        if error is None and self._ends_with_the_connection():
            self._finish()
            return
        reason = f" ({error})" if error else ""
        got = f"after {self._received_bytes} bytes of the answer"
        self._fail(NoAnswer("reset", f"the connection was closed {got}{reason}"))

    # -- what httptools calls -------------------------------------------------------------------

    def on_message_begin(self) -> None:
        if self._whole:
            self._stray()
        self._headers = {}
        self._body = []

    def on_header(self, name: bytes, value: bytes) -> None:
        self._headers[name.decode("latin-1").lower()] = value.decode("latin-1")

    def on_headers_complete(self) -> None:
        self._status = self._parser.get_status_code()

    def on_body(self, data: bytes) -> None:
        self._body.append(data)

    def on_message_complete(self) -> None:
        if self._status < _INFORMATIONAL:
            self._status = 0
            return
        self._keep = self._parser.should_keep_alive()
        self._finish()

    # -- within ---------------------------------------------------------------------------------

    def _begin_answer(self) -> None:
        self._status = 0
        self._received_bytes = 0
        self._whole = False
        self._keep = False

    def _finish(self) -> None:
        if self._waiting is not None and not self._waiting.done() and not self._whole:
            self._whole = True
            self._waiting.set_result(Response(self._status, self._headers, b"".join(self._body)))

    def _fail(self, error: NoAnswer) -> None:
        self._keep = False
        if self._waiting is not None and not self._waiting.done():
            self._waiting.set_exception(error)
        self.close()

    def _stray(self) -> None:
        self._keep = False
        self._on_stray()
        self.close()

    def _ends_with_the_connection(self) -> bool:
        """Whether the answer is one of those, rare today, whose end is the connection's end."""
        framed = self._headers.keys() & {"content-length", "transfer-encoding"}
        return self._status >= _INFORMATIONAL and not framed
