"""Whether Redis may throw waiting pictures away: looked at when a process starts, and later."""

import logging
import time
from collections.abc import Mapping
from typing import Any

from imageserve import metrics
from imageserve.errors import QueueError
from imageserve.queue.keys import Keys
from imageserve.queue.redis.connection import (
    COMMAND_TIMEOUT_S,
    RedisAccess,
    connect,
    redis_errors,
)

log = logging.getLogger(__name__)

WATCH_EVERY_S = 60.0

_evicting: set[str] = set()
"""The watched queues whose node evicts. One gauge tells of all nodes of this process."""


def eviction_problem(facts: Mapping[str, Any]) -> str:
    """Return why a Redis with these facts (INFO) may evict once it has a limit; "" where never."""
    policy = str(facts.get("maxmemory_policy", ""))
    if policy in ("", "noeviction"):
        return ""
    return (
        f"Redis has maxmemory-policy {policy}: it would throw waiting pictures away. "
        "Set it to noeviction"
    )


class EvictionWatch:
    """Notices that the memory policy of a running Redis was changed."""

    def __init__(self, access: RedisAccess, queue: str) -> None:
        key = Keys(queue).queue
        self._client = connect(
            access, key=key, retries=1, timeout_s=COMMAND_TIMEOUT_S, connections=1
        )
        self._queue = queue
        self._problem = ""
        self._due_at = time.monotonic() + WATCH_EVERY_S

    def look(self) -> None:
        """Look, if a minute has passed since the last time; log once per change."""
        if time.monotonic() < self._due_at:
            return
        self._due_at = time.monotonic() + WATCH_EVERY_S
        try:
            with redis_errors():
                facts: Any = self._client.info("memory")
        except QueueError as error:
            log.debug("the memory policy of Redis is not known: %s", error)
            return
        problem = eviction_problem(facts) if facts.get("maxmemory") else ""
        if problem and problem != self._problem:
            log.error("%s", problem)
        elif problem != self._problem:
            log.info("Redis evicts nothing any more")
        self._problem = problem
        if problem:
            _evicting.add(self._queue)
        else:
            _evicting.discard(self._queue)
        metrics.redis_evicts.set(bool(_evicting))
