"""The tables and targets of overload. Pure."""

import statistics
from collections.abc import Mapping, Sequence

from bench.open_loop import BURST_FACTOR, BURST_S, QUIET_S
from bench.overload import (
    CLIENTS,
    FAST,
    FULL_BATCHES,
    SLOW,
    Measured,
    Setting,
    StandInTimes,
    mixed_settings,
    plain_settings,
    target_setting,
)
from bench.report import Section, Verdict, number, percent, ratios, spread, times

LEAST_OF_CAPACITY = 0.95
LEAST_TIGHT = 0.95
LEAST_PATIENT = 0.999
LEAST_BESIDE_PEERS = 1.3

BySystem = Mapping[str, Measured]
"""The first one is this system."""


def overload_sections(
    part: str, measured: Mapping[StandInTimes, BySystem], failed: Mapping[str, str] | None = None
) -> list[Section]:
    """Return two tables for each stand-in; the targets stand on the slow one.

    ``failed`` says why a system is missing.
    """
    notes = [f"No numbers of {who}: {why}." for who, why in (failed or {}).items()]
    notes += _web_rates(measured[FAST]) if measured.get(FAST) else []
    return [
        section
        for model, systems in measured.items()
        for section in (_plain(part, model, systems, notes), _mixed(part, model, systems))
    ]


def _web_rates(systems: BySystem) -> list[str]:
    """Say how far the slow model is below what the web processes can do."""
    rates = {name: statistics.median(each.capacities) for name, each in systems.items()}
    told = ", ".join(f"{name} {number(SLOW.per_second / rate)}" for name, rate in rates.items())
    return [f"What the slow model does, as a part of the capacity with the fast one: {told}."]


def _plain(part: str, model: StandInTimes, systems: BySystem, notes: Sequence[str]) -> Section:
    rows = [["capacity", "", "", *(spread(each.capacities) for each in systems.values())]]
    for setting in plain_settings(model):
        if any(setting in each.runs for each in systems.values()):
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
            f"{QUIET_S:g} s.",
            *notes,
        ],
    )


def _mixed(part: str, model: StandInTimes, systems: BySystem) -> Section:
    rows = []
    for setting in mixed_settings(model):
        for index, kind in enumerate(setting.kinds):
            cells = [percent(_share(each, setting, index)) for each in systems.values()]
            who = f"{percent(kind.share)}: {kind.deadline_s:.2g} s"
            rows.append([*_described(setting)[:2], who, *cells])
        cells = [_goodput(each, setting) for each in systems.values()]
        rows.append([*_described(setting)[:2], "goodput of all", *cells])
    return Section(
        f"({part}) Tight clients among patient ones: {model.name}",
        ("arrivals", "load", "clients: deadline", *systems),
        rows,
        _mixed_verdicts(model, next(iter(systems.values()))) if model is SLOW else [],
        ["The share of each kind of clients that is answered in time."],
    )


def _described(setting: Setting) -> list[str]:
    return [setting.arrivals, f"{100 * setting.share:.0f} %", f"{setting.longest_s:.2g} s"]


def _goodput(measured: Measured, setting: Setting) -> str:
    if setting not in measured.runs:
        return ""
    share = statistics.median(measured.shares_of_capacity(setting))
    return f"{spread(measured.goodputs(setting))}, {percent(share)}"


def _share(measured: Measured, setting: Setting, kind: int) -> float:
    """The share of one kind's requests that were answered in time, over all rounds."""
    outcomes = [each[kind] for each in measured.runs[setting]]
    offered = sum(each.offered for each in outcomes)
    return sum(each.in_time for each in outcomes) / offered if offered else 1.0


def _plain_verdicts(model: StandInTimes, systems: BySystem) -> list[Verdict]:
    setting = target_setting(model)
    where = f"{100 * setting.share:.0f} %, {FULL_BATCHES} full batches"
    ours, *_ = (each.shares_of_capacity(setting) for each in systems.values())
    share = statistics.median(ours)
    least = f">= {percent(LEAST_OF_CAPACITY)} of capacity in time, {where}"
    verdicts = [Verdict(least, percent(share), share >= LEAST_OF_CAPACITY)]
    best = _best_peer(systems, setting)
    if best is not None:
        ratio = _ratios(ours, systems[best].shares_of_capacity(setting))
        verdicts.append(
            Verdict(
                f">= {LEAST_BESIDE_PEERS:g}x the best peer's share of capacity, {where}",
                f"{spread(ratio, times)} of {best}",
                statistics.median(ratio) >= LEAST_BESIDE_PEERS,
            )
        )
    return verdicts


def _best_peer(systems: BySystem, setting: Setting) -> str | None:
    _, *peers = systems
    if not peers:
        return None
    return max(peers, key=lambda name: statistics.median(systems[name].shares_of_capacity(setting)))


def _ratios(ours: Sequence[float], theirs: Sequence[float]) -> list[float]:
    """Divide round by round; a peer that answered nothing in time counts as 1 % of capacity."""
    return ratios(ours, [max(each, 0.01) for each in theirs])


def _mixed_verdicts(model: StandInTimes, ours: Measured) -> list[Verdict]:
    bursts, *_ = mixed_settings(model)
    tight, patient = _share(ours, bursts, 0), _share(ours, bursts, 1)
    where = f"in time, bursts at {100 * bursts.share:.0f} %"
    return [
        Verdict(f"tight: >= {percent(LEAST_TIGHT)} {where}", percent(tight), tight >= LEAST_TIGHT),
        Verdict(
            f"patient: >= {percent(LEAST_PATIENT)} {where}",
            percent(patient),
            patient >= LEAST_PATIENT,
        ),
    ]
