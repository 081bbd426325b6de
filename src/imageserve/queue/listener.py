"""Results on their way back: one pub/sub connection per Redis node, and the tickets that wait.

A subscription per request would open a TCP connection per request; one shared connection carries
five times the requests. A message that is lost while the connection is down delays an answer and
loses none: results are stored too, and each subscription reads what was stored meanwhile.
"""

import logging
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from contextlib import closing

from imageserve import metrics
from imageserve.backoff import Backoff
from imageserve.errors import QueueError, QueueUnavailable
from imageserve.queue.redis.connection import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    START_S,
    RedisAccess,
)
from imageserve.queue.redis.queue import RedisQueue
from imageserve.queue.redis.subscription import messages
from imageserve.queue.wire import (
    LOST,
    UNREADABLE,
    NotAResult,
    Result,
    decode_result,
    unread_result,
)

log = logging.getLogger(__name__)

SILENCE_S = 10.0
"""After this long without a message the connection is tested with a PING."""

OUTAGE_S = 0.5
"""How long a breaker refuses all calls after a failure."""

TRIAL_S = 5.0
"""After this long another call tries, though the one before has not ended."""

SAME_OUTAGE_S = 30.0
"""Failures this close to each other, with no success between them, are one outage."""


class Ticket:
    """One submitted job. Its first result counts; later ones are ignored."""

    __slots__ = ("_wake", "accepted", "job_id", "result")

    def __init__(self, job_id: str, wake: threading.Event) -> None:
        self.job_id = job_id
        self.accepted = False
        """Whether Redis took the job: only then can Redis lose it."""
        self.result: Result | None = None
        self._wake = wake

    def resolve(self, result: Result) -> None:
        if self.result is None:
            self.result = result
            self._wake.set()


class Tickets:
    """The open tickets of one queue in this process, by job id."""

    def __init__(self, channel: str) -> None:
        self.channel = channel
        """The channel on which the results of these jobs are published."""
        self._by_id: dict[str, Ticket] = {}

    def add(self, job_id: str, wake: threading.Event) -> Ticket:
        """Register a job before it is sent: its result may arrive before the enqueue's reply."""
        ticket = self._by_id[job_id] = Ticket(job_id, wake)
        return ticket

    def remove(self, ticket: Ticket) -> None:
        self._by_id.pop(ticket.job_id, None)

    def deliver(self, result: Result) -> None:
        """Give a result to its ticket; drop it where there is none."""
        ticket = self._by_id.get(result.id)
        if ticket is not None:
            ticket.resolve(result)

    def open(self) -> list[Ticket]:
        return [ticket for ticket in list(self._by_id.values()) if ticket.result is None]


class Breaker:
    """Refuses calls to a Redis node after one failed.

    A Redis that hangs costs each try two seconds or more, and each try holds a slot that requests
    for models on other nodes need. So after a moment one call tries, and the others are refused
    until it succeeds. A new pub/sub connection to the node closes the breaker too.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self.down_since = float("-inf")
        """When the first call of the outage failed. Means something while it is open."""
        self.on_close: Callable[[], None] = lambda: None
        """Is called when it has closed."""
        self._clock = clock
        self._open_until: float | None = None
        self._failed_at = float("-inf")
        self._trying = False

    @property
    def is_open(self) -> bool:
        return self._open_until is not None

    @property
    def try_in_s(self) -> float:
        """How long it refuses everything; then, or where that is 0, one call may try."""
        open_until = self._open_until
        return 0.0 if open_until is None else max(0.0, open_until - self._clock())

    def check(self) -> None:
        """Raise QueueUnavailable while the breaker is open."""
        # Read once: the listener's thread may close it at any time.
        if (open_until := self._open_until) is None:
            return
        if self._clock() < open_until:
            raise QueueUnavailable("Redis did not answer a moment ago")
        self._trying = True
        self._open_until = self._clock() + TRIAL_S

    def trip(self) -> None:
        """Open it: a call failed."""
        now = self._clock()
        if now - self._failed_at > SAME_OUTAGE_S:
            self.down_since = now
        self._failed_at = now
        self._trying = False
        self._open_until = now + OUTAGE_S

    def succeeded(self) -> None:
        """Close it if a call was trying whether Redis answers again."""
        if self._trying:
            self.reset()
        if not self.is_open:
            self._failed_at = float("-inf")

    def reset(self) -> None:
        """Close it."""
        self._trying = False
        self._open_until = None
        self.on_close()


class ReplyListener:
    """Receives the results of queues that share a Redis node, in a thread of its own."""

    def __init__(
        self,
        access: RedisAccess,
        queues: Sequence[RedisQueue],
        peers: "list[ReplyListener] | None" = None,
    ) -> None:
        """``peers`` are all listeners of this process: Redis is up while each is connected."""
        process = uuid.uuid4().hex
        self.tickets = {queue.name: Tickets(queue.keys.reply(process)) for queue in queues}
        self.breaker = Breaker()
        self._access = access
        self._queues = {self.tickets[queue.name].channel.encode(): queue for queue in queues}
        self._connected = threading.Event()
        self._peers = [] if peers is None else peers
        self._peers.append(self)

    @property
    def connected(self) -> bool:
        return self._connected.is_set()

    def start(self) -> None:
        threading.Thread(target=self._run, name="replies", daemon=True).start()

    def _run(self) -> None:
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)
        reported = ""
        usual_until = time.monotonic() + START_S
        while True:
            try:
                self._listen()
            except QueueError as error:
                if self.connected:
                    backoff.reset()
                    reported, usual_until = "", 0.0
                is_usual = isinstance(error, QueueUnavailable) and time.monotonic() < usual_until
                state = "not received yet" if is_usual else "not received"
                if state != reported:
                    level = logging.INFO if is_usual else logging.ERROR
                    log.log(
                        level, "results of %s are %s: %s", ", ".join(self.tickets), state, error
                    )
                reported = state
            # This loop must never end: without it each request would wait until its deadline.
            except Exception:
                log.critical("bug while listening for results", exc_info=True)
            self._connected.clear()
            self._set_redis_up()
            time.sleep(backoff.next())

    def _listen(self) -> None:
        channels = [tickets.channel for tickets in self.tickets.values()]
        key = next(iter(self.tickets))
        with closing(messages(self._access, channels, key=key, silence_s=SILENCE_S)) as coming:
            for kind, channel, content in coming:
                queue = self._queues[channel]
                if kind == b"message":
                    self._deliver(self.tickets[queue.name], content)
                elif kind == b"subscribe":
                    catch_up(queue, self.tickets[queue.name])
                    if content == len(self._queues):  # The number of channels so far.
                        self._note_connected()

    def _note_connected(self) -> None:
        self.breaker.reset()
        self._connected.set()
        self._set_redis_up()
        log.info("listening for results of %s", ", ".join(self.tickets))

    def _deliver(self, tickets: Tickets, content: bytes) -> None:
        """Give a result to its ticket; one that cannot be read ends its job like a lost one."""
        try:
            tickets.deliver(decode_result(content))
        except NotAResult as error:
            fields = {"job": error.job_id}
            text = "a message of %d bytes cannot be read: %s"
            log.warning(text, len(content), error, extra={"fields": fields})
            tickets.deliver(unread_result(error.job_id, UNREADABLE))

    def _set_redis_up(self) -> None:
        metrics.redis_up.set(all(listener.connected for listener in self._peers))


def catch_up(queue: RedisQueue, tickets: Tickets) -> None:
    """Read the results of one queue that were published while nobody listened.

    A job that Redis accepted and holds no longer is lost: its ticket is told so. Raises QueueError.
    """
    waiting = tickets.open()
    for result in queue.results([ticket.job_id for ticket in waiting]):
        if result is not None:
            tickets.deliver(result)
    accepted = [t.job_id for t in waiting if t.accepted and t.result is None]
    for job_id in queue.missing(accepted):
        tickets.deliver(unread_result(job_id, LOST))
