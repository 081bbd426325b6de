"""Whether Redis answers: one log line per change, and how long to wait before the next try."""

import logging
import random
import threading
import time

from imageserve import metrics

log = logging.getLogger(__name__)

FIRST_PAUSE_S = 0.05
LONGEST_PAUSE_S = 2.0


class Link:
    """The state of the connection to Redis, as this process sees it."""

    def __init__(self, stopping: threading.Event) -> None:
        self.met = False
        """Whether Redis has ever answered."""
        self._stopping = stopping
        self._is_up: bool | None = None
        self._pause_s = FIRST_PAUSE_S

    def up(self) -> None:
        self.met = True
        self._pause_s = FIRST_PAUSE_S
        if not self._is_up:
            log.info("Redis answers")
            metrics.redis_up.set(1)
        self._is_up = True

    def down(self, error: Exception) -> None:
        """Note a failure and wait a moment, longer each time."""
        if self._is_up is not False:
            log.error("Redis does not answer, trying until it does: %s", error)
            metrics.redis_up.set(0)
        self._is_up = False
        pause_s = self._pause_s * random.uniform(0.5, 1.0)
        if self._stopping.wait(pause_s):
            time.sleep(pause_s)  # A stop ends one wait, not all: what must be done is still tried.
        self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2)
