"""A Redis with a replica and three sentinels, which put the replica in its place when it dies."""

from pathlib import Path

import redis
from tests.redis_server import RedisSentinel, RedisServer, eventually
from tests.system.stack import Place

MASTER = "chaos"
DOWN_AFTER_MS = 1000
_SENTINELS, _QUORUM = 3, 2
_PATIENCE_S = 60.0


class ReplicatedRedis(RedisServer):
    """The server that is the master now; its client and its process change with a failover."""

    def __init__(self, executable: str, directory: Path, *args: str) -> None:
        super().__init__(executable, directory / "one", *args)
        self._master = RedisServer(executable, directory / "one", *args)
        self._replica = RedisServer(
            executable,
            directory / "two",
            *args,
            "--replicaof",
            f"127.0.0.1 {self._master.port}",
            "--repl-diskless-sync-delay",
            "0",
        )
        self._sentinels = [
            RedisSentinel(
                executable,
                directory / f"sentinel-{number}",
                MASTER,
                self._master.port,
                f"sentinel down-after-milliseconds {MASTER} {DOWN_AFTER_MS}",
                f"sentinel failover-timeout {MASTER} 10000",
                quorum=_QUORUM,
            )
            for number in range(_SENTINELS)
        ]

    @property
    def url(self) -> str:
        nodes = ",".join(f"127.0.0.1:{each.port}" for each in self._sentinels)
        return f"redis+sentinel://{nodes}/{MASTER}/0"

    @property
    def pid(self) -> int:
        return self._master.pid

    def client(self) -> "redis.Redis":
        return self._master.client()

    def start(self) -> None:
        for each in (self._master, self._replica, *self._sentinels):
            each.start()
        self._wait_in_step()

    def stop(self) -> None:
        for each in (*self._sentinels, self._replica, self._master):
            each.stop()

    def _wait_in_step(self) -> None:
        """Wait until the replica follows, and every sentinel knows it and the other sentinels."""

        def follows() -> bool:
            return self._replica.client().info("replication")["master_link_status"] == "up"

        eventually(follows, "the replica follows", _PATIENCE_S)
        eventually(lambda: all(map(_is_ready, self._sentinels)), "the sentinels agree", _PATIENCE_S)

    def fall_behind(self) -> None:
        """Let the replica get nothing more."""
        # With a password that the master does not know it cannot come back.
        self._replica.client().config_set("masterauth", "unknown")
        self._master.client().client_kill_filter(_type="replica")

    def lag_bytes(self) -> int:
        """Return how much of what the master wrote the replica does not have."""
        offsets = (
            int(each.client().info("replication")[name])
            for each, name in ((self._master, "master_repl_offset"), (self._replica, "slave_repl_offset"))
        )
        return next(offsets) - next(offsets)

    def fail_over(self) -> None:
        """Kill the master, and wait until the replica is in its place."""
        self._master.kill()
        self._master, self._replica = self._replica, self._master
        client = self._master.client()
        eventually(lambda: client.info("replication")["role"] == "master", "a failover", _PATIENCE_S)

    def bring_back(self) -> None:
        """Start the dead one, as the replica that the sentinels make it."""
        self._master.client().config_set("masterauth", "")
        self._replica.start()
        self._wait_in_step()


def _is_ready(sentinel: RedisServer) -> bool:
    client = sentinel.client()
    master = client.sentinel_master(MASTER)
    others = int(master["num-other-sentinels"])
    replicas = client.sentinel_slaves(MASTER)
    is_up = any(not (each["is_sdown"] or each["is_disconnected"]) for each in replicas)
    return others == _SENTINELS - 1 and is_up


def place() -> Place:
    return Place(redis=ReplicatedRedis)
