"""The state of a web process that its probes tell: ready, draining, stopping.

gunicorn's worker and the WSGI factory write it, the application reads it.
"""

import logging
import mmap
import os
import shutil
import signal
import stat
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from imageserve.backoff import Backoff
from imageserve.config.settings import Settings
from imageserve.errors import QueueError, QueueForbidden, QueueUnavailable, SettingsError

log = logging.getLogger(__name__)

DRAIN_FILE = "draining"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def run_dir(settings: Settings) -> Path:
    """Return the directory that all web processes of one server share.

    It is RUN_DIR, or a directory named after this user and port. In a RUN_DIR that others can write
    to, such as the temporary directory or a volume of a pod, it is a private one named after the
    port.
    """
    if settings.run_dir:
        path = Path(settings.run_dir)
        return path / f"imageserve-{settings.web_port}" if _is_shared(path) else path
    return Path(tempfile.gettempdir()) / f"imageserve-{os.getuid()}-{settings.web_port}"


class DrainFlag:
    """Tells all web processes of one server that it will stop soon.

    It is one byte of a file that they all map into memory: reading it costs nothing, and
    ``imageserve drain`` needs neither a port nor a process id.
    """

    def __init__(self, run_dir: Path) -> None:
        """Open the file.

        Raises OSError where no server has created it, SettingsError where it is none of ours.
        """
        path = run_dir / DRAIN_FILE
        file = os.open(path, os.O_RDWR | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(file)
            if not (_is_plain(found) and (_is_trusted(found) or _may_be_root(found, run_dir))):
                raise SettingsError(f"RUN_DIR: {path} was not made by this user")
            self._byte = mmap.mmap(file, 1)
        finally:
            os.close(file)

    @property
    def is_set(self) -> bool:
        return self._byte[0] != 0

    def set(self) -> None:
        self._byte[0] = 1


def create_drain_flag(run_dir: Path) -> None:
    """Create the file, not set. gunicorn's master does so before it starts web processes.

    A file of ours is kept: after USR2, the server before this one has it mapped, and is drained
    too.

    Raises SettingsError where the directory cannot be used.
    """
    _make_private(run_dir)
    path = run_dir / DRAIN_FILE
    with _named(path):
        if _cleared(path):
            return
        path.unlink(missing_ok=True)
        # A new file: whatever somebody else puts there meanwhile, a link for example, is an error.
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600)
        os.write(file, b"\0")
        os.close(file)


def _cleared(path: Path) -> bool:
    """Clear the flag in a file that only this user can write to, where there is one."""
    try:
        file = os.open(path, os.O_WRONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        found = os.fstat(file)
        is_ours = found.st_uid == os.geteuid() and not found.st_mode & _OTHERS_WRITE
        if _is_plain(found) and is_ours:
            os.write(file, b"\0")
            return True
        return False
    finally:
        os.close(file)


def create_metrics_dir(run_dir: Path) -> Path:
    """Create an empty directory for the counters that web processes share, and return its path.

    Raises SettingsError where that cannot be done.
    """
    _make_private(run_dir)
    path = run_dir / "metrics"
    with _named(path):
        if path.is_symlink():
            path.unlink()
        elif path.exists():
            shutil.rmtree(path)  # Counters of an earlier run.
        path.mkdir(mode=0o700)
    return path


def _make_private(path: Path) -> None:
    """Make a directory that nobody else can write to, or check the one that is there.

    Its name can be foreseen, and the temporary directory is open to all: somebody else may have
    been there first, with a directory of their own, or with a link to something of ours.
    """
    with _named(path):
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        link, found = path.lstat(), path.stat()
        if not (_is_trusted(link) and _is_trusted(found)):
            raise SettingsError(
                f"RUN_DIR: {path} belongs to another user; name a directory of your own"
            )
        if found.st_mode & _OTHERS_WRITE:
            raise SettingsError(
                f"RUN_DIR: others can write to {path}: "
                f"end that (chmod go-w {path}) or name another directory"
            )


def _is_shared(path: Path) -> bool:
    """Whether a directory of this user, or of root, can be written to by others."""
    try:
        found = path.stat()
    except OSError:
        return False
    return bool(found.st_mode & _OTHERS_WRITE) and _is_trusted(found)


def _is_plain(found: os.stat_result) -> bool:
    return stat.S_ISREG(found.st_mode) and found.st_nlink == 1


def _is_trusted(found: os.stat_result) -> bool:
    """Whether a file is this user's, or root's: a volume of a pod is."""
    return found.st_uid in (os.geteuid(), 0)


def _may_be_root(found: os.stat_result, directory: Path) -> bool:
    """Whether root may write to a file of another user: where the directory is that user's."""
    return os.geteuid() == 0 and found.st_uid == directory.stat().st_uid


@contextmanager
def _named(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise SettingsError(f"RUN_DIR: {path} cannot be used: {error}") from error


@dataclass(slots=True)
class Lifecycle:
    """Where one web process is between its start and its end."""

    ready: bool = False
    """True after the first contact with Redis. A later outage does not change it."""
    stopping: bool = False
    """True after SIGTERM."""
    drain_flag: DrainFlag | None = None
    server_pid: int | None = None
    """What is stopped where Redis cannot be used; None: the parent, gunicorn's master."""

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
    from imageserve.queue.redis.connection import RedisAccess
    from imageserve.queue.self_test import WATCH_EVERY_S, EvictionWatch

    wait_for_redis(settings, queue, lifecycle)
    watch = EvictionWatch(RedisAccess.from_settings(settings), queue)
    while watches:
        time.sleep(WATCH_EVERY_S)
        try:
            watch.look()
        # This loop must never end: nothing else would notice that Redis evicts.
        except Exception:
            log.critical("bug while watching Redis's memory policy", exc_info=True)


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
            os.kill(lifecycle.server_pid or os.getppid(), signal.SIGTERM)
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
