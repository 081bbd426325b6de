"""The results of the comparison: tables, targets, a plot. Pure."""

import statistics
from collections.abc import Callable, Mapping, Sequence

from bench.load import Run
from bench.peers.comparison import CLIENTS, FULL, Comparison, Runs, Setting, Windows
from bench.peers.faults import BROKEN_EVERY, KILL_AFTER_S, PATIENCE_S, Faulty
from bench.peers.systems import FIRST, OURS, SHOWN, WINDOWS_MS
from bench.report import Section, Verdict, number, ratios, spread, times
from imageserve_loadtest.plots import Panel, Series, panels_chart

LEAST_OWN = 1.2
LEAST_IDENTICAL = 1.0
MOST_LATENCY = 1.05
MOST_TAIL = 2.0
MOST_CPU_MS = 3.8

_HEADER = ("clients", "system", "images/s", "CPU-ms", "p50, ms", "p99, ms", "window, ms")


def sections(compared: Comparison, faulty: Sequence[Faulty]) -> list[Section]:
    """Return the tables of all that was measured but overload."""
    return [
        *([own_section(compared)] if compared.own else []),
        *([identical_section(compared)] if compared.identical else []),
        *([fault_section(faulty)] if faulty else []),
    ]


def own_section(compared: Comparison) -> Section:
    runs = compared.own
    cpu_ms = statistics.median(run.total_cpu_ms for run in runs[Setting(OURS, FULL)])
    return Section(
        "(p1) Each system as its users would write it",
        _HEADER,
        [*_rows(runs, compared.windows), *_missing(compared.reasons)],
        [
            *_speed_verdict(runs, LEAST_OWN),
            *_latency_verdict(runs),
            _tail_verdict(runs),
            Verdict(f"<= {MOST_CPU_MS} CPU-ms per image", number(cpu_ms), cpu_ms <= MOST_CPU_MS),
        ],
        [
            "CPU-ms: of all processes of a system, per image, without the load client's. The peers "
            "decode with Pillow (`convert`, `resize`), imageserve as it is shipped (`FAST_JPEG`).",
            *_failures(runs),
            *_wins_of_peers(runs),
        ],
    )


def identical_section(compared: Comparison) -> Section:
    runs = compared.identical
    return Section(
        "(p2) The same decoding in all: every pixel, by Pillow, bilinear",
        _HEADER,
        _rows(runs, compared.windows),
        _speed_verdict(runs, LEAST_IDENTICAL),
        [*_failures(runs), *_wins_of_peers(runs)],
    )


def fault_section(faulty: Sequence[Faulty]) -> Section:
    ours = next(each for each in faulty if each.system == OURS)
    failed = (ours.broken.counts.errors, ours.killed.counts.errors)
    return Section(
        "(p3) Faults",
        (
            "system",
            "broken pictures: good ones failed",
            "of",
            "model killed: failed",
            "of",
            "without an answer, s",
        ),
        [_fault_row(each) for each in faulty],
        [Verdict("0 good requests fail", " and ".join(map(str, failed)), failed == (0, 0))],
        [
            f"{FULL} clients. First every {BROKEN_EVERY}th picture is cut off in the middle, and "
            f"the others are counted. Then the process that runs the model is killed "
            f"{KILL_AFTER_S:g} s after the beginning; what does not start again by itself is "
            "started by the benchmark, as Kubernetes would. A request fails where no labels come "
            f"within {PATIENCE_S:g} s of the end; a client that was refused pauses for 0.1 s, so "
            "the number of failures also tells how long it lasted."
        ],
    )


def plot(compared: Comparison) -> str:
    """Draw images per second and CPU time over the number of clients, as SVG."""
    runs = compared.own
    return panels_chart(
        "Side by side, each system as its users would write it",
        [
            _panel(runs, "images/s", lambda run: run.per_second),
            _panel(runs, "CPU-ms per image", lambda run: run.total_cpu_ms),
        ],
        columns=2,
    )


def _panel(runs: Runs, y_label: str, value: Callable[[Run], float]) -> Panel:
    lines = [
        Series(
            system,
            CLIENTS,
            [_median(runs[Setting(system, clients)], value) for clients in CLIENTS],
        )
        for system in _systems(runs)
    ]
    return Panel(y_label, lines, x_label="clients")


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
    return [system for system in _systems(runs) if system not in (OURS, FIRST)]


def _median(runs: Sequence[Run], value: Callable[[Run], float]) -> float:
    return statistics.median(map(value, runs))


def _speed_verdict(runs: Runs, least: float) -> list[Verdict]:
    """Compare with the fastest peer; nothing where there is none."""
    rates = _by_peer(runs, FULL, lambda run: run.per_second)
    if not rates:
        return []
    best = max(rates, key=lambda peer: rates[peer])
    ours, theirs = (
        [run.per_second for run in runs[Setting(system, FULL)]] for system in (OURS, best)
    )
    ratio = ratios(ours, theirs)
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
    ours = _median(runs[Setting(OURS, 1)], lambda run: run.latency_ms)
    shown = f"{number(ours)} ms, {best} {number(latencies[best])} ms"
    target = f"p50 at one client <= {MOST_LATENCY:g}x the lowest"
    return [Verdict(target, shown, ours <= MOST_LATENCY * latencies[best])]


def _tail_verdict(runs: Runs) -> Verdict:
    tail = _median(runs[Setting(OURS, FULL)], lambda run: run.p99_ms / run.latency_ms)
    return Verdict(f"p99 <= {MOST_TAIL:g}x p50, {FULL} clients", times(tail), tail <= MOST_TAIL)


def _by_peer(runs: Runs, clients: int, value: Callable[[Run], float]) -> Mapping[str, float]:
    return {peer: _median(runs[Setting(peer, clients)], value) for peer in _peers(runs)}


_MEASURES: Mapping[str, tuple[Callable[[Run], float], bool]] = {
    "images/s": (lambda run: run.per_second, True),
    "CPU-ms": (lambda run: run.total_cpu_ms, False),
    "p50": (lambda run: run.latency_ms, False),
    "p99": (lambda run: run.p99_ms, False),
}


def _wins_of_peers(runs: Runs) -> list[str]:
    """Name the figures in which a peer is ahead of this system."""
    wins = [
        f"{name} at {_clients(clients)}: {peer} {number(theirs)}, imageserve {number(ours)}"
        for clients in CLIENTS
        for name, (value, more_is_better) in _MEASURES.items()
        for ours in [_median(runs[Setting(OURS, clients)], value)]
        for peer, theirs in _by_peer(runs, clients, value).items()
        if (theirs > ours if more_is_better else theirs < ours)
    ]
    return [f"Where a peer is ahead: {'; '.join(wins) or 'nowhere in this table'}."]


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
        f"(ms) {tried}. KServe does not batch: its batcher is a separate program."
    )
