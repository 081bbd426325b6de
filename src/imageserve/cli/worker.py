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

from imageserve.cli.access import redis_access
from imageserve.errors import QueueUnavailable
from imageserve.jobs.queue import Lease
from imageserve.jobs.redis_queue import RedisQueue
from imageserve.jobs.self_test import check_server
from imageserve.logger import setup_logging
from imageserve.model_entries import worker_entry
from imageserve.models import load_model
from imageserve.settings import Settings
from imageserve.worker.health import HealthServer
from imageserve.worker.runner import Runner
from imageserve.worker.worker import Worker, WorkerConfig

log = logging.getLogger(__name__)


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
    """The life of a worker process: load, warm up, meet Redis, work, stop."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._entry = worker_entry(settings)
        self._worker: Worker | None = None
        self._stopping = threading.Event()

    def run(self) -> int:
        # Between two model calls the main thread needs the interpreter, which the Redis thread may
        # hold: let it go after half a millisecond, not after Python's five.
        sys.setswitchinterval(0.0005)
        signal.signal(signal.SIGTERM, self._on_signal)
        signal.signal(signal.SIGINT, self._on_signal)
        queue = RedisQueue(redis_access(self._settings), self._entry.queue, connections=4)
        self._serve_health()
        runner = self._warm_runner()
        worker = self._worker = Worker(queue, runner, self._entry.name, self._config())
        self._meet_redis(worker)
        log.info("ready", extra={"fields": {"model": worker.name, "queue": queue.name}})
        worker.run()
        log.info("stopped")
        return 0

    def _on_signal(self, number: int, frame: object) -> None:
        del number, frame
        self._stopping.set()
        if self._worker is None:
            sys.exit(0)  # Still loading: there is no job to finish.
        self._worker.stop()

    def _serve_health(self) -> None:
        if self._settings.metrics_port:
            HealthServer(
                self._settings.metrics_port,
                warm=lambda: self._worker is not None,
                healthy=self._is_healthy,
                ready=self._is_ready,
            ).start()

    def _is_healthy(self) -> bool:
        return self._worker is None or self._worker.healthy

    def _is_ready(self) -> bool:
        worker = self._worker
        return worker is not None and worker.link.met and not self._stopping.is_set()

    def _warm_runner(self) -> Runner:
        entry = self._entry
        log.info("loading the model", extra={"fields": {"model": entry.network}})
        model = load_model(
            entry.network,
            weights=entry.weights,
            labels_file=entry.labels,
            input_size=entry.input_size,
        )
        runner = Runner(model, self._settings.batch_size)
        log.info("warming up", extra={"fields": {"batches": list(runner.times.sizes)}})
        runner.warm_up()
        times = {size: round(ms, 1) for size, ms in runner.times.ms.items()}
        log.info("warm", extra={"fields": {"bucket_ms": times}})
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

        Raises QueueForbidden where it answers and cannot be used: an operator has to act.
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
