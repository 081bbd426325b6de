"""Limits of one web process: requests in progress, and bytes of uploads in memory."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from imageserve import metrics
from imageserve.errors import Busy


class Slots:
    """Requests in progress. When all slots are taken, refuse at once: waiting would delay all."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0
        self._lock = threading.Lock()

    @property
    def free(self) -> int:
        return self.limit - self.in_use

    def check(self) -> None:
        """Raise Busy where no slot is free. To be called before an upload is read."""
        if self.free <= 0:
            raise Busy(f"all {self.limit} request slots are taken", retry_after_s=1)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold one slot.

        Raises Busy where none is free.
        """
        with self._lock:
            self.check()
            self.in_use += 1
        metrics.slots_in_use.inc()
        try:
            yield
        finally:
            with self._lock:
                self.in_use -= 1
            metrics.slots_in_use.dec()


class UploadMemory:
    """Bytes of uploads in memory: a pod has little, and a client may send much."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._lock = threading.Lock()

    @contextmanager
    def account(self) -> Iterator["UploadAccount"]:
        """Open an account for one request, and give its bytes back at the end."""
        account = UploadAccount(self)
        try:
            yield account
        finally:
            self.change(-account.bytes)

    def change(self, count: int) -> bool:
        """Add ``count`` bytes; return False, and add none, where that exceeds the limit."""
        with self._lock:
            if count > 0 and self.held + count > self.limit:
                return False
            self.held += count
        metrics.upload_bytes_held.inc(count)
        return True


class UploadAccount:
    """The bytes that one request holds."""

    def __init__(self, memory: UploadMemory) -> None:
        self.bytes = 0
        self._memory = memory

    def take(self, count: int) -> None:
        """Add ``count`` bytes to the account.

        Raises Busy where the process holds too many already.
        """
        if not self._memory.change(count):
            raise Busy("too many uploads are in memory", retry_after_s=1)
        self.bytes += count
