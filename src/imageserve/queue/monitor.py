"""Temporary: the interface of the file that takes this one's place, on the readers of today."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from imageserve.errors import QueueError
from imageserve.queue.observations import JobLook, QueueReader
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.snapshot import Snapshot

FirstJobWaiter = JobLook


class Monitor:
    """Reads queues. Each one answers for itself."""

    def __init__(self, access: RedisAccess, queues: Sequence[str]) -> None:
        self._readers = {queue: QueueReader(access, [queue]) for queue in queues}

    def snapshots(self) -> Mapping[str, Snapshot | QueueError]:
        """Return each queue's snapshot, or why there is none."""
        return {queue: self._snapshot(queue) for queue in self._readers}

    def _snapshot(self, queue: str) -> Snapshot | QueueError:
        try:
            reading = self._readers[queue].read()
        except QueueError as error:
            return error
        return replace(reading.snapshots[queue], run=reading.run)
