"""The tables, targets and plot of overload. Pure."""

import statistics
from collections.abc import Mapping, Sequence

from bench.kept import Shown
from bench.open_loop import BURST_FACTOR, BURST_S, QUIET_S
from bench.overload import (
    CAPACITY_WARM_UP_S,
    CLIENTS,
    FAST,
    FULL_BATCHES,
    LONG_S,
    SLOW,
    WARM_UP_S,
    Measured,
    Setting,
    StandInTimes,
    mixed_settings,
    plain_settings,
    target_setting,
)
from bench.overload_rounds import Overload
from bench.peers.systems import OURS
from bench.report import Section, Verdict, number, percent, ratios, spread, times
from imageserve_loadtest.plots import Panel, Series, panels_chart
from imageserve_loadtest.schedule import POISSON

LEAST_OF_CAPACITY = 0.95
LEAST_TIGHT = 0.95
LEAST_PATIENT = 0.999
LEAST_BESIDE_PEERS = 1.3

BySystem = Mapping[str, Measured]
"""The first one is this system."""


def overload_sections(part: str, overload: Overload) -> list[Shown]:
    """Return two tables for each stand-in; the targets stand on the slow one."""
    return [
        Shown(section, overload.pieces.get(model, []))
        for model, systems in overload.measured.items()
        for section in (
            _plain(part, model, systems, _notes(overload)),
            _mixed(part, model, systems),
        )
        if systems
    ]


def _notes(overload: Overload) -> list[str]:
    notes = [f"No numbers of {who}: {why}." for who, why in overload.failed.items()]
    if overload.left_out:
        notes.append(
            f"Only with the slow stand-in: {', '.join(overload.left_out)}. With the fast one they "
            "make less than half of the best peer's pictures."
        )
    fast = overload.measured.get(FAST)
    return [*notes, _web_rates(fast)] if fast else notes


def _web_rates(systems: BySystem) -> str:
    """Say how far the slow model is below what the web processes can do."""
    rates = {name: statistics.median(each.capacities) for name, each in systems.items()}
    told = ", ".join(f"{name} {number(SLOW.per_second / rate)}" for name, rate in rates.items())
    return f"What the slow model does, as a part of the capacity with the fast one: {told}."


def _plain(part: str, model: StandInTimes, systems: BySystem, notes: Sequence[str]) -> Section:
    rows = [["capacity", "", "", *(spread(each.capacities) for each in systems.values())]]
    for setting in plain_settings(model):
        if any(each.has(setting) for each in systems.values()):
            cells = [_goodput(each, setting) for each in systems.values()]
            rows.append([*_described(setting), *cells])
    return Section(
        f"({part}) Overload: {model.name}",
        ("arrivals", "load", "deadline", *systems),
        rows,
        _plain_verdicts(model, systems) if model is SLOW else [],
        [
            "Goodput: answers within the deadline per second, and as a share of the system's own "
            f"capacity, which a closed loop of {CLIENTS} patient clients measures. "
            f"The stand-in takes {model.batch_ms:g} ms per batch and {model.image_ms:g} ms per "
            f"picture in batches of {model.batch_size}: {number(model.per_second)} pictures/s at "
            f"most; {FULL_BATCHES} full batches take {model.tight_s:.2g} s. "
            f"Bursts: {BURST_FACTOR:g} times the mean rate for {BURST_S:g} s, half of it for "
            f"{QUIET_S:g} s. A row lasts {_lengths(systems)} s; "
            f"before that {WARM_UP_S:g} s of the same load are not counted, and before the "
            f"capacity {CAPACITY_WARM_UP_S:g} s.",
            *notes,
        ],
    )


def _lengths(systems: BySystem) -> str:
    rounds = [each for measured in systems.values() for each in measured.rounds]
    return " or ".join(f"{seconds:g}" for seconds in sorted({each.seconds for each in rounds}))


def _mixed(part: str, model: StandInTimes, systems: BySystem) -> Section:
    rows = []
    for setting in mixed_settings(model):
        for index, kind in enumerate(setting.kinds):
            cells = [_in_time(each, setting, index) for each in systems.values()]
            who = f"{percent(kind.share)}: {kind.deadline_s:.2g} s"
            rows.append([*_described(setting)[:2], who, *cells])
        cells = [_goodput(each, setting) for each in systems.values()]
        rows.append([*_described(setting)[:2], "goodput of all", *cells])
    return Section(
        f"({part}) Tight clients among patient ones: {model.name}",
        ("arrivals", "load", "clients: deadline", *systems),
        rows,
        _mixed_verdicts(model, systems[OURS]) if model is SLOW else [],
        ["The share of each kind of clients that is answered in time."],
    )


def _described(setting: Setting) -> list[str]:
    return [setting.arrivals, f"{100 * setting.share:.0f} %", f"{setting.longest_s:.2g} s"]


def _goodput(measured: Measured, setting: Setting) -> str:
    if not measured.has(setting):
        return ""
    share = statistics.median(measured.shares_of_capacity(setting))
    return f"{spread(measured.goodputs(setting))}, {percent(share)}"


def _in_time(measured: Measured, setting: Setting, kind: int) -> str:
    return percent(measured.in_time(setting, kind)) if measured.has(setting) else ""


def _plain_verdicts(model: StandInTimes, systems: BySystem) -> list[Verdict]:
    setting = target_setting(model)
    where = f"{100 * setting.share:.0f} %, {FULL_BATCHES} full batches"
    ours = systems[OURS].shares_of_capacity(setting)
    share = statistics.median(ours)
    least = f">= {percent(LEAST_OF_CAPACITY)} of capacity in time, {where}"
    verdicts = [Verdict(least, spread(ours, percent), share >= LEAST_OF_CAPACITY)]
    best = _best_peer(systems, setting)
    if best is not None:
        theirs = systems[best].shares_of_capacity(setting)
        ratio = _ratios(ours, theirs)
        verdicts.append(
            Verdict(
                f">= {LEAST_BESIDE_PEERS:g}x the best peer's share of capacity, {where}",
                f"{spread(ratio, times)} of {best} ({percent(statistics.median(theirs))})",
                statistics.median(ratio) >= LEAST_BESIDE_PEERS,
            )
        )
    return verdicts


def _best_peer(systems: BySystem, setting: Setting) -> str | None:
    """Return the best of those that were measured in all rounds."""
    rounds = len(systems[OURS].shares_of_capacity(setting))
    shares = {
        name: each.shares_of_capacity(setting) for name, each in systems.items() if name != OURS
    }
    whole = [name for name, each in shares.items() if len(each) == rounds]
    return max(whole, key=lambda name: statistics.median(shares[name]), default=None)


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Divide round by round; a peer that answered nothing in time counts as 1 % of capacity."""
    return ratios(ours, [max(each, 0.01) for each in theirs])


def _mixed_verdicts(model: StandInTimes, ours: Measured) -> list[Verdict]:
    bursts, *_ = mixed_settings(model)
    if not ours.has(bursts):
        return []
    tight, patient = ours.in_time(bursts, 0), ours.in_time(bursts, 1)
    where = f"in time, bursts at {100 * bursts.share:.0f} %"
    return [
        Verdict(f"tight: >= {percent(LEAST_TIGHT)} {where}", percent(tight), tight >= LEAST_TIGHT),
        Verdict(
            f"patient: >= {percent(LEAST_PATIENT)} {where}",
            percent(patient),
            patient >= LEAST_PATIENT,
        ),
    ]


def overload_plot(systems: BySystem) -> str:
    """Draw goodput over load, at random arrivals and with the slow stand-in, as SVG."""
    return panels_chart(
        "Answers in time, as a share of each system's own capacity",
        [
            _panel(systems, SLOW.tight_s, f"deadline {FULL_BATCHES} full batches"),
            _panel(systems, LONG_S, f"deadline {LONG_S:g} s"),
        ],
        columns=2,
    )


def _panel(systems: BySystem, deadline_s: float, title: str) -> Panel:
    settings = [
        setting
        for setting in plain_settings(SLOW)
        if setting.arrivals == POISSON and setting.longest_s == deadline_s
    ]
    lines = []
    for name, measured in systems.items():
        have = [setting for setting in settings if measured.has(setting)]
        shares = [statistics.median(measured.shares_of_capacity(setting)) for setting in have]
        loads = [100 * setting.share for setting in have]
        lines.append(Series(name, loads, [100 * share for share in shares]))
    return Panel("in time, % of capacity", lines, title, "load, % of capacity")
