"""A Redis with a replica that takes its place: behind sentinels, an endpoint, or in a cluster."""

import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from redis.crc import key_slot
from tests.redis_server import (
    DroppingProxy,
    RedisCluster,
    RedisClusterNode,
    RedisSentinel,
    RedisServer,
    eventually,
)

MASTER = "chaos"
DOWN_AFTER_MS = 1000
QUEUE = "image_queue"
_SENTINELS, _QUORUM = 3, 2
_PATIENCE_S = 60.0
#: A replica follows at once, as one of a server in use has done for long.
_AT_ONCE = ("--repl-diskless-sync-delay", "0")


class ReplicatedRedis(RedisServer):
    """The server that is the master now; its client and its process change with a failover."""

    def __init__(self, master: RedisServer, replica: RedisServer) -> None:
        super().__init__(master.executable, master.directory)
        self._master, self._replica = master, replica
        self._control = {each: each.client() for each in (master, replica)}

    @property
    def pid(self) -> int:
        return self._master.pid

    def client(self) -> "redis.Redis":
        return self._master.client()

    def start(self) -> None:
        for each in (self._master, self._replica):
            each.start()
        self._wait_in_step()

    def stop(self) -> None:
        for each in (self._replica, self._master):
            each.stop()

    def _wait_in_step(self) -> None:
        """Wait until the replica follows."""

        def follows() -> bool:
            # One that has just come back is a master until somebody has told it.
            return self._told(self._replica).get("master_link_status") == "up"

        eventually(follows, "the replica follows", _PATIENCE_S)

    def _told(self, server: RedisServer) -> Mapping[str, Any]:
        """Return what a server tells of its replication; nothing while its connections break."""
        with suppress(redis.RedisError):
            told: Any = self._control[server].info("replication")
            return dict(told)
        return {}

    def fall_behind(self) -> None:
        """Let the replica get nothing more."""
        # With a password that the master does not know it cannot come back.
        self._control[self._replica].config_set("masterauth", "unknown")
        self._control[self._master].client_kill_filter(_type="replica")

    def lag_bytes(self) -> int:
        """Return how much of what the master wrote the replica does not have."""
        written = int(self._told(self._master)["master_repl_offset"])
        return written - int(self._told(self._replica)["slave_repl_offset"])

    def fail_over(self) -> None:
        """Kill the master, and wait until the replica is in its place."""
        self._master.kill()
        self._wait_for_the_other()

    def _wait_for_the_other(self) -> None:
        eventually(lambda: self._told(self._replica).get("role") == "master", "a failover", 60)
        # Not before: a sentinel breaks the connections of a server that it promotes.
        self._master, self._replica = self._replica, self._master

    def bring_back(self) -> None:
        """Start the dead one, as the replica that it is now."""
        self._control[self._master].config_set("masterauth", "")
        self._replica.start()
        self._wait_in_step()


class BehindSentinels(ReplicatedRedis):
    """Three sentinels put the replica in the master's place when that dies."""

    def __init__(self, executable: str, directory: Path, *args: str) -> None:
        master = RedisServer(executable, directory / "one", *args)
        follows = ("--replicaof", f"127.0.0.1 {master.port}", *_AT_ONCE)
        super().__init__(master, RedisServer(executable, directory / "two", *args, *follows))
        self._sentinels = [
            RedisSentinel(
                executable,
                directory / f"sentinel-{number}",
                MASTER,
                master.port,
                f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}",
                f"sentinel failover-timeout {MASTER} 10000",
                quorum=_QUORUM,
            )
            for number in range(_SENTINELS)
        ]
        self._control_of_sentinels = [each.client() for each in self._sentinels]

    @property
    def url(self) -> str:
        nodes = ",".join(f"127.0.0.1:{each.port}" for each in self._sentinels)
        return f"redis+sentinel://{nodes}/{MASTER}/0"

    def start(self) -> None:
        for each in self._sentinels:
            each.start()
        super().start()

    def stop(self) -> None:
        for each in self._sentinels:
            each.stop()
        super().stop()

    def _wait_in_step(self) -> None:
        """Wait, too, until every sentinel knows the replica and the other sentinels."""
        super()._wait_in_step()
        eventually(lambda: all(map(_is_ready, self._control_of_sentinels)), "peace", _PATIENCE_S)


def _is_ready(sentinel: Any) -> bool:
    master = sentinel.sentinel_master(MASTER)
    replicas = sentinel.sentinel_slaves(MASTER)
    is_up = any(not (each["is_sdown"] or each["is_disconnected"]) for each in replicas)
    return is_up and int(master["num-other-sentinels"]) == _SENTINELS - 1


class BehindAnEndpoint(ReplicatedRedis):
    """One address that leads to the master, as a managed service has it; clients know no other.

    It does what the service's own machinery does: after ``away_s`` seconds the replica is promoted
    and the address leads there. A connection that exists stays where it is.
    """

    def __init__(self, executable: str, directory: Path, *args: str) -> None:
        master = RedisServer(executable, directory / "one", *args)
        follows = ("--replicaof", f"127.0.0.1 {master.port}", *_AT_ONCE)
        super().__init__(master, RedisServer(executable, directory / "two", *args, *follows))
        self._endpoint = DroppingProxy(master.port)
        self.away_s = 0.0

    @property
    def url(self) -> str:
        return self._endpoint.url

    def stop(self) -> None:
        self._endpoint.close()
        super().stop()

    def fail_over(self) -> None:
        self._master.kill()
        self._rest()
        self._control[self._replica].replicaof("NO", "ONE")
        self._wait_for_the_other()
        self._endpoint.server_port = self._master.port

    def bring_back(self) -> None:
        self._control[self._master].config_set("masterauth", "")
        self._replica.start()
        self._control[self._replica].replicaof("127.0.0.1", str(self._master.port))
        self._wait_in_step()

    def change_places(self) -> None:
        """Let master and replica change places, as for maintenance: the old one lives on.

        Its connections stay open, and it refuses every write; the address moves later.
        """
        self._control[self._master].execute_command("FAILOVER")
        self._wait_for_the_other()
        self._rest()
        self._endpoint.server_port = self._master.port

    def _rest(self) -> None:
        threading.Event().wait(self.away_s)


class InACluster(ReplicatedRedis):
    """Three masters; the one that has the queue has a replica, and the others elect it."""

    def __init__(self, executable: str, directory: Path, *args: str) -> None:
        self._cluster = RedisCluster(executable, directory, *args, masters=3)
        master = self._cluster.node_of(QUEUE)
        self._slot = key_slot(QUEUE.encode())
        super().__init__(
            master, RedisClusterNode(executable, directory / "replica", *_AT_ONCE, *args)
        )

    @property
    def url(self) -> str:
        return self._cluster.url

    def start(self) -> None:
        self._cluster.start()
        self._replica.start()
        master, replica = self._control[self._master], self._control[self._replica]
        replica.execute_command("CLUSTER", "MEET", "127.0.0.1", str(self._master.port))
        name = master.execute_command("CLUSTER", "MYID")
        eventually(lambda: _knows(replica, name), "the replica knows the cluster")
        replica.execute_command("CLUSTER", "REPLICATE", name)
        self._wait_in_step()

    def stop(self) -> None:
        self._cluster.stop()
        super().stop()

    def _wait_in_step(self) -> None:
        """Wait, too, until the other masters know whose replica it is."""
        super()._wait_in_step()
        others = [each for each in self._cluster.nodes if each not in self._control]
        eventually(lambda: all(map(self._is_known_to, others)), "all know the replica")

    def _is_known_to(self, node: RedisClusterNode) -> bool:
        """Whether this node knows a master and a replica of the queue's slot."""
        for start, end, *owners in node.say("SLOTS"):
            if start <= self._slot <= end:
                return len(owners) == 2
        return False


def _knows(node: Any, name: bytes) -> bool:
    with suppress(redis.RedisError):
        return name.decode() in str(node.execute_command("CLUSTER", "NODES"))
    return False
