"""Part (c): a worker on a backlog, beside the bare model, on every runtime that is installed."""

import statistics
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from functools import partial
from typing import Any

from bench.backlog import Backlog, check_full
from bench.kept import Kept, Shown, key
from bench.plan import Plan, say
from bench.processes import Bed
from bench.raw import Raw
from bench.report import Section, Verdict, number, percent, ratios, spread, times
from bench.runtimes import NETWORKS, RUNTIMES, Runtime, installed, models_of
from bench.stacks import QUEUE, start_redis, start_worker, wait_for_workers

BATCH_SIZE = 32
MEASURED = ("mobilenet_v2", "resnet50")
LEAST_SHARE = 0.95
LEAST_ONNX_GAIN = 1.4
"""ONNX Runtime over TensorFlow on ResNet50, both behind a worker."""
LEAST_BATCHES = 4
MOST_BATCHES = 100
LEAST_ROUNDS = 3
MOST_S = 50.0
WARM_S = 600.0
"""JAX compiles each batch size: ten seconds each, more on a small machine."""


@dataclass
class Beside:
    """A worker and the bare model, round by round, in images per second."""

    worker: list[float] = field(default_factory=list)
    raw: dict[str, list[float]] = field(default_factory=dict)

    @property
    def best_raw(self) -> list[float]:
        """The rounds of the faster way to call the model."""
        return max(self.raw.values(), key=statistics.median)

    @property
    def shares(self) -> list[float]:
        return ratios(self.worker, self.best_raw)

    def latest(self) -> str:
        raw = ", ".join(f"{way} {number(each[-1])}" for way, each in self.raw.items())
        return f"worker {number(self.worker[-1])} images/s, bare model {raw}"


Measured = Mapping[tuple[str, str], Beside]
"""By network and runtime."""


def raw_section(kept: Kept, plan: Plan, part: str) -> Shown:
    """Measure each network on each runtime; every one is kept on its own."""
    plan = plan.in_small_slices
    measured, pieces = {}, []
    for network in MEASURED[:1] if plan.is_quick else MEASURED:
        for runtime in installed():
            name = key(part, network, runtime.name)
            piece = kept.piece(name, plan, partial(_beside_raw, plan, network, runtime))
            measured[network, runtime.name] = from_json(piece.value)
            pieces.append(piece.circumstances)
    return Shown(section(measured, plan.seconds), pieces)


def from_json(told: Mapping[str, Any]) -> Beside:
    return Beside(told["worker"], told["raw"])


def section(measured: Measured, seconds: float) -> Section:
    """Write the table, and compare with the targets."""
    missing = [runtime.name for runtime in RUNTIMES if not runtime.is_installed]
    rounds = sorted({len(each.worker) for each in measured.values()})
    return Section(
        "(c) One worker on a full queue, beside the bare model",
        ("network, runtime", "the plain way", "the fast way", "worker", "worker / best"),
        [_row(network, runtime, beside) for (network, runtime), beside in measured.items()],
        [*_share_verdicts(measured), *_onnx_verdict(measured)],
        [
            f"Images/s in batches of {BATCH_SIZE}, random weights, 224 x 224; the bare model runs "
            "on ready uint8 arrays in a process of its own, in turns with the worker, in "
            f"{' or '.join(map(str, rounds))} round(s) of {seconds:g} s. Plain and fast: "
            + ", ".join(f"{' and '.join(each.ways)} ({each.name})" for each in installed())
            + "."
            + (f" Not installed here: {', '.join(missing)}." if missing else "")
        ],
    )


def _row(network: str, runtime: str, beside: Beside) -> list[str]:
    *plain, fast = beside.raw.values()
    return [
        f"{network}, {runtime}",
        spread(plain[0]) if plain else "",
        spread(fast),
        spread(beside.worker),
        spread(beside.shares, percent),
    ]


def _share_verdicts(measured: Measured) -> list[Verdict]:
    verdicts = []
    for (network, runtime), beside in measured.items():
        share = statistics.median(beside.shares)
        target = f">= {percent(LEAST_SHARE)} of raw, {network}, {runtime}"
        verdicts.append(Verdict(target, percent(share), share >= LEAST_SHARE))
    return verdicts


def _onnx_verdict(measured: Measured) -> list[Verdict]:
    onnx, tensorflow = (measured.get(("resnet50", name)) for name in ("onnx", "tensorflow"))
    if onnx is None or tensorflow is None:
        return []
    gain = statistics.median(onnx.worker) / statistics.median(tensorflow.worker)
    target = f"ONNX >= {LEAST_ONNX_GAIN:g}x TensorFlow, resnet50"
    return [Verdict(target, times(gain), gain >= LEAST_ONNX_GAIN)]


def _beside_raw(plan: Plan, network: str, runtime: Runtime) -> dict[str, Any]:
    with Bed() as bed:
        say(f"starting a worker and the bare model with {network} on {runtime.name}")
        server = start_redis(bed, "redis")
        models = models_of(bed, runtime, NETWORKS[network])
        worker = start_worker(bed, "worker", server, models.worker, runtime.settings)
        raw = Raw(bed, runtime, models.raw)
        wait_for_workers(server, QUEUE, worker, timeout_s=WARM_S)
        raw.wait_ready()
        backlog = Backlog(server, QUEUE, network, 224)
        batches = _batches(plan, raw)
        beside = Beside()
        end = time.monotonic() + MOST_S
        for number_of_round in range(1, plan.rounds + 1):
            _one_round(beside, raw, backlog, batches, worker_first=number_of_round % 2 == 0)
            say(f"round {number_of_round}: {network}, {batches} batches: {beside.latest()}")
            if number_of_round >= LEAST_ROUNDS and time.monotonic() > end:
                break  # On a busy machine, less is measured instead of longer.
        return asdict(beside)


def _batches(plan: Plan, raw: Raw) -> int:
    fastest_s = min(raw.seconds(BATCH_SIZE, 2).values()) / 2
    return min(MOST_BATCHES, max(LEAST_BATCHES, round(plan.seconds / fastest_s)))


def _one_round(
    beside: Beside, raw: Raw, backlog: Backlog, batches: int, *, worker_first: bool
) -> None:
    def worker() -> None:
        drained = backlog.drain(batches * BATCH_SIZE)
        check_full(drained, BATCH_SIZE)
        beside.worker.append(drained.per_second)

    if worker_first:
        worker()
    for way, seconds in raw.seconds(BATCH_SIZE, batches).items():
        beside.raw.setdefault(way, []).append(batches * BATCH_SIZE / seconds)
    if not worker_first:
        worker()
