"""Attacks on what the service stands on: the network, Redis's disk and replica, the clocks."""

import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import TypeVar

from tests.system.stack import Place

from bench.chaos import clock, disk, failover, network
from bench.chaos.arena import Arena
from bench.chaos.load import open_loop
from bench.chaos.scenarios import LOAD_SHARE, SCENARIOS, Scenario, load_at
from bench.report import Verdict

HOUR_S = 3600
Made = AbstractContextManager[Place]
AnyPlace = TypeVar("AnyPlace", bound=Place)


def _place(arena: Arena, kind: type[AnyPlace]) -> AnyPlace:
    place = arena.stack.place
    assert isinstance(place, kind)
    return place


def partition(arena: Arena) -> list[Verdict]:
    """Cut each direction alone, then both: a lost request differs from a lost reply."""
    place = _place(arena, network.Network)
    cut_s = max(1.0, arena.scale.seconds / 10)
    rate_per_s = LOAD_SHARE * arena.scale.capacity_per_s
    before = place.sent_again()
    with arena.load(open_loop(rate_per_s, max(6 * cut_s, arena.scale.seconds))):
        arena.rest(cut_s / 2)
        for ends in ((network.REDIS,), (network.PODS,), (network.REDIS, network.PODS)):
            with arena.fault():
                place.cut(*ends)
                arena.rest(cut_s)
                place.heal()
            arena.done["cuts"] += 1
            arena.rest_about(cut_s / 2)
    arena.done["packets sent again"] = place.sent_again() - before
    return []


def full_disk(arena: Arena) -> list[Verdict]:
    place = _place(arena, disk.SmallDisk)
    with arena.load(load_at(arena)):
        arena.rest(arena.scale.seconds / 10)
        for _ in range(arena.scale.times):
            with arena.fault():
                place.fill()
                arena.wait(lambda: _cannot_write(arena), "Redis cannot write")
                arena.done["times Redis could not write"] += 1
                arena.rest(arena.scale.seconds / 12)
                place.empty()
                arena.wait(lambda: not _cannot_write(arena), "Redis can write again")
            arena.rest_about(arena.scale.seconds / 10)
    return []


def _cannot_write(arena: Arena) -> bool:
    persistence = arena.stack.db.info("persistence")
    return str(persistence["aof_last_write_status"]) != "ok"


def jump_clock(arena: Arena) -> list[Verdict]:
    """Move each clock an hour forward, back, and another hour back."""
    place = _place(arena, clock.Clocks)
    # Longer than the life of a job: one that meets a jump back and then one forward may be lost.
    pause_s = max(0.6, arena.scale.seconds / 20)
    rate_per_s = LOAD_SHARE * arena.scale.capacity_per_s
    with arena.load(open_loop(rate_per_s, max(15 * pause_s, arena.scale.seconds))):
        for owner in clock.OWNERS:
            for seconds in (HOUR_S, 0, -HOUR_S, 0):
                with arena.fault():
                    place.move(owner, seconds)
                    arena.wait(partial(_is_seen, arena, owner, seconds), f"{owner} sees it")
                    arena.done["jumps that were seen"] += 1
                    arena.rest(pause_s)
                    if owner == "redis":
                        arena.witness.note_jump()
    return []


def _is_seen(arena: Arena, owner: str, seconds: int) -> bool:
    """Whether Redis's clock, or the newest line of a program's log, is off by this much."""
    if owner == "redis":
        told = float(arena.stack.db.time()[0])
    else:
        program = arena.stack.web if owner == "web" else arena.stack.workers[0]
        told = _epoch_s(program.lines()[-1]["time"])
    return abs(told - time.time() - seconds) < HOUR_S / 10


def _epoch_s(text: str) -> float:
    return datetime.fromisoformat(text).timestamp()


def fail_over(arena: Arena) -> list[Verdict]:
    """Kill the master while its replica lacks the last second."""
    servers = _servers(arena, failover.ReplicatedRedis)
    with arena.load(load_at(arena)):
        arena.rest(arena.scale.seconds / 10)
        for turn in range(arena.scale.times):
            if turn:
                servers.bring_back()
                arena.rest_about(arena.scale.seconds / 20)
            with arena.fault():
                _fail_over_to_a_replica_that_lags(arena, servers)
    return []


def move_endpoint(arena: Arena) -> list[Verdict]:
    """Do the same behind one address, and at last let both change places in good order."""
    servers = _servers(arena, failover.BehindAnEndpoint)
    # Longer, in the full size, than requests wait for Redis.
    servers.away_s = arena.scale.seconds / 5
    rate_per_s = LOAD_SHARE * arena.scale.capacity_per_s
    with arena.load(open_loop(rate_per_s, 1.5 * arena.scale.seconds)):
        for _ in range(max(1, arena.scale.times - 1)):
            arena.rest(arena.scale.seconds / 12)
            with arena.fault():
                _fail_over_to_a_replica_that_lags(arena, servers)
            servers.bring_back()
        arena.rest(arena.scale.seconds / 12)
        with arena.fault():
            servers.change_places()
            arena.stack.db = servers.client()
            arena.done["changes of places"] += 1
    return []


AnyServers = TypeVar("AnyServers", bound=failover.ReplicatedRedis)


def _servers(arena: Arena, kind: type[AnyServers]) -> AnyServers:
    servers = arena.stack.redis
    assert isinstance(servers, kind)
    return servers


def _fail_over_to_a_replica_that_lags(arena: Arena, servers: failover.ReplicatedRedis) -> None:
    life = arena.witness.ledger.life
    servers.fall_behind()
    arena.rest(1.0)
    arena.done["bytes that the replica lacked"] += servers.lag_bytes()
    servers.fail_over()
    arena.stack.db = servers.client()
    arena.done["failovers"] += 1
    arena.wait(lambda: arena.witness.ledger.life > life, "the witness is back")


def _on(redis: Callable[..., failover.ReplicatedRedis]) -> Callable[[Path], Made]:
    """Return what makes the place of a stack on such a Redis."""
    return lambda directory: nullcontext(Place(redis=redis))


SURROUNDINGS = (
    Scenario(
        "partition",
        "packets between Redis and all others vanish: those to Redis, those from it, and both",
        "A network that is cut costs time, no accepted job",
        partition,
        proof="packets sent again",
        place=network.network,
        lacks=network.missing_right,
    ),
    Scenario(
        "fail-over",
        "SIGKILL to Redis, while the replica that takes over lacks the last second",
        "What a failover loses is answered: the picture is queued again",
        fail_over,
        proof="bytes that the replica lacked",
        place=_on(failover.BehindSentinels),
        ends_redis=True,
    ),
    Scenario(
        "move-endpoint",
        "the same behind one address, which leads to the replica later; then both change places, "
        "and old connections meet a Redis that refuses writes",
        "So it is where nobody tells the clients",
        move_endpoint,
        proof="bytes that the replica lacked",
        place=_on(failover.BehindAnEndpoint),
        ends_redis=True,
    ),
    Scenario(
        "fail-over-cluster",
        "SIGKILL to the master of a Redis Cluster that has the queue, while its replica lacks the "
        "last second",
        "And in a cluster that elects the replica",
        fail_over,
        proof="bytes that the replica lacked",
        place=_on(failover.InACluster),
        ends_redis=True,
    ),
    Scenario(
        "full-disk",
        "the file system of Redis's append-only file is full, then has space again",
        "A full disk refuses with a time to come back, and loses nothing",
        full_disk,
        proof="times Redis could not write",
        place=disk.small_disk,
        lacks=disk.missing_right,
    ),
    Scenario(
        "jump-clock",
        "the wall clock of web server, workers and Redis, in turn, jumps an hour forward and back",
        "A clock that jumps changes no answer",
        jump_clock,
        proof="jumps that were seen",
        place=clock.clocks,
        lacks=clock.missing_right,
    ),
)
ALL = (*SCENARIOS, *SURROUNDINGS)
BY_NAME = {scenario.name: scenario for scenario in ALL}
