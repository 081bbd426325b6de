"""A Redis with a replica and three sentinels, which put the replica in its place when it dies."""

from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import redis
from tests.redis_server import RedisSentinel, RedisServer, eventually

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
        self._control = {each: each.client() for each in (self._master, self._replica)}
        self._control_of_sentinels = [each.client() for each in self._sentinels]

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
            # One that has just come back is a master until a sentinel has seen it.
            return self._told(self._replica).get("master_link_status") == "up"

        eventually(follows, "the replica follows", _PATIENCE_S)
        eventually(lambda: all(map(_is_ready, self._control_of_sentinels)), "peace", _PATIENCE_S)

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
        eventually(lambda: self._told(self._replica).get("role") == "master", "a failover", 60)
        # Not before: a sentinel breaks the connections of a server that it promotes.
        self._master, self._replica = self._replica, self._master

    def bring_back(self) -> None:
        """Start the dead one, as the replica that the sentinels make it."""
        self._control[self._master].config_set("masterauth", "")
        self._replica.start()
        self._wait_in_step()


def _is_ready(sentinel: Any) -> bool:
    master = sentinel.sentinel_master(MASTER)
    replicas = sentinel.sentinel_slaves(MASTER)
    is_up = any(not (each["is_sdown"] or each["is_disconnected"]) for each in replicas)
    return is_up and int(master["num-other-sentinels"]) == _SENTINELS - 1
