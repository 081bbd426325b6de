"""What the web server's parts need of gevent: deadlines, turns, hang-ups, polling.

Outside a web server (in unit tests, say) gevent has patched nothing: there a deadline never ends
anything.
"""

import logging
import select
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, suppress
from dataclasses import dataclass, field
from socket import MSG_DONTWAIT, MSG_PEEK
from typing import Any

import gevent
from gevent import monkey
from gevent.hub import Hub
from gevent.select import poll as gevent_poll
from gunicorn.http.errors import ParseException

from imageserve.errors import BadRequest, UploadTooSlow

log = logging.getLogger(__name__)

TURN_S = 0.005
"""How long a greenlet may go on without waiting for anything."""
PAUSE_S = 0.001


def in_server() -> bool:
    """Whether gevent has patched this process, as it does in every web process."""
    return bool(monkey.is_module_patched("threading"))


def silent_timeout(seconds: float | None) -> AbstractContextManager[object, bool]:
    """Return a context that is left after ``seconds`` (None: never), without an error."""
    make: Any = gevent.Timeout  # Its types do not know that False is allowed.
    timeout: AbstractContextManager[object, bool] = make(seconds, False)
    return timeout


class Turn:
    """Work of one greenlet that may not have to wait: after a while all others get their turn.

    gevent changes to another greenlet where one has to wait. A client that always has more to send
    never lets its greenlet wait, and holds up all others, their deadlines included.
    """

    def __init__(self) -> None:
        self.restart()

    def restart(self) -> None:
        """Begin anew, because the greenlet has just waited."""
        self._began = time.monotonic()
        self._iteration: int = gevent.get_hub().loop.iteration

    def give(self) -> None:
        """Wait a moment if the turn has taken too long. To be called every few milliseconds."""
        if time.monotonic() - self._began <= TURN_S or not in_server():
            return
        if gevent.get_hub().loop.iteration == self._iteration:
            # Not 0: that lets ready greenlets run, but not those that wait for a socket or a timer.
            gevent.sleep(PAUSE_S)
        self.restart()


@contextmanager
def upload_deadline(seconds: float) -> Iterator[None]:
    """Stop reading a request body after ``seconds``.

    Raises UploadTooSlow, and BadRequest where the body breaks off or its chunks are malformed.
    """
    timeout = gevent.Timeout(seconds if in_server() else None)
    timeout.start()
    try:
        yield
    except gevent.Timeout as caught:
        if caught is not timeout:
            raise
        raise UploadTooSlow(f"the upload did not arrive within {seconds:g} seconds") from caught
    except (ParseException, OSError) as error:
        raise BadRequest("the request body breaks off, or its chunks are malformed") from error
    finally:
        timeout.close()


# -- clients that hang up -------------------------------------------------------------------------


@dataclass(slots=True)
class Wait:
    """A request that waits: results wake it, and so does a client that hangs up."""

    wake: threading.Event = field(default_factory=threading.Event)
    gone: bool = False
    """Whether the client has hung up."""

    def hang_up(self) -> None:
        self.gone = True
        self.wake.set()


def watch_hang_up(environ: Mapping[str, Any], wait: Wait) -> Callable[[], None]:
    """End ``wait`` when the client closes its connection; return a function that stops watching.

    It costs microseconds: one watcher in the event loop, and no greenlet before the client is gone.
    """
    sock = environ.get("gunicorn.socket")
    if sock is None or hasattr(sock, "context"):
        return lambda: None  # No server, or TLS, where a readable socket says nothing.
    watcher = gevent.get_hub().loop.io(sock.fileno(), 1)

    def on_readable() -> None:
        watcher.stop()
        if _is_closed(sock):
            # Setting an event may block, which the event loop must not.
            gevent.spawn(wait.hang_up)

    def stop() -> None:
        watcher.stop()
        watcher.close()

    watcher.start(on_readable)
    return stop


def _is_closed(sock: Any) -> bool:
    try:
        return bool(sock._sock.recv(1, MSG_PEEK | MSG_DONTWAIT) == b"")
    except BlockingIOError:
        return False
    except OSError:
        return True


# -- polling --------------------------------------------------------------------------------------


class Poll:
    """A ``select.poll`` that asks the kernel for ``poll(0)``, and gevent where it has to wait.

    redis-py calls ``poll(0)`` before every command. gevent's own ``poll`` lets all other greenlets
    run even then: of twenty pictures that arrived together, the first was sent to Redis only after
    the last was decoded, and the model was idle meanwhile.
    """

    def __init__(self) -> None:
        self._masks: dict[int, int] = {}

    def register(
        self, fd: Any, eventmask: int = select.POLLIN | select.POLLPRI | select.POLLOUT
    ) -> None:
        self._masks[_number(fd)] = eventmask

    modify = register

    def unregister(self, fd: Any) -> None:
        del self._masks[_number(fd)]

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        """Return what is ready within ``timeout`` milliseconds; None and -1 wait for ever."""
        poller = monkey.get_original("select", "poll")() if timeout == 0 else gevent_poll()
        for fd, mask in self._masks.items():
            poller.register(fd, mask)
        ready: list[tuple[int, int]] = poller.poll(timeout)
        return ready


def _number(fd: Any) -> int:
    number: int = fd if isinstance(fd, int) else fd.fileno()
    return number


def install_poll() -> None:
    """Make ``Poll`` this process's ``select.poll``; call it after gevent has patched the module."""
    select.poll = Poll  # type: ignore[assignment,misc]


# -- errors that reach gevent ---------------------------------------------------------------------


def _log_error(hub: Hub, context: object, kind: Any, error: Any, traceback: Any) -> None:
    """Log an error of a greenlet, a callback or a thread.

    gevent would print it, with all arguments of what was called: pictures, for example.
    """
    del hub, context
    with suppress(Exception):  # In the event loop nothing may be raised.
        log.error("an error in a greenlet or thread", exc_info=(kind, error, traceback))


def install_error_log() -> None:
    """Have gevent log errors, not print them."""
    hub_class: Any = Hub
    hub_class.print_exception = _log_error
