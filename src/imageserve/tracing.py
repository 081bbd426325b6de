"""Spans: what a request, a job or a batch took, and sending that to a collector.

A span is recorded after the fact, from ids and times that are known by then: nothing runs in the
path of a request that is not sampled. Spans wait in a queue of limited length, and a thread (under
gevent a greenlet) sends them. No request and no batch ever waits for that: where the collector is
slow or away, spans are lost, counted, and told once per outage.
"""

import importlib.util
import logging
import random
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping, Sequence
from typing import Final, Protocol
from urllib.parse import urlsplit

from imageserve import metrics
from imageserve.config.settings import Settings
from imageserve.errors import SettingsError
from imageserve.trace_context import Span, TraceContext, Value

log = logging.getLogger(__name__)

MOST_WAITING: Final = 2048
"""Spans that wait to be sent; those beyond are lost. Each takes about 1 KB."""
BATCH: Final = 32
"""Spans that are sent at once: under gevent nobody is served while they are encoded."""
EVERY_S: Final = 1.0
"""How long a span waits for others at most."""
FLUSH_S: Final = 1.0
"""Time that a process that ends has for its last spans."""


class Tracer:
    """Records nothing. What callers send is passed on as it came."""

    def begin(self, parent: TraceContext | None) -> TraceContext | None:
        """Return the context of a new span; ``parent``: that of its caller, if there is one.

        None where the span is not recorded and there is no caller to speak of. An unsampled
        caller's own context is returned.
        """
        return parent

    def root(self) -> TraceContext | None:
        """Return the context of a span without a parent; None where nothing is recorded."""
        return None

    def records(self, context: TraceContext | None) -> bool:
        """Whether `record` would keep a span of this context. Asked before more is computed."""
        return False

    def record(self, span: Span) -> None:
        """Keep a span to send it soon; never waits. One that is not sampled is dropped."""

    def note(
        self,
        name: str,
        parent: TraceContext | None,
        began: float,
        attributes: Mapping[str, Value],
        error: str = "",
    ) -> None:
        """Record a part of a recorded span that ends now; ``began``: by `time.monotonic`."""
        context = self.begin(parent) if self.records(parent) else None
        if context is not None:
            times = wall_s(began), time.time()
            self.record(Span(name, context, parent, *times, attributes, error=error))

    def close(self, within_s: float = FLUSH_S) -> None:
        """Send what waits, but return within this time."""


NO_TRACER: Final = Tracer()


class RecordingTracer(Tracer):
    """Records what is sampled."""

    def __init__(self, share: float, sender: "Keeper") -> None:
        """``share``: of spans without a caller's context, how many begin a trace, 0 to 1."""
        self._share = share
        self._sender = sender

    def begin(self, parent: TraceContext | None) -> TraceContext | None:
        if parent is None:
            return self.root() if random.random() < self._share else None
        return parent.child(_new_id(16)) if parent.sampled else parent

    def root(self) -> TraceContext:
        return TraceContext(_new_id(32), _new_id(16), sampled=True, random=True)

    def records(self, context: TraceContext | None) -> bool:
        return context is not None and context.sampled

    def record(self, span: Span) -> None:
        if span.context.sampled:
            self._sender.keep(span)

    def close(self, within_s: float = FLUSH_S) -> None:
        self._sender.close(within_s)


def _new_id(digits: int) -> str:
    """Return a random id. Not a secret; Python seeds the generator anew after a fork."""
    return f"{random.getrandbits(4 * digits) or 1:0{digits}x}"


def wall_s(at: float) -> float:
    """Return a time of `time.monotonic` as seconds since 1970."""
    return time.time() - time.monotonic() + at


class Keeper(Protocol):
    """Takes finished spans."""

    def keep(self, span: Span) -> None: ...

    def close(self, within_s: float) -> None: ...


Export = Callable[[Sequence[Span]], str]
"""Sends spans; returns why that failed, "" where it did not. It may take some seconds."""


class Sender:
    """Sends spans from a thread, a few at once.

    The SDK's `BatchSpanProcessor` does not tell what it loses, logs each batch, and starts threads
    in every process that is forked.
    """

    def __init__(self, export: Export, most_waiting: int = MOST_WAITING) -> None:
        """Start the thread. Call this after a fork, never before."""
        self._export = export
        self._most_waiting = most_waiting
        self._waiting: deque[Span] = deque()
        self._lock = threading.Lock()
        self._wake = threading.Event()
        self._closing = False
        self._lost_in_outage = 0
        """Spans lost since the collector stopped answering; 0 while it answers."""
        self._thread = threading.Thread(target=self._run, name="spans", daemon=True)
        self._thread.start()

    def keep(self, span: Span) -> None:
        with self._lock:
            has_room = len(self._waiting) < self._most_waiting
            if has_room:
                self._waiting.append(span)
        if not has_room:
            metrics.labelled(metrics.spans_lost_total, "queue full").inc()
        elif len(self._waiting) >= BATCH:
            self._wake.set()

    def close(self, within_s: float) -> None:
        self._closing = True
        self._wake.set()
        self._thread.join(within_s)
        with self._lock:
            left, self._waiting = len(self._waiting), deque()
        metrics.labelled(metrics.spans_lost_total, "end of process").inc(left)

    def _run(self) -> None:
        while self._waiting or not self._closing:
            if len(self._waiting) < BATCH and not self._closing:
                self._wake.wait(EVERY_S)
            self._wake.clear()
            self._send()

    def _send(self) -> None:
        with self._lock:
            batch = [self._waiting.popleft() for _ in range(min(BATCH, len(self._waiting)))]
        if not batch:
            return
        try:
            problem = self._export(batch)
        # This loop must never end: no span would be sent any more, and nobody would know.
        except Exception as error:
            problem = f"{type(error).__name__}: {error}"
        if problem:
            self._note_lost(len(batch), problem)
        elif self._lost_in_outage:
            log.info("spans are sent again; %d were lost", self._lost_in_outage)
            self._lost_in_outage = 0

    def _note_lost(self, count: int, problem: str) -> None:
        metrics.labelled(metrics.spans_lost_total, "not sent").inc(count)
        if not self._lost_in_outage:
            log.warning(
                "spans are lost until TRACES_ENDPOINT takes them; requests are not affected: %s",
                problem,
            )
        self._lost_in_outage += count


# -- from settings --------------------------------------------------------------------------------


def check_tracing(settings: Settings) -> None:
    """Raise SettingsError where traces are asked for and the extra is not installed."""
    if not settings.traces_endpoint:
        return
    try:
        found = importlib.util.find_spec("opentelemetry.exporter.otlp.proto.http")
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise SettingsError(
            "TRACES_ENDPOINT: OpenTelemetry is not installed; install it with: "
            "pip install 'imageserve[tracing]'"
        )


def open_tracer(settings: Settings, role: str) -> Tracer:
    """Return the tracer of a process, `NO_TRACER` where TRACES_ENDPOINT is empty.

    ``role``: ``web``, ``grpc`` or ``worker``. It starts a thread: call it after a fork. Raises
    SettingsError.
    """
    if not settings.traces_endpoint:
        return NO_TRACER
    check_tracing(settings)
    from imageserve.otlp import Exporter

    exporter = Exporter(full_address(settings.traces_endpoint), f"imageserve-{role}")
    return RecordingTracer(settings.traces_share, Sender(exporter.export))


def full_address(endpoint: str) -> str:
    """Return where spans are sent: OTLP's usual path is added where there is none."""
    has_path = urlsplit(endpoint).path not in ("", "/")
    return endpoint if has_path else f"{endpoint.rstrip('/')}/v1/traces"
