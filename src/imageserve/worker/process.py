"""The life of a worker process: load, warm up, check Redis, work, stop."""

import ctypes
import logging
import os
import socket
import sys
import threading
import time
import uuid
from contextlib import closing, suppress
from functools import partial
from typing import NoReturn

from imageserve import metrics
from imageserve.backoff import Backoff
from imageserve.config.settings import Settings
from imageserve.errors import ModelError, ModelLoadError, QueueError, QueueForbidden
from imageserve.models.entries import engine_of, load_entry, worker_entry
from imageserve.models.foreign import reason_of
from imageserve.probes import ProbeServer, state_answer
from imageserve.queue.consumer import Consumer, ConsumerStore, Lease
from imageserve.queue.monitor import Monitor
from imageserve.queue.redis.connection import RedisAccess
from imageserve.queue.self_test import EvictionWatch, check_server
from imageserve.stop_signals import end_process, on_stop_signal
from imageserve.tracing import open_tracer
from imageserve.worker.loop import Worker, WorkerConfig
from imageserve.worker.reload import Reloader
from imageserve.worker.runner import Runner
from imageserve.worker.versions import Candidate, Versions

log = logging.getLogger(__name__)

FIRST_PAUSE_S, LONGEST_PAUSE_S = 2.0, 300.0
"""Between tries to load a model that cannot be loaded; doubled each time."""


class WorkerProcess:
    """One worker with its probes."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._access = RedisAccess.from_settings(settings)
        self._entry = worker_entry(settings)
        self._load = partial(load_entry, engine=engine_of(settings))
        self._worker: Worker | None = None
        self._began_s = time.monotonic()
        self._load_s = 0.0
        self._refused = ""
        """Why the model cannot be served; "" while it can."""
        self._stopping = threading.Event()

    def run(self) -> NoReturn:
        """Work until SIGTERM or SIGINT, and end this process."""
        # Between two model calls the main thread needs the interpreter, which the Redis thread may
        # hold: release it after half a millisecond, not after Python's five.
        sys.setswitchinterval(0.0005)
        keep_freed_memory()
        on_stop_signal(self._stop, self._end_if_loading)
        self._serve_probes()
        reloader = Reloader(Versions(self._entry, self._settings.models_dir), self._prepare)
        consumer = self._consumer()
        # No variable for the runner: the first model must be freed when another takes its place.
        worker = self._worker = Worker(
            consumer,
            self._first_runner(reloader),
            self._entry.name,
            self._config(),
            reloader,
            EvictionWatch(self._access, self._entry.queue),
        )
        self._meet_redis(consumer)
        fields = {"model": worker.name, "queue": self._entry.queue}
        log.info("ready", extra={"fields": fields})
        if not self._stopping.is_set():
            worker.run()
        consumer.tracer.close()
        log.info("stopped")
        end_process()

    def _stop(self) -> None:
        # In this order: the main thread sets the worker and then looks whether it is to stop.
        self._stopping.set()
        if self._worker is not None:
            self._worker.stop()

    def _end_if_loading(self) -> None:
        if self._worker is None:
            sys.exit(0)  # There is no job to finish.

    # -- probes -------------------------------------------------------------------------------

    def _serve_probes(self) -> None:
        if self._settings.metrics_port:
            ProbeServer(
                self._settings.metrics_port,
                {
                    # Not whether Redis answers: during an outage a startup probe would have the
                    # model loaded again and again.
                    "/startupz": lambda: state_answer(
                        self._is_warm(), b"warm\n", b"loading the model\n"
                    ),
                    "/healthz": lambda: state_answer(
                        self._is_healthy(), b"ok\n", b"the model hangs\n"
                    ),
                    "/readyz": lambda: state_answer(
                        self._is_ready(),
                        f"ready{self._but()}\n".encode(),
                        f"{self._refused or 'not ready'}\n".encode(),
                    ),
                    "/metrics": lambda: (200, metrics.CONTENT_TYPE, metrics.exposition()),
                },
            ).start()

    def _is_warm(self) -> bool:
        # True for a model that cannot be served, too: a restart would not fix it.
        return self._worker is not None or bool(self._refused)

    def _is_healthy(self) -> bool:
        return self._worker is None or self._worker.healthy

    def _is_ready(self) -> bool:
        worker = self._worker
        return worker is not None and worker.met_redis and not self._stopping.is_set()

    def _but(self) -> str:
        # It is ready all the same: a rollout must go on, and end what it waits for.
        return f": {self._worker.problem}" if self._worker and self._worker.problem else ""

    # -- the model ----------------------------------------------------------------------------

    def _first_runner(self, reloader: Reloader) -> Runner:
        """Return the first model, warm, as soon as one can serve.

        A process that ended over a bad model would be restarted and load it again each time. With
        probes that say what is wrong it stays and tries again, ever more rarely: a download may
        work later, and a folder may be mended.
        """
        backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S, jitter=False)
        while True:
            try:
                runner = reloader.first(self._desired())
            # A model may raise anything.
            except Exception as error:
                if not self._settings.metrics_port:
                    if not isinstance(error, ModelError):
                        log.error("the model fails", exc_info=error)
                    raise ModelLoadError(reason_of(error)) from error
                pause_s = backoff.next()
                self._refuse(error, pause_s)
            else:
                self._refused = ""
                failed = bool(reloader.problem)
                metrics.model_change_failed.labels(self._entry.name).set(failed)
                return runner
            if self._stopping.wait(pause_s):
                sys.exit(0)

    def _desired(self) -> str:
        """Return the desired version; "" where Redis is away, then a heartbeat tells it later."""
        queue = self._entry.queue
        try:
            with closing(Monitor(self._access, [queue])) as monitor:
                return monitor.desired(queue)
        except QueueError as error:
            # Nothing special at a first start: Redis, or the way to it, is only being made.
            log.info("the desired version is not known yet: %s", error)
            return ""

    def _refuse(self, error: Exception, pause_s: float) -> None:
        """Log once, and tell the probes, why there is no model."""
        is_expected = isinstance(error, ModelError)
        reason = reason_of(error)
        if reason != self._refused:
            log.error(
                "the model cannot be served: %s",
                reason,
                exc_info=None if is_expected else error,
                extra={"fields": {"model": self._entry.name, "again_in_s": pause_s}},
            )
        self._refused = reason
        metrics.model_change_failed.labels(self._entry.name).set(1)

    def _prepare(self, candidate: Candidate, beside: bool) -> Runner:
        """Load and warm a model, ``beside`` another one that serves meanwhile."""
        log.info("loading the model", extra={"fields": {"model": candidate.entry.network}})
        model = self._load(candidate.entry)
        if self._worker is None:
            self._load_s = time.monotonic() - self._began_s
        runner = Runner(
            model,
            self._settings.batch_size,
            name=self._entry.name,
            version=candidate.version,
        )
        log.info("warming up", extra={"fields": {"batches": list(runner.times.sizes)}})
        runner.warm_up(beside=beside)
        times = {size: round(ms, 1) for size, ms in runner.times.ms.items()}
        log.info("warm", extra={"fields": {"version": runner.version, "bucket_ms": times}})
        return runner

    # -- the queue ----------------------------------------------------------------------------

    def _consumer(self) -> Consumer:
        settings = self._settings
        lease = Lease(round(settings.lease_s * 1000), settings.max_attempts)
        store = ConsumerStore(self._access, self._entry.queue, connections=4)
        return Consumer(store, self._entry.name, lease, open_tracer(settings, "worker"))

    def _config(self) -> WorkerConfig:
        host = socket.gethostname()
        return WorkerConfig(
            worker_id=f"{host}-{os.getpid()}-{uuid.uuid4().hex[:6]}",
            host=host,
            batch_delay_s=self._settings.batch_delay_ms / 1000,
            shutdown_s=self._settings.shutdown_s,
            load_s=self._load_s,
        )

    def _meet_redis(self, consumer: Consumer) -> None:
        """Wait until Redis answers and has passed the self-test.

        Raises QueueForbidden where it answers and cannot be used: an operator has to act.
        """
        limit = self._settings.queue_bytes_limit
        while not self._stopping.is_set():
            try:
                check_server(self._access, self._entry.queue, limit)
            except QueueForbidden:
                raise
            except QueueError as error:
                consumer.connection.failed(error)
                continue
            consumer.connection.succeeded()
            return


_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3
KEPT_BYTES = 64 * 2**20
LARGEST_BYTES = 32 * 2**20
"""The most that glibc takes for ``M_MMAP_THRESHOLD``; see mallopt(3)."""


def keep_freed_memory() -> None:
    """Let glibc keep up to 64 MiB of freed memory per arena.

    A batch has 5 MB of pixels and more. Memory that is returned and taken again costs a thousand
    page faults per batch, three quarters of the time of fetching it from Redis. Does nothing with
    another C library, or where MALLOC_TRIM_THRESHOLD_ or MALLOC_MMAP_THRESHOLD_ is set.
    """
    if not os.environ.keys().isdisjoint(("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_THRESHOLD_")):
        return
    with suppress(AttributeError):
        mallopt = ctypes.CDLL(None).mallopt
        mallopt(_M_MMAP_THRESHOLD, LARGEST_BYTES)
        mallopt(_M_TRIM_THRESHOLD, KEPT_BYTES)
