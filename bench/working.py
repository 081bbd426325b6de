"""Parts (c) and (d): workers on a backlog, beside the bare model and beside a straight line."""

import json
import statistics
import subprocess
import time
from collections import defaultdict
from dataclasses import dataclass, field

from bench.backlog import Backlog, Drained
from bench.plan import Plan, say
from bench.processes import Bed, Process, python
from bench.report import Section, Verdict, number, percent, ratios, spread
from bench.stacks import QUEUE, Redis, start_redis, start_worker, wait_for_workers

BATCH_SIZE = 32

# -- (c) ------------------------------------------------------------------------------------------

NETWORKS = ("mobilenet_v2", "resnet50")
LEAST_SHARE = 0.95
LEAST_BATCHES = 4
MOST_BATCHES = 100
LEAST_ROUNDS = 3
MOST_S = 80.0


@dataclass
class Beside:
    """A worker and the bare model, round by round, in images per second."""

    worker: list[float] = field(default_factory=list)
    raw: dict[str, list[float]] = field(default_factory=lambda: defaultdict(list))

    @property
    def best_raw(self) -> list[float]:
        """The rounds of the way to call that was faster on the whole."""
        return max(self.raw.values(), key=statistics.median)

    def latest(self) -> str:
        raw = ", ".join(f"{way} {number(each[-1])}" for way, each in self.raw.items())
        return f"worker {number(self.worker[-1])} images/s, bare model {raw}"


class _Raw:
    """The bare model in its process."""

    def __init__(self, bed: Bed, network: str) -> None:
        self._process: subprocess.Popen[str] = bed.start_talking(
            f"raw-{network}", python("-m", "bench.raw_model", network, str(BATCH_SIZE))
        )

    def wait_ready(self) -> None:
        if self._read() != "ready":
            raise SystemExit("bench: the raw model does not start")

    def seconds(self, batches: int) -> dict[str, float]:
        assert self._process.stdin is not None
        print(batches, file=self._process.stdin, flush=True)
        seconds: dict[str, float] = json.loads(self._read())
        return seconds

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()


def raw_section(plan: Plan) -> Section:
    networks = NETWORKS[:1] if plan.is_quick else NETWORKS
    measured = {network: _beside_raw(plan.in_small_slices, network) for network in networks}
    rows = [
        [
            network,
            *(spread(beside.raw[way]) for way in ("predict_on_batch", "tf.function")),
            spread(beside.worker),
            spread(ratios(beside.worker, beside.best_raw), percent),
        ]
        for network, beside in measured.items()
    ]
    return Section(
        "(c) One worker on a full queue, beside the bare model",
        ("network", "predict_on_batch", "tf.function", "worker", "worker / best"),
        rows,
        [_share_verdict(network, beside) for network, beside in measured.items()],
        [
            f"Images/s in batches of {BATCH_SIZE}, random weights, 224 x 224; the bare model runs "
            "on ready uint8 arrays in a process of its own, in turns with the worker, in "
            f"{' and '.join(str(len(each.worker)) for each in measured.values())} round(s) of "
            f"{plan.in_small_slices.seconds:g} s."
        ],
    )


def _share_verdict(network: str, beside: Beside) -> Verdict:
    share = statistics.median(ratios(beside.worker, beside.best_raw))
    return Verdict(
        f">= {percent(LEAST_SHARE)} of raw, {network}", percent(share), share >= LEAST_SHARE
    )


def _beside_raw(plan: Plan, network: str) -> Beside:
    with Bed() as bed:
        say(f"starting a worker and the bare model with {network}")
        server = start_redis(bed, "redis")
        worker = start_worker(bed, "worker", server, network)
        raw = _Raw(bed, network)
        wait_for_workers(server, QUEUE, worker)
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
        return beside


def _batches(plan: Plan, raw: _Raw) -> int:
    fastest_s = min(raw.seconds(2).values()) / 2
    return min(MOST_BATCHES, max(LEAST_BATCHES, round(plan.seconds / fastest_s)))


def _one_round(
    beside: Beside, raw: _Raw, backlog: Backlog, batches: int, *, worker_first: bool
) -> None:
    def worker() -> None:
        drained = backlog.drain(batches * BATCH_SIZE)
        _check_full(drained)
        beside.worker.append(drained.per_second)

    if worker_first:
        worker()
    for way, seconds in raw.seconds(batches).items():
        beside.raw[way].append(batches * BATCH_SIZE / seconds)
    if not worker_first:
        worker()


def _check_full(drained: Drained) -> None:
    if drained.images != drained.batches * BATCH_SIZE:
        say(f"{drained.images} images took {drained.batches} batches: not all were full")


# -- (d) ------------------------------------------------------------------------------------------

WORKERS = (1, 2, 4, 8)
LEAST_LINEAR = 0.9
BATCH_MS = 400
SIZE = 32
MODEL = f"stand-in:batch_ms={BATCH_MS},image_ms=0,size={SIZE}"


def scaling_section(plan: Plan) -> Section:
    measured = _by_workers(plan)
    one = measured[1]
    rows = [
        [
            str(n),
            spread(each),
            spread(ratios(each, [n * rate for rate in one]), percent),
            percent(statistics.median(each) / (n * BATCH_SIZE * 1000 / BATCH_MS)),
        ]
        for n, each in measured.items()
    ]
    most = max(WORKERS)
    share = statistics.median(ratios(measured[most], [most * rate for rate in one]))
    verdict = Verdict(
        f">= {percent(LEAST_LINEAR)} of linear at {most} workers",
        percent(share),
        share >= LEAST_LINEAR,
    )
    return Section(
        "(d) More workers",
        ("workers", "images/s", "of linear", "of the stand-in's limit"),
        rows,
        [verdict],
        [
            f"A stand-in that sleeps {BATCH_MS} ms per batch of {BATCH_SIZE}, a full queue of "
            f"{SIZE} x {SIZE} pictures, from the first claim to the last result. Linear: so many "
            "times what one worker did in that round."
        ],
    )


def _by_workers(plan: Plan) -> dict[int, list[float]]:
    batches = max(5, round(plan.seconds * 1000 / BATCH_MS))
    measured: dict[int, list[float]] = {n: [] for n in WORKERS}
    with Bed() as bed:
        server = start_redis(bed, "redis")
        backlogs = _start_groups(bed, server)
        for number_of_round in range(1, plan.rounds + 1):
            for n, backlog in backlogs.items():
                drained = backlog.drain(n * batches * BATCH_SIZE)
                _check_full(drained)
                measured[n].append(drained.per_second)
                say(f"round {number_of_round}: {n} workers: {number(drained.per_second)} images/s")
    return measured


def _start_groups(bed: Bed, server: Redis) -> dict[int, Backlog]:
    """Start a group of workers per number, each on a queue of its own; idle ones cost nothing."""
    say(f"starting {sum(WORKERS)} workers")
    groups: dict[int, list[Process]] = {}
    for n in WORKERS:
        settings = {"IMAGE_QUEUE": f"queue-{n}"}
        groups[n] = [
            start_worker(bed, f"worker-{n}-{i}", server, MODEL, settings) for i in range(n)
        ]
    for n, workers in groups.items():
        wait_for_workers(server, f"queue-{n}", *workers)
    return {n: Backlog(server, f"queue-{n}", "stand-in", SIZE) for n in groups}
