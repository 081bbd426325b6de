"""The monitor's face of a queue: look at it without taking part in it.

For the autoscaler, ``/status``, ``/metrics`` and the commands of an operator. A number that could
not be read is an error and never 0: a zero would take pods away.
"""

from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from typing import Any, cast

from imageserve.errors import QueueError
from imageserve.queue.fields import amount_of, json_object, text_of
from imageserve.queue.keys import Keys
from imageserve.queue.redis.connection import RedisAccess, by_node, connect, redis_errors
from imageserve.queue.redis.queue import BLOCK_S, PURGE, SNAPSHOT, RedisQueue
from imageserve.queue.snapshot import Run, Snapshot, decode_snapshot, texts

PURGE_AT_ONCE = 128
"""Jobs that `Monitor.purge` takes from the list per round trip."""

PURGED = "the queue was emptied by its operator; send the picture again"

NODES_AT_ONCE = 16
"""Most nodes of a cluster that are read at the same time."""

Snapshots = Mapping[str, Snapshot | QueueError]
"""Queue -> its state, or why it could not be read."""


class Monitor:
    """Reads queues, and does what an operator asks.

    Several threads may share it; `Snapshot.run` is right where one thread reads the snapshots.
    """

    def __init__(self, access: RedisAccess, queues: Sequence[str], *, connections: int = 1) -> None:
        """``connections`` bounds the sockets per queue; further callers wait."""
        self._queues = {name: RedisQueue(access, name, connections=connections) for name in queues}
        self._nodes = [[self._queues[name] for name in group] for group in by_node(access, queues)]
        self._runs = {name: Run() for name in queues}

    def snapshots(self) -> Snapshots:
        """Return the state of each queue, or why it could not be read. Never raises.

        One round trip to one Redis serves all queues. On a cluster each queue is read from the node
        of its slot, all at the same time: a node that is away delays and hides no other.
        """
        if len(self._nodes) == 1:
            return self._read(self._nodes[0])
        with ThreadPoolExecutor(NODES_AT_ONCE, thread_name_prefix="monitor") as threads:
            parts = list(threads.map(self._read, self._nodes))
        return {queue: snapshot for part in parts for queue, snapshot in part.items()}

    def _read(self, queues: Sequence[RedisQueue]) -> Snapshots:
        """Read the queues of one node in one round trip."""
        pipeline = queues[0].client.pipeline(transaction=False)
        pipeline.info("server")
        pipeline.info("memory")
        pipeline.info("replication")
        for queue in queues:
            # EVAL and not EVALSHA: a script that is missing would cost a second round trip.
            names = queue.keys.of_snapshot()
            pipeline.eval(SNAPSHOT.source, len(names), *names, queue.keys.pixels(""))
        try:
            with redis_errors("INFO"):
                server, memory, replication, *replies = pipeline.execute(raise_on_error=False)
                for each in (server, memory, replication):
                    if isinstance(each, Exception):
                        raise each
        except QueueError as error:
            return dict.fromkeys((queue.name for queue in queues), error)
        if replication.get("role") == "slave":  # The address may lead to the new master next time.
            queues[0].client.connection_pool.disconnect()
        facts = {**server, **memory}
        return {
            queue.name: self._snapshot(queue.name, reply, facts)
            for queue, reply in zip(queues, replies, strict=True)
        }

    def _snapshot(self, queue: str, reply: Any, facts: Mapping[str, Any]) -> Snapshot | QueueError:
        read = self._queues[queue]
        try:
            with read.errors():
                if isinstance(reply, Exception):
                    SNAPSHOT.add_place(reply, read.keys.of_snapshot(), "EVAL")
                    raise reply
            snapshot = replace(
                decode_snapshot(reply, str(facts.get("run_id", ""))),
                redis_bytes=int(facts.get("used_memory", 0)),
                redis_bytes_limit=int(facts.get("maxmemory", 0)),
            )
            return self._runs[queue].noted(snapshot)
        except QueueError as error:
            return error

    def dead(self, queue: str, count: int) -> list[dict[str, Any]]:
        """Read the newest ``count`` entries of the dead list: ``{entry, reason, at}``.

        Raises QueueError.
        """
        if count < 1:
            return []
        read = self._queues[queue]
        with read.errors():
            newest = read.client.lrange(read.keys.dead, 0, count - 1)
        return [_dead(text) for text in texts(cast(list[bytes], newest))]

    def server(self, queue: str) -> Mapping[str, Any]:
        """Return what the Redis of a queue says of itself, INFO. Raises QueueError."""
        with self._queues[queue].errors():
            return self._queues[queue].client.info()

    def queues_with_workers(self, queue: str) -> list[str]:
        """Return the queues on the Redis of this one that had workers within the last hour.

        It walks over all keys, a thousand at a time. Raises QueueError.
        """
        before, after = Keys("*").workers.split("*")
        read = self._queues[queue]
        with read.errors():
            found = list(read.client.scan_iter(Keys("*").workers, count=1000, _type="zset"))
        return [name.removeprefix(before).removesuffix(after) for name in texts(found)]

    def purge(self, queue: str) -> int:
        """Drop all waiting jobs and tell their clients; returns how many.

        Jobs in work are left alone. Raises QueueError.
        """
        total = 0
        emptied = self._queues[queue]
        keys = emptied.keys
        args = (PURGE_AT_ONCE, keys.result(""), keys.pixels(""), "busy", PURGED)
        with emptied.errors():
            while dropped := int(PURGE(emptied.once, keys.of_purge(), args)):
                total += dropped
        return total

    def desired(self, queue: str) -> str:
        """Return the desired version as text, "" where none is set. Raises QueueError."""
        read = self._queues[queue]
        with read.errors():
            text = read.client.get(read.keys.desired)
        return texts([cast(bytes, text)])[0] if text else ""

    def set_desired(self, queue: str, text: str) -> None:
        """Set the desired version; "" removes it. Raises QueueError."""
        written = self._queues[queue]
        with written.errors():
            if text:
                written.client.set(written.keys.desired, text)
            else:
                written.client.unlink(written.keys.desired)

    def arrivals(self, queue: str) -> bytes:
        """Return the autoscaler's memory of the arrivals; empty for none. Raises QueueError."""
        read = self._queues[queue]
        with read.errors():
            return cast(bytes | None, read.client.get(read.keys.arrivals)) or b""

    def keep_arrivals(self, queue: str, value: bytes, keep_s: int) -> None:
        """Keep the autoscaler's memory of the arrivals for so long. Raises QueueError."""
        written = self._queues[queue]
        with written.errors():
            written.client.set(written.keys.arrivals, value, ex=keep_s)

    def close(self) -> None:
        """Close all connections."""
        for queue in self._queues.values():
            queue.close()


def _dead(text: str) -> dict[str, Any]:
    try:
        told = json_object(text)
        entry, reason = text_of(told, "entry"), text_of(told, "reason")
        return {"entry": entry, "reason": reason, "at": int(amount_of(told, "at"))}
    except ValueError as error:
        return {"entry": text, "reason": f"no entry of a dead list: {error}", "at": 0}


class FirstJobWaiter:
    """Waits until a queue holds a job, and leaves the job there.

    ``BLMOVE Q Q LEFT LEFT`` takes the head and puts it back in one step: nobody sees the queue
    without it, its order stays, and no lease, counter or other key changes. Where a worker waits as
    well, Redis serves the job to it right after.
    """

    def __init__(self, access: RedisAccess, queue: str) -> None:
        self._queue = queue
        self._client = connect(access, key=queue, retries=0, timeout_s=BLOCK_S + 3, connections=1)

    def wait(self, block_s: float = BLOCK_S) -> bool:
        """Return True once a job waits, False when none came within ``block_s`` (at most 2 s).

        Raises QueueError.
        """
        block_s = max(0.01, min(block_s, BLOCK_S))  # 0 means for ever to Redis.
        with redis_errors():
            head = self._client.execute_command(
                "BLMOVE", self._queue, self._queue, "LEFT", "LEFT", block_s
            )
        return head is not None
