"""Replies on Redis: one pub/sub connection per process, for all its queues.

Subscribing per request opens a TCP connection per request; one shared connection carries five times
the requests. A message lost while the connection was down is not an answer lost: the result is
stored too, and every (re-)subscription reads what the waiting jobs have stored meanwhile.
"""

import logging
import random
import threading
import uuid
from collections.abc import Mapping
from typing import Any

import redis

from imageserve import metrics
from imageserve.errors import QueueError
from imageserve.queue.redis.connection import RedisAccess, connect, redis_errors
from imageserve.queue.redis_queue import RedisQueue
from imageserve.queue.replies import JOB_LOST, Waiters
from imageserve.queue.wire import Result, ResultError, decode_result

log = logging.getLogger(__name__)

SILENCE_S = 10.0
"""After this long without a message the connection is asked whether it still lives."""

MAX_PAUSE_S = 2.0


class RedisReplies:
    """Listens on ``{Q}:reply:<process>`` of every queue and wakes the waiters."""

    def __init__(self, access: RedisAccess, queues: Mapping[str, RedisQueue]) -> None:
        self.waiters = Waiters()
        self._access = access
        self._queues = queues
        self._process = uuid.uuid4().hex
        self._connected = threading.Event()
        self.connections = 0

    def channel(self, queue: str) -> str:
        return self._queues[queue].keys.reply(self._process)

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    def start(self) -> None:
        threading.Thread(target=self._run, name="replies", daemon=True).start()

    def wait_connected(self, timeout_s: float) -> bool:
        return self._connected.wait(timeout_s)

    def _run(self) -> None:
        pause_s = 0.05
        reported = False
        while True:
            try:
                self._listen()
            except QueueError as error:
                if self._connected.is_set():
                    pause_s, reported = 0.05, False
                if not reported:
                    log.error("results are not heard of: %s", error)
                reported = True
                self._lost()
            # Top of a loop that must never end: without it every request of this process would
            # wait until its deadline.
            except Exception:
                log.critical("bug while listening for results", exc_info=True)
                self._lost()
            threading.Event().wait(pause_s * random.uniform(0.5, 1.0))
            pause_s = min(MAX_PAUSE_S, pause_s * 2)

    def _lost(self) -> None:
        self._connected.clear()
        metrics.redis_up.set(0)

    def _listen(self) -> None:
        # On a cluster, any node hears what is published on another.
        client = connect(
            self._access,
            key=next(iter(self._queues)),
            retries=0,
            timeout_s=SILENCE_S / 2,
            connections=1,
        )
        with redis_errors():
            pubsub = client.pubsub()
            try:
                pubsub.subscribe(*map(self.channel, self._queues))
                while True:
                    self._handle(self._next_message(pubsub))
            finally:
                pubsub.close()
                client.connection_pool.disconnect()

    def _next_message(self, pubsub: "redis.client.PubSub") -> Mapping[str, Any]:
        """Return the next message; a silent connection is tried with a PING.

        Raises redis.TimeoutError where even that stays without an answer.
        """
        message: Mapping[str, Any] | None = pubsub.get_message(timeout=SILENCE_S)
        if message is None:
            pubsub.ping()
            message = pubsub.get_message(timeout=SILENCE_S / 2)
        if message is None:
            raise redis.TimeoutError("the pub/sub connection does not answer")
        return message

    def _handle(self, message: Mapping[str, Any]) -> None:
        if message["type"] == "subscribe":
            self._catch_up()
            if not self._connected.is_set():
                self.connections += 1
                self._connected.set()
                metrics.redis_up.set(1)
                log.info("listening for results")
        elif message["type"] == "message":
            self._deliver(message["data"])

    def _deliver(self, text: bytes) -> None:
        try:
            self.waiters.deliver(decode_result(text))
        except ValueError:
            log.warning("ignored a message that is not a result: %.200r", text)

    def _catch_up(self) -> None:
        """Read the results that were published while nobody listened, and find lost jobs."""
        for name, queue in self._queues.items():
            waiting = self.waiters.pending(name)
            for result in queue.results([waiter.job_id for waiter in waiting]):
                if result is not None:
                    self.waiters.deliver(result)
            sent = [waiter.job_id for waiter in waiting if waiter.sent and waiter.result is None]
            for job_id in queue.forgotten(sent):
                self.waiters.deliver(_lost(job_id))


def _lost(job_id: str) -> Result:
    """Return what a waiter hears of a job that Redis has lost: it restarted without its data."""
    error = ResultError(JOB_LOST, "the queue has lost the job")
    return Result(job_id, "", 0, 0, 0, error=error)
