"""What a user of Redis must be allowed to do, per role: commands, keys and channels.

The commands of scripts are read from the scripts. Those that Python sends itself are named here;
a test runs each role as a user that may do just this, and another looks for commands in the code.
"""

from collections.abc import Sequence
from dataclasses import dataclass

from imageserve.queue.keys import Keys
from imageserve.queue.redis.address import database, split_address
from imageserve.queue.redis.connection import RedisAccess, is_cluster
from imageserve.queue.redis.queue import (
    CLAIM,
    ENQUEUE,
    EXTEND,
    FINISH,
    HEARTBEAT,
    PURGE,
    REFUSE,
    RELEASE,
    SNAPSHOT,
    Script,
)


@dataclass(frozen=True, slots=True)
class Role:
    """What one kind of process sends to Redis."""

    commands: frozenset[str]
    """Those that are sent as such."""
    scripts: tuple[Script, ...]

    @property
    def all_commands(self) -> list[str]:
        """The commands that it needs, those within scripts included, in order."""
        called = set[str]().union(*(script.commands for script in self.scripts))
        return sorted(self.commands | called | {"EVAL", "EVALSHA", "PING"})


# What the start-up self-test does, which web processes and workers run.
_TESTED = frozenset({"BLMOVE", "INFO", "MGET", "SET", "SUBSCRIBE", "TYPE", "UNLINK"})
_SCRIPTS = (ENQUEUE, REFUSE, CLAIM, EXTEND, RELEASE, FINISH, HEARTBEAT, SNAPSHOT)

ROLES = {
    "web": Role(_TESTED | {"EXISTS"}, _SCRIPTS),
    "worker": Role(_TESTED | {"GET"}, _SCRIPTS),
    "autoscaler": Role(frozenset({"BLMOVE", "GET", "INFO", "SET", "TYPE"}), (SNAPSHOT,)),
    "operator": Role(
        frozenset({"GET", "INFO", "LRANGE", "SCAN", "SET", "TYPE", "UNLINK"}), (SNAPSHOT, PURGE)
    ),
}
"""The operator runs ``imageserve queue``, ``imageserve models use`` and ``imageserve doctor``."""


def acl_rules(role: str, queues: Sequence[str], access: RedisAccess) -> list[str]:
    """Return the rules of Redis's ACL for one role on these queues."""
    commands = list(ROLES[role].all_commands)
    if is_cluster(access):
        commands.append("CLUSTER|SLOTS")
    elif _database(access):
        commands.append("SELECT")
    names = [Keys(queue) for queue in queues]
    return [
        "resetkeys",
        *(f"~{pattern}" for keys in names for pattern in keys.patterns()),
        "resetchannels",
        *(f"&{pattern}" for keys in names for pattern in keys.channel_patterns()),
        "-@all",
        *(f"+{command.lower()}" for command in commands),
    ]


def _database(access: RedisAccess) -> int:
    parts = split_address(access.url)
    if parts.scheme == "unix":
        return 0
    path = parts.path.strip("/")
    return database(path.partition("/")[2] if parts.scheme.endswith("+sentinel") else path)
