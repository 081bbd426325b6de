"""``imageserve models bench``: pictures a second by batch size, precision and runtime."""

import argparse
import json
import platform
import re
import statistics
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path

from imageserve.cli.models_load import default_runtime, load
from imageserve.config.choices import PRECISIONS
from imageserve.config.settings import Settings
from imageserve.errors import ModelLoadError, SettingsError
from imageserve.models.comparison import BenchPlan, Speeds, measure
from imageserve.models.entries import engine_of
from imageserve.models.export import SOURCE_BACKEND, export, load_exported
from imageserve.models.model import ScoringModel
from imageserve.models.runtimes import (
    RUNTIMES,
    SOURCE_RUNTIME,
    Engine,
    Runtime,
    usable_processors,
)

BEGIN = "<!-- models bench: begin -->"
END = "<!-- models bench: end -->"


def bench(options: argparse.Namespace, settings: Settings) -> int:
    """Measure the model of these settings and print the result."""
    sizes = _sizes(options.batch_sizes)
    around = _around_markers(options.markdown) if options.markdown else None
    models = _models(
        settings,
        _some_of("--runtimes", options.runtimes, RUNTIMES),
        _some_of("--precisions", options.precisions, PRECISIONS),
    )
    first = next(iter(models.values()))
    plan = BenchPlan(first.preparation.shape, sizes, options.rounds, options.seconds)
    calls = {name: model.scores for name, model in models.items()}
    speeds = measure(calls, plan, lambda text: print(text, file=sys.stderr, flush=True))
    text = "\n".join(_table(first.name, speeds, sizes))
    print(_as_json(first, speeds) if options.json else text)
    if around is not None:
        options.markdown.write_text(f"\n\n{text}\n\n".join(around), encoding="utf-8")
    return 0


def _models(
    settings: Settings, runtimes: Sequence[str], precisions: Sequence[str]
) -> dict[str, ScoringModel]:
    """Load the model for each runtime and precision; the keys are the columns of the table."""
    own = default_runtime(settings)
    if own is not SOURCE_RUNTIME:
        return _loaded(settings, own, precisions)
    models: dict[str, ScoringModel] = {}
    for runtime in (RUNTIMES[name] for name in RUNTIMES if name in runtimes):
        if runtime.write:
            models |= _exported(settings, runtime, models, precisions)
        else:
            models |= _loaded(settings, runtime, precisions)
    return models


def _loaded(
    settings: Settings, runtime: Runtime, precisions: Sequence[str]
) -> dict[str, ScoringModel]:
    return {
        runtime.column(engine): load(settings, runtime=runtime.name, precision=engine.precision)
        for engine in _engines(runtime, engine_of(settings), precisions)
    }


def _exported(
    settings: Settings,
    runtime: Runtime,
    others: Mapping[str, ScoringModel],
    precisions: Sequence[str],
) -> dict[str, ScoringModel]:
    """Export the model and load it again, once for each precision."""
    if settings.keras_backend != SOURCE_BACKEND:
        raise ModelLoadError(
            "only TensorFlow can export the model: leave KERAS_BACKEND out, or take --runtimes "
            f"{SOURCE_RUNTIME.name}"
        )
    source = others.get(SOURCE_RUNTIME.column(Engine(backend=SOURCE_BACKEND)))
    source = source or load(settings, runtime=SOURCE_RUNTIME.name, precision="float32", xla=False)
    with tempfile.TemporaryDirectory(prefix="imageserve-") as folder:
        export(source, runtime, Path(folder))
        return {
            runtime.column(engine): load_exported(Path(folder), runtime, engine)
            for engine in _engines(runtime, Engine(), precisions)
        }


def _engines(runtime: Runtime, engine: Engine, precisions: Sequence[str]) -> Iterator[Engine]:
    """Yield the engine in each precision that the runtime has here, in float32 if it has none."""
    here = runtime.module(engine).precisions()
    for precision in [each for each in precisions if each in here] or ["float32"]:
        yield replace(engine, precision=precision)


def _table(name: str, speeds: Speeds, sizes: Sequence[int]) -> Iterator[str]:
    """Yield a Markdown table of medians, and below it the best batch sizes."""
    engines = list(speeds.rounds)
    yield f"`{name}`, pictures a second, {machine()}:"
    yield ""
    ratios = [f"{engine} / {engines[0]}" for engine in engines[1:]]
    yield f"| batch size | {' | '.join([*engines, *ratios])} |"
    yield "| ---: |" + " ---: |" * (2 * len(engines) - 1)
    for size in sizes:
        cells = [_number(speeds.median(engine, size)) for engine in engines]
        yield f"| {size} | {' | '.join([*cells, *_ratios(speeds, engines, size)])} |"
    yield ""
    for engine in engines:
        yield _verdict(engine, speeds)


def _ratios(speeds: Speeds, engines: Sequence[str], size: int) -> list[str]:
    found = [speeds.ratios(engine, engines[0], size) for engine in engines[1:]]
    return [
        f"{statistics.median(ratios):.2f} ({min(ratios):.2f}-{max(ratios):.2f})" if ratios else "-"
        for ratios in found
    ]


def _verdict(engine: str, speeds: Speeds) -> str:
    best = speeds.best_size(engine)
    if best is None:
        return f"- {engine}: no batch size fits into memory"
    median = _number(speeds.median(engine, best))
    return f"- {engine}: BATCH_SIZE={best} is the best, with {median} pictures a second"


def _number(value: float | None) -> str:
    if value is None:
        return "no memory"
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}"


def _as_json(model: ScoringModel, speeds: Speeds) -> str:
    engines = {
        engine: {
            "pictures_per_second": {str(size): values for size, values in sizes.items()},
            "best_batch_size": speeds.best_size(engine),
        }
        for engine, sizes in speeds.rounds.items()
    }
    found = {"model": model.name, "version": model.version, "machine": machine()}
    size = list(model.preparation.size)
    return json.dumps({**found, "input_size": size, "engines": engines}, indent=2)


def machine() -> str:
    """Return the processors that this process may use, and their model."""
    cpuinfo = Path("/proc/cpuinfo").read_text()
    found = re.search(r"^model name\s*: (.+)$", cpuinfo, re.MULTILINE)
    return f"{usable_processors()} processors ({found[1] if found else platform.machine()})"


def _some_of(option: str, text: str, choices: Iterable[str]) -> list[str]:
    given = [part.strip() for part in text.split(",") if part.strip()]
    if not given or not set(given) <= set(choices):
        raise SettingsError(f"{option}: must be some of {','.join(choices)} (it is {text!r})")
    return given


def _sizes(text: str) -> list[int]:
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() and 1 <= int(part) <= 1024 for part in parts):
        raise SettingsError(f"--batch-sizes: must be numbers from 1 to 1024 (it is {text!r})")
    return sorted({int(part) for part in parts})


def _around_markers(path: Path) -> tuple[str, str]:
    """Return the text of a Markdown file up to the first marker, and from the second one."""
    old = path.read_text(encoding="utf-8") if path.is_file() else ""
    head, begin, rest = old.partition(BEGIN)
    _, end, tail = rest.partition(END)
    if not begin or not end:
        raise SettingsError(f"--markdown: {path} has no lines {BEGIN} and {END} to write between")
    return head + begin, end + tail
