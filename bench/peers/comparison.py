"""Measures the systems in turns: the best window of each peer first, then round by round."""

from collections import defaultdict
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from bench.load import Demand, Run, load, measured
from bench.peers.environments import NotInstalled, installed
from bench.peers.systems import (
    FIRST,
    OURS,
    SHOWN,
    WINDOWS_MS,
    System,
    in_turns,
    start_first,
    start_ours,
    start_peer,
)
from bench.picture import photo_jpeg
from bench.plan import Plan, say
from bench.processes import Bed
from bench.report import number
from bench.stacks import write_picture

CLIENTS = (1, 16, 48)
FULL = max(CLIENTS)

#: Ours with the decoding that the peers use: all pixels, by Pillow.
IDENTICAL = {"FAST_JPEG": "0", "FAST_RESIZE": "0"}


class Setting(NamedTuple):
    """What is measured once per round."""

    system: str
    clients: int


Runs = Mapping[Setting, Sequence[Run]]
Windows = Mapping[Setting, int]


@dataclass(frozen=True, slots=True)
class Comparison:
    """All that was measured without faults."""

    windows: Windows
    own: Runs
    """Every system as its users would write it."""
    identical: Runs
    """All with the same decoding; without the first version."""
    reasons: Mapping[str, str]
    """Why a peer is missing."""


def usable_peers(wanted: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Install and start the peers; return those that work here, and why the others do not."""
    usable, reasons = [], {}
    for peer in wanted:
        try:
            installed(peer)
            with Bed() as bed:
                start_peer(bed, peer, WINDOWS_MS[peer][0], "own", photo_jpeg())
            usable.append(peer)
        except (NotInstalled, SystemExit) as error:
            reasons[SHOWN[peer]] = reason = why(error)
            say(f"{peer} does not run here: {reason}")
    return usable, reasons


def why(error: NotInstalled | SystemExit) -> str:
    """Return why a peer failed, for a table.

    Raises the error again where it is no failure: the benchmark itself is told to end.
    """
    if isinstance(error, SystemExit) and not isinstance(error.code, str):
        raise error
    return last_line(str(error))


def last_line(text: str) -> str:
    """Shorten what a process said at its end to one cell of a table."""
    lines = text.strip().splitlines() or ["no reason was given"]
    return lines[-1].strip().replace("|", "/")[:100]


def compare(
    plan: Plan, parts: Collection[str], windows: Windows, peers: Sequence[str]
) -> tuple[Runs, Runs]:
    """Measure parts p1 and p2; a part that was not asked for is empty."""
    own = _compare(plan, peers, windows, is_identical=False) if "p1" in parts else {}
    identical = _compare(plan, peers, windows, is_identical=True) if "p2" in parts else {}
    return own, identical


# -- the windows ----------------------------------------------------------------------------------


def best_windows(plan: Plan, peers: Sequence[str]) -> Windows:
    """Return the batch window, in ms, with which each peer is best at each number of clients."""
    best: dict[Setting, int] = {}
    for peer in peers:
        with Bed() as bed:
            best |= _best_windows(bed, plan, peer)
    return best


def _best_windows(bed: Bed, plan: Plan, peer: str) -> Windows:
    picture = photo_jpeg()
    path = write_picture(bed, picture)
    short = replace(plan, seconds=min(2.0, plan.seconds))
    systems = {ms: start_peer(bed, peer, ms, "own", picture) for ms in WINDOWS_MS[peer]}
    best = {}
    for clients in CLIENTS:
        demand = _demand(next(iter(systems.values())), clients)
        with in_turns(systems.values()):
            runs = {ms: _load(system, demand, short, path) for ms, system in systems.items()}
        # At one client the rate is the latency. A window with failures is the last choice.
        clean = {ms: run for ms, run in runs.items() if not run.counts.errors} or runs
        rates = {ms: run.per_second for ms, run in clean.items()}
        best[Setting(SHOWN[peer], clients)] = max(rates, key=lambda ms: rates[ms])
        shown = ", ".join(f"{ms} ms: {number(rate)}" for ms, rate in rates.items())
        say(f"{peer}, {clients} clients, images/s by window: {shown}")
    return best


def _load(system: System, demand: Demand, plan: Plan, picture: Path) -> Run:
    with system.thawed():
        return load(system, demand, plan, picture)


def _demand(system: System, clients: int, broken_every: int = 0) -> Demand:
    return Demand(clients, system.form, broken_every)


# -- the rounds -----------------------------------------------------------------------------------


def _compare(plan: Plan, peers: Sequence[str], windows: Windows, *, is_identical: bool) -> Runs:
    say("identical decoding" if is_identical else "each system as its users would write it")
    with Bed() as bed:
        picture = photo_jpeg()
        path = write_picture(bed, picture)
        systems = _all_clients(OURS, start_ours(bed, IDENTICAL if is_identical else None))
        if not is_identical:
            systems |= _all_clients(FIRST, start_first(bed, picture))
        decode = "identical" if is_identical else "own"
        for peer in peers:
            systems |= _start_with_windows(bed, peer, windows, decode, picture)
        with in_turns(systems.values()):
            return _rounds(plan, systems, path)


def _all_clients(name: str, system: System) -> dict[Setting, System]:
    return {Setting(name, clients): system for clients in CLIENTS}


def _start_with_windows(
    bed: Bed, peer: str, windows: Windows, decode: str, picture: bytes
) -> dict[Setting, System]:
    best_ms = {clients: windows[Setting(SHOWN[peer], clients)] for clients in CLIENTS}
    by_window = {
        ms: start_peer(bed, peer, ms, decode, picture) for ms in sorted(set(best_ms.values()))
    }
    return {Setting(SHOWN[peer], clients): by_window[ms] for clients, ms in best_ms.items()}


def _rounds(plan: Plan, systems: Mapping[Setting, System], picture: Path) -> Runs:
    runs: dict[Setting, list[Run]] = defaultdict(list)
    in_turns = sorted(systems, key=lambda setting: setting.clients)
    for number_of_round in range(1, plan.rounds + 1):
        for setting in in_turns:
            system = systems[setting]
            # A peer may fail; then the tables say so.
            measure = measured if setting.system == OURS else load
            with system.thawed():
                run = measure(system, _demand(system, setting.clients), plan, picture)
            runs[setting].append(run)
            say(
                f"round {number_of_round}: {setting.system}, {setting.clients} clients: "
                f"{number(run.per_second)} images/s, {number(run.total_cpu_ms)} CPU-ms per image, "
                f"p50 {number(run.latency_ms)} ms, p99 {number(run.p99_ms)} ms"
            )
    return runs
