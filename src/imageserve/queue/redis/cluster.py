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

_ANSWERING: dict[tuple[Node, ...], tuple[Node, ...]] = {}
"""Seeds of a cluster -> its masters at the last answer, the node that gave it first. All
connections share it: a seed that hangs costs one time-out per process, not one per connection."""


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
        self._connected_to: Node | None = None

    def __call__(self) -> Node:
        """Return the node that owns the slot now.

        The node of the last connection is asked first: no other node can delay this queue. If it
        does not answer, the others are asked first next time. The seeds are asked last: they may
        all be gone by now.

        Raises redis.ConnectionError or redis.TimeoutError where no node answers, ClusterDownError
        where no node has the slot, redis.ResponseError where a node refuses the question.
        """
        failure: redis.RedisError = redis.ConnectionError("no node of the cluster is known")
        # Read once: the connections of other threads share this.
        connected_to = self._connected_to
        first = () if connected_to is None else (connected_to,)
        silent: list[Node] = []
        for node in dict.fromkeys((*first, *_ANSWERING.get(self._seeds, ()), *self._seeds)):
            try:
                owner, masters = self._ask(node)
            except (redis.ConnectionError, redis.TimeoutError, ClusterDownError) as error:
                failure = error
                silent.append(node)
                if node == self._connected_to:
                    self._connected_to = None
                continue
            _ANSWERING[self._seeds] = (node, *(each for each in masters if each not in silent))
            return owner
        raise failure

    def note_connected(self, node: Node) -> None:
        """Remember the node of a connection that was made."""
        self._connected_to = node

    def _ask(self, node: Node) -> tuple[Node, list[Node]]:
        """Return the owner of the slot, and all masters that have slots."""
        with self._client(node) as client:
            ranges: Any = client.execute_command("CLUSTER SLOTS")
        owners = {(start, end): _address(master, node) for start, end, master, *_ in ranges}
        for (start, end), owner in owners.items():
            if start <= self._slot <= end:
                return owner, list(owners.values())
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
        self._find.note_connected((self.host, self.port))

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
