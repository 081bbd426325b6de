"""The producer's face of a queue, for web processes: submit a job and get its result.

One `Producer` per queue. It holds what this process knows of that queue: the tickets of the jobs in
hand, the capacity that admission relies on, and whether its Redis node answers.
"""

import contextlib
import logging
import math
import secrets
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from imageserve.errors import QueueError, QueueRefused, QueueUnavailable
from imageserve.preparation import Preparation
from imageserve.queue.admission import FRESH_S, Admission, AdmissionView, EnqueueCode, Limits
from imageserve.queue.keys import GUARD_MS
from imageserve.queue.listener import Breaker, ReplyListener, Ticket, Tickets, catch_up
from imageserve.queue.quota import LONGEST_COUNT_MS, Quota, QuotaWaits
from imageserve.queue.redis.connection import RedisAccess, by_node
from imageserve.queue.redis.queue import ENQUEUE, HEARTBEAT, REFUSE, RedisQueue
from imageserve.queue.snapshot import (
    HEARTBEAT_S,
    SILENT_MS,
    WebInfo,
    encode_web_info,
    retry_after_s,
)
from imageserve.queue.wire import Job, encode_open_job, encoding_of
from imageserve.trace_context import TraceContext, log_ids

log = logging.getLogger(__name__)

NONCE_EXTRA_MS = 60_000
"""How long the id of a job stays known after its deadline."""

REMOVED_AT_ONCE, MOST_READ_BYTES = 16, 2**18
"""Results that were read are removed once there are so many, or so many bytes of vectors."""

ID_TRIES = 3
"""Tries to find an unused job id, or to queue a job whose pixels Redis forgot."""


class ProducerStore(RedisQueue):
    """The producer's commands on Redis. Each raises QueueUnavailable where Redis is away."""

    def enqueue(self, job: Job, pixels: bytes, timeout_ms: int, limits: Limits) -> Admission:
        """Store the pixels and queue the job. Safe to send again after a lost reply."""
        names = self.keys.of_enqueue(job.id)
        args: list[str | int | bytes] = [
            job.reply,  # No other process has it.
            limits.max_jobs,
            timeout_ms,
            timeout_ms + NONCE_EXTRA_MS,
            encode_open_job(job),
            job.bytes,
            limits.max_bytes,
            repr(limits.speed.per_s),
            repr(limits.speed.besides_ms),
            job.id,
            self.keys.pixels(""),
            GUARD_MS,
        ]
        if quota := limits.quota:
            names.append(self.keys.quota(quota.name))
            args += [quota.interval_us, quota.burst, LONGEST_COUNT_MS, limits.together]
        pixels_key = self.keys.pixels(job.id)
        with self.errors():
            has_memory, (code, backlog, wait_ms) = ENQUEUE.after_set(
                self.client, pixels_key, pixels, timeout_ms, names, args
            )
        if code == EnqueueCode.PIXELS_LOST and not has_memory:
            self.count_refused(job.id)
            code = EnqueueCode.NO_ROOM
        return Admission(EnqueueCode(code), backlog, wait_ms)

    def count_refused(self, job_id: str = "") -> None:
        """Count a job that was refused without ENQUEUE, and remove its pixels if it has any."""
        with self.errors():
            REFUSE(self.client, [self.keys.pixels(job_id), self.keys.stats], [])

    def cancel(self, job_ids: Sequence[str]) -> None:
        """Remove the pixels: a worker that claims such a job drops it without the model."""
        if job_ids:
            with self.errors():
                self.client.unlink(*map(self.keys.pixels, job_ids))

    def remove_results(self, job_ids: Sequence[str]) -> None:
        """Remove stored results."""
        if job_ids:
            with self.errors():
                self.client.unlink(*map(self.keys.result, job_ids))

    def web_heartbeat(self, info: WebInfo) -> None:
        """Tell what a web process could decode, and forget those that are gone."""
        self._set_web(info.id, encode_web_info(info))

    def web_leave(self, web_id: str) -> None:
        """Remove a web process: it takes no more pictures."""
        self._set_web(web_id, "")

    def _set_web(self, web_id: str, text: str) -> None:
        args: list[str | int | bytes] = [web_id, text, SILENT_MS, GUARD_MS, ""]
        with self.errors():
            HEARTBEAT(self.client, self.keys.of_web_heartbeat(), args)


def new_id() -> str:
    return secrets.token_hex(16)


@dataclass(frozen=True, slots=True)
class JobRequest:
    """What a client asks for one picture. What is not explained here, `Job` explains."""

    model: str
    preparation: Preparation
    """What was done to the picture."""
    top: int
    request_id: str
    least: float = 0.0
    want: str = ""
    priority: str = ""
    context: TraceContext | None = None
    quota: Quota | None = None
    """What its caller may send; None where it is not counted, or the picture was counted before."""
    together: int = 1
    """See `Limits`."""
    id: str = field(default_factory=new_id)
    """Of its job: what is sent again with the same one, after an outage, is queued only once."""


@dataclass(frozen=True, slots=True)
class ProducerConfig:
    """The limits of the queues of one web process."""

    max_jobs: int = 2048
    max_bytes: int = 512 * 2**20
    result_ttl_s: float = 60.0
    """How long a result outlives the deadline of its job."""


class Producer:
    """Submits jobs to one queue. Safe to share between threads (and greenlets)."""

    def __init__(
        self,
        store: ProducerStore,
        tickets: Tickets,
        breaker: Breaker,
        config: ProducerConfig,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Use ``tickets`` and ``breaker`` of the listener that receives this queue's results."""
        self.name = store.name
        self.admission = AdmissionView(store, clock)
        self._store = store
        self._tickets = tickets
        self.breaker = breaker
        self._config = config
        self._waits = QuotaWaits(clock)
        self._clock = clock
        self._known_run = ""
        self._read: list[str] = []
        """Jobs whose stored results are to be removed."""
        self._read_bytes = 0

    def check_admission(self, job_bytes: int, timeout_ms: int, priority: str = "") -> None:
        """Refuse, before its picture is decoded, a job that the queue would not take.

        Raises QueueRefused, and QueueUnavailable where this is what notices an outage. Where
        nothing is raised, `submit` may still refuse.
        """
        self._look()
        refusal = self.admission.refusal(job_bytes, timeout_ms, priority, self._limits())
        if refusal is not None:
            self._count_refused()
            raise self._refused(refusal, timeout_ms, priority)

    def check_quota(self, quota: Quota | None, together: int = 1) -> None:
        """Raise QueueRefused where a quota is known to have no room for so many pictures.

        Asks nobody: it costs nothing. Where nothing is raised, `submit` may still refuse.
        """
        if quota is not None:
            self._waits.check(quota, together)

    def shortest_timeout_s(self, priority: str = "") -> float | None:
        """Return the shortest timeout with which a job would be accepted now; None for unknown."""
        shortest_ms = self.admission.shortest_timeout_ms(priority)
        return None if shortest_ms is None else shortest_ms / 1000

    def preparation(self, model: str, own: Preparation | None) -> Preparation:
        """Return how a picture for a model is prepared now; ``own`` is what settings say.

        Raises QueueRefused where nobody has said it yet, and QueueUnavailable like
        `check_admission`.
        """
        self._look()
        try:
            found = self.admission.preparation(model, own)
        except QueueUnavailable as error:
            self._note_outage(error)
            raise
        if isinstance(found, Preparation):
            return found
        self._count_refused()  # It is demand: a model that was scaled to zero is woken by it.
        wait_s = retry_after_s(1, self.admission.capacity_per_s)
        raise QueueRefused("not_prepared", 0, retry_after_s=wait_s, why=found)

    def check_output(self, model: str, output: str) -> None:
        """Raise QueueRefused where a model's workers do not all give an output.

        Its reason is `NEVER` or `NOT_YET`. Where Redis is away, nothing is raised.
        """
        if found := self.admission.missing(model, output):
            reason, why = found
            raise QueueRefused(reason, 0, retry_after_s=round(HEARTBEAT_S), why=why)

    def versions(self, model: str) -> tuple[str, ...]:
        """Return the versions that live workers of a model serve; none where it is not known."""
        return self.admission.versions(model)

    def _look(self) -> None:
        try:
            self.admission.look()
        except QueueUnavailable as error:
            self._note_outage(error)
            raise
        except QueueError as error:
            log.warning("admission is left to Redis: %s", error)

    def _count_refused(self) -> None:
        with contextlib.suppress(QueueError):
            self._store.count_refused()

    def submit(
        self, request: JobRequest, pixels: bytes, timeout_ms: int, wake: threading.Event
    ) -> Ticket:
        """Queue one picture; ``wake`` is set when its ticket has a result.

        Raises QueueUnavailable where Redis does not answer or did not a moment ago, QueueRefused
        where the queue does not take the job, and another QueueError where Redis refuses it.
        Nothing is left behind, but where a reply is lost.
        """
        # First: reading the capacity, too, would wait for a Redis that hangs.
        self.breaker.check()
        limits = self._limits(request.quota, request.together)
        for number in range(ID_TRIES):
            ticket = self._tickets.add(new_id() if number else request.id, wake)
            try:
                job = self._job(ticket.job_id, request, timeout_ms)
                admission = self._enqueue(job, pixels, timeout_ms, limits)
                ticket.accepted = admission.code in (EnqueueCode.ACCEPTED, EnqueueCode.OWN_RETRY)
            finally:
                if not ticket.accepted:
                    self._tickets.remove(ticket)
            if admission.code is EnqueueCode.OWN_RETRY:
                with contextlib.suppress(QueueError):  # It may be done since.
                    self.read_stored([ticket])
            if ticket.accepted:
                return ticket
            if request.quota and admission.code is EnqueueCode.RATE_LIMITED:
                raise request.quota.refusal(admission.wait_ms / 1000)
            if admission.code not in (EnqueueCode.COLLISION, EnqueueCode.PIXELS_LOST):
                self.admission.expire()
                break
        raise self._refused(admission, timeout_ms, request.priority)

    def _limits(self, quota: Quota | None = None, together: int = 1) -> Limits:
        config, speed = self._config, self.admission.speed
        return Limits(config.max_jobs, config.max_bytes, speed, quota, together)

    def _job(self, job_id: str, request: JobRequest, timeout_ms: int) -> Job:
        return Job(
            id=job_id,
            model=request.model,
            shape=request.preparation.shape,
            top=request.top,
            reply=self._tickets.channel,
            request_id=request.request_id,
            # The result is stored before the deadline and must still be there a while after it.
            result_ttl_ms=timeout_ms + round(self._config.result_ttl_s * 1000),
            encoding=encoding_of(request.preparation),
            preparation=request.preparation.fingerprint,
            least=request.least,
            want=request.want,
            priority=request.priority,
            context=request.context,
        )

    def _enqueue(self, job: Job, pixels: bytes, timeout_ms: int, limits: Limits) -> Admission:
        asked_at = self._clock()
        try:
            admission = self._store.enqueue(job, pixels, timeout_ms, limits)
        except QueueError as error:
            if isinstance(error, QueueUnavailable):
                self.breaker.trip()
            else:  # Redis answers: it may have something against this caller alone.
                self.breaker.succeeded()
            ids = log_ids(job.request_id, job.context)
            log.warning("a picture could not be queued: %s", error, extra={"fields": ids})
            raise
        self.breaker.succeeded()
        if limits.quota is not None:
            refused = limits.together if admission.code is EnqueueCode.RATE_LIMITED else 0
            self._waits.note(limits.quota, asked_at, admission.wait_ms, refused)
        return admission

    def _note_outage(self, error: QueueError) -> None:
        self.breaker.trip()
        log.warning("a queue could not be looked at: %s", error)

    def _refused(self, admission: Admission, timeout_ms: int, priority: str) -> QueueRefused:
        """Return the refusal, with the seconds after which another try makes sense."""
        code, backlog = admission.code, admission.backlog
        if code is EnqueueCode.WOULD_TIME_OUT:
            return self._late(backlog, timeout_ms, priority)
        # A full queue: not when the first place is free, which the nearest client takes, but when a
        # tenth of it is done.
        excess = max(1, backlog // 10)
        if code is EnqueueCode.NO_ROOM:
            excess = 1
        wait_s = retry_after_s(excess, self.admission.capacity_per_s)
        if code in (EnqueueCode.COLLISION, EnqueueCode.PIXELS_LOST):
            wait_s = 1
        return QueueRefused(code.name.lower(), backlog, retry_after_s=wait_s)

    def _late(self, ahead: int, timeout_ms: int, priority: str) -> QueueRefused:
        """Return the refusal of a job that would be late: it may come again when it would not."""
        timeout_s = timeout_ms / 1000
        ahead_s = self.admission.speed.end_ms(ahead) / 1000  # This looks at the queue.
        shortest_s = self.shortest_timeout_s(priority)
        # The last snapshot may be older than the refusal.
        needed_s = max(shortest_s or 0.0, ahead_s)
        if needed_s <= timeout_s:
            shortest_s = None
        elif shortest_s is not None:
            shortest_s = needed_s
        wait_s = min(60, max(1, math.ceil(needed_s - timeout_s)))
        if not self.admission.capacity_per_s:
            wait_s = retry_after_s(1, 0)
        reason = EnqueueCode.WOULD_TIME_OUT.name.lower()
        return QueueRefused(reason, ahead, retry_after_s=wait_s, shortest_s=shortest_s)

    def read_stored(self, tickets: Sequence[Ticket]) -> None:
        """Give open tickets the results that are stored. Raises QueueError."""
        still_open = [ticket for ticket in tickets if ticket.result is None]
        results = self._store.results([ticket.job_id for ticket in still_open])
        for ticket, result in zip(still_open, results, strict=True):
            if result is not None:
                ticket.resolve(result)

    def look_for_losses(self) -> None:
        """Tell the tickets whose jobs Redis has lost, without an end of any connection.

        A `FLUSHALL` does that. It shows in the counters of the snapshot that admission reads. As
        they may have passed their old values since, the oldest job is asked for too; only after a
        loss all are. Raises QueueError.
        """
        oldest = next((t.job_id for t in self._tickets.open() if t.accepted), None)
        if oldest is None or self.breaker.is_open:
            return
        self.admission.look()
        run, self._known_run = self._known_run, self.admission.run
        if (run and run != self._known_run) or self._store.missing([oldest]):
            log.error("Redis has lost jobs of %s: their pictures are queued again", self.name)
            catch_up(self._store, self._tickets)

    def cancel(self, tickets: Sequence[Ticket]) -> None:
        """Cancel the jobs of open tickets. Raises QueueError."""
        self._store.cancel([ticket.job_id for ticket in tickets if ticket.result is None])

    def publish(self, info: WebInfo) -> None:
        """Tell what this process could decode. Raises QueueError."""
        self._remove_read()
        self._store.web_heartbeat(info)

    def leave(self, web_id: str) -> None:
        """Tell that this process takes no more pictures. Raises QueueError."""
        self._store.web_leave(web_id)

    def forget(self, ticket: Ticket) -> None:
        """Stop listening for the result of a ticket."""
        self._tickets.remove(ticket)

    def remove_results(self, tickets: Sequence[Ticket]) -> None:
        """Remove stored results that were read: long ones would fill Redis until they expire.

        Small ones are removed several at once, at the latest by the next `publish`: a round trip
        for each would take a twentieth of what a picture takes in a web process.
        """
        for ticket in tickets:
            self._read.append(ticket.job_id)
            found = ticket.result
            self._read_bytes += len(found.vector) + 64 * len(found.predictions) if found else 0
        if len(self._read) >= REMOVED_AT_ONCE or self._read_bytes > MOST_READ_BYTES:
            self._remove_read()

    def _remove_read(self) -> None:
        job_ids, self._read, self._read_bytes = self._read, [], 0
        with contextlib.suppress(QueueError):  # They expire.
            self._store.remove_results(job_ids)


def connect_producers(
    access: RedisAccess, queues: Sequence[str], config: ProducerConfig, *, connections: int
) -> dict[str, Producer]:
    """Return a producer per queue, and start the listeners that receive their results.

    On a cluster each queue has a listener and a breaker of its own, on the node of its slot. One
    server needs one of each for all queues. Call it after a fork, never before.
    """
    stores = {name: ProducerStore(access, name, connections=connections) for name in queues}
    producers: dict[str, Producer] = {}
    listeners: list[ReplyListener] = []
    for group in by_node(access, queues):
        listener = ReplyListener(access, [stores[name] for name in group], listeners)
        for name in group:
            producers[name] = Producer(
                stores[name], listener.tickets[name], listener.breaker, config
            )
        watched = [producers[name] for name in group]
        threading.Thread(target=_watch, args=(watched,), name="losses", daemon=True).start()
    for listener in listeners:  # Each looks at the others, for the gauge redis_up.
        listener.start()
    return producers


def _watch(producers: Sequence[Producer]) -> None:
    """Look for lost jobs of the queues of one node, as often as admission looks at them."""
    while True:
        time.sleep(FRESH_S)
        for producer in producers:
            try:
                producer.look_for_losses()
            except QueueError as error:
                log.debug("no look for lost jobs: %s", error)
            # This loop must never end: a lost job would be found at its deadline only.
            except Exception:
                log.critical("bug while looking for lost jobs", exc_info=True)
