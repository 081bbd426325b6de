"""Pictures in, answers out: decode, submit, wait. Knows nothing of HTTP.

A picture that fails takes no other with it: each picture of a request gets its own answer or its
own error.
"""

import logging
import math
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from imageserve import metrics
from imageserve.decoding import DecodingPolicy, open_picture
from imageserve.errors import (
    QueueError,
    QueueRefused,
    QueueUnavailable,
    RequestError,
    TimedOut,
)
from imageserve.models.entries import ModelEntry
from imageserve.predictions import FEW_LABELS, LABELS, SCORES
from imageserve.preparation import Pixels, Preparation
from imageserve.queue.listener import Ticket
from imageserve.queue.producer import JobRequest, Producer, new_id
from imageserve.queue.quota import Quota
from imageserve.queue.wire import WOULD_TIME_OUT, ResultError
from imageserve.trace_context import Value
from imageserve.tracing import NO_TRACER, Tracer
from imageserve.web.decoder_process import Task
from imageserve.web.decoders import Decoders
from imageserve.web.greenlets import Wait
from imageserve.web.line import DecodeLine
from imageserve.web.options import ClassifyOptions
from imageserve.web.outcomes import Answer, answer_of, count, count_for
from imageserve.web.refusals import (
    check_version,
    fitting,
    given_back,
    not_admitted,
    not_classified,
    redis_unavailable,
    unknown_model,
    wrong_model,
)
from imageserve.web.submission import Picture, Submission
from imageserve.web.waiting_room import Guest, WaitingRoom

log = logging.getLogger(__name__)

LOOP_S = 0.015
"""Processor time: what may take longer is decoded off the event loop, where it delays no probe."""


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
        tracer: Tracer = NO_TRACER,
    ) -> None:
        """``line``: the one of this process; by default one of its own.

        ``decoders``: decode what takes long; by default it is decoded like all else.
        """
        self.models = models
        self.decoding = decoding
        self.line = line or DecodeLine()
        self.decoders = decoders
        self.tracer = tracer

    def model(self, name: str | None) -> ServedModel:
        """Return a served model, by default the first.

        Raises UnknownModel.
        """
        if name is None:
            return next(iter(self.models.values()))
        if name not in self.models:
            raise unknown_model(name, self.models)
        return self.models[name]

    def check(self, options: ClassifyOptions) -> None:
        """Say, before an upload is read, what cannot be answered.

        Raises UnknownModel, Forbidden, UnknownVersion, BadParameter, TooManyImages, Busy and
        RateLimited.
        """
        try:
            self._check(options)
        except RequestError as error:
            count_for(options.caller, error)
            raise

    def _check(self, options: ClassifyOptions) -> None:
        served = self.model(options.model)
        name = served.entry.name
        options.caller.check_model(name)
        options.caller.check_burst(options.together)
        if options.version:
            check_version(options.version, name, served.producer.versions(name))
        # Workers that give the scores number their classes as well.
        needed = SCORES if options.classes and options.output == LABELS else options.output
        try:
            if needed != LABELS:
                served.producer.check_output(name, needed)
            served.producer.check_quota(options.caller.quota, options.together)
        except QueueRefused as refusal:
            raise not_admitted(refusal, name) from refusal

    def predict(
        self,
        pictures: Sequence[Picture | RequestError],
        options: ClassifyOptions,
        wait: Wait,
        age_s: float = 0.0,
    ) -> list[Answer | RequestError]:
        """Return one answer or error per picture, in order, within ``options.timeout_s``.

        ``age_s``: how long ago the upload was complete. Raises UnknownModel, and ClientGone where
        ``wait`` was told that the client hung up.
        """
        served = self.model(options.model)
        answers = _Request(self, served, options, wait, age_s).answers(pictures)
        for answer in answers:
            count(answer, served.entry.name)
            count_for(options.caller, answer)
        return answers


_Slot = Submission | RequestError


class _Request:
    """One request on its way: a slot per picture, which holds its job or its error."""

    def __init__(
        self,
        predictor: Predictor,
        served: ServedModel,
        options: ClassifyOptions,
        wait: Wait,
        age_s: float,
    ) -> None:
        self._decoding = predictor.decoding
        self._line = predictor.line
        self._decoders = predictor.decoders
        self._tracer = predictor.tracer
        self._entry = served.entry
        self._producer = served.producer
        self._room = served.room
        self._options = options
        self._want = "" if options.output == LABELS else options.output
        self._wait = wait
        self._came = time.monotonic() - age_s
        self._asked = options.asked(self._came)
        self._guest = Guest(self._asked.deadline, wait)
        self._slots: list[_Slot] = []
        self._index = 0
        """The picture in hand."""
        self._job_id = ""
        """Its job."""
        self._later = 0
        """Pictures of this request that come after the one in hand."""

    def answers(self, pictures: Sequence[Picture | RequestError]) -> list[Answer | RequestError]:
        try:
            for self._index, picture in enumerate(pictures):
                self._later = len(pictures) - self._index - 1
                self._slots.append(self._submit(picture))
            self._wait_for_results()
            self._note_time()
            self._close_open()
            return [self._answer(slot) for slot in self._slots]
        finally:
            for slot in self._submitted():
                self._producer.forget(slot.ticket)
            if self._want or self._options.top > FEW_LABELS:
                read = [t for t in self._tickets() if t.result and t.result.is_long]
                self._producer.remove_results(read)

    def _submitted(self) -> list[Submission]:
        return [slot for slot in self._slots if isinstance(slot, Submission)]

    def _tickets(self) -> list[Ticket]:
        return [slot.ticket for slot in self._submitted()]

    def _open(self) -> list[Ticket]:
        return [ticket for ticket in self._tickets() if ticket.result is None]

    @property
    def _together(self) -> int:
        """How many pictures make no sense without each other: the one in hand and later ones."""
        return max(1, self._options.together - self._index)

    def _submit(self, picture: Picture | RequestError) -> _Slot:
        if isinstance(picture, RequestError):
            return picture
        before = self._slots[-1] if self._slots else None
        if self._options.together > 1 and isinstance(before, RequestError):
            return before  # That is the answer already: what is sent now would be counted in vain.
        try:
            return self._send(picture, None, self._options.caller.quota)
        except RequestError as error:
            return _without_frames(error)

    def _send(
        self, picture: Picture, preparation: Preparation | None, quota: Quota | None
    ) -> Submission:
        """Decode and queue one picture, after the end of an outage if there is one.

        ``preparation``: by default the one that its model needs now. ``quota``: None for a picture
        that was accepted before.
        """
        self._job_id = new_id()
        while True:
            try:
                with self._room.turn(self._guest):
                    return self._send_now(picture, preparation, quota)
            except QueueUnavailable:
                continue  # The room knows how often, and how long, that makes sense.
            except QueueRefused as refusal:
                # Before it was decoded, or after: what a new one would need is about the same.
                until_s = self._line.until_decoded_s(self._asked)
                spent_s = max(time.monotonic() - self._came, until_s)
                raise not_admitted(refusal, self._entry.name, spent_s) from refusal
            except QueueError as error:
                raise redis_unavailable() from error

    def _send_now(
        self, picture: Picture, preparation: Preparation | None, quota: Quota | None
    ) -> Submission:
        """Decode and queue one picture, unless the queue is known not to take it."""
        self._producer.check_quota(quota, self._together)
        model = self._entry.name
        if preparation is None:
            preparation = self._producer.preparation(model, self._entry.preparation)
        left_ms = self._ms_left(self._line.until_decoded_s(self._asked))
        self._producer.check_admission(preparation.bytes, left_ms, self._options.priority)
        began = decoded_at = time.monotonic()
        if isinstance(picture, Pixels):
            pixels = fitting(picture, preparation)
        else:
            pixels = self._decode_noted(picture, preparation)
            decoded_at = time.monotonic()
            metrics.decode_seconds.observe(decoded_at - began)
        ticket = self._queue(model, preparation, pixels, quota)
        decode_ms = 1000 * (decoded_at - began)
        return Submission(picture, ticket, decode_ms, model, preparation, decoded_at)

    def _decode_noted(self, data: bytes, preparation: Preparation) -> bytes:
        began, error = time.monotonic(), "internal"
        try:
            pixels = self._decode(data, preparation)
            error = ""
        except RequestError as failed:
            error = failed.code
            raise
        finally:
            about: dict[str, Value] = {
                "imageserve.picture": self._index,
                "imageserve.bytes": len(data),
                "imageserve.job_id": self._job_id,
            }
            self._tracer.note("decode", self._options.context, began, about, error)
        return pixels

    def _decode(self, data: bytes, preparation: Preparation) -> bytes:
        with self._line.turn(self._asked, self._later):
            if self._wait.gone:
                raise TimedOut("the client has gone")
            picture = open_picture(data, self._decoding)
            cost = picture.cost(preparation)
            if cost.seconds <= LOOP_S or self._decoders is None:
                return picture.to_pixels(preparation)
        task = Task(data, preparation, cost.memory_bytes, self._options.ids)
        return self._decoders.decode(task, cost, self._asked.deadline, self._wait)

    def _seconds_left(self) -> float:
        return max(0.0, self._asked.deadline - time.monotonic())

    def _ms_left(self, before_s: float = 0.0) -> int:
        return max(0, math.floor((self._seconds_left() - before_s) * 1000))

    def _queue(
        self, model: str, preparation: Preparation, pixels: bytes, quota: Quota | None
    ) -> Ticket:
        timeout_ms = self._ms_left()
        if timeout_ms <= 0:
            raise TimedOut("decoding took all the time there was")
        asked, want = self._options, self._want
        top = 1 if want and not asked.classes else asked.top
        request = JobRequest(
            model,
            preparation,
            top,
            asked.request_id,
            least=asked.least,
            want=want,
            priority=asked.priority,
            context=asked.context,
            quota=quota,
            together=self._together,
            id=self._job_id,
        )
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
            if not isinstance(slot, Submission) or not slot.must_go_again:
                continue
            if slot.again_at is None:
                pause_s = 0.0 if slot.goes_at_once else slot.pauses.next()
                slot.again_at = time.monotonic() + pause_s
            if slot.again_at <= time.monotonic():
                self._index = index
                self._slots[index] = self._resubmitted(slot)
        now = time.monotonic()
        due = [slot.again_at or now for slot in self._submitted() if slot.must_go_again]
        return max(0.0, min(due) - now) if due else None

    def _resubmitted(self, slot: Submission) -> _Slot:
        """Queue a picture again, prepared for the worker that its job has met.

        Every second time it keeps the preparation that it has: two workers that take turns would
        otherwise each be sent what the other one wants. It is decoded again: pixels that were kept
        would double the memory of each picture in hand.
        """
        self._producer.forget(slot.ticket)
        fields = {"job": slot.ticket.job_id, "code": slot.code, **self._options.ids}
        log.info("a picture is queued again", extra={"fields": fields})
        preparation = slot.met if slot.submissions % 2 else slot.preparation
        try:
            again = self._send(slot.picture, preparation, None)
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
            fields = self._options.ids
            log.warning("jobs could not be cancelled: %s", error, extra={"fields": fields})
            for index, slot in enumerate(self._slots):
                if isinstance(slot, Submission) and slot.ticket.result is None:
                    self._producer.forget(slot.ticket)
                    self._slots[index] = redis_unavailable()
        if self._wait.gone:
            raise ClientGone

    def _note_time(self) -> None:
        """Tell the line how long the last of the pictures took after it was decoded."""
        now, asked = time.monotonic(), self._options
        took, open_s = [], []
        for slot in self._submitted():
            result, seconds = slot.ticket.result, now - slot.decoded_at
            if result is None:
                open_s.append(seconds)
            elif result.error is None:
                took.append(max(0.0, seconds - result.queue_ms / 1000))
        if open_s:
            # What the queue alone explains says nothing.
            if min(open_s) > (self._producer.shortest_timeout_s(asked.priority) or 0.0):
                self._line.unanswered(asked.model, min(open_s))
        elif took:
            self._line.answered(asked.model, min(took))

    def _not_classified(self, error: ResultError, slot: Submission) -> RequestError:
        if error.code != WOULD_TIME_OUT:
            return not_classified(error, self._options.ids)
        asked = self._options
        shortest_s = self._producer.shortest_timeout_s(asked.priority)
        return given_back(asked.timeout_s, shortest_s, slot.decoded_at - self._came)

    def _answer(self, slot: _Slot) -> Answer | RequestError:
        if isinstance(slot, RequestError):
            return slot
        if slot.other_model:
            return wrong_model(slot.other_model, slot.model, self._entry.queue)
        result = slot.ticket.result
        if result is None:
            return TimedOut("no result came in time; the job is cancelled")
        if result.error is not None:
            failed = self._not_classified(result.error, slot)
            failed.version = result.version
            return failed
        return answer_of(result, self._options, slot.decode_ms)


def _without_frames(error: RequestError) -> RequestError:
    """Let go of what the frames of an error hold: the upload, and perhaps its pixels.

    A request keeps its errors, and the frames keep the request: only the garbage collector would
    free them.
    """
    error.__cause__ = error.__context__ = None
    return error.with_traceback(None)
