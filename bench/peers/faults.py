"""The fault runs: broken pictures among good ones, and a model process that is killed."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from bench.kept import Circumstances, Kept, key
from bench.load import Demand, Run, load, run_as_json, run_from_json
from bench.peers.comparison import FULL, Setting, Windows
from bench.peers.reasons import why
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


@dataclass(frozen=True, slots=True)
class Faults:
    """The fault runs of all systems."""

    systems: Sequence[Faulty]
    reasons: dict[str, str]
    """Why the runs of a system are missing."""
    pieces: Sequence[Circumstances] = ()


def fault_runs(kept: Kept, plan: Plan, part: str, peers: Sequence[str], windows: Windows) -> Faults:
    """Measure each system alone, the peers with the window that was best at most clients."""
    picture = photo_jpeg()
    starters: dict[str, Callable[[Bed], System]] = {OURS: start_ours}
    for peer in peers:
        ms = windows[Setting(SHOWN[peer], FULL)]
        starters[SHOWN[peer]] = _peer_starter(peer, ms, picture)
    starters[FIRST] = lambda bed: start_first(bed, picture)
    systems, reasons, pieces = [], {}, []
    for name, start in starters.items():
        piece = kept.piece(key(part, name), plan, _measurer(plan, name, start, picture))
        pieces.append(piece.circumstances)
        if "failed" in piece.value:
            reasons[name] = piece.value["failed"]
        else:
            runs = (run_from_json(piece.value[fault]) for fault in ("broken", "killed"))
            systems.append(Faulty(name, *runs))
    return Faults(systems, reasons, pieces)


def _measurer(
    plan: Plan, name: str, start: Callable[[Bed], System], picture: bytes
) -> Callable[[], dict[str, Any]]:
    def measure() -> dict[str, Any]:
        try:
            broken, killed = _fault_runs(plan, name, start, picture)
        except SystemExit as error:
            if name == OURS:
                raise
            return {"failed": why(error)}
        return {"broken": run_as_json(broken), "killed": run_as_json(killed)}

    return measure


def _peer_starter(peer: str, window_ms: int, picture: bytes) -> Callable[[Bed], System]:
    return lambda bed: start_peer(bed, peer, window_ms, "own", picture)


def _fault_runs(
    plan: Plan, name: str, start: Callable[[Bed], System], picture: bytes
) -> tuple[Run, Run]:
    with Bed() as bed:
        path = write_picture(bed, picture)
        system = start(bed)
        demand = Demand(FULL, system.form, patience_s=PATIENCE_S)
        broken = load(system, replace(demand, broken_every=BROKEN_EVERY), plan, path)
        killed = _killed(system, demand, plan, path)
    for fault, run in (("broken pictures", broken), ("a killed model", killed)):
        counts = run.counts
        say(f"{name}, {fault}: {counts.images} answered, {counts.errors} failed: {counts.failed}")
    return broken, killed


def _killed(system: System, demand: Demand, plan: Plan, picture: Path) -> Run:
    def kill() -> None:
        time.sleep(KILL_AFTER_S)
        system.kill_model()
        end = time.monotonic() + KILL_RUN_S - KILL_AFTER_S
        while time.monotonic() < end - BACK_AFTER_S:
            time.sleep(BACK_AFTER_S)
            system.revive()

    return load(system, demand, replace(plan, seconds=KILL_RUN_S), picture, kill)
