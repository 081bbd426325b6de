"""A queue on Redis Cluster: connections that follow the queue's slot to its node.

All keys of one queue share a slot, so one queue lives on one node. It needs no client that spreads
commands over nodes, only connections that look up the owner of the slot when they are made. More
queues on more nodes give more capacity.
"""

from collections.abc import Callable, Sequence
from typing import Any

import redis
from redis.crc import key_slot
from redis.exceptions import AskError, ClusterDownError

from imageserve.queue.redis.address import Node


class SlotFinder:
    """Finds the node that owns the slot of a key, by asking one node after the other.

    ``client`` makes a client of one node; it is closed after its answer.
    """

    def __init__(
        self, key: str, seeds: Sequence[Node], client: Callable[[Node], "redis.Redis"]
    ) -> None:
        self._slot = key_slot(key.encode())
        self._seeds = tuple(seeds)
        self._client = client
        # The nodes that had slots at the last answer, this slot's owner first: the seeds may all
        # be gone by now, and a node that is away must not delay queues on other nodes.
        self._masters: tuple[Node, ...] = ()

    def __call__(self) -> Node:
        """Return the node that owns the slot now.

        Raises redis.ConnectionError or redis.TimeoutError where no node answers, ClusterDownError
        where no node has the slot, redis.ResponseError where a node refuses the question.
        """
        failure: redis.RedisError = redis.ConnectionError("no node of the cluster is known")
        for node in dict.fromkeys(self._masters + self._seeds):
            try:
                return self._ask(node)
            except (redis.ConnectionError, redis.TimeoutError, ClusterDownError) as error:
                failure = error
        raise failure

    def _ask(self, node: Node) -> Node:
        with self._client(node) as client:
            ranges: Any = client.execute_command("CLUSTER SLOTS")
        owners = {(start, end): _address(master, node) for start, end, master, *_ in ranges}
        for (start, end), owner in owners.items():
            if start <= self._slot <= end:
                self._masters = (owner, *owners.values())
                return owner
        raise ClusterDownError(f"no node of the cluster has slot {self._slot}")


def _address(master: Sequence[Any], asked: Node) -> Node:
    """Read a node's address; one without a name is the node that was asked."""
    host, port = master[:2]
    name = host.decode() if isinstance(host, bytes) else host
    return (asked[0] if name in (None, "", "?") else name), int(port)


class _FollowingConnection(redis.Connection):
    """Connects to the owner of the slot, and disconnects when a node says that it has moved."""

    def __init__(self, *, find: SlotFinder, **options: Any) -> None:
        self._find = find
        super().__init__(**options)  # type: ignore[no-untyped-call]

    def connect_check_health(self, *args: Any, **options: Any) -> None:
        if not self._sock:
            self.host, self.port = self._find()
        super().connect_check_health(*args, **options)

    def read_response(self, *args: Any, **options: Any) -> Any:
        try:
            return super().read_response(*args, **options)
        except AskError as error:  # MovedError is one, too.
            self.disconnect()  # type: ignore[no-untyped-call]
            raise redis.ConnectionError(f"the queue has moved to another node: {error}") from error


class _FollowingTLSConnection(_FollowingConnection, redis.SSLConnection):
    """The same through TLS; the certificate is checked against the node's announced name."""


def connection_class(*, tls: bool) -> type[redis.Connection]:
    """Return the class of connections that takes ``find``, a SlotFinder, among its options."""
    return _FollowingTLSConnection if tls else _FollowingConnection
