"""The worker of ``imageserve plan``: from a known name, a model's folder, or a measurement."""

import argparse
import re
import statistics
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from imageserve import measured
from imageserve.config.choices import (
    BATCH_SIZES,
    DEFAULT_BATCH_SIZE,
    DEFAULT_PRECISION,
    PRECISIONS,
    RUNTIMES,
)
from imageserve.config.reader import EnvText, image_size, number, parsed, read_file, whole
from imageserve.config.settings import Settings
from imageserve.errors import ImageserveError, ModelLoadError, SettingsError
from imageserve.models.catalog import KNOWN, is_model_path
from imageserve.models.entries import worker_entry
from imageserve.models.runtimes import runtime_of_file
from imageserve.models.source import find_source
from imageserve.plan import Worker
from imageserve.preparation import Preparation


@dataclass(frozen=True, slots=True)
class GivenWorker:
    """A worker, and how the chart names what it runs."""

    worker: Worker
    network: str
    runtime: str
    precision: str

    @property
    def preparation(self) -> Preparation:
        return self.worker.preparation


def given_worker(options: argparse.Namespace, environ: Mapping[str, str]) -> GivenWorker:
    """Return the worker that the options describe.

    Raises SettingsError, or ImageserveError where its speed is not known.
    """
    if options.model.endswith(".json"):
        return _from_bench(options)
    given = {"MODEL": options.model, "MODELS_FILE": "", "INPUT_SIZE": options.input_size or ""}
    entry = worker_entry(Settings.from_env({**environ, **given}))
    if entry.preparation is None:
        why = "does not say" if Path(entry.network).exists() else "is not here, so nobody knows"
        raise SettingsError(
            f"--model: {entry.network} {why} the size of its pictures: give --input-size"
        )
    network = entry.network
    runtime = options.runtime or _runtime_of(network)
    if network in KNOWN and runtime != RUNTIMES[0]:
        network = _exported(network)
    elif is_model_path(network):
        network = _exported(Path(network).resolve().name)
    bucket_ms, cores, source = _speed(options, entry.network, runtime)
    worker = Worker(entry.name, entry.preparation, bucket_ms, source, cores, options.gpu)
    return GivenWorker(worker, network, runtime, DEFAULT_PRECISION)


def _exported(name: str) -> str:
    """Return where a model could be in its pods. The chart takes no spaces there."""
    return "/models/" + re.sub(r"\s+", "-", name)


def _runtime_of(network: str) -> str:
    """Return what runs a model where nobody chooses; of a folder that is not here, the usual."""
    with suppress(ModelLoadError):
        return find_source(network, None).runtime
    own = runtime_of_file(network)
    return RUNTIMES[0] if own is None else own.name


def _speed(
    options: argparse.Namespace, network: str, runtime: str
) -> tuple[Mapping[int, float], int | None, str]:
    """Return times by batch size, the cores that it takes, and where they come from."""
    if options.worker_rate is not None:
        return _given_times(options), None, "given by --worker-rate"
    if options.batch_size is not None:
        raise SettingsError("--batch-size: goes with --worker-rate")
    known = measured.SPEEDS.get((network, runtime))
    if known is None or options.gpu:
        where = "on a GPU" if options.gpu else "here"
        raise ImageserveError(
            f"no speed of {network} in {runtime} {where} is known. On a machine like those of the "
            f"workers run: imageserve models bench {network} --json > bench.json; then give "
            "--model bench.json, or --worker-rate PICTURES_PER_SECOND"
        )
    times = {size: 1000 * size / speed for size, speed in known.per_second.items()}
    return times, known.cores, f"{runtime}, {known.cores} cores, no GPU; {known.source}"


def _given_times(options: argparse.Namespace) -> Mapping[int, float]:
    rate = parsed("--worker-rate", number(0.001, 1_000_000), EnvText(options.worker_rate))
    given = EnvText(options.batch_size or str(DEFAULT_BATCH_SIZE))
    size = parsed("--batch-size", whole(*BATCH_SIZES), given)
    return {size: 1000 * size / rate}


# -- what `models bench --json` printed -----------------------------------------------------------


def _from_bench(options: argparse.Namespace) -> GivenWorker:
    bench = read_file(Path(options.model), _bench, "--model")
    engine = _engine(options, bench["engines"])
    runtime, precision = engine.split()[0], engine.split()[-1]
    name, size = bench["model"], bench.get("input_size")
    if options.input_size is not None:
        size = parsed("--input-size", image_size, EnvText(options.input_size))
    if size is None:
        raise SettingsError(f"{options.model} has no input_size: give --input-size")
    if options.worker_rate is not None:
        times, source = _given_times(options), "given by --worker-rate"
    else:
        times, source = bench["engines"][engine], f"{options.model}: {engine}, {bench['machine']}"
    cores = re.match(r"\d+", bench["machine"])
    worker = Worker(
        name,
        Preparation((size[0], size[1])),
        times,
        source,
        int(cores[0]) if cores and not options.gpu else None,
        options.gpu,
    )
    network = name if name in KNOWN and runtime == RUNTIMES[0] else _exported(name)
    return GivenWorker(worker, network, runtime, precision)


def _engine(options: argparse.Namespace, engines: Mapping[str, Mapping[int, float]]) -> str:
    """Return the fastest engine of the runtime that is asked for, or of all."""
    chosen = [name for name in engines if options.runtime in (None, name.split()[0])]
    if not chosen:
        raise SettingsError(
            f"--runtime: {options.model} has {', '.join(engines)}, none of {options.runtime}"
        )
    return max(chosen, key=lambda name: max(n / ms for n, ms in engines[name].items()))


def _bench(content: Any) -> dict[str, Any]:
    """Read the JSON of `models bench`; the engines become times by batch size, ms."""
    try:
        engines = {
            str(name): {
                int(size): 1000 * int(size) / statistics.median(speeds)
                for size, speeds in engine["pictures_per_second"].items()
                if speeds and min(speeds) > 0
            }
            for name, engine in content["engines"].items()
        }
        engines = {name: times for name, times in engines.items() if times}
        size = content.get("input_size")
        found = {"model": str(content["model"]), "machine": str(content.get("machine", ""))}
        right = all(
            name.split()[0] in RUNTIMES and name.split()[-1] in PRECISIONS for name in engines
        )
    except (AttributeError, KeyError, TypeError, ValueError, IndexError):
        right, engines = False, {}
    if not right or not engines:
        raise ValueError("is not what `imageserve models bench MODEL --json` prints")
    return {**found, "engines": engines, "input_size": None if size is None else image_size(size)}
