"""Pictures in, answers out: decode, queue, wait. Knows nothing of HTTP.

One picture that fails takes no other with it: every picture of a request gets its own answer or its
own error.
"""

import logging
import math
import time
import uuid
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from imageserve import metrics
from imageserve.decoding import DecodingPolicy, decode, open_picture
from imageserve.errors import Busy, QueueError, RequestError, TimedOut, UnknownModel
from imageserve.models.entries import ModelEntry
from imageserve.predictions import Prediction
from imageserve.queue.queue import Admission, JobQueue, Limits, Verdict
from imageserve.queue.replies import JOB_LOST, Replies, Waiter
from imageserve.queue.wire import Job
from imageserve.web.capacity_view import CapacityView
from imageserve.web.greenlets import Wait
from imageserve.web.outage import Outage
from imageserve.web.refusals import (
    not_admitted,
    not_classified,
    redis_unavailable,
)

log = logging.getLogger(__name__)

LARGE_PIXELS = 1_000_000
LARGE_BYTES = 1_000_000
"""Pictures above these are decoded off the event loop: 10 ms and more would delay every probe."""

MOST_SENDINGS = 10
"""While an old and a new model work side by side, a picture may meet the wrong one many times."""

Offload = Callable[[Callable[[], bytes], float], bytes]
"""Runs a function without blocking other requests, for at most so many seconds."""


def _at_once(call: Callable[[], bytes], seconds: float) -> bytes:
    del seconds
    return call()


@dataclass(frozen=True, slots=True)
class Ask:
    """What a client wants, besides its pictures."""

    model: str | None
    top: int
    timeout_s: float
    trace: str


@dataclass(frozen=True, slots=True)
class Answer:
    """One picture's labels, best first, and where the time went, in ms."""

    predictions: tuple[Prediction, ...]
    decode_ms: float
    queue_ms: float
    model_ms: float
    version: str = ""
    """Which version of the model has answered; empty where its worker does not say."""


@dataclass(frozen=True, slots=True)
class Served:
    """One model as this process reaches it."""

    entry: ModelEntry
    queue: JobQueue
    capacity: CapacityView


class ClientGone(Exception):
    """The client has closed the connection; its jobs are cancelled. Nobody is left to answer."""


@dataclass(frozen=True, slots=True)
class PredictorConfig:
    """The limits of a predictor."""

    decoding: DecodingPolicy
    max_jobs: int
    max_bytes: int
    result_ttl_s: float


class Predictor:
    """Classifies the pictures of requests through the queues of the served models."""

    def __init__(
        self,
        models: Mapping[str, Served],
        replies: Replies,
        config: PredictorConfig,
        offload: Offload = _at_once,
    ) -> None:
        self.models = models
        self.replies = replies
        self.config = config
        self.offload = offload
        self.outage = Outage(lambda: replies.connections)

    def model(self, name: str | None) -> Served:
        """Return a served model, by default the first.

        Raises UnknownModel.
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise UnknownModel(
                f"no model {name[:80]!r} is served; there are {', '.join(self.models)}"
            )
        return self.models[name]

    def predict(
        self, pictures: Sequence[bytes | RequestError], ask: Ask, wait: Wait
    ) -> list[Answer | RequestError]:
        """Return one answer or error per picture, in order, within ``ask.timeout_s``.

        Raises UnknownModel, and ClientGone where ``wait`` was told that the client hung up.
        """
        served = self.model(ask.model)
        answers = _Run(self, served, ask, wait).answers(pictures)
        for answer in answers:
            _count(served.entry.name, answer)
        return answers


@dataclass(slots=True)
class _Pending:
    """One picture that is queued."""

    picture: bytes
    waiter: Waiter
    decode_ms: float
    model: str
    shape: tuple[int, int, int]
    sendings: int = 1

    @property
    def is_open(self) -> bool:
        return self.waiter.result is None

    @property
    def must_go_again(self) -> bool:
        """Its job met another model, or was lost with the memory of Redis."""
        result = self.waiter.result
        return bool(result and result.error and result.error.code in ("model_changed", JOB_LOST))


_Slot = _Pending | RequestError


class _Run:
    """One request on its way: a slot per picture, filled by a job and then by its result."""

    def __init__(self, predictor: Predictor, served: Served, ask: Ask, wait: Wait) -> None:
        self._config = predictor.config
        self._replies = predictor.replies
        self._offload = predictor.offload
        self._outage = predictor.outage
        self._served = served
        self._ask = ask
        self._wait = wait
        self._deadline = time.monotonic() + ask.timeout_s
        self._slots: list[_Slot] = []

    def answers(self, pictures: Sequence[bytes | RequestError]) -> list[Answer | RequestError]:
        try:
            for picture in pictures:
                self._slots.append(self._submit(picture))
            self._wait_for_results()
            self._close_open()
            return [_answer(slot) for slot in self._slots]
        finally:
            for slot in self._pending():
                self._replies.waiters.forget(slot.waiter.job_id)

    def _pending(self) -> list[_Pending]:
        return [slot for slot in self._slots if isinstance(slot, _Pending)]

    def _submit(self, picture: bytes | RequestError) -> _Slot:
        if isinstance(picture, RequestError):
            return picture
        entry = self._served.entry
        try:
            began = time.monotonic()
            pixels = self._decode(picture, entry.input_size)
            seconds = time.monotonic() - began
            metrics.decode_seconds.observe(seconds)
            waiter = self._queue(entry.name, entry.shape, pixels)
        except RequestError as error:
            return error
        return _Pending(picture, waiter, seconds * 1000, entry.name, entry.shape)

    def _decode(self, data: bytes, size: tuple[int, int]) -> bytes:
        interpolation = self._served.entry.interpolation
        if len(data) > LARGE_BYTES:
            whole = partial(decode, data, size, interpolation, self._config.decoding)
            return self._offload(whole, self._seconds_left())
        picture = open_picture(data, self._config.decoding)
        if picture.pixels > LARGE_PIXELS:
            return self._offload(partial(picture.to_rgb, size, interpolation), self._seconds_left())
        return picture.to_rgb(size, interpolation)

    def _seconds_left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _queue(self, model: str, shape: tuple[int, int, int], pixels: bytes) -> Waiter:
        timeout_ms = math.floor(self._seconds_left() * 1000)
        if timeout_ms <= 0:
            raise TimedOut("decoding took all the time there was")
        # Before the capacity is asked for: that, too, would wait for a Redis that hangs.
        self._outage.check()
        capacity = self._served.capacity
        limits = Limits(
            self._config.max_jobs,
            self._config.max_bytes,
            capacity.largest_backlog_in_time(timeout_ms),
        )
        for _ in range(3):
            job = self._job(model, shape, timeout_ms)
            waiter = self._replies.waiters.expect(job.id, self._served.queue.name, self._wait.wake)
            admission = self._enqueue(job, pixels, timeout_ms, limits)
            if admission.verdict in (Verdict.ACCEPTED, Verdict.OWN_RETRY):
                waiter.sent = True
                return waiter
            self._replies.waiters.forget(job.id)
            if admission.verdict is not Verdict.COLLISION:
                raise not_admitted(admission, limits, capacity.per_second())
        raise Busy("no free job id was found", retry_after_s=1)

    def _job(self, model: str, shape: tuple[int, int, int], timeout_ms: int) -> Job:
        return Job(
            id=uuid.uuid4().hex,
            model=model,
            shape=shape,
            top=self._ask.top,
            reply=self._replies.channel(self._served.queue.name),
            trace=self._ask.trace,
            # It is stored before its deadline and must still be there a while after it.
            result_ttl_ms=timeout_ms + round(self._config.result_ttl_s * 1000),
        )

    def _enqueue(self, job: Job, pixels: bytes, timeout_ms: int, limits: Limits) -> Admission:
        try:
            return self._served.queue.enqueue(job, pixels, timeout_ms, limits)
        except QueueError as error:
            self._replies.waiters.forget(job.id)
            self._outage.begin()
            log.warning("a picture could not be queued: %s", error)
            raise redis_unavailable() from error

    def _wait_for_results(self) -> None:
        """Block until every picture has its result, the deadline has passed or the client left."""
        while not self._wait.gone:
            self._send_again()
            remaining_s = self._seconds_left()
            if remaining_s <= 0 or not any(slot.is_open for slot in self._pending()):
                return
            self._wait.wake.wait(remaining_s)
            self._wait.wake.clear()

    def _send_again(self) -> None:
        for index, slot in enumerate(self._slots):
            if isinstance(slot, _Pending) and slot.must_go_again and slot.sendings < MOST_SENDINGS:
                self._slots[index] = self._requeue(slot)

    def _requeue(self, slot: _Pending) -> _Slot:
        """Queue a picture again, at the size of the model that its job has met."""
        result = slot.waiter.result
        self._replies.waiters.forget(slot.waiter.job_id)
        model, shape = slot.model, slot.shape
        if result is not None and result.shape is not None:
            model, shape = result.model, result.shape
        try:
            pixels = self._decode(slot.picture, shape[:2])
            waiter = self._queue(model, shape, pixels)
        except RequestError as error:
            return error
        return _Pending(slot.picture, waiter, slot.decode_ms, model, shape, slot.sendings + 1)

    def _close_open(self) -> None:
        """Read once more what was stored, then cancel what is still open.

        Raises ClientGone where nobody waits any more.
        """
        try:
            if not self._wait.gone:
                self._read_stored()
            self._served.queue.cancel([s.waiter.job_id for s in self._pending() if s.is_open])
        except QueueError as error:
            log.warning("jobs could not be cancelled: %s", error)
            for index, slot in enumerate(self._slots):
                if isinstance(slot, _Pending) and slot.is_open:
                    self._replies.waiters.forget(slot.waiter.job_id)
                    self._slots[index] = redis_unavailable()
        if self._wait.gone:
            raise ClientGone

    def _read_stored(self) -> None:
        still_open = [slot for slot in self._pending() if slot.is_open]
        results = self._served.queue.results([slot.waiter.job_id for slot in still_open])
        for slot, result in zip(still_open, results, strict=True):
            if result is not None:
                slot.waiter.resolve(result)


def _answer(slot: _Slot) -> Answer | RequestError:
    if isinstance(slot, RequestError):
        return slot
    result = slot.waiter.result
    if result is None:
        return TimedOut("no result came in time; the job is cancelled")
    if result.error is not None:
        return not_classified(result.error)
    return Answer(
        result.predictions, slot.decode_ms, result.queue_ms, result.model_ms, result.version
    )


def _count(model: str, answer: Answer | RequestError) -> None:
    outcome = answer.code if isinstance(answer, RequestError) else "ok"
    metrics.pictures_total.labels(model, outcome).inc()
    if isinstance(answer, Answer):
        metrics.queue_seconds.labels(model).observe(answer.queue_ms / 1000)
