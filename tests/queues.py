"""A whole queue for tests: all that producer, consumer and monitor ask of one, on a real Redis."""

import json
from typing import Any

from imageserve.errors import QueueError
from imageserve.queue.consumer import ConsumerStore
from imageserve.queue.keys import Keys
from imageserve.queue.monitor import Monitor
from imageserve.queue.producer import ProducerStore
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.snapshot import Snapshot


class RedisQueue(ProducerStore, ConsumerStore):
    """One queue on Redis with the commands of all three faces."""

    def __init__(
        self, access: RedisAccess, name: str, *, connections: int = 8, keys: Keys | None = None
    ) -> None:
        super().__init__(access, name, connections=connections, keys=keys)
        self._monitor = Monitor(access, [name])

    def bury(self, entry: str, reason: str) -> None:
        """Put an entry on the dead list, as scripts do."""
        item = json.dumps({"entry": entry, "reason": reason, "at": 1_760_000_000_000})
        self.client.lpush(self.keys.dead, item)

    def dead(self, count: int) -> list[dict[str, Any]]:
        return self._monitor.dead(self.name, count)

    def purge(self) -> int:
        return self._monitor.purge(self.name)

    def desired(self) -> str:
        return self._monitor.desired(self.name)

    def set_desired(self, text: str) -> None:
        self._monitor.set_desired(self.name, text)

    def keep_arrivals(self, value: bytes, keep_s: int) -> None:
        self._monitor.keep_arrivals(self.name, value, keep_s)

    def close(self) -> None:
        super().close()
        self._monitor.close()


def monitored(monitor: Monitor, queue: str) -> Snapshot:
    """Return the snapshot of a queue that must be readable."""
    snapshot = monitor.snapshots()[queue]
    if isinstance(snapshot, QueueError):
        raise snapshot
    return snapshot
