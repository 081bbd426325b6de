"""What is wrong with Redis. Pure."""

from collections.abc import Iterator

from imageserve.doctor.facts import Facts, Found, Object
from imageserve.queue.self_test import MAXMEMORY_SHARE

FULL, NEARLY_FULL = 0.95, 0.8
CONNECTIONS = 0.8
"""Share of ``maxclients`` from which on a few more processes might not get in."""
CLOCK_MS = 2000
"""Clocks may differ by this much."""


def redis_findings(facts: Facts) -> Iterator[Found]:
    for model, queue in facts.queues.items():
        if queue.problem:
            name = "redis-refuses" if queue.is_forbidden else "redis-away"
            yield name, f"the queue {queue.queue} of model {model}: {queue.problem}"
    # On a cluster each queue may be on a node of its own.
    queues = 1 if len(facts.servers) > 1 else len(facts.queues)
    for server in facts.servers:
        yield from _state(server)
        yield from _memory(server, queues * facts.settings.queue_bytes_limit)
    yield from _clock(facts)


def _state(server: Object) -> Iterator[Found]:
    if server.get("role") == "slave":
        yield "redis-replica", "this Redis is a replica: it takes no jobs"
    for key in ("aof_last_write_status", "aof_last_bgrewrite_status", "rdb_last_bgsave_status"):
        if server.get(key, "ok") != "ok":
            yield "redis-disk", f"Redis cannot write to its disk ({key}: {server[key]})"
    if not _number(server, "aof_enabled"):
        what = "Redis keeps no append-only file: a restart loses the waiting pictures"
        yield "redis-no-aof", what
    used, most = _number(server, "connected_clients"), _number(server, "maxclients")
    if most and used > CONNECTIONS * most:
        yield "redis-connections", f"{used} of at most {most} connections to Redis are open"


def _memory(server: Object, wanted: int) -> Iterator[Found]:
    """``wanted``: bytes that full queues take."""
    most, used = _number(server, "maxmemory"), _number(server, "used_memory")
    policy = server.get("maxmemory_policy", "noeviction")
    if policy != "noeviction":
        name = "redis-evicts" if most else "redis-would-evict"
        yield name, f"Redis has maxmemory-policy {policy}: when full it throws pictures away"
    if evicted := _number(server, "evicted_keys"):
        yield "redis-evicted", f"Redis has thrown {evicted} keys away since its start"
    if not most:
        what = "Redis has no maxmemory: where it grows too large, the system kills it"
        yield "redis-no-maxmemory", what
    elif used > NEARLY_FULL * most:
        name = "redis-full" if used > FULL * most else "redis-nearly-full"
        yield name, f"Redis uses {used / most:.0%} of its maxmemory"
    if most and wanted > MAXMEMORY_SHARE * most:
        what = f"full queues take {wanted} bytes, more than {MAXMEMORY_SHARE:.0%} of maxmemory"
        yield "queue-larger-than-redis", f"{what}, which is {most}"


def _clock(facts: Facts) -> Iterator[Found]:
    for model, snapshot in facts.snapshots():
        off_s = (snapshot.now - facts.now_ms) / 1000
        if abs(off_s) * 1000 > CLOCK_MS:
            side = "ahead of" if off_s > 0 else "behind"
            yield "clock", f"the clock of Redis is {abs(off_s):.0f} s {side} that of this machine"
        if any(worker.last_seen > snapshot.now + CLOCK_MS for worker in snapshot.workers):
            what = f"workers of model {model} were last seen in the future of Redis's clock"
            yield "clock-went-back", what


def _number(server: Object, key: str) -> int:
    return int(server.get(key) or 0)
