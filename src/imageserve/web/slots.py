"""What one web process takes on at once: a number of requests, and bytes of uploads."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager

from imageserve import metrics
from imageserve.errors import Busy


class Slots:
    """Requests in hand. Full means: refuse now, instead of making everybody late."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0
        self._lock = threading.Lock()

    @property
    def free(self) -> int:
        return self.limit - self.in_use

    def check(self) -> None:
        """Raise Busy where no slot is free: cheap, before an upload is read."""
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
    """Bytes of uploads that are held; a pod has little memory and anyone may send much."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.held = 0
        self._lock = threading.Lock()

    @contextmanager
    def account(self) -> Iterator["UploadAccount"]:
        """Open an account; what is on it is given back at the end."""
        account = UploadAccount(self)
        try:
            yield account
        finally:
            self.change(-account.bytes)

    def change(self, count: int) -> bool:
        """Take ``count`` more bytes, unless that is over the limit."""
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
        """Account for ``count`` more bytes.

        Raises Busy where the process holds too much already.
        """
        if not self._memory.change(count):
            raise Busy("too many uploads are in memory", retry_after_s=1)
        self.bytes += count
