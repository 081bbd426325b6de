"""Connecting to Redis: address, credentials, timeouts, and the translation of its errors.

redis-py 8 retries ten times by default and gives sockets five seconds. Both are wrong for a queue:
a retried claim strands the first batch until its lease ends, and a blocking wait that is longer
than the socket timeout never returns. So each client made here sets both.
"""

import logging
import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import SplitResult, unquote

import redis
from redis.backoff import NoBackoff
from redis.retry import Retry
from redis.sentinel import (
    Sentinel,
    SentinelConnectionPool,
    SentinelManagedConnection,
    SentinelManagedSSLConnection,
)

from imageserve import metrics
from imageserve.backoff import Backoff
from imageserve.config.settings import Settings
from imageserve.errors import QueueError, QueueForbidden, QueueUnavailable
from imageserve.queue.redis.address import Node, database, nodes, split_address
from imageserve.queue.redis.cluster import SlotFinder, connection_class
from imageserve.queue.redis.endpoint import ToMaster, ToMasterTLS

log = logging.getLogger(__name__)

COMMAND_TIMEOUT_S = 2.0
"""How long one command may take. Redis answers in microseconds; two seconds is an outage."""

CONNECT_TIMEOUT_S = 2.0

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.05, 2.0
"""Between tries while Redis is away."""


@dataclass(frozen=True, slots=True)
class RedisAccess:
    """Where Redis is and how to get in."""

    url: str = "redis://localhost:6379/0"
    username: str | None = None
    password: str | None = field(default=None, repr=False)
    ca_file: str | None = None
    sentinel_password: str | None = field(default=None, repr=False)

    @classmethod
    def from_settings(cls, settings: Settings) -> "RedisAccess":
        return cls(
            url=settings.redis_url,
            username=settings.redis_username,
            password=settings.redis_password,
            ca_file=settings.redis_ca_file,
            sentinel_password=settings.redis_sentinel_password,
        )


def connect(
    access: RedisAccess, *, key: str, retries: int, timeout_s: float, connections: int
) -> "redis.Redis":
    """Make a client. Nothing is sent before its first command.

    On a cluster it speaks to the node that has ``key``, and may name keys of that slot only.
    ``retries`` is how often a command is sent again after a lost connection: 0 unless it is
    idempotent. Make clients after a fork, never before.

    Raises SettingsError where the address cannot be used.
    """
    parts = split_address(access.url)
    options = {**_options(access, retries, timeout_s), **_tls(access, parts)}
    if parts.scheme.endswith("+sentinel"):
        options |= {"max_connections": connections, "timeout": timeout_s}
        return _behind_sentinel(access, parts, options)
    if is_cluster(access):
        options |= {"find": _slot_finder(key, parts, options)}
        options["connection_class"] = connection_class(tls="connection_class" in options)
    elif parts.scheme == "unix":
        options |= {
            "path": unquote(parts.path),
            "connection_class": redis.UnixDomainSocketConnection,
        }
        options.pop("socket_keepalive", None)
    else:
        options |= {"host": parts.hostname, "port": parts.port or 6379, "db": database(parts.path)}
        options["connection_class"] = ToMasterTLS if "connection_class" in options else ToMaster
    pool = redis.BlockingConnectionPool(max_connections=connections, timeout=timeout_s, **options)
    return _Client(connection_pool=pool)


class _Client(redis.Redis):
    """Says in an error about a right or a type what was sent; servers often leave that out."""

    def execute_command(self, *args: Any, **options: Any) -> Any:
        try:
            return super().execute_command(*args, **options)  # type: ignore[no-untyped-call]
        except redis.ResponseError as error:
            if not str(args[0]).startswith("EVAL"):  # A script says more.
                add_place(error, " ".join(map(str, args[:2])))
            raise


_NEEDS_A_PLACE = re.compile(r"NOPERM|permission|can't run this|can't access|WRONGTYPE")


def add_place(error: Exception, place: str) -> None:
    """Add to an error about a right or a type which command or keys it is about."""
    if isinstance(error, redis.ResponseError) and _NEEDS_A_PLACE.search(str(error)):
        error.args = (f"{error} ({place})",)


def is_cluster(access: RedisAccess) -> bool:
    """Tell whether the keys of different queues may live on different servers."""
    return access.url.partition("://")[0].endswith("+cluster")


def by_node(access: RedisAccess, queues: Sequence[str]) -> list[list[str]]:
    """Group queues that share a server: on a cluster each is alone, otherwise all are together."""
    return [[queue] for queue in queues] if is_cluster(access) else [list(queues)]


def _slot_finder(key: str, parts: SplitResult, options: dict[str, Any]) -> SlotFinder:
    # Not the time-out of a client that listens or blocks: a node that hangs would cost 5 s.
    own = {**options, "socket_timeout": COMMAND_TIMEOUT_S}

    def ask(node: Node) -> redis.Redis:
        host, port = node
        pool = redis.ConnectionPool(host=host, port=port, **own)
        return redis.Redis.from_pool(pool)

    return SlotFinder(key, nodes(parts), ask)


def _options(access: RedisAccess, retries: int, timeout_s: float) -> dict[str, Any]:
    return {
        "username": access.username,
        "password": access.password,
        "socket_timeout": timeout_s,
        "socket_connect_timeout": CONNECT_TIMEOUT_S,
        "socket_keepalive": True,
        # Only a lost connection is worth a second try at once; a server that did not answer within
        # the timeout would only cost the caller another one.
        "retry": Retry(NoBackoff(), retries, supported_errors=(redis.ConnectionError,)),
        "protocol": 2,
        # PING, and not CLIENT SETINFO, for which Redis 6 has no right of its own: a node that hangs
        # takes connections and answers nothing, and behind TLS 1.3 redis-py takes the server's
        # session tickets for an unread reply until one reply was read.
        "driver_info": None,
        "redis_connect_func": _greet,
    }


def _greet(connection: Any) -> None:
    connection.on_connect()
    connection.send_command("PING")
    connection.read_response()


def _tls(access: RedisAccess, parts: SplitResult) -> dict[str, Any]:
    if not parts.scheme.startswith("rediss"):
        return {}
    return {
        "connection_class": redis.SSLConnection,
        "ssl_cert_reqs": ssl.CERT_REQUIRED,
        "ssl_ca_certs": access.ca_file,
        "ssl_check_hostname": True,
    }


def _one_at_a_time(discover_master: Callable[[str], Any]) -> Callable[[str], Any]:
    """Let one thread at a time ask the sentinels for the master.

    redis-py moves the sentinel that answered to the front of its list while other threads walk
    along it: with a dead one in the list they find no master.
    """
    lock = threading.Lock()

    def locked(service_name: str) -> Any:
        with lock:
            return discover_master(service_name)

    return locked


class _BlockingSentinelPool(SentinelConnectionPool, redis.BlockingConnectionPool):
    """Lets a caller beyond the last connection wait; redis-py's own pool raises at once."""


class _MasterConnection(SentinelManagedConnection):
    """Is closed after a time-out, like all others: the late reply would be the next command's."""

    def read_response(self, *args: Any, **options: Any) -> Any:
        options.setdefault("disconnect_on_error", True)
        return super().read_response(*args, **options)


class _MasterTLSConnection(_MasterConnection, SentinelManagedSSLConnection):
    """The same through TLS."""


def _behind_sentinel(
    access: RedisAccess, parts: SplitResult, options: dict[str, Any]
) -> "redis.Redis":
    master, _, number = parts.path.strip("/").partition("/")
    is_tls = bool(options.pop("connection_class", None))
    if is_tls:
        options["ssl"] = True
    own = ("username", "password", "max_connections", "timeout")
    watch = {name: value for name, value in options.items() if name not in own}
    watch["password"] = access.sentinel_password
    sentinel: Any = Sentinel(nodes(parts), sentinel_kwargs=watch)
    sentinel.discover_master = _one_at_a_time(sentinel.discover_master)
    client: redis.Redis = sentinel.master_for(
        master,
        redis_class=_Client,
        connection_pool_class=_BlockingSentinelPool,
        connection_class=_MasterTLSConnection if is_tls else _MasterConnection,
        db=database(f"/{number}"),
        **options,
    )
    return client


_NOT_NOW = re.compile(r"\b(OOM|READONLY|NOREPLICAS|MISCONF|MASTERDOWN|LOADING|BUSY|UNBLOCKED)\b")
"""Errors of a Redis that cannot serve now. redis-py has no class for some of them, and Redis 6.2
wraps the error of a command within a script into another one."""

_NEVER = re.compile(
    r"^unknown command|not allowed|cluster support disabled|no permissions|can't (run|access)",
    re.IGNORECASE,
)
"""Errors that only an operator can fix. Within a script a missing right is a plain error."""


@contextmanager
def redis_errors(place: str = "") -> Iterator[None]:
    """Turn errors of redis-py into a QueueError; the original is its cause.

    ``place`` says what was sent, where that was no single command.
    """
    try:
        yield
    except (redis.AuthenticationError, redis.exceptions.NoPermissionError) as error:
        if place:
            add_place(error, place)
        raise QueueForbidden(f"Redis refused: {error}") from error
    except (
        redis.ConnectionError,
        redis.TimeoutError,
        redis.exceptions.ReadOnlyError,
        redis.exceptions.OutOfMemoryError,
        redis.exceptions.TryAgainError,
        redis.exceptions.ClusterDownError,
        redis.exceptions.MasterDownError,
        OSError,
    ) as error:
        raise QueueUnavailable(f"Redis: {error}") from error
    except redis.ResponseError as error:
        if _NOT_NOW.search(str(error)):
            raise QueueUnavailable(f"Redis: {error}") from error
        if _NEVER.search(str(error)):
            raise QueueForbidden(f"Redis refused: {error}") from error
        raise QueueError(f"Redis: {error}") from error
    except redis.RedisError as error:
        raise QueueError(f"Redis: {error}") from error


START_S = 30.0
"""So long it is nothing special that Redis does not answer yet: both may have been started now."""


class RedisBackoff:
    """Whether Redis answers: one log line per change, and a growing pause between failures."""

    def __init__(self, stopping: threading.Event) -> None:
        self.met = False
        """Whether Redis has ever answered."""
        self._stopping = stopping
        self._state = ""
        """What was logged last."""
        self._started_at = time.monotonic()
        self._backoff = Backoff(FIRST_PAUSE_S, LONGEST_PAUSE_S)

    def succeeded(self) -> None:
        if self._state == "answers":
            return
        self.met = True
        self._state = "answers"
        self._backoff.reset()
        metrics.redis_up.set(1)
        log.info("Redis answers")

    def failed(self, error: Exception) -> None:
        """Note a failure and wait, longer each time."""
        state = self._state_after(error)
        if self._state != state:
            level = logging.INFO if state == "does not answer yet" else logging.ERROR
            log.log(level, "Redis %s, trying until it does: %s", state, error)
            metrics.redis_up.set(0)
        self._state = state
        pause_s = self._backoff.next()
        if self._stopping.wait(pause_s):
            time.sleep(pause_s)  # SIGTERM ends one pause, not all: a batch is still to be finished.

    def _state_after(self, error: Exception) -> str:
        if not isinstance(error, QueueUnavailable):
            return "does not do what it should"
        is_starting = not self.met and time.monotonic() - self._started_at < START_S
        return "does not answer yet" if is_starting else "does not answer"
