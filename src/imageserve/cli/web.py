"""``imageserve web``: starts gunicorn, each of whose processes builds the application.

The application is built after gunicorn forks: a Redis client must never cross a fork.
"""

import argparse
import contextlib
import logging
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imageserve.config.settings import Settings
from imageserve.errors import QueueError, QueueForbidden, QueueUnavailable
from imageserve.logger import setup_logging
from imageserve.models.entries import model_entries
from imageserve.queue.redis.connection import RedisAccess
from imageserve.web.run_dir import run_dir

if TYPE_CHECKING:
    from imageserve.queue.redis.connection import RedisAccess
    from imageserve.web.api_keys import ApiKeys
    from imageserve.web.app import WebConfig
    from imageserve.web.predict import Predictor

log = logging.getLogger(__name__)

MONITOR_CONNECTIONS = 4
"""Clients of ``/status`` and ``/metrics`` that are answered at the same time."""


def main(arguments: Sequence[str], environ: Mapping[str, str]) -> int:
    """Check the settings, then become gunicorn: it then receives the signals itself."""
    parser = argparse.ArgumentParser(
        prog="imageserve web",
        description="Serve HTTP: take pictures in, queue them, wait for the workers, answer. "
        "Stops on SIGTERM, answering the requests in hand first.",
        epilog="Settings come from the environment: WEB_PORT, WEB_PROCESSES, WEB_SLOTS, "
        "REDIS_URL, ... 'imageserve settings' lists them.",
    )
    parser.parse_args(arguments)
    settings = Settings.from_env(environ)
    setup_logging(settings.log_level, settings.log_format)
    model_entries(settings)
    _api_keys(settings)
    _refuse_unusable_redis(settings)
    metrics_dir = _fresh_directory(run_dir(settings) / "metrics")
    command = [sys.executable, "-m", "gunicorn", "-c", "python:imageserve.web.gunicorn_conf"]
    os.execvpe(  # noqa: S606 - our own interpreter
        sys.executable,
        [*command, "imageserve.cli.web:application()"],
        {**_FRUGAL, **environ, "PROMETHEUS_MULTIPROC_DIR": str(metrics_dir)},
    )


# Decoded pictures above 1 MiB go back to the system at once: glibc would raise this threshold by
# itself and keep hundreds of MB after one large picture. Up to 16 MiB of the rest are kept: given
# back and taken again, they cost a hundred page faults per picture.
_FRUGAL = {"MALLOC_MMAP_THRESHOLD_": str(2**20), "MALLOC_TRIM_THRESHOLD_": str(2**24)}


def _refuse_unusable_redis(settings: Settings) -> None:
    """Raise QueueForbidden at once where Redis answers and cannot be used."""
    with contextlib.suppress(QueueUnavailable):  # The processes keep trying; /readyz tells.
        _check(settings)


def _check(settings: Settings) -> None:
    from imageserve.queue.self_test import check_server

    for entry in model_entries(settings).values():
        check_server(RedisAccess.from_settings(settings), entry.queue, settings.queue_bytes_limit)


def _fresh_directory(path: Path) -> Path:
    """Counters of an earlier run must not be counted again."""
    shutil.rmtree(path, ignore_errors=True)
    path.mkdir(parents=True)
    return path


def application() -> object:
    """Build the WSGI application of one web process. Called by gunicorn, after it forked."""
    # Imported here: the parent must not load Redis clients and Flask before it forks.
    from imageserve.queue.monitor import Monitor
    from imageserve.web.app import Server, create_app
    from imageserve.web.drain import DrainFlag
    from imageserve.web.gunicorn_worker import Worker, upload_deadline, watch_hang_up

    settings = Settings.from_env(os.environ)
    flag = DrainFlag(run_dir(settings))
    contact = _Contact(settings)
    contact.start()
    server = Server(
        deadline=upload_deadline,
        watch=watch_hang_up,
        is_ready=lambda: contact.made,
        is_draining=lambda: flag.is_set,
        is_stopping=lambda: Worker.stopping,
    )
    access = RedisAccess.from_settings(settings)
    queues = [entry.queue for entry in model_entries(settings).values()]
    monitor = Monitor(access, queues, connections=MONITOR_CONNECTIONS)
    return create_app(_predictor(settings, access), monitor, _web_config(settings), server)


def _predictor(settings: Settings, access: RedisAccess) -> "Predictor":
    from imageserve.decoding import DecodingPolicy
    from imageserve.queue.producer import ProducerConfig, connect_producers
    from imageserve.web.gunicorn_worker import offload
    from imageserve.web.predict import Predictor, ServedModel

    entries = model_entries(settings)
    limits = ProducerConfig(settings.queue_limit, settings.queue_bytes_limit, settings.result_ttl_s)
    queues = [entry.queue for entry in entries.values()]
    # A connection for each request in hand: made on demand, and never waited for. A process that is
    # short of processor time holds each for a whole turn of its event loop; a request that waited
    # two seconds for one would take Redis for dead and have the next ones refused.
    producers = connect_producers(access, queues, limits, connections=settings.web_slots)
    models = {name: ServedModel(entry, producers[entry.queue]) for name, entry in entries.items()}
    decoding = DecodingPolicy(
        settings.max_image_bytes,
        settings.max_image_pixels,
        settings.image_formats,
        settings.fast_jpeg,
    )
    return Predictor(models, decoding, offload)


def _web_config(settings: Settings) -> "WebConfig":
    from imageserve.web.app import WebConfig
    from imageserve.web.upload import UploadLimits

    upload = UploadLimits(
        settings.max_body_bytes,
        settings.max_image_bytes,
        settings.max_images,
        settings.upload_timeout_s,
    )
    return WebConfig(
        upload,
        settings.request_timeout_s,
        settings.web_slots,
        settings.web_memory_bytes,
        _api_keys(settings),
    )


def _api_keys(settings: Settings) -> "ApiKeys | None":
    from imageserve.web.api_keys import ApiKeys

    return ApiKeys(Path(settings.api_keys_file)) if settings.api_keys_file else None


class _Contact:
    """The first contact with Redis: the process is not ready before it, and stays so after it."""

    def __init__(self, settings: Settings) -> None:
        self.made = False
        self._settings = settings

    def start(self) -> None:
        threading.Thread(target=self._run, name="first-contact", daemon=True).start()

    def _run(self) -> None:
        pause_s = 0.1
        while not self.made:
            try:
                _check(self._settings)
                self.made = True
                return
            except QueueForbidden as error:
                log.critical("stopping: %s", error)
                os.kill(os.getppid(), signal.SIGTERM)
                return
            except QueueError as error:
                log.debug("no contact with Redis yet: %s", error)
            # Without this thread the process would never be ready, and nobody would know why.
            except Exception:
                log.critical("bug while looking for Redis", exc_info=True)
            time.sleep(pause_s)
            pause_s = min(2.0, pause_s * 2)
