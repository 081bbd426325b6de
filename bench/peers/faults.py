"""The fault runs: broken pictures among good ones, and a model process that is killed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from bench.load import Demand, Run, load
from bench.peers.comparison import FULL, Setting, Windows
from bench.peers.systems import FIRST, OURS, SHOWN, System, start_first, start_ours, start_peer
from bench.picture import photo_jpeg
from bench.plan import Plan, say
from bench.processes import Bed
from bench.stacks import write_picture

BROKEN_EVERY = 10

KILL_AFTER_S = 2.0
KILL_RUN_S = 12.0
PATIENCE_S = 30.0
"""Answers may come this long after the last request: the time-out that imageserve promises."""

BACK_AFTER_S = 1.0
"""What has ended and does not restart by itself is restarted after this time."""


@dataclass(frozen=True, slots=True)
class Faulty:
    """One system's two fault runs."""

    system: str
    broken: Run
    killed: Run


def fault_runs(plan: Plan, peers: Sequence[str], windows: Windows) -> list[Faulty]:
    """Measure each system alone, the peers with the window that was best at most clients."""
    picture = photo_jpeg()
    starters: dict[str, Callable[[Bed], System]] = {OURS: start_ours}
    for peer in peers:
        ms = windows[Setting(SHOWN[peer], FULL)]
        starters[SHOWN[peer]] = _peer_starter(peer, ms, picture)
    starters[FIRST] = lambda bed: start_first(bed, picture)
    return [_fault_runs(plan, name, start, picture) for name, start in starters.items()]


def _peer_starter(peer: str, window_ms: int, picture: bytes) -> Callable[[Bed], System]:
    return lambda bed: start_peer(bed, peer, window_ms, "own", picture)


def _fault_runs(plan: Plan, name: str, start: Callable[[Bed], System], picture: bytes) -> Faulty:
    with Bed() as bed:
        path = write_picture(bed, picture)
        system = start(bed)
        demand = Demand(FULL, system.form, patience_s=PATIENCE_S)
        broken = load(system, replace(demand, broken_every=BROKEN_EVERY), plan, path)
        killed = _killed(system, demand, plan, path)
    for fault, run in (("broken pictures", broken), ("a killed model", killed)):
        say(f"{name}, {fault}: {run.counts.errors} failed, {run.counts.images} did not")
    return Faulty(name, broken, killed)


def _killed(system: System, demand: Demand, plan: Plan, picture: Path) -> Run:
    def kill() -> None:
        time.sleep(KILL_AFTER_S)
        system.kill_model()
        end = time.monotonic() + KILL_RUN_S - KILL_AFTER_S
        while time.monotonic() < end - BACK_AFTER_S:
            time.sleep(BACK_AFTER_S)
            system.revive()

    return load(system, demand, replace(plan, seconds=KILL_RUN_S), picture, kill)
