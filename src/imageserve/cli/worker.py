"""``imageserve worker``: one model worker, until SIGTERM."""

import argparse
import logging
import os
import signal
import socket
import sys
import threading
import uuid
from collections.abc import Mapping, Sequence
from functools import partial

from imageserve import metrics
from imageserve.backoff import Backoff
from imageserve.cli.access import redis_access
from imageserve.config.settings import Settings
from imageserve.errors import ModelError, QueueError, QueueUnavailable
from imageserve.logger import setup_logging
from imageserve.models.entries import engine_of, load_entry, worker_entry
from imageserve.queue.queue import Lease
from imageserve.queue.redis_queue import RedisQueue
from imageserve.queue.self_test import check_server
from imageserve.worker.health import HealthServer
from imageserve.worker.memory import keep_freed_memory
from imageserve.worker.runner import Runner
from imageserve.worker.swap import Swapper
from imageserve.worker.versions import Candidate, Versions
from imageserve.worker.worker import Worker, WorkerConfig

log = logging.getLogger(__name__)

FIRST_LOAD_PAUSE_S = 2.0
LONGEST_LOAD_PAUSE_S = 300.0
"""Pauses between the attempts to load a model that cannot be loaded; doubled each time."""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    parser = argparse.ArgumentParser(
        prog="imageserve worker",
        description="Take batches from the queue, run the model on them, store and publish the "
        "results. Stops on SIGTERM: finishes the batch in hand and gives the rest back.",
        epilog="Settings come from the environment: MODEL, REDIS_URL, BATCH_SIZE, ... "
        "'imageserve settings' lists them.",
    )
    parser.parse_args(arguments)
    settings = Settings.from_env(environ)
    setup_logging(settings.log_level, settings.log_format)
    return _Process(settings).run()


class _Process:
    """The life of a worker process: load, warm up, connect to Redis, work, stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._entry = worker_entry(settings)
        self._load = partial(load_entry, engine=engine_of(settings))
        self._worker: Worker | None = None
        self._refused = ""
        self._stopping = threading.Event()

    def run(self) -> int:
        # Between two model calls the main thread needs the interpreter lock, which the Redis thread
        # may hold: pass it on after half a millisecond instead of Python's five.
        sys.setswitchinterval(0.0005)
        keep_freed_memory()
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        queue = RedisQueue(redis_access(self._settings), self._entry.queue, connections=4)
        self._serve_health()
        swapper = Swapper(Versions(self._entry, self._settings.models_dir), self._prepare)
        # The runner is kept in no variable: its memory must be free once another model replaces it.
        worker = self._worker = Worker(
            queue, self._first_runner(swapper, queue), self._entry.name, self._config(), swapper
        )
        self._meet_redis(worker)
        log.info("ready", extra={"fields": {"model": worker.name, "queue": queue.name}})
        worker.run()
        log.info("stopped")
        if swapper.loading:
            # The loading of a model cannot be interrupted, and the process cannot end safely in it.
            logging.shutdown()
            os._exit(0)
        return 0

    def _on_signal(self, number: int, frame: object) -> None:
        del number, frame
        self._stopping.set()
        if self._worker is None:
            sys.exit(0)  # Still loading: no job is in work.
        self._worker.stop()

    def _serve_health(self) -> None:
        if self._settings.metrics_port:
            HealthServer(
                self._settings.metrics_port,
                warm=self._is_warm,
                healthy=self._is_healthy,
                ready=self._is_ready,
                reason=lambda: self._refused or "not ready",
            ).start()

    def _is_healthy(self) -> bool:
        return self._worker is None or self._worker.healthy

    def _is_warm(self) -> bool:
        # A model that cannot be served counts as started: a failed startup probe would only restart
        # the pod.
        return self._worker is not None or bool(self._refused)

    def _is_ready(self) -> bool:
        worker = self._worker
        return worker is not None and worker.link.met and not self._stopping.is_set()

    def _first_runner(self, swapper: Swapper, queue: RedisQueue) -> Runner:
        """Return the first model that can serve, warmed up.

        A process that ended because of a bad model would be restarted again and again, and load it
        each time. With a metrics port to report the error on, the process stays and tries again
        after longer and longer pauses: a download may work later, a folder may be repaired.
        """
        backoff = Backoff(FIRST_LOAD_PAUSE_S, LONGEST_LOAD_PAUSE_S, jitter=False)
        while True:
            pause_s = backoff.next()
            try:
                runner = swapper.first(_wanted(queue))
            # A model may raise anything.
            except Exception as error:
                if not self._settings.metrics_port:
                    raise
                self._refuse(error, pause_s)
            else:
                self._refused = ""
                metrics.model_change_failed.labels(self._entry.name).set(bool(swapper.problem))
                return runner
            self._stopping.wait(pause_s)

    def _refuse(self, error: Exception, pause_s: float) -> None:
        """Report why there is no model: once in the log, and at the readiness probe."""
        is_expected = isinstance(error, ModelError)
        reason = str(error) if is_expected else f"the model fails: {type(error).__name__}: {error}"
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
        """Load and warm up a model; ``beside``: while another one serves."""
        log.info("loading the model", extra={"fields": {"model": candidate.entry.network}})
        runner = Runner(
            self._load(candidate.entry),
            self._settings.batch_size,
            name=self._entry.name,
            version=candidate.version,
        )
        log.info("warming up", extra={"fields": {"batches": list(runner.times.sizes)}})
        runner.warm_up(beside=beside)
        times = {size: round(ms, 1) for size, ms in runner.times.ms.items()}
        log.info("warm", extra={"fields": {"version": runner.version, "bucket_ms": times}})
        return runner

    def _config(self) -> WorkerConfig:
        settings = self._settings
        host = socket.gethostname()
        return WorkerConfig(
            worker_id=f"{host}-{os.getpid()}-{uuid.uuid4().hex[:6]}",
            host=host,
            lease=Lease(round(settings.lease_s * 1000), settings.max_attempts),
            batch_delay_s=settings.batch_delay_ms / 1000,
            shutdown_s=settings.shutdown_s,
        )

    def _meet_redis(self, worker: Worker) -> None:
        """Wait until Redis answers and has passed the self-test.

        Raises QueueForbidden where Redis answers and cannot be used: an operator has to act.
        """
        while not self._stopping.is_set():
            try:
                check_server(
                    redis_access(self._settings),
                    self._entry.queue,
                    self._settings.queue_bytes_limit,
                )
            except QueueUnavailable as error:
                worker.link.down(error)
                continue
            worker.link.up()
            return


def _wanted(queue: RedisQueue) -> str:
    """Return the version that the workers are told to serve; "" while Redis does not answer."""
    try:
        return queue.wanted()
    except QueueError as error:
        log.warning("the version to serve cannot be read: %s", error)
        return ""
