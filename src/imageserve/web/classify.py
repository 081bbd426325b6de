"""Calls that send pictures, from the parsed head to the answer: the same for all of them.

Keys, slots, the line, memory, a drain, counts and the log are looked after here. What a body means
and how it is answered is a `Door`'s: `web.predict_door` for /predict, `web.infer_door` for the Open
Inference Protocol. What becomes of a picture is the predictor's.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Protocol

from imageserve import metrics
from imageserve.config.settings import Settings
from imageserve.errors import Busy, RequestError, ShuttingDown
from imageserve.queue.admission import Limits
from imageserve.web.answers import timings, version_header
from imageserve.web.api_keys import ApiKeys, read_api_keys
from imageserve.web.calls import (
    Call,
    Reply,
    begin,
    bug_reply,
    error_reply,
    finish,
    gone_reply,
    record_request,
)
from imageserve.web.edge import age_s
from imageserve.web.greenlets import Wait, watch_hang_up
from imageserve.web.keys_file import ANYBODY, Caller
from imageserve.web.lifecycle import Lifecycle
from imageserve.web.options import ClassifyOptions
from imageserve.web.outcomes import Answer
from imageserve.web.parameters import DEFAULT_TOP, checked_priority, checked_timeout_s
from imageserve.web.predict import ClientGone, Predictor
from imageserve.web.submission import Picture
from imageserve.web.upload import UploadAccount, UploadLimits, UploadMemory

Environ = Mapping[str, Any]
Answers = Sequence[Answer | RequestError]

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class WebConfig:
    """The limits of one web process."""

    upload: UploadLimits
    request_timeout_s: float
    slots: int
    memory_bytes: int
    api_keys: ApiKeys | None = None
    """Who may send pictures; None: everybody."""
    queue: Limits = field(default_factory=Limits)
    """Of each queue: for the pages that show how full it is."""

    @classmethod
    def from_settings(cls, settings: Settings) -> "WebConfig":
        """Return the limits of these settings.

        Raises SettingsError where API_KEYS_FILE holds no key, or a line that cannot be one.
        """
        return cls(
            upload=UploadLimits(
                settings.max_body_bytes,
                settings.max_image_bytes,
                settings.max_images,
                settings.upload_timeout_s,
            ),
            request_timeout_s=settings.request_timeout_s,
            slots=settings.web_slots,
            memory_bytes=settings.web_memory_bytes,
            api_keys=read_api_keys(settings.api_keys_file),
            queue=Limits(settings.queue_limit, settings.queue_bytes_limit),
        )


class Slots:
    """Requests in progress. When all slots are taken, refuse at once: waiting would delay all."""

    def __init__(self, limit: int) -> None:
        self.limit = limit
        self.in_use = 0
        self._lock = threading.Lock()

    def check(self) -> None:
        """Raise Busy where no slot is free. To be called before an upload is read."""
        if self.in_use >= self.limit:
            raise Busy(f"all {self.limit} request slots are taken", retry_after_s=1)

    @contextmanager
    def taken(self) -> Iterator[None]:
        """Hold one slot.

        Raises Busy where none is free.
        """
        with self._lock:
            self.check()
            self.in_use += 1
        metrics.slots_in_use.inc()
        try:
            yield
        finally:
            with self._lock:
                self.in_use -= 1
            metrics.slots_in_use.dec()


@dataclass(frozen=True, slots=True)
class Order:
    """What the whole of a request asks for."""

    pictures: Sequence[Picture | RequestError]
    bytes: int
    """Of its body."""
    options: ClassifyOptions
    reply: Callable[[Answers], Reply]
    """Returns the answer to the request, or raises the RequestError that it is."""


class Door(Protocol):
    """One of the calls. Its methods raise a RequestError where a request cannot be understood."""

    name: str
    """By it its requests are counted."""

    def options(self, environ: Environ, head: ClassifyOptions) -> ClassifyOptions:
        """Return what the head of a request asks for; ``head``: what any head does."""

    def read(self, environ: Environ, account: UploadAccount, options: ClassifyOptions) -> Order:
        """Read the body; ``options`` are those of its head."""


class Classify:
    """Answers the calls that send pictures."""

    def __init__(self, predictor: Predictor, config: WebConfig, lifecycle: Lifecycle) -> None:
        self._predictor = predictor
        self._config = config
        self._lifecycle = lifecycle
        self._slots = Slots(config.slots)
        self._memory = UploadMemory(config.memory_bytes)

    def answer(self, environ: Environ, door: Door) -> Reply:
        """Return the answer to a WSGI request. Raises nothing."""
        tracer = self._predictor.tracer
        call = begin(environ, environ["PATH_INFO"], tracer)
        try:
            reply = self._answer(environ, door, call)
        except RequestError as error:
            reply = error_reply(error, call)
            # A frame that holds the error which it raises, and with it the upload, would stay.
            error.__traceback__ = None
        except ClientGone:
            reply = gone_reply(call)
        except Exception as error:
            reply = bug_reply(log, error, call)
        draining = self._lifecycle.draining
        reply.headers += finish(log, call, door.name, reply.status, draining=draining)
        record_request(tracer, call, reply.status)
        return reply

    def _answer(self, environ: Environ, door: Door, call: Call) -> Reply:
        if self._lifecycle.stopping:
            raise ShuttingDown("this server is about to stop", retry_after_s=1)
        predictor, caller = self._predictor, self._caller(environ)
        call.key = caller.name
        self._slots.check()
        # The header only lowers what the key has.
        priority = checked_priority(environ.get("HTTP_X_PRIORITY")) or caller.priority
        timeout_s = checked_timeout_s(
            environ.get("HTTP_X_REQUEST_TIMEOUT"), self._config.request_timeout_s
        )
        head = ClassifyOptions(
            None,
            DEFAULT_TOP,
            timeout_s,
            call.request_id,
            call.context,
            priority=priority,
            caller=caller,
        )
        options = door.options(environ, head)
        predictor.check(options)
        call.model = predictor.model(options.model).entry.name
        if priority:  # By its head alone, the key unknown, it may have seemed more urgent.
            predictor.line.check(options.asked(time.monotonic()))
        with self._memory.account() as account:
            order = door.read(environ, account, options)
            call.body_read = True
            call.bytes = order.bytes
            if order.options is not options:
                predictor.check(order.options)
            # Since when its client has waited for this process.
            waited_s = age_s(environ.get("gunicorn.socket"))
            # Others may have come first while this one was read.
            asked = order.options.asked(time.monotonic() - waited_s)
            predictor.line.check(asked, pictures=len(order.pictures), is_read=True)
            with self._slots.taken():
                answers = self._answers(order, environ, waited_s)
                return _noted(answers, order, call)

    def _caller(self, environ: Environ) -> Caller:
        """Return who presents a key."""
        if self._config.api_keys is None:
            return ANYBODY
        presented = environ.get("HTTP_AUTHORIZATION", ""), environ.get("HTTP_X_API_KEY", "")
        return self._config.api_keys.caller(*presented)

    def _answers(self, order: Order, environ: Environ, waited_s: float) -> Answers:
        wait = Wait()
        stop_watching = watch_hang_up(environ, wait)
        began = time.perf_counter()
        try:
            return self._predictor.predict(order.pictures, order.options, wait, waited_s)
        finally:
            metrics.request_seconds.observe(time.perf_counter() - began)
            stop_watching()


def _noted(answers: Answers, order: Order, call: Call) -> Reply:
    call.pictures = len(answers)
    good = [answer for answer in answers if isinstance(answer, Answer)]
    call.timings = timings(good)
    call.version = version_header(answer.version for answer in answers)
    return order.reply(answers)
