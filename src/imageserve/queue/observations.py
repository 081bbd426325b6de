"""What the autoscaler sees of the queues: all of them in one round trip, or nothing.

Half an answer would be worse than none: an absent number read as 0 takes pods away.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from imageserve.errors import QueueError
from imageserve.queue.keys import Keys
from imageserve.queue.queue import Snapshot
from imageserve.queue.redis.connection import (
    COMMAND_TIMEOUT_S,
    Client,
    RedisAccess,
    connect,
    is_cluster,
    redis_errors,
)
from imageserve.queue.redis.scripts import SNAPSHOT
from imageserve.queue.snapshots import decode_snapshot

LOOK_S = 2.0
"""Longest single wait for a first job: how long a half-open connection goes unnoticed."""


@dataclass(frozen=True, slots=True)
class Reading:
    """All queues at one instant."""

    run: str
    """Another one than before means that Redis may have lost queues and counters."""
    snapshots: Mapping[str, Snapshot]
    """By queue."""


class QueueReader:
    """Reads several queues at once. Not to be shared between threads."""

    def __init__(self, access: RedisAccess, queues: Sequence[str]) -> None:
        self._keys = {queue: Keys(queue) for queue in queues}
        self._accepted = dict.fromkeys(queues, 0)
        self._losses = 0
        # On a cluster, each queue has a node, and a round trip, of its own.
        together = [[queue] for queue in queues] if is_cluster(access) else [list(queues)]
        self._parts = [(_client(access, part[0]), part) for part in together]

    def read(self) -> Reading:
        """Read the queues and the server's run id.

        Raises QueueError where anything of it is missing.
        """
        runs: list[str] = []
        snapshots: dict[str, Snapshot] = {}
        for client, queues in self._parts:
            server, *replies = _ask(client, [self._keys[queue] for queue in queues])
            runs.append(str(server.get("run_id", "")))
            snapshots |= zip(queues, map(_decode, replies), strict=True)
        self._note_losses(snapshots)
        return Reading("/".join([*runs, str(self._losses)]), snapshots)

    def _note_losses(self, snapshots: Mapping[str, Snapshot]) -> None:
        """See that a database was emptied: the server is the same, its counters are lower."""
        accepted = {queue: seen.stats.get("accepted", 0) for queue, seen in snapshots.items()}
        self._losses += any(accepted[queue] < self._accepted[queue] for queue in accepted)
        self._accepted = accepted


def _client(access: RedisAccess, queue: str) -> Client:
    return connect(access, key=queue, retries=1, timeout_s=COMMAND_TIMEOUT_S, connections=1)


def _ask(client: Client, queues: Sequence[Keys]) -> list[Any]:
    """Return what the server says of itself, and the snapshot of each queue."""
    pipeline = client.pipeline(transaction=False)
    pipeline.info("server")
    for keys in queues:
        # Not by its digest: one missing script would cost the others a second round trip.
        names = keys.of_snapshot()
        pipeline.eval(SNAPSHOT.source, len(names), *names)
    with redis_errors():
        return pipeline.execute()


def _decode(reply: Any) -> Snapshot:
    try:
        return decode_snapshot(reply)
    except (ValueError, TypeError) as error:
        # A foreign writer, in a counter perhaps: nothing to end the process for.
        raise QueueError(f"Redis: the queue's numbers cannot be read: {error}") from error


class JobLook:
    """Waits for a queue to hold a job, and leaves it there.

    ``BLMOVE Q Q LEFT LEFT`` takes the head and puts it back where it was, as one step: nobody ever
    sees the queue without it, its order stays, and no lease, counter or other key is touched. Where
    a worker waits as well, Redis serves the job to it right after.
    """

    def __init__(self, access: RedisAccess, queue: str) -> None:
        self._queue = queue
        self._client = connect(access, key=queue, retries=0, timeout_s=LOOK_S + 3, connections=1)

    def wait(self, block_s: float = LOOK_S) -> bool:
        """Return True once a job waits, False when none came within ``block_s`` (at most 2 s).

        Raises QueueError.
        """
        block_s = max(0.01, min(block_s, LOOK_S))  # To Redis, 0 means for ever.
        with redis_errors():
            head = self._client.execute_command(
                "BLMOVE", self._queue, self._queue, "LEFT", "LEFT", block_s
            )
        return head is not None
