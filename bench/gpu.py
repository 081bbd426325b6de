"""``python -m bench.gpu``: what a GPU can do, and how much of it a worker gets out of it.

For every runtime, network and precision: the bare model's images/s by batch size; then, at the best
precision, a worker on a full queue (offline), and under jobs that come at random (Poisson) the
highest rate at which 99 of 100 are answered within 50 ms. Without a GPU it says so and exits 0.
"""

import argparse
import os
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from glob import glob

from bench.backlog import Backlog
from bench.gpu_report import (
    MOST_BATCH_MS,
    MOST_P99_MS,
    Served,
    Setup,
    Speeds,
    batch_within,
    best_precisions,
    fastest_batch,
    raw_section,
    served_section,
)
from bench.machine import describe
from bench.plan import say
from bench.poisson import Latencies, Senders, highest_rate
from bench.processes import Bed, environment, python
from bench.raw import Raw, RawFailed
from bench.report import number, percent, summary
from bench.runtimes import NETWORKS, RUNTIMES, Models, Network, Runtime, installed, models_of
from bench.stacks import QUEUE, Redis, start_redis, start_worker, wait_for_workers

DEVICES = ("/dev/nvidia[0-9]*", "/dev/kfd", "/dev/dxg")
"""Where Linux shows GPUs: NVIDIA's, AMD's, those of a Windows around it."""

MOST_IMAGES = 20_000
"""Most pictures of one backlog: 3 GB of pixels."""

WARM_S = 900.0
SHARING = {"TF_FORCE_GPU_ALLOW_GROWTH": "true", "XLA_PYTHON_CLIENT_PREALLOCATE": "false"}
"""Otherwise a framework takes all of the device's memory, and a second process gets none."""

HIDDEN = {"CUDA_VISIBLE_DEVICES": "-1", "HIP_VISIBLE_DEVICES": "-1", "JAX_PLATFORMS": "cpu"}


@dataclass(frozen=True, slots=True)
class GpuPlan:
    """What is measured."""

    runtimes: Sequence[Runtime]
    networks: Sequence[Network]
    precisions: Sequence[str]
    batch_sizes: Sequence[int]
    seconds: float
    steps: int
    """Halvings in the search for the highest rate."""
    senders: int
    settings: Mapping[str, str] = field(default_factory=dict)
    """Variables of every process: which device it sees."""


def main(arguments: Sequence[str]) -> int:
    options = _parser().parse_args(arguments)
    on_cpu = options.device == "cpu"
    if not on_cpu and not any(glob(pattern) for pattern in DEVICES):
        print(
            f"bench: there is no GPU here (no {', '.join(DEVICES)}), so there is nothing to "
            "measure. --device cpu takes the same steps on the processor."
        )
        return 0
    plan = _plan(options)
    if not plan.runtimes:
        print("bench: no runtime that is installed here sees the GPU: nothing to measure")
        return 0
    say(describe())
    raw = _raw(plan)
    served = {setup: _served(plan, setup, speeds) for setup, speeds in best_precisions(raw).items()}
    sections = [raw_section(raw), served_section(served, judged=not on_cpu)]
    targets = [] if on_cpu else [summary(sections)]
    print("\n\n".join([f"Machine: {describe()}.", *targets, *map(str, sections)]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench.gpu",
        description="Measure the bare model on a GPU by batch size and precision, then a worker "
        "and Redis on the same machine. Without a GPU it says so and exits 0.",
    )
    names = [runtime.name for runtime in RUNTIMES]
    parser.add_argument("--runtime", action="append", choices=names, help="default: all there are")
    parser.add_argument(
        "--network", action="append", choices=list(NETWORKS), help="default: resnet50"
    )
    parser.add_argument(
        "--precision",
        action="append",
        choices=["float32", "bfloat16", "float16"],
        help="default: float32 and bfloat16",
    )
    parser.add_argument(
        "--batch-sizes",
        type=_sizes,
        default=[1, 8, 16, 32, 64, 128, 256],
        metavar="N,N,...",
        help="default 1,8,16,32,64,128,256",
    )
    parser.add_argument("--seconds", type=float, default=5.0, help="of one measurement, default 5")
    parser.add_argument("--steps", type=int, default=5, help="of the search for the highest rate")
    parser.add_argument(
        "--senders",
        type=int,
        default=max(1, min(8, (os.cpu_count() or 1) // 2)),
        help="processes that send jobs, default half the cores, at most 8",
    )
    parser.add_argument("--device", choices=["gpu", "cpu"], default="gpu")
    return parser


def _sizes(text: str) -> list[int]:
    sizes = sorted({int(size) for size in text.split(",")})
    if sizes[0] < 1 or sizes[-1] > 1024:
        raise ValueError
    return sizes


def _plan(options: argparse.Namespace) -> GpuPlan:
    on_cpu = options.device == "cpu"
    chosen = options.runtime or [runtime.name for runtime in RUNTIMES]
    runtimes = [
        runtime
        for runtime in installed()
        if runtime.name in chosen and (on_cpu or _sees_gpu(runtime))
    ]
    return GpuPlan(
        runtimes,
        [NETWORKS[name] for name in options.network or ["resnet50"]],
        options.precision or ["float32", "bfloat16"],
        options.batch_sizes,
        options.seconds,
        options.steps,
        options.senders,
        HIDDEN if on_cpu else SHARING,
    )


_PROBES = {
    "tensorflow": "import tensorflow as tf; n = len(tf.config.list_physical_devices('GPU'))",
    "jax": "import jax; n = sum(d.platform == 'gpu' for d in jax.devices())",
    "torch": "import torch; n = torch.cuda.device_count()",
    "onnx": "import onnxruntime as o; n = 'CUDAExecutionProvider' in o.get_available_providers()",
}


def _sees_gpu(runtime: Runtime) -> bool:
    """Ask in a child process: a framework that has seen the device keeps it."""
    said = subprocess.run(
        python("-c", f"{_PROBES[runtime.name]}; print(int(n))"),
        env=environment(SHARING),
        capture_output=True,
        text=True,
        check=False,
    )
    sees = said.returncode == 0 and int(said.stdout.split()[-1]) > 0
    if not sees:
        say(f"{runtime.name} is installed and sees no GPU")
    return sees


# -- the bare model -------------------------------------------------------------------------------


def _raw(plan: GpuPlan) -> dict[Setup, Speeds]:
    measured: dict[Setup, Speeds] = {}
    for runtime in plan.runtimes:
        for network in plan.networks:
            # The bundled network was saved in float32.
            known = runtime.precisions if network.file is None else ("float32",)
            for precision in [each for each in plan.precisions if each in known]:
                setup = Setup(runtime, network, precision)
                measured[setup] = _raw_speeds(plan, setup)
    return {setup: speeds for setup, speeds in measured.items() if speeds}


def _raw_speeds(plan: GpuPlan, setup: Setup) -> Speeds:
    say(f"the bare model: {setup}")
    speeds: dict[int, float] = {}
    with Bed() as bed:
        models = models_of(bed, setup.runtime, setup.network)
        raw = Raw(bed, setup.runtime, models.raw, precision=setup.precision, settings=plan.settings)
        try:
            raw.wait_ready()
            for size in plan.batch_sizes:
                speeds[size] = _images_per_second(raw, size, plan.seconds)
                say(f"batches of {size}: {number(speeds[size])} images/s")
        except RawFailed as error:
            say(f"no larger batches, and none of this size: {str(error).splitlines()[-1]}")
    return speeds


def _images_per_second(raw: Raw, size: int, seconds: float) -> float:
    once_s = min(raw.seconds(size, 3).values()) / 3
    batches = max(3, round(seconds / once_s))
    return size * batches / min(raw.seconds(size, batches).values())


# -- a worker and Redis ---------------------------------------------------------------------------


def _served(plan: GpuPlan, setup: Setup, speeds: Speeds) -> Served:
    raw = max(speeds.values())
    offline_batch, poisson_batch = fastest_batch(speeds), batch_within(speeds, MOST_BATCH_MS)
    offline = _behind_worker(plan, setup, offline_batch, _offline(plan, setup, raw))
    found: list[Latencies] = []
    poisson = _behind_worker(
        plan, setup, poisson_batch, _poisson(plan, setup, min(raw, offline), found)
    )
    return Served(raw, offline, offline_batch, poisson, poisson_batch, found[-1] if found else None)


def _behind_worker(
    plan: GpuPlan, setup: Setup, batch_size: int, measure: Callable[[Bed, Redis], float]
) -> float:
    with Bed() as bed:
        say(f"a worker: {setup}, batches of {batch_size}")
        server = start_redis(bed, "redis")
        models: Models = models_of(bed, setup.runtime, setup.network)
        settings = {
            **plan.settings,
            **setup.runtime.settings,
            "PRECISION": setup.precision,
            "BATCH_SIZE": str(batch_size),
        }
        worker = start_worker(bed, "worker", server, models.worker, settings)
        wait_for_workers(server, QUEUE, worker, timeout_s=WARM_S)
        return measure(bed, server)


def _offline(plan: GpuPlan, setup: Setup, raw: float) -> Callable[[Bed, Redis], float]:
    def measure(bed: Bed, server: Redis) -> float:
        del bed
        backlog = Backlog(server, QUEUE, setup.network.name, setup.network.size)
        backlog.drain(64)  # Warm up first.
        speed = backlog.drain(min(MOST_IMAGES, max(64, round(raw * plan.seconds)))).per_second
        say(f"offline: {number(speed)} images/s, {percent(speed / raw)} of raw")
        return speed

    return measure


def _poisson(
    plan: GpuPlan, setup: Setup, most: float, found: list[Latencies]
) -> Callable[[Bed, Redis], float]:
    """``found`` gets the outcome at each rate that passed, the highest one last."""

    def measure(bed: Bed, server: Redis) -> float:
        place = (server.url, QUEUE, setup.network.name, str(setup.network.size))
        senders = Senders(bed, plan.senders, *place)
        senders.send(max(1.0, most / 10), min(1.0, plan.seconds))

        def passes(rate: float) -> bool:
            outcome = senders.send(rate, plan.seconds)
            good = outcome.p99_ms <= MOST_P99_MS
            say(
                f"{number(rate)} images/s: p50 {number(outcome.p50_ms)} ms, "
                f"p99 {number(outcome.p99_ms)} ms{'' if good else ': too long'}"
            )
            if good:
                found.append(outcome)
            return good

        return highest_rate(passes, most, plan.steps)

    return measure


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
