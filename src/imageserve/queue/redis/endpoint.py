"""One address behind which master and replica may change places, as a managed Redis has it.

The old master then lives on as a replica and keeps its connections: it refuses every write for
ever, and, where it does not follow the new master, it publishes and knows nothing new.
"""

import re
import socket
import threading
from contextlib import suppress
from typing import Any
from weakref import WeakSet

import redis

_REFUSED = re.compile(r"read ?only (replica|slave)", re.IGNORECASE)

_made: WeakSet["ToMaster"] = WeakSet()
"""Connections that were made since their address was last found to lead to a replica."""
_lock = threading.Lock()


class ToMaster(redis.Connection):
    """Is closed once a write to its address met a replica: the address may lead elsewhere now.

    One that only listens or reads is never refused, so the refusal of one closes all.
    """

    _is_given_up = False

    def on_connect(self) -> None:
        super().on_connect()  # type: ignore[no-untyped-call]
        self._is_given_up = False
        with _lock:
            _made.add(self)

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)
        except redis.ResponseError as error:  # Redis 6.2 has no class of its own within a script.
            if not _REFUSED.search(str(error)):
                raise
            self._give_up_all()
            self.disconnect()  # type: ignore[no-untyped-call]
            raise redis.ConnectionError(f"the server is a replica now: {error}") from error
        except redis.ConnectionError as error:
            if not self._is_given_up:
                raise
            raise redis.ConnectionError("the server is a replica now") from error

    def _give_up_all(self) -> None:
        with _lock:
            # Once only: those that were made since then may lead to the new master.
            is_news = self in _made
            given_up = [each for each in _made if is_news and each._address == self._address]
            _made.difference_update(given_up)
        for each in given_up:
            each._break_off()

    @property
    def _address(self) -> tuple[str, int]:
        return self.host, self.port

    def _break_off(self) -> None:
        """Wake who reads from it in another thread; its user closes it."""
        self._is_given_up = True
        sock: Any = self._sock  # Its types know no socket.
        if sock is not None:
            with suppress(OSError):
                # Not that of a TLS socket: what is sent after it would go in plain text.
                socket.socket.shutdown(sock, socket.SHUT_RDWR)


class ToMasterTLS(ToMaster, redis.SSLConnection):
    """The same through TLS."""
