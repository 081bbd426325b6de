"""The GPU benchmark's results: best batch sizes, shares of raw, tables. Pure."""

from collections.abc import Mapping
from dataclasses import dataclass

from bench.poisson import Latencies
from bench.report import Section, Verdict, number, percent
from bench.runtimes import Network, Runtime

LEAST_OFFLINE = 0.95
LEAST_POISSON = 0.70
MOST_P99_MS = 50.0
MOST_BATCH_MS = 0.4 * MOST_P99_MS
"""Under Poisson: a job may just miss one batch and must wait for it before its own runs."""

Speeds = Mapping[int, float]
"""Batch size -> the bare model's images/s, the faster way of calling."""


@dataclass(frozen=True, slots=True)
class Setup:
    """One thing that is measured."""

    runtime: Runtime
    network: Network
    precision: str

    def __str__(self) -> str:
        return f"{self.network.name}, {self.runtime.name}, {self.precision}"


@dataclass(frozen=True, slots=True)
class Served:
    """The throughput of a worker and Redis, in images/s."""

    raw: float
    offline: float
    offline_batch: int
    poisson: float
    poisson_batch: int
    outcome: Latencies | None
    """At the highest rate that passed; None where none did."""


def best_precisions(raw: Mapping[Setup, Speeds]) -> dict[Setup, Speeds]:
    """Return, for every runtime and network, the precision with the most images/s."""
    best: dict[tuple[str, str], Setup] = {}
    for setup, speeds in raw.items():
        key = (setup.runtime.name, setup.network.name)
        if key not in best or max(speeds.values()) > max(raw[best[key]].values()):
            best[key] = setup
    return {setup: raw[setup] for setup in best.values()}


def fastest_batch(speeds: Speeds) -> int:
    """Return the smallest batch that is within 1 % of the most images/s."""
    enough = 0.99 * max(speeds.values())
    return min(size for size, speed in speeds.items() if speed >= enough)


def batch_within(speeds: Speeds, most_ms: float) -> int:
    """Return the fastest batch size that takes at most ``most_ms``, else the smallest one.

    A larger batch that is no faster only makes jobs wait.
    """
    quick = {size: speed for size, speed in speeds.items() if 1000 * size / speed <= most_ms}
    return fastest_batch(quick) if quick else min(speeds)


def raw_section(raw: Mapping[Setup, Speeds]) -> Section:
    sizes = sorted({size for speeds in raw.values() for size in speeds})
    rows = [
        [str(setup), *(number(speeds[size]) if size in speeds else "-" for size in sizes)]
        for setup, speeds in raw.items()
    ]
    return Section(
        "The bare model, images/s by batch size",
        ("network, runtime, precision", *map(str, sizes)),
        rows,
        [],
        ["The faster of the ways to call it, on ready uint8 arrays. -: not enough memory."],
    )


def served_section(served: Mapping[Setup, Served], *, judged: bool) -> Section:
    """Write the shares of raw; the targets are for a GPU."""
    rows = [
        [
            str(setup),
            number(each.raw),
            f"{number(each.offline)} ({each.offline_batch})",
            percent(each.offline / each.raw),
            f"{number(each.poisson)} ({each.poisson_batch})",
            percent(each.poisson / each.raw),
            _tail(each.outcome),
        ]
        for setup, each in served.items()
    ]
    return Section(
        "Through a worker and Redis on the same machine",
        (
            "network, runtime, precision",
            "raw, images/s",
            "offline (batch)",
            "of raw",
            "Poisson (batch)",
            "of raw",
            "p50 / p99, ms",
        ),
        rows,
        _verdicts(served) if judged else [],
        [
            "Raw: the bare model at its best batch size. Offline: a full queue, from the first "
            f"claim to the last result. Poisson: the highest rate with p99 <= {MOST_P99_MS:g} ms, "
            "from when a job is due to when its result is heard."
        ],
    )


def _tail(outcome: Latencies | None) -> str:
    return "-" if outcome is None else f"{number(outcome.p50_ms)} / {number(outcome.p99_ms)}"


def _verdicts(served: Mapping[Setup, Served]) -> list[Verdict]:
    verdicts = []
    for setup, each in served.items():
        for what, speed, least in (
            ("offline", each.offline, LEAST_OFFLINE),
            (f"Poisson, p99 <= {MOST_P99_MS:g} ms", each.poisson, LEAST_POISSON),
        ):
            share = speed / each.raw
            target = f">= {percent(least)} of raw, {what}: {setup}"
            verdicts.append(Verdict(target, percent(share), share >= least))
    return verdicts
