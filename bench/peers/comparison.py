"""Measures the systems in turns: the best window of each peer first, then round by round."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from bench.kept import Circumstances, Kept, key
from bench.load import Demand, Run, load, run_as_json, run_from_json
from bench.peers.environments import NotInstalled
from bench.peers.reasons import why
from bench.peers.systems import (
    OURS,
    SHOWN,
    WINDOWS_MS,
    System,
    in_turns,
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
WARM_UP_S = 2.0
"""Of several clients: those that connect together get their first answers late."""
WINDOW_PLAN = Plan(seconds=2.0, least_warm_up_s=1.0)
IDENTICAL_ROUNDS = 3

IDENTICAL = {"FAST_JPEG": "0", "FAST_RESIZE": "0"}
"""Ours with the decoding that the peers use: all pixels, by Pillow."""


class Setting(NamedTuple):
    """What is measured once per round."""

    system: str
    clients: int


Runs = Mapping[Setting, Sequence[Run]]
Windows = Mapping[Setting, int]


@dataclass(frozen=True, slots=True)
class Tried:
    """The peers that run here, with their best windows, and why the others do not."""

    windows: dict[Setting, int] = field(default_factory=dict)
    """In ms."""
    rates: dict[str, float] = field(default_factory=dict)
    """Images per second of each at most clients, with its best window."""
    reasons: dict[str, str] = field(default_factory=dict)

    @property
    def slow(self) -> list[str]:
        """Those that make less than half of what the best one does."""
        most = max(self.rates.values(), default=0.0)
        return [name for name, rate in self.rates.items() if rate < most / 2]


@dataclass(frozen=True, slots=True)
class Compared:
    """One comparison of all systems."""

    runs: Runs
    pieces: Sequence[Circumstances] = ()


# -- the windows ----------------------------------------------------------------------------------


def tried(kept: Kept, plan: Plan, peers: Sequence[str]) -> Tried:
    """Install and start the peers, and find their best windows."""
    found = Tried()
    for peer in peers:
        piece = kept.piece(key("windows", peer), plan, partial(_tried, peer))
        note_windows(found, peer, piece.value)
    return found


def note_windows(found: Tried, peer: str, told: Mapping[str, Any]) -> None:
    """Add one peer: why it does not run here, or images/s by clients and window."""
    name = SHOWN[peer]
    if "failed" in told:
        found.reasons[name] = told["failed"]
        return
    # One client alone only waits for a window.
    found.windows[Setting(name, 1)] = WINDOWS_MS[peer][0]
    for clients in CLIENTS[1:]:
        rates = told["rates"].get(str(clients)) or {str(WINDOWS_MS[peer][0]): 0.0}
        best = max(rates, key=lambda ms: rates[ms])
        found.windows[Setting(name, clients)] = int(best)
        found.rates[name] = rates[best]


def _tried(peer: str) -> dict[str, Any]:
    try:
        with Bed() as bed:
            return {"rates": _rates(bed, peer)}
    except (NotInstalled, SystemExit) as error:
        reason = why(error)
        say(f"{peer} does not run here: {reason}")
        return {"failed": reason}


def _rates(bed: Bed, peer: str) -> dict[str, dict[str, float]]:
    """Measure images/s by clients and window; one window needs no choice, only a rate."""
    picture = photo_jpeg()
    path = write_picture(bed, picture)
    systems = {ms: start_peer(bed, peer, ms, "own", picture) for ms in WINDOWS_MS[peer]}
    found = {}
    for clients in CLIENTS[1:] if len(systems) > 1 else (FULL,):
        demand = _demand(next(iter(systems.values())), clients)
        with in_turns(systems.values()):
            runs = {ms: _load(system, demand, path) for ms, system in systems.items()}
        # A window with failures is the last choice.
        clean = {ms: run for ms, run in runs.items() if not run.counts.errors} or runs
        rates = {str(ms): run.per_second for ms, run in clean.items()}
        shown = ", ".join(f"{ms} ms: {number(rate)}" for ms, rate in rates.items())
        say(f"{peer}, {clients} clients, images/s by window: {shown}")
        found[str(clients)] = rates
    return found


def _load(system: System, demand: Demand, picture: Path) -> Run:
    with system.thawed():
        return load(system, demand, WINDOW_PLAN, picture)


def _demand(system: System, clients: int) -> Demand:
    return Demand(clients, system.form)


# -- the rounds -----------------------------------------------------------------------------------


def compare(
    kept: Kept,
    plan: Plan,
    name: str,
    peers: Sequence[str],
    windows: Windows,
    *,
    is_identical: bool = False,
) -> Compared:
    """Measure all systems in turns, as their users would write them or with the same decoding.

    The piece is kept under ``name``.
    """
    if is_identical:
        plan = replace(plan, rounds=min(plan.rounds, IDENTICAL_ROUNDS))

    def measure() -> list[dict[str, Any]]:
        return as_json(_compare(plan, peers, windows, is_identical=is_identical))

    piece = kept.piece(name, plan, measure)
    return Compared(from_json(piece.value), [piece.circumstances])


def _compare(plan: Plan, peers: Sequence[str], windows: Windows, *, is_identical: bool) -> Runs:
    say("identical decoding" if is_identical else "each system as its users would write it")
    with Bed() as bed:
        picture = photo_jpeg()
        path = write_picture(bed, picture)
        ours = start_ours(bed, IDENTICAL if is_identical else None)
        systems = {Setting(OURS, clients): ours for clients in CLIENTS}
        decode = "identical" if is_identical else "own"
        for peer in peers:
            systems |= _start_with_windows(bed, peer, windows, decode, picture)
        with in_turns(systems.values()):
            return _rounds(plan, systems, path)


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
    for number_of_round in range(1, plan.rounds + 1):
        for setting in taking_part(list(systems), runs):
            system = systems[setting]
            least_warm_up_s = WARM_UP_S if setting.clients > 1 and not plan.is_quick else 0.0
            with system.thawed():
                run = load(  # Requests may fail; then the tables say so.
                    system,
                    _demand(system, setting.clients),
                    replace(plan, least_warm_up_s=least_warm_up_s),
                    picture,
                )
            runs[setting].append(run)
            say(
                f"round {number_of_round}: {setting.system}, {setting.clients} clients: "
                f"{number(run.per_second)} images/s, {number(run.total_cpu_ms)} CPU-ms per image, "
                f"p50 {number(run.latency_ms)} ms, p99 {number(run.p99_ms)} ms"
            )
    return runs


def taking_part(settings: Sequence[Setting], runs: Runs) -> list[Setting]:
    """Return what the next round measures, in the order of the numbers of clients.

    Later rounds are for those that may be best: a system that made less than half of the most
    images per second in the first one has its row, and need not be measured again.
    """
    in_order = sorted(settings, key=lambda setting: setting.clients)
    if not runs:
        return in_order
    first = {setting: runs[setting][0].per_second for setting in in_order}
    most = {n: max(rate for each, rate in first.items() if each.clients == n) for n in CLIENTS}
    return [
        each for each in in_order if each.system == OURS or first[each] >= most[each.clients] / 2
    ]


def as_json(runs: Runs) -> list[dict[str, Any]]:
    return [
        {**setting._asdict(), "runs": [run_as_json(run) for run in each]}
        for setting, each in runs.items()
    ]


def from_json(told: Sequence[Mapping[str, Any]]) -> Runs:
    return {
        Setting(each["system"], each["clients"]): [run_from_json(run) for run in each["runs"]]
        for each in told
    }
