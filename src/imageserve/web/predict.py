"""Pictures in, answers out: decode, submit, wait. Knows nothing of HTTP.

A picture that fails takes no other with it: each picture of a request gets its own answer or its
own error.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from imageserve import metrics
from imageserve.backoff import Backoff
from imageserve.decoding import DecodingPolicy, open_picture
from imageserve.errors import (
    Busy,
    QueueError,
    QueueRefused,
    QueueUnavailable,
    RequestError,
    TimedOut,
    UnknownModel,
    told,
)
from imageserve.models.entries import ModelEntry
from imageserve.predictions import FEW_LABELS, LABELS, Prediction
from imageserve.preparation import Preparation
from imageserve.queue.listener import Ticket
from imageserve.queue.producer import JobRequest, Producer
from imageserve.queue.wire import ENCODING, LOST, UNREADABLE, encoding_of
from imageserve.web.decoder_process import Task
from imageserve.web.decoders import Decoders
from imageserve.web.greenlets import Wait
from imageserve.web.line import DecodeLine
from imageserve.web.refusals import (
    not_admitted,
    not_classified,
    redis_unavailable,
    wrong_model,
)
from imageserve.web.waiting_room import Guest, WaitingRoom

log = logging.getLogger(__name__)

LOOP_S = 0.015
"""Processor time: what may take longer is decoded off the event loop, where it delays no probe."""

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
"""Between the submissions of one picture, from the second repetition on, but for those that adopt
what a worker wants. While workers that need different preparations serve side by side, it may meet
the wrong one many times."""


@dataclass(frozen=True, slots=True)
class ClassifyOptions:
    """What a client asks for, besides its pictures."""

    model: str | None
    top: int
    timeout_s: float
    trace: str
    """The id of the HTTP request."""
    least: float = 0.0
    """Labels of a lower probability are not asked for."""
    output: str = LABELS
    """One of `LABELS` and `VECTORS`."""


@dataclass(frozen=True, slots=True)
class Answer:
    """One picture's labels, best first, and where the time went, in ms."""

    predictions: tuple[Prediction, ...]
    decode_ms: float
    queue_ms: float
    model_ms: float
    version: str = ""
    """The version of the model that answered; empty where its worker does not say."""
    vector: bytes = b""
    """As `Result` has it."""


@dataclass(frozen=True, slots=True)
class ServedModel:
    """One model as this process reaches it."""

    entry: ModelEntry
    producer: Producer
    room: WaitingRoom
    """Where its requests wait while Redis is away: that of the node of its queue."""


class ClientGone(Exception):
    """The client closed its connection and its jobs are cancelled: nobody reads an answer."""


class Predictor:
    """Classifies the pictures of requests through the queues of the served models."""

    def __init__(
        self,
        models: Mapping[str, ServedModel],
        decoding: DecodingPolicy,
        line: DecodeLine | None = None,
        decoders: Decoders | None = None,
    ) -> None:
        """``line``: the one of this process; by default one of its own.

        ``decoders``: decode what takes long; by default it is decoded like all else.
        """
        self.models = models
        self.decoding = decoding
        self.line = line or DecodeLine()
        self.decoders = decoders

    def model(self, name: str | None) -> ServedModel:
        """Return a served model, by default the first.

        Raises UnknownModel.
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise UnknownModel(
                f"there is no model {told(name, 80)}; served are {', '.join(self.models)}"
            )
        return self.models[name]

    def check(self, options: ClassifyOptions) -> None:
        """Say, before an upload is read, what cannot be answered.

        Raises UnknownModel, BadParameter and Busy.
        """
        served = self.model(options.model)
        if options.output == LABELS:
            return
        try:
            served.producer.check_output(served.entry.name, options.output)
        except QueueRefused as refusal:
            raise not_admitted(refusal, served.entry.name) from refusal

    def predict(
        self, pictures: Sequence[bytes | RequestError], options: ClassifyOptions, wait: Wait
    ) -> list[Answer | RequestError]:
        """Return one answer or error per picture, in order, within ``options.timeout_s``.

        Raises UnknownModel, and ClientGone where ``wait`` was told that the client hung up.
        """
        served = self.model(options.model)
        answers = _Request(self, served, options, wait).answers(pictures)
        for answer in answers:
            _count(served.entry.name, answer)
        return answers


@dataclass(slots=True)
class _Submitted:
    """One picture whose job is queued."""

    picture: bytes
    ticket: Ticket
    decode_ms: float
    model: str
    preparation: Preparation
    submissions: int = 1
    pauses: Backoff = field(default_factory=lambda: Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S))
    again_at: float | None = None
    """When it is to be queued again; None where it is not known yet that it must be."""

    @property
    def other_model(self) -> str:
        """The name of the model that its job has met, where that is not the one asked for."""
        result = self.ticket.result
        if result is None or result.model == self.model:
            return ""
        has_met_it = result.error is None or result.error.code in _MET_ANOTHER
        return (result.model or "of no name") if has_met_it else ""

    @property
    def must_go_again(self) -> bool:
        """Whether its job met another preparation or was lost, and another try makes sense."""
        result = self.ticket.result
        if result is None or result.error is None or self.other_model:
            return False
        if result.error.code == "unsupported_job":
            # What a worker of 0.1.0 says of pixels that are prepared otherwise than it knows.
            return encoding_of(self.preparation) != ENCODING
        return result.error.code in ("model_changed", LOST, UNREADABLE)

    @property
    def goes_at_once(self) -> bool:
        """Whether it is queued again without a pause.

        The first time: after a rollout, no picture should wait for nothing. And whenever it is
        prepared for the worker that it has met: of two that take turns, each has had its turn only
        after the second.
        """
        is_adopted = self.submissions % 2 == 1 and self.met not in (None, self.preparation)
        return self.submissions == 1 or is_adopted

    @property
    def met(self) -> Preparation | None:
        """What the worker needs that its job has met; None where it does not say."""
        result = self.ticket.result
        if result is None or result.preparation or not result.shape:
            return result.preparation if result else None
        # A worker of 0.1.0: it takes squeezed pictures.
        return Preparation(result.shape[:2], interpolation=self.preparation.interpolation)


_MET_ANOTHER = ("model_changed", "unsupported_job")
"""What workers answer to jobs that are not for them."""

_Slot = _Submitted | RequestError


class _Request:
    """One request on its way: a slot per picture, which holds its job or its error."""

    def __init__(
        self, predictor: Predictor, served: ServedModel, options: ClassifyOptions, wait: Wait
    ) -> None:
        self._decoding = predictor.decoding
        self._line = predictor.line
        self._decoders = predictor.decoders
        self._entry = served.entry
        self._producer = served.producer
        self._room = served.room
        self._options = options
        self._want = "" if options.output == LABELS else options.output
        self._wait = wait
        now = time.monotonic()
        self._deadline = now + options.timeout_s
        self._guest = Guest(now, self._deadline, wait)
        self._slots: list[_Slot] = []
        self._later = 0
        """Pictures of this request that come after the one in hand."""

    def answers(self, pictures: Sequence[bytes | RequestError]) -> list[Answer | RequestError]:
        try:
            for self._later, picture in zip(range(len(pictures))[::-1], pictures, strict=True):
                self._slots.append(self._submit(picture))
            self._wait_for_results()
            self._close_open()
            return [_answer(slot, self._entry.queue, self._options) for slot in self._slots]
        finally:
            for slot in self._submitted():
                self._producer.forget(slot.ticket)
            if self._want or self._options.top > FEW_LABELS:
                read = [t for t in self._tickets() if t.result and t.result.is_long]
                self._producer.remove_results(read)

    def _submitted(self) -> list[_Submitted]:
        return [slot for slot in self._slots if isinstance(slot, _Submitted)]

    def _tickets(self) -> list[Ticket]:
        return [slot.ticket for slot in self._submitted()]

    def _open(self) -> list[Ticket]:
        return [ticket for ticket in self._tickets() if ticket.result is None]

    def _submit(self, picture: bytes | RequestError) -> _Slot:
        if isinstance(picture, RequestError):
            return picture
        try:
            return self._send(picture, None)
        except RequestError as error:
            return _without_frames(error)

    def _send(self, picture: bytes, preparation: Preparation | None) -> _Submitted:
        """Decode and queue one picture, after the end of an outage if there is one.

        ``preparation``: by default the one that its model needs now.
        """
        while True:
            try:
                with self._room.turn(self._guest):
                    return self._send_now(picture, preparation)
            except QueueUnavailable:
                continue  # The room knows how often, and how long, that makes sense.
            except QueueRefused as refusal:
                raise not_admitted(refusal, self._entry.name) from refusal
            except QueueError as error:
                raise redis_unavailable() from error

    def _send_now(self, picture: bytes, preparation: Preparation | None) -> _Submitted:
        """Decode and queue one picture, unless the queue is known not to take it."""
        model = self._entry.name
        if preparation is None:
            preparation = self._producer.preparation(model, self._entry.preparation)
        self._producer.check_admission(preparation.bytes, self._ms_left())
        began = time.monotonic()
        pixels = self._decode(picture, preparation)
        seconds = time.monotonic() - began
        metrics.decode_seconds.observe(seconds)
        ticket = self._queue(model, preparation, pixels)
        return _Submitted(picture, ticket, seconds * 1000, model, preparation)

    def _decode(self, data: bytes, preparation: Preparation) -> bytes:
        with self._line.turn(self._seconds_left(), self._later):
            if self._wait.gone:
                raise TimedOut("the client has gone")
            picture = open_picture(data, self._decoding)
            cost = picture.cost(preparation)
            if cost.seconds <= LOOP_S or self._decoders is None:
                return picture.to_pixels(preparation)
        task = Task(data, preparation, cost.memory_bytes)
        return self._decoders.decode(task, cost, self._deadline, self._wait)

    def _seconds_left(self) -> float:
        return max(0.0, self._deadline - time.monotonic())

    def _ms_left(self) -> int:
        return math.floor(self._seconds_left() * 1000)

    def _queue(self, model: str, preparation: Preparation, pixels: bytes) -> Ticket:
        timeout_ms = self._ms_left()
        if timeout_ms <= 0:
            raise TimedOut("decoding took all the time there was")
        asked = self._options
        top = 1 if self._want else asked.top
        request = JobRequest(model, preparation, top, asked.trace, asked.least, self._want)
        return self._producer.submit(request, pixels, timeout_ms, self._wait.wake)

    def _wait_for_results(self) -> None:
        """Block until each picture has its result, the deadline has passed or the client left."""
        while not self._wait.gone:
            again_in_s = self._submit_again()
            remaining_s = self._seconds_left()
            if remaining_s <= 0 or (again_in_s is None and not self._open()):
                return
            self._wait.wake.wait(
                remaining_s if again_in_s is None else min(remaining_s, again_in_s)
            )
            self._wait.wake.clear()

    def _submit_again(self) -> float | None:
        """Queue pictures again whose pause is over; return after how long the next one is due."""
        for index, slot in enumerate(self._slots):
            if not isinstance(slot, _Submitted) or not slot.must_go_again:
                continue
            if slot.again_at is None:
                pause_s = 0.0 if slot.goes_at_once else slot.pauses.next()
                slot.again_at = time.monotonic() + pause_s
            if slot.again_at <= time.monotonic():
                self._slots[index] = self._resubmitted(slot)
        now = time.monotonic()
        due = [slot.again_at or now for slot in self._submitted() if slot.must_go_again]
        return max(0.0, min(due) - now) if due else None

    def _resubmitted(self, slot: _Submitted) -> _Slot:
        """Queue a picture again, prepared for the worker that its job has met.

        Every second time it keeps the preparation that it has: two workers that take turns would
        otherwise each be sent what the other one wants. It is decoded again: pixels that were kept
        would double the memory of each picture in hand.
        """
        self._producer.forget(slot.ticket)
        preparation = slot.met if slot.submissions % 2 else slot.preparation
        try:
            again = self._send(slot.picture, preparation)
        except RequestError as error:
            return _without_frames(error)
        again.decode_ms, again.pauses = slot.decode_ms, slot.pauses
        again.submissions += slot.submissions
        return again

    def _close_open(self) -> None:
        """Read stored results once more, then cancel what is still open.

        Raises ClientGone where the client hung up.
        """
        try:
            if not self._wait.gone:
                self._producer.read_stored(self._open())
            self._producer.cancel(self._open())
        except QueueError as error:
            log.warning("jobs could not be cancelled: %s", error)
            for index, slot in enumerate(self._slots):
                if isinstance(slot, _Submitted) and slot.ticket.result is None:
                    self._producer.forget(slot.ticket)
                    self._slots[index] = redis_unavailable()
        if self._wait.gone:
            raise ClientGone


# -- answers and errors --------------------------------------------------------------------------


def _answer(slot: _Slot, queue: str, asked: ClassifyOptions) -> Answer | RequestError:
    if isinstance(slot, RequestError):
        return slot
    if slot.other_model:
        return wrong_model(slot.other_model, slot.model, queue)
    result = slot.ticket.result
    if result is None:
        return TimedOut("no result came in time; the job is cancelled")
    if result.error is not None:
        return not_classified(result.error)
    if asked.output != LABELS and not result.vector:
        message = f"a worker that gives no {asked.output} took the picture; send it again"
        return Busy(message, retry_after_s=1)
    labels = result.predictions
    if asked.least:  # Workers give one label at least, those of 0.1.0 all.
        labels = tuple(each for each in labels if each.probability >= asked.least)
    return Answer(
        labels,
        slot.decode_ms,
        result.queue_ms,
        result.model_ms,
        result.version,
        result.vector,
    )


def _count(model: str, answer: Answer | RequestError) -> None:
    outcome = answer.code if isinstance(answer, RequestError) else "ok"
    metrics.pictures_total.labels(model, outcome).inc()
    if isinstance(answer, Answer):
        metrics.queue_seconds.labels(model).observe(answer.queue_ms / 1000)


def _without_frames(error: RequestError) -> RequestError:
    """Let go of what the frames of an error hold: the upload, and perhaps its pixels.

    A request keeps its errors, and the frames keep the request: only the garbage collector would
    free them.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
