"""A worker's heartbeat: says that it lives and what it is, and hears what it should serve."""

import logging
import threading
from collections.abc import Callable

from imageserve.errors import QueueError
from imageserve.queue.queue import HEARTBEAT_S, JobQueue, WorkerInfo

log = logging.getLogger(__name__)


class Heart:
    """Beats in a thread of its own until ``stopping`` is set; any thread may add a beat."""

    def __init__(
        self,
        queue: JobQueue,
        describe: Callable[[str], WorkerInfo],
        heard: Callable[[str], None],
        stopping: threading.Event,
    ) -> None:
        """``describe`` is given the state, ``heard`` what the workers are told to serve."""
        self._queue = queue
        self._describe = describe
        self._heard = heard
        self._stopping = stopping
        self._one_at_a_time = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def join(self, timeout_s: float) -> None:
        self._thread.join(timeout_s)

    def beat(self) -> None:
        """Say at once what has changed. Nothing is said after the last words."""
        with self._one_at_a_time:
            if not self._stopping.is_set():
                self._say("ready")

    def _run(self) -> None:
        while not self._stopping.is_set():
            self.beat()
            self._stopping.wait(HEARTBEAT_S)
        with self._one_at_a_time:
            self._say("stopping")

    def _say(self, state: str) -> None:
        try:
            self._heard(self._queue.heartbeat(self._describe(state)))
        except QueueError as error:
            log.debug("no heartbeat: %s", error)
        # Called from a loop that must not end: a worker that is not heard of counts as gone.
        except Exception:
            log.critical("bug in the heartbeat", exc_info=True)
