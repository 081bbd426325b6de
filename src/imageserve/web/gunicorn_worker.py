"""The gunicorn worker of the web server: gevent, with the manners this service promises.

What it adds to gunicorn's own gevent worker: slow headers are answered 408; an answer that comes
before the whole upload does reaches the client; an answer is sent at once, not in two parts; idle
connections make room under pressure and are closed at a shutdown; errors below the application have
the same JSON shape as all others.
"""

import errno
import functools
import json
import logging
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http import HTTPStatus
from socket import MSG_DONTWAIT, MSG_PEEK, SHUT_WR
from typing import Any

import gevent
from gevent.threadpool import ThreadPool
from gunicorn.http.errors import LimitRequestHeaders, LimitRequestLine, ParseException
from gunicorn.workers.ggevent import GeventWorker

from imageserve.errors import BadRequest, RequestError, TimedOut, UploadTooSlow
from imageserve.web.polling import look_without_waiting
from imageserve.web.predict import Wait

log = logging.getLogger(__name__)

LINGER_S = 2.0
LINGER_BYTES = 64 * 2**20
"""After an early answer the rest of an upload is read and thrown away within these limits: closing
at once would make the client's system discard the answer too."""

CROWDED = 0.5
"""With more than this share of all connections open, idle ones are kept for a second only."""

OFFLOAD_THREADS = 1
"""Threads that decode large pictures: one, because one picture may take 16 bytes a pixel, which at
the default limit is 800 MB. More processes decode more pictures at once."""

SEND_EXTRA_S = 1.0
"""A client has the upload timeout and this long to read an answer."""


class HeadersTooSlow(Exception):
    """The first request of a connection did not have its headers in within UPLOAD_TIMEOUT_S."""


def _silent_timeout(seconds: float) -> Any:
    """Return a context that is left, without an error, when the time is over."""
    timeout: Any = gevent.Timeout  # Its types leave out that False is allowed.
    return timeout(seconds, False)


class Worker(GeventWorker):  # type: ignore[misc]
    """One web process."""

    upload_timeout_s = 10.0
    stopping = False
    """Read by the application: True from SIGTERM on."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._idle: dict[Any, Any] = {}
        self._connections = 0

    def patch(self) -> None:
        super().patch()
        look_without_waiting()

    def load_wsgi(self) -> None:
        application: Callable[..., Any] = self.app.wsgi()
        self.wsgi = _closing_where_told(application)

    def handle_exit(self, sig: int, frame: Any) -> None:
        Worker.stopping = True
        super().handle_exit(sig, frame)

    def notify(self) -> None:
        super().notify()
        if not self.alive:
            for greenlet, timeout in list(self._idle.items()):
                gevent.get_hub().loop.run_callback(self._end_idle, greenlet, timeout)

    def _end_idle(self, connection: Any, timeout: Any) -> None:
        # A request may have come in the turn since this was asked for; it must not be cut off.
        if self._idle.get(connection) is timeout:
            connection.throw(timeout)

    def handle(self, listener: Any, client: Any, addr: Any) -> None:
        connection: Any = gevent.getcurrent()
        connection.has_been_asked = False
        self._connections += 1
        try:
            super().handle(listener, client, addr)
        finally:
            self._connections -= 1

    def timeout_ctx(self) -> Any:
        """Return the context in which gunicorn waits for the headers of a request."""
        connection: Any = gevent.getcurrent()
        if not connection.has_been_asked:
            connection.has_been_asked = True
            return gevent.Timeout(self.upload_timeout_s, HeadersTooSlow)
        crowded = self._connections > CROWDED * self.worker_connections
        return self._kept(connection, 1.0 if crowded else self.cfg.keepalive)

    @contextmanager
    def _kept(self, connection: Any, seconds: float) -> Iterator[None]:
        """Wait for the next request of a kept connection; end silently where none comes."""
        with _silent_timeout(seconds) as timeout:
            self._idle[connection] = timeout
            try:
                yield
            finally:
                del self._idle[connection]

    def handle_request(self, listener_name: Any, req: Any, sock: Any, addr: Any) -> Any:
        # Or a client that asks and does not read would hold its connection for ever.
        sock.settimeout(self.upload_timeout_s + SEND_EXTRA_S)
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
        except StopIteration:  # Answered, and the connection is not to be kept.
            whole.send_held()
            raise
        whole.send_held()
        return result

    def handle_error(self, req: Any, client: Any, addr: Any, exc: BaseException) -> None:
        error = _as_request_error(exc)
        if error is None:
            log.error("error below the application", exc_info=exc)
            error = RequestError("the server has failed")
        try:
            client.sendall(_raw_response(error))
            client.shutdown(SHUT_WR)
        except OSError:
            log.debug("nobody to tell: %s", exc)


class WholeAnswers:
    """A connection that keeps an answer's headers until its body comes, and sends both at once.

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


def _as_request_error(exc: BaseException) -> RequestError | None:
    if isinstance(exc, HeadersTooSlow):
        return UploadTooSlow(f"headers were not in within {Worker.upload_timeout_s:g} seconds")
    if isinstance(exc, LimitRequestLine | LimitRequestHeaders | ParseException):
        return BadRequest(f"this is not an HTTP request that can be served: {exc}")
    return None


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


def _closing_where_told(application: Callable[..., Any]) -> Callable[..., Any]:
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
    """Let the client read its answer before the connection goes."""
    seen = 0
    with _silent_timeout(LINGER_S):
        try:
            sock.shutdown(SHUT_WR)
            while seen < LINGER_BYTES and (data := sock.recv(65_536)):
                seen += len(data)
        except OSError:
            log.debug("the client closed first")


# -- what the application borrows from this server ------------------------------------------------


@contextmanager
def upload_deadline(seconds: float) -> Iterator[None]:
    """End a read that takes longer than ``seconds``.

    Raises UploadTooSlow, and BadRequest where the body is broken off or chunked wrongly.
    """
    timeout = gevent.Timeout(seconds)
    timeout.start()
    try:
        yield
    except gevent.Timeout as caught:
        if caught is not timeout:
            raise
        raise UploadTooSlow(f"the upload was not in within {seconds:g} seconds") from caught
    except (ParseException, OSError) as error:
        raise BadRequest("the request body is broken off, or its chunks are malformed") from error
    finally:
        timeout.close()


def watch_hang_up(environ: Mapping[str, Any], wait: Wait) -> Callable[[], None]:
    """Tell ``wait`` when the client closes its connection; returns how to stop watching.

    One watcher of the event loop, and no greenlet until it happens: it costs microseconds.
    """
    sock = environ.get("gunicorn.socket")
    if sock is None or hasattr(sock, "context"):
        return lambda: None  # Under TLS a readable socket says nothing; TLS ends at the ingress.
    watcher = gevent.get_hub().loop.io(sock.fileno(), 1)

    def readable() -> None:
        watcher.stop()
        try:
            gone = sock._sock.recv(1, MSG_PEEK | MSG_DONTWAIT) == b""
        except BlockingIOError:
            gone = False
        except OSError:
            gone = True
        if gone:
            # Not here: setting the event may have to wait, which the event loop itself must not.
            gevent.spawn(wait.hang_up)

    def stop() -> None:
        watcher.stop()
        watcher.close()

    watcher.start(readable)
    return stop


@functools.cache
def _decoders() -> ThreadPool:
    """Return the threads for large pictures. Not the hub's own: name look-ups need those."""
    return ThreadPool(OFFLOAD_THREADS)


def offload(call: Callable[[], bytes], seconds: float) -> bytes:
    """Run a decoder in a thread, so that it does not hold up other requests.

    Raises TimedOut where no thread was done with it within ``seconds``; one that waits for a thread
    is then not begun at all.
    """
    with _silent_timeout(seconds):
        result: bytes = _decoders().apply(call)
        return result
    raise TimedOut("too many large pictures are being decoded")
