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
        looks = timeout == 0
        poller = monkey.get_original("select", "poll")() if looks else poll_of_gevent()
        for fd, mask in self._masks.items():
            poller.register(fd, mask)
        ready: list[tuple[int, int]] = poller.poll(timeout)
        return ready


def _number(fd: Any) -> int:
    number: int = fd if isinstance(fd, int) else fd.fileno()
    return number


def look_without_waiting() -> None:
    """Make this the process's ``select.poll``. To be called after gevent has put its own there."""
    select.poll = Poll  # type: ignore[assignment,misc]
