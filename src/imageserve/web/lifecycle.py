"""The state of a web process that its probes tell: ready, draining, stopping.

gunicorn's worker and the WSGI factory write it, the application reads it.
"""

import logging
import mmap
import os
import signal
import tempfile
import threading
import time
from dataclasses import dataclass
from pathlib import Path

from imageserve.backoff import Backoff
from imageserve.config.settings import Settings
from imageserve.errors import QueueError, QueueForbidden, QueueUnavailable

log = logging.getLogger(__name__)

DRAIN_FILE = "draining"


def run_dir(settings: Settings) -> Path:
    """Return the directory that all web processes of one server share.

    It is RUN_DIR, or a directory named after this user and port.
    """
    if settings.run_dir:
        return Path(settings.run_dir)
    return Path(tempfile.gettempdir()) / f"imageserve-{os.getuid()}-{settings.web_port}"


class DrainFlag:
    """Tells all web processes of one server that it will stop soon.

    It is one byte of a file that they all map into memory: reading it costs nothing, and
    ``imageserve drain`` needs neither a port nor a process id.
    """

    def __init__(self, run_dir: Path) -> None:
        """Open the file.

        Raises OSError where no server has created it.
        """
        with (run_dir / DRAIN_FILE).open("r+b") as file:
            self._byte = mmap.mmap(file.fileno(), 1)

    @property
    def is_set(self) -> bool:
        return self._byte[0] != 0

    def set(self) -> None:
        self._byte[0] = 1


def create_drain_flag(run_dir: Path) -> None:
    """Create the file, not set. gunicorn's master does so before it starts web processes."""
    run_dir.mkdir(parents=True, exist_ok=True)
    (run_dir / DRAIN_FILE).write_bytes(b"\0")


@dataclass(slots=True)
class Lifecycle:
    """Where one web process is between its start and its end."""

    ready: bool = False
    """True after the first contact with Redis. A later outage does not change it."""
    stopping: bool = False
    """True after SIGTERM."""
    drain_flag: DrainFlag | None = None

    @property
    def draining(self) -> bool:
        return self.drain_flag is not None and self.drain_flag.is_set


def queue_names(settings: Settings) -> list[str]:
    """Return the queue of each model. Raises SettingsError."""
    # Imported here: gunicorn's master imports this module, and needs no models.
    from imageserve.models.entries import model_entries

    return [entry.queue for entry in model_entries(settings).values()]


def check_redis(settings: Settings, queue: str) -> None:
    """Check that Redis can serve a queue.

    Raises QueueForbidden where it cannot be used, another QueueError where it can be tried again.
    """
    # gunicorn's master imports this module, and must not load the Redis client before it forks.
    from imageserve.queue.redis.connection import RedisAccess
    from imageserve.queue.self_test import check_server

    check_server(RedisAccess.from_settings(settings), queue, settings.queue_bytes_limit)


def start_first_contact(settings: Settings, lifecycle: Lifecycle) -> None:
    """Check each queue in a thread of its own: a node that hangs must not delay the others.

    Later one thread per node watches it.
    """
    from imageserve.queue.redis.connection import RedisAccess, by_node

    names = queue_names(settings)
    watching = {group[0] for group in by_node(RedisAccess.from_settings(settings), names)}
    for queue in names:
        threading.Thread(
            target=_stay_in_contact,
            args=(settings, queue, lifecycle, queue in watching),
            name="contact",
            daemon=True,
        ).start()


def _stay_in_contact(settings: Settings, queue: str, lifecycle: Lifecycle, watches: bool) -> None:
    from imageserve.queue.eviction import WATCH_EVERY_S, EvictionWatch
    from imageserve.queue.redis.connection import RedisAccess

    wait_for_redis(settings, queue, lifecycle)
    watch = EvictionWatch(RedisAccess.from_settings(settings), queue)
    while watches:
        time.sleep(WATCH_EVERY_S)
        watch.look()


def wait_for_redis(settings: Settings, queue: str, lifecycle: Lifecycle) -> None:
    """Try Redis until the queue is checked; stop the whole server where it cannot be used.

    The process is ready once one queue answers: a node of a cluster that is away must not take the
    models on the other nodes away.
    """
    backoff = Backoff(first_s=0.1, longest_s=2.0)
    said = ""
    while True:
        try:
            check_redis(settings, queue)
            lifecycle.ready = True
            return
        except QueueForbidden as error:
            log.critical("stopping: %s", error)
            os.kill(os.getppid(), signal.SIGTERM)
            return
        except QueueUnavailable as error:
            log.debug("no contact with the Redis of queue %s yet: %s", queue, error)
        except QueueError as error:
            if str(error) != said:
                log.error("queue %s cannot be used yet: %s", queue, error)
            said = str(error)
        # Without this thread the process might never be ready, and nothing would say why.
        except Exception:
            log.critical("bug while waiting for Redis", exc_info=True)
        time.sleep(backoff.next())
