"""One client's connection, as gunicorn sees it: like a socket, but no client can misuse it.

- A request head has a size and a deadline, and all heads of a process have a total.
- A client that always has more to send lets other clients have their turn.
- "100 Continue" is sent when the body is read, so a head that is refused gets its answer at once.
- The headers and the body of an answer leave together.
- An answer that is sent before the whole upload was read does reach the client.
"""

import logging
from contextlib import suppress
from socket import SHUT_WR
from typing import Any

import gevent

from imageserve.errors import BodyTooLarge, Busy, HeadTooLarge, UploadTooSlow
from imageserve.web.greenlets import Turn, silent_timeout

log = logging.getLogger(__name__)

HEAD_BYTES = 32 * 2**10
"""Most bytes of one request head: its first line and all its headers."""

HEADS_BYTES = 16 * 2**20
"""Most bytes of heads in one process, each counted from its first byte until it is answered. Where
they are more, the unfinished head that began first is ended."""

SMALL_HEAD_BYTES = 2 * 2**10
"""A head of this size is always let in: connections are limited, so such heads are too."""

LINGER_S = 2.0
LINGER_BYTES = 64 * 2**20
"""After an early answer the rest of the upload is read and thrown away within these limits. Closing
the connection at once would make the client's kernel discard the answer too."""

END_OF_HEAD = b"\r\n\r\n"
CONTINUE = b"HTTP/1.1 100 Continue\r\n\r\n"


class Connection:
    """A gevent socket with limits."""

    def __init__(self, sock: Any, waits: "Waits", most_body_bytes: int) -> None:
        """``most_body_bytes`` limits what is received of one body, with all that frames it."""
        self.wait: HeadWait | None = None
        """The head that is waited for."""
        self.had_request = False
        self._socket = sock
        self._raw = sock._sock  # Below gevent's: it never waits.
        self._waits = waits
        self._most_body_bytes = most_body_bytes
        self._turn = Turn()
        self._unreader: Any = None
        self._expects_continue = False
        self._held = b""
        self._head_bytes = 0
        self._head_tail = b""
        self._body_bytes = 0

    def __getattr__(self, name: str) -> Any:
        return getattr(self._socket, name)

    # -- receiving ----------------------------------------------------------------------------

    def recv(self, size: int) -> bytes:
        """Receive what is there, at most ``size`` bytes; wait where there is nothing.

        Raises HeadTooLarge, BodyTooLarge, and Busy where the process holds too many heads.
        """
        if self._expects_continue:
            self._expects_continue = False
            self._socket.sendall(CONTINUE)
        data = self._receive(size)
        if self.wait is not None:
            self._count_head(data, self.wait)
        else:
            self._body_bytes += len(data)
            if self._body_bytes > self._most_body_bytes:
                raise BodyTooLarge("the body, with what frames it, is too large")
        return data

    def _receive(self, size: int) -> bytes:
        try:
            data: bytes = self._raw.recv(size)
        except BlockingIOError:
            data = self._socket.recv(size)
            self._turn.restart()  # Others ran meanwhile.
        else:
            self._turn.give()
        return data

    def _count_head(self, data: bytes, wait: "HeadWait") -> None:
        # The end of a head may come in two pieces; what follows it is body.
        text = self._head_tail + data
        end = text.find(END_OF_HEAD)
        count = len(data) if end < 0 else max(0, end + len(END_OF_HEAD) - len(self._head_tail))
        self._head_tail = text[-3:]
        self._head_bytes += count
        self._waits.head_bytes += count
        if self._head_bytes > HEAD_BYTES:
            raise HeadTooLarge(f"a request head may have at most {HEAD_BYTES} bytes")
        if not self._waits.make_head_room(wait) and self._head_bytes > SMALL_HEAD_BYTES:
            raise _heads_busy()
        if data:
            wait.begin(is_whole=end >= 0)

    def begin_head(self, wait: "HeadWait") -> bool:
        """Expect the head of the next request: what is received from now on belongs to it.

        Returns whether it has begun, because it was sent with the request before.
        """
        self.end()
        self._expects_continue = False  # Nobody has read the body before this head.
        has_begun = self._unreader is not None and bool(self._unreader.buf.tell())
        if has_begun:
            self._turn.give()  # Such a client never lets this process wait.
        self.wait = wait
        return has_begun

    def begin_body(self, req: Any) -> None:
        """Take note of a request whose head is complete."""
        self._unreader = req.unreader
        self._body_bytes = 0
        # gunicorn would send "100 Continue" at once, before the head is looked at.
        self._expects_continue, req._expected_100_continue = req._expected_100_continue, False

    def end(self) -> None:
        """Give the memory of the last head back."""
        self._waits.head_bytes -= self._head_bytes
        self._head_bytes = 0
        self._head_tail = b""

    # -- sending ------------------------------------------------------------------------------

    def sendall(self, data: bytes) -> None:
        """Send data, but keep the headers of an answer until its body comes.

        gunicorn sends them one by one: twice the system calls and packets, and clients wake up
        twice.
        """
        if not self._held and data.endswith(END_OF_HEAD):
            self._held = data
        else:
            data, self._held = self._held + data, b""
            self._send(data)

    def _send(self, data: bytes) -> None:
        try:
            sent = self._raw.send(data)
        except BlockingIOError:
            sent = 0
        if sent < len(data):
            self._socket.sendall(data[sent:])

    def send_held(self) -> None:
        """Send the headers of an answer that has no body."""
        if self._held:
            data, self._held = self._held, b""
            self._send(data)

    def drop_held(self) -> None:
        """Forget the headers of an answer that failed before they were sent."""
        self._held = b""

    def linger(self) -> None:
        """Let the client read its answer before the connection is closed."""
        self.end()
        seen = 0
        with silent_timeout(LINGER_S), suppress(Ended), _Lingering(self._waits):
            try:
                self._socket.shutdown(SHUT_WR)
                # Only the count: a client that stops would have what came last kept in memory.
                while seen < LINGER_BYTES and (count := len(self._receive(65_536))):
                    seen += count
            except OSError:
                log.debug("the client closed first")


# -- waits that may be cut short ------------------------------------------------------------------


class Ended(BaseException):
    """Thrown into the greenlet of a connection that waits for nothing that matters."""


class _Interruptible:
    """A wait of the current greenlet."""

    def __init__(self) -> None:
        self._greenlet: Any = gevent.getcurrent()
        self.is_open = True

    def interrupt(self, error: BaseException) -> None:
        gevent.get_hub().loop.run_callback(self._throw, error)

    def _throw(self, error: BaseException) -> None:
        # A request may have arrived since this callback was scheduled; it must not be cut off.
        if self.is_open:
            self._greenlet.throw(error)


def _heads_busy() -> Busy:
    return Busy("too many request heads are in memory", retry_after_s=1)


class Waits:
    """The connections of a process on which no request is in progress, oldest wait first."""

    def __init__(self, most_head_bytes: int = HEADS_BYTES) -> None:
        self.idle: dict[_Interruptible, bool] = {}
        """Those that receive nothing; whether an answer was sent on them."""
        self.unfinished: dict[HeadWait, None] = {}
        """Those that have sent a part of a head."""
        self.head_bytes = 0
        """What is in memory of all heads, those of requests in progress too."""
        self._most_head_bytes = most_head_bytes

    def end_kept(self) -> None:
        """End the connections that wait for another request."""
        for wait, is_kept in list(self.idle.items()):
            if is_kept:
                wait.interrupt(Ended())

    def make_room(self) -> None:
        """End the connection that can be spared best, if there is one."""
        if self.idle:
            wait = next(iter(self.idle))
            del self.idle[wait]
            wait.interrupt(Ended())
        elif self.unfinished:
            self._end_oldest_head(Busy("too many connections are open", retry_after_s=1))

    def make_head_room(self, newest: "HeadWait") -> bool:
        """End unfinished heads, not ``newest``, until there is room; return whether there is."""
        while self.head_bytes > self._most_head_bytes:
            if next(iter(self.unfinished), newest) is newest:
                return False
            self._end_oldest_head(_heads_busy())
        return True

    def _end_oldest_head(self, error: Busy) -> None:
        wait = next(iter(self.unfinished))
        del self.unfinished[wait]
        wait.connection.end()
        wait.interrupt(error)


class _Lingering(_Interruptible):
    """The wait for a client to read an early answer, as a context."""

    def __init__(self, waits: Waits) -> None:
        super().__init__()
        self._waits = waits

    def __enter__(self) -> None:
        self._waits.idle[self] = False

    def __exit__(self, *error: object) -> None:
        self.is_open = False
        self._waits.idle.pop(self, None)


class HeadWait(_Interruptible):
    """The wait for the head of a request, as a context.

    The first head must be there ``upload_s`` after the connection was made. A later one may begin
    within ``keepalive_s``, and must be there ``upload_s`` after its first byte; if it does not
    begin, the context is left without an error, as it is after `Ended`.
    """

    def __init__(
        self, waits: Waits, connection: Connection, upload_s: float, keepalive_s: float
    ) -> None:
        super().__init__()
        self.connection = connection
        self._waits = waits
        self._upload_s = upload_s
        self._keepalive_s = keepalive_s
        self._has_begun = False

    def __enter__(self) -> None:
        connection = self.connection
        # Before all else: others may run meanwhile, and `__exit__` follows only what has returned.
        has_begun = connection.begin_head(self)
        is_kept, connection.had_request = connection.had_request, True
        self._is_kept = is_kept
        self._timeout = self._idle_timeout() if is_kept else self._head_timeout()
        self._timeout.start()
        self._waits.idle[self] = is_kept
        if has_begun:
            self.begin(is_whole=False)

    def begin(self, *, is_whole: bool) -> None:
        """Note that bytes of the head came; ``is_whole``: all of it is there."""
        if self._has_begun:
            return
        self._has_begun = True
        self._waits.idle.pop(self, None)
        if is_whole:
            return
        self._waits.unfinished[self] = None
        if self._is_kept:
            self._timeout.close()
            self._timeout = self._head_timeout()
            self._timeout.start()

    def __exit__(self, kind: Any, error: BaseException | None, traceback: Any) -> bool:
        self.is_open = False
        self._timeout.close()
        self._waits.idle.pop(self, None)
        self._waits.unfinished.pop(self, None)
        self.connection.wait = None
        return error is self._timeout or isinstance(error, Ended)

    def _idle_timeout(self) -> Any:
        timeout: Any = gevent.Timeout  # Its types do not know that False is allowed.
        return timeout(self._keepalive_s, False)

    def _head_timeout(self) -> Any:
        slow = f"the headers did not arrive within {self._upload_s:g} seconds"
        return gevent.Timeout(self._upload_s, UploadTooSlow(slow))
