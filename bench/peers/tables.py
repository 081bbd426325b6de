"""The results of the comparison: tables, targets, a plot. Pure."""

import statistics
from collections import Counter
from collections.abc import Callable, Mapping, Sequence

from bench.kept import Shown
from bench.load import Run
from bench.peers.comparison import (
    CLIENTS,
    FULL,
    WARM_UP_S,
    Compared,
    Runs,
    Setting,
    Tried,
    Windows,
)
from bench.peers.faults import BROKEN_EVERY, KILL_AFTER_S, PATIENCE_S, Faults, Faulty
from bench.peers.systems import OURS, SHOWN, WINDOWS_MS
from bench.report import Section, Verdict, number, ratios, spread, times
from imageserve_loadtest.plots import Panel, Series, panels_chart

LEAST_OWN = 1.2
LEAST_IDENTICAL = 1.0
MOST_LATENCY = 1.05
MOST_TAIL = 2.0

_HEADER = (
    "clients",
    "system",
    "images/s",
    "CPU-ms",
    "p50, ms",
    "p99, ms",
    "all answered after, s",
    "window, ms",
)


def own_section(compared: Compared, tried: Tried) -> Shown:
    runs = compared.runs
    section = Section(
        "(p1) Each system as its users would write it",
        _HEADER,
        [*_rows(runs, tried.windows), *_missing(tried.reasons)],
        [
            *_speed_verdict(runs, LEAST_OWN),
            *_latency_verdict(runs),
            _tail_verdict(runs),
            _failure_verdict(runs),
        ],
        [
            "CPU-ms: of all processes of a system, per image, without the load client's. The peers "
            "decode with Pillow (`convert`, `resize`), imageserve as it is shipped (`FAST_JPEG`, "
            "`FAST_RESIZE`).",
            f"The clients connect together. Their first {WARM_UP_S:g} s are not counted, but for "
            "one column: how long it takes until each of them has had an answer. A system that "
            "makes less than half of the best one's images per second is measured in the first "
            "round only.",
            *_failures(runs),
            *_wins_of_peers(runs),
        ],
    )
    return Shown(section, compared.pieces)


def identical_section(compared: Compared, tried: Tried) -> Shown:
    runs = compared.runs
    section = Section(
        "(p2) The same decoding in all: every pixel, by Pillow, bilinear",
        _HEADER,
        _rows(runs, tried.windows),
        [*_speed_verdict(runs, LEAST_IDENTICAL), _failure_verdict(runs)],
        [*_failures(runs), *_wins_of_peers(runs)],
    )
    return Shown(section, compared.pieces)


def fault_section(faults: Faults) -> Shown:
    ours = next(each for each in faults.systems if each.system == OURS)
    failed = (ours.broken.counts.errors, ours.killed.counts.errors)
    section = Section(
        "(p3) Faults",
        (
            "system",
            "broken pictures: good ones failed",
            "of",
            "model killed: failed",
            "of",
            "without an answer, s",
        ),
        [_fault_row(each) for each in faults.systems],
        [Verdict("0 good requests fail", " and ".join(map(str, failed)), failed == (0, 0))],
        [
            f"{FULL} clients. First every {BROKEN_EVERY}th picture is cut off in the middle, and "
            f"the others are counted. Then the process that runs the model is killed "
            f"{KILL_AFTER_S:g} s after the beginning; what does not start again by itself is "
            "started by the benchmark, as Kubernetes would. A request fails where no labels come "
            f"within {PATIENCE_S:g} s of the end; a client that was refused pauses for 0.1 s, so "
            "the number of failures also tells how long it lasted.",
            *_what_failed(faults),
        ],
    )
    return Shown(section, faults.pieces)


def _what_failed(faults: Faults) -> list[str]:
    """Say what came instead of labels, and who is missing."""
    told = [
        f"{each.system}: {', '.join(f'{count} x {what}' for what, count in failed.items())}"
        for each in faults.systems
        for failed in [Counter(each.broken.counts.failed) + Counter(each.killed.counts.failed)]
        if failed
    ]
    instead = [f"What came instead of labels: {'; '.join(told)}."] if told else []
    return instead + [f"No numbers of {who}: {why}." for who, why in faults.reasons.items()]


def plot(runs: Runs) -> str:
    """Draw the four figures over the number of clients, as SVG."""
    return panels_chart(
        "Side by side, each system as its users would write it",
        [
            _panel(runs, "images/s", lambda run: run.per_second),
            _panel(runs, "CPU-ms per image", lambda run: run.total_cpu_ms),
            _panel(runs, "p50, ms", lambda run: run.latency_ms, log_y=True),
            _panel(runs, "p99, ms", lambda run: run.p99_ms, log_y=True),
        ],
        columns=2,
    )


def _panel(
    runs: Runs, y_label: str, value: Callable[[Run], float], *, log_y: bool = False
) -> Panel:
    lines = [
        Series(
            system,
            CLIENTS,
            [_median(runs[Setting(system, clients)], value) for clients in CLIENTS],
        )
        for system in _systems(runs)
    ]
    return Panel(y_label, lines, x_label="clients", log_y=log_y)


def _rows(runs: Runs, windows: Windows) -> list[list[str]]:
    return [
        _row(setting, runs[setting], windows)
        for clients in CLIENTS
        for setting in runs
        if setting.clients == clients
    ]


def _row(setting: Setting, runs: Sequence[Run], windows: Windows) -> list[str]:
    return [
        str(setting.clients),
        setting.system,
        spread([run.per_second for run in runs]),
        spread([run.total_cpu_ms for run in runs]),
        spread([run.latency_ms for run in runs]),
        spread([run.p99_ms for run in runs]),
        spread([run.counts.all_answered_s for run in runs]) if setting.clients > 1 else "",
        str(windows.get(setting, "")),
    ]


def _missing(reasons: Mapping[str, str]) -> list[list[str]]:
    empty = [""] * (len(_HEADER) - 3)
    return [["", peer, f"does not run here: {reason}", *empty] for peer, reason in reasons.items()]


def _fault_row(each: Faulty) -> list[str]:
    row = [each.system]
    for run in (each.broken, each.killed):
        counts = run.counts
        row += [str(counts.errors), str(counts.errors + counts.images)]
    return [*row, number(each.killed.counts.longest_gap_s)]


def _systems(runs: Runs) -> list[str]:
    return list(dict.fromkeys(setting.system for setting in runs))


def _peers(runs: Runs) -> list[str]:
    return [system for system in _systems(runs) if system != OURS]


def _median(runs: Sequence[Run], value: Callable[[Run], float]) -> float:
    return statistics.median(map(value, runs))


def _speed_verdict(runs: Runs, least: float) -> list[Verdict]:
    """Compare with the fastest peer; nothing where there is none."""
    rates = _by_peer(runs, FULL, lambda run: run.per_second)
    if not rates:
        return []
    best = max(rates, key=lambda peer: rates[peer])
    ratio = _beside(runs, best, FULL, lambda run: run.per_second)
    return [
        Verdict(
            f">= {least}x the images/s of the best peer, {FULL} clients",
            f"{spread(ratio, times)} of {best}",
            statistics.median(ratio) >= least,
        )
    ]


def _latency_verdict(runs: Runs) -> list[Verdict]:
    latencies = _by_peer(runs, 1, lambda run: run.latency_ms)
    if not latencies:
        return []
    best = min(latencies, key=lambda peer: latencies[peer])
    ratio = _beside(runs, best, 1, lambda run: run.latency_ms)
    lowest = sum(ours <= min(theirs) for ours, theirs in _one_client_rounds(runs))
    shown = f"{spread(ratio, times)} of {best}; the lowest in {lowest} of {len(ratio)} rounds"
    target = f"p50 at one client <= {MOST_LATENCY:g}x the lowest"
    return [Verdict(target, shown, statistics.median(ratio) <= MOST_LATENCY)]


def _one_client_rounds(runs: Runs) -> list[tuple[float, list[float]]]:
    """Return the p50 of this system and those of the peers, round by round."""
    ours = [run.latency_ms for run in runs[Setting(OURS, 1)]]
    peers = [runs[Setting(peer, 1)] for peer in _peers(runs)]
    return [
        (each, [run[i].latency_ms for run in peers if i < len(run)]) for i, each in enumerate(ours)
    ]


def _beside(runs: Runs, peer: str, clients: int, value: Callable[[Run], float]) -> list[float]:
    """Return the ratios to a peer, round by round."""
    ours, theirs = (
        [value(run) for run in runs[Setting(system, clients)]] for system in (OURS, peer)
    )
    return ratios(ours[: len(theirs)], theirs)


def _tail_verdict(runs: Runs) -> Verdict:
    tails = {
        system: _median(runs[Setting(system, FULL)], lambda run: run.tail)
        for system in _systems(runs)
    }
    ours = tails.pop(OURS)
    peers = ", ".join(f"{peer} {times(tail)}" for peer, tail in tails.items())
    return Verdict(
        f"p99 <= {MOST_TAIL:g}x p50, {FULL} clients",
        f"{times(ours)} ({peers})" if peers else times(ours),
        ours <= MOST_TAIL,
    )


def _failure_verdict(runs: Runs) -> Verdict:
    failed = sum(run.counts.errors for n in CLIENTS for run in runs[Setting(OURS, n)])
    return Verdict("0 requests fail", str(failed), failed == 0)


def _by_peer(runs: Runs, clients: int, value: Callable[[Run], float]) -> Mapping[str, float]:
    return {peer: _median(runs[Setting(peer, clients)], value) for peer in _peers(runs)}


_MEASURES: Mapping[str, tuple[Callable[[Run], float], bool]] = {
    "images/s": (lambda run: run.per_second, True),
    "CPU-ms": (lambda run: run.total_cpu_ms, False),
    "p50": (lambda run: run.latency_ms, False),
    "p99": (lambda run: run.p99_ms, False),
}


def _wins_of_peers(runs: Runs) -> list[str]:
    """Name the figures in which a peer is ahead of this system, with the best one."""
    if not _peers(runs):
        return []
    wins = []
    for clients in CLIENTS:
        for name, (value, more_is_better) in _MEASURES.items():
            ours = _median(runs[Setting(OURS, clients)], value)
            theirs = _by_peer(runs, clients, value)
            best = max if more_is_better else min
            peer = best(theirs, key=lambda each: theirs[each])
            if best(ours, theirs[peer]) != ours:
                shown = f"{peer} {number(theirs[peer])}, imageserve {number(ours)}"
                wins.append(f"{name} at {_clients(clients)}: {shown}")
    return [f"Where a peer is ahead, the best: {'; '.join(wins) or 'nowhere in this table'}."]


def _failures(runs: Runs) -> list[str]:
    failed = {
        f"{system} at {_clients(clients)}: {errors}"
        for (system, clients), each in runs.items()
        if (errors := sum(run.counts.errors for run in each))
    }
    return [f"Requests that failed: {'; '.join(sorted(failed))}."] if failed else []


def _clients(count: int) -> str:
    return "one client" if count == 1 else f"{count} clients"


def windows_note() -> str:
    tried = "; ".join(
        f"{SHOWN[peer]} {', '.join(map(str, windows))}"
        for peer, windows in WINDOWS_MS.items()
        if len(windows) > 1
    )
    return (
        "Each peer runs with the batch window that was best at that number of clients, out of "
        f"(ms) {tried}; with one client, which only waits for it, the shortest. KServe does not "
        "batch: its batcher is a separate program."
    )
