"""Looking whether a socket has something to read, without giving other requests a turn.

redis-py looks at a connection before every command, with ``poll(0)``. gevent's ``poll`` lets every
other greenlet run even then: of twenty pictures that came together the first was sent to Redis when
the last was decoded, and the model had nothing to do meanwhile.
"""

import select
from typing import Any

from gevent import monkey
from gevent.select import poll as poll_of_gevent


class Poll:
    """A ``select.poll`` that asks the system where it need not wait, and gevent where it must."""

    def __init__(self) -> None:
        self._masks: dict[Any, int] = {}

    def register(
        self, fd: Any, eventmask: int = select.POLLIN | select.POLLPRI | select.POLLOUT
    ) -> None:
        self._masks[fd] = eventmask

    modify = register

    def unregister(self, fd: Any) -> None:
        del self._masks[fd]

    def poll(self, timeout: float | None = None) -> list[tuple[int, int]]:
        """Return what is ready, within ``timeout`` milliseconds; None waits for ever."""
        waits = timeout is None or timeout > 0
        poller = poll_of_gevent() if waits else monkey.get_original("select", "poll")()
        for fd, mask in self._masks.items():
            poller.register(fd, mask)
        ready: list[tuple[int, int]] = poller.poll(timeout)
        return ready


def look_without_waiting() -> None:
    """Make this the process's ``select.poll``. To be called after gevent has put its own there."""
    select.poll = Poll  # type: ignore[assignment,misc]
